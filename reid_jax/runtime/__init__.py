"""Devices, processes and the machine.

`mesh` places arrays on devices, `processes` and `cluster` start distributed runs, `provenance` records device and
commit, `compilation` and `kept_starts` keep compiled programs between starts, `program_parts` divides long ones, and
`allocator` configures the memory allocator of the host.
"""
