"""Pure functions of arrays, without parameters.

`convolution`, `pooling`, `distances` and `images` are named for what they hold; `descriptors` has the `Descriptor` that
models return at test time.
"""
