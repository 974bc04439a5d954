"""AMFOR, for occluded persons.

`amfor` is the model; every other module is one of its parts.
"""
