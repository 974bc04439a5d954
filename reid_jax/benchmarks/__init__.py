"""Measurements of speed and memory.

`speed` has the suites of the benchmark command; `programs` times compiled models, `input_speed` the input pipeline, and
`ranking_speed` the evaluation. `torch` holds PyTorch models to compare with.
"""
