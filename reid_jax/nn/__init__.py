"""Flax layers shared by the models.

`conv` and `norm` follow PyTorch's conventions; `attention`, `global_pool`, `heads` and `initializers` are named for
what they hold.
"""
