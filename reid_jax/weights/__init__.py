"""Published weights and their conversion.

`zoo` lists models by name and `hub` published files by name (`download` fetches them), `convert` maps parameter names
and reports every key, and `torch_files` reads weights files without running code from them.
"""
