"""Devices, processes and the machine.

`mesh` places arrays on devices, `processes` and `cluster` start distributed runs, `provenance` records device and
commit, and `allocator` configures the memory allocator of the host.
"""
