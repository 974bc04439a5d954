"""Devices, processes and the machine.

`mesh` places arrays on devices, `processes` and `cluster` start distributed runs, `provenance` records device and
commit, `compilation` keeps compiled programs between starts, and `allocator` configures the memory allocator of the
host.
"""
