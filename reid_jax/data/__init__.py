"""Data sets, samplers, transforms and batches, in NumPy.

`records` opens prepared data sets, `samplers` chooses identities and images, `transforms` and `augmentations` change
images, and `pipeline` makes the batches. `prepare` writes prepared data sets.
"""
