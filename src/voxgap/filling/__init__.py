"""Filling the gaps of files: written in their own formats, observed voxels to the last bit as they were.

Here are the names and defaults that the command line shows; the work is in `voxgap.filling.files`.
"""

FILLS = ("zero", "mean", "median", "mode", "linear", "knn", "matrix_factorization")
STRATEGY = "linear"
FIT_ON = "train"
