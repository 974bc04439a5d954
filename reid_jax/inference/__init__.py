"""Embeddings of images.

`extractor` runs a model on images, `published` builds an extractor from published weights, `sources` opens folders and
data sets, `features` writes the features file, and `trackers` has the methods that trackers call.
"""
