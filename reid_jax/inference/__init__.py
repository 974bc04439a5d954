"""Embeddings of images.

`extractor` runs a model on images, `published` builds an extractor from published weights, `sources` opens folders and
data sets, and `features` writes the features file.
"""
