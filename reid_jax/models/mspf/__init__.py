"""OSFA and MSPF, global and local features on OSNet.

`mspf` has the models, `channel_spatial` their attention, and `multi_patch` the multi-patch module.
"""
