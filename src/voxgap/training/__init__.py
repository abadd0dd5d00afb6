"""Training that stops at the right moment, keeps the best weights, and survives a kill."""

import voxgap.backend  # noqa: F401  (first, so that Keras comes quietly)
from voxgap.training.checkpoint import ForeignError
from voxgap.training.compiled import Compiled
from voxgap.training.fit import Samples, adapt_layers, adapt_model, intended, train
from voxgap.training.supervisor import Progress, Schedule

__all__ = [
    "Compiled",
    "ForeignError",
    "Progress",
    "Samples",
    "Schedule",
    "adapt_layers",
    "adapt_model",
    "intended",
    "train",
]
