"""Training that stops at the right moment, keeps the best weights, and survives a kill."""

import voxgap.backend  # noqa: F401  (first, so that Keras comes quietly)
from voxgap.training.checking import intended
from voxgap.training.checkpoint import ForeignError
from voxgap.training.compiled import Compiled
from voxgap.training.examples import Examples
from voxgap.training.fit import adapt_layers, adapt_model, fit, refit, train
from voxgap.training.supervisor import Progress, Schedule

__all__ = [
    "Compiled",
    "Examples",
    "ForeignError",
    "Progress",
    "Schedule",
    "adapt_layers",
    "adapt_model",
    "fit",
    "intended",
    "refit",
    "train",
]
