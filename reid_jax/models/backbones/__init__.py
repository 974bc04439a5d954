"""Backbones shared by the systems: ResNet, vision transformer, OSNet, and CLIP's text transformer."""
