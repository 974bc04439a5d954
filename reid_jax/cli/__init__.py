"""The commands.

`app` dispatches `reid-jax COMMAND`, `command_line` has the shared flags and error handling, and every other module is
one command.
"""
