"""MFV, multi-scale feature fusion with external attention.

`mfv` is the model, `transformer_extractor` its transformer block, and `release_layout` reproduces the tensor layout of
the released code.
"""
