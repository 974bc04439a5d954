"""The user's own code, named in configs as `package.module:Name`.

`names` resolves such names; `record` finds the same modules again for a finished run and checks that they have not
changed.
"""
