"""Fill layers: Keras layers that replace missing values (NaN) inside the graph.

Each follows Keras's preprocessing convention: `layer.adapt(training volumes)`, then `layer(volumes)`.
"""

import voxgap.backend  # noqa: F401  (first, so that Keras comes quietly)
from voxgap.fill.base import FillLayer
from voxgap.fill.factorization import MatrixFactorization
from voxgap.fill.knn import KNN
from voxgap.fill.kriging import Kriging
from voxgap.fill.linear import LinearInterpolation
from voxgap.fill.nearest import Nearest
from voxgap.fill.simple import Mean, Median, Mode, Zero

__all__ = [
    "KNN",
    "FillLayer",
    "Kriging",
    "LinearInterpolation",
    "MatrixFactorization",
    "Mean",
    "Median",
    "Mode",
    "Nearest",
    "Zero",
]
