"""PyTorch counterparts of the backbones, references for speed and for golden values.

Start with `counterparts`. PyTorch is optional and not imported by any training or inference code.
"""
