"""What classes are watched by: counts by true and by predicted class, and what follows from them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops


class Counts(keras.metrics.Metric):
    """Counts by true (rows) and by predicted class (columns); what is labelled -1 is left out.

    Args:
        classes: how many there are.
        name: of what is told of the counts.

    Targets are class indices, label maps, or one-hot.
    """

    def __init__(self, classes: int, name: str) -> None:
        super().__init__(name=name)
        self.classes = classes
        self.counts = self.add_variable((classes, classes), "zeros", name="counts")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count a batch: labels or one-hot vectors in `y_true`, probabilities in `y_pred`."""
        y_pred = y_pred[..., : self.classes]  # what coarser stages answer in training comes behind
        if len(y_true.shape) == len(y_pred.shape) and y_true.shape[-1] != 1:
            y_true = ops.argmax(y_true, axis=-1)
        labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
        found = ops.cast(ops.reshape(ops.argmax(y_pred, axis=-1), (-1,)), "int32")
        # One cell more than there are: that of the unlabelled.
        cells = ops.where(labels >= 0, labels * self.classes + found, self.classes**2)
        # A sum over segments and no `bincount`, whose length a compiled step of JAX doesn't know.
        counts = ops.segment_sum(ops.ones_like(cells), cells, self.classes**2 + 1)[: self.classes**2]
        self.counts.assign_add(ops.cast(ops.reshape(counts, (self.classes, self.classes)), "float32"))

    def confusion(self) -> np.ndarray:
        """Return the counts so far, `(classes, classes)`."""
        return np.asarray(keras.ops.convert_to_numpy(self.counts))


class Accuracy(Counts):
    """Share of the samples, or labelled voxels, whose most probable class is the true one, over an epoch."""

    def __init__(self, classes: int, name: str = "accuracy") -> None:
        super().__init__(classes, name)

    def result(self) -> Any:
        """Return the share that is named right."""
        return ops.sum(ops.diagonal(self.counts)) / ops.maximum(ops.sum(self.counts), 1.0)


class Dice(Counts):
    """The Dice score of the classes after the first, as `voxgap.metrics.scores`, over an epoch's voxels."""

    def __init__(self, classes: int, name: str = "dice") -> None:
        super().__init__(classes, name)

    def result(self) -> Any:
        """Return the mean over the classes that truth or prediction has."""
        both = ops.sum(self.counts, axis=0) + ops.sum(self.counts, axis=1)
        each = 2.0 * ops.diagonal(self.counts) / ops.maximum(both, 1.0)
        has = ops.cast(both[1:] > 0, "float32")
        return ops.sum(each[1:] * has) / ops.maximum(ops.sum(has), 1.0)
