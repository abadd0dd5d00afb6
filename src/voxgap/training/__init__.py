"""Training that stops at the right moment, keeps the best weights, and survives a kill."""

from voxgap.training.fit import Progress, Samples, Schedule, adapt_model, train

__all__ = ["Progress", "Samples", "Schedule", "adapt_model", "train"]
