"""What a segmentation is trained on and watched by: cross-entropy with soft Dice, and the Dice score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

# Half a float32 in digits: a probability below it has no gradient worth having.
_LEAST = 1e-7


@keras.saving.register_keras_serializable(package="voxgap")
class DiceCrossEntropy(keras.losses.Loss):
    """Cross-entropy of the labelled voxels plus 1 - soft Dice, each volume's own; voxels labelled -1 don't count.

    The soft Dice is the mean over the classes that a volume's label map has. Milletari et al. 2016 (V-Net) for the
    Dice loss, in the compound and with the plain sums of Isensee et al. 2021 (nnU-Net).

    Args:
        class_weights: weight of each class in the cross-entropy and in the Dice mean; None: all alike.

    Called on label maps `(batch, depth, height, width)` and probabilities `(batch, ..., classes)`.
    """

    def __init__(
        self, class_weights: Sequence[float] | None = None, name: str = "dice_cross_entropy"
    ) -> None:
        super().__init__(name=name)
        self.class_weights = None if class_weights is None else [float(w) for w in class_weights]

    def call(self, y_true: Any, y_pred: Any) -> Any:
        classes = y_pred.shape[-1]
        probabilities = ops.reshape(ops.cast(y_pred, "float32"), (ops.shape(y_pred)[0], -1, classes))
        labels = ops.cast(ops.reshape(y_true, (ops.shape(y_true)[0], -1)), "int32")
        # -1 has a 1 nowhere: what is unlabelled drops out of every sum.
        truth = ops.one_hot(labels, classes, dtype="float32")
        weights = (
            ops.ones((classes,)) if self.class_weights is None else ops.array(self.class_weights, "float32")
        )
        per_class = ops.sum(truth, axis=1)
        logarithms = ops.log(ops.clip(probabilities, _LEAST, 1.0))
        entropy = -ops.sum(ops.sum(truth * logarithms, axis=1) * weights, axis=-1)
        entropy = entropy / ops.maximum(ops.sum(per_class * weights, axis=-1), _LEAST)
        labelled = ops.cast(labels >= 0, "float32")[..., None]
        predicted = ops.sum(probabilities * labelled, axis=1)
        dice = 2.0 * ops.sum(truth * probabilities, axis=1) / ops.maximum(per_class + predicted, _LEAST)
        present = ops.cast(per_class > 0, "float32") * weights
        lost = ops.sum((1.0 - dice) * present, axis=-1) / ops.maximum(ops.sum(present, axis=-1), _LEAST)
        return entropy + lost

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "class_weights": self.class_weights}


class _OfLabelledVoxels(keras.metrics.Metric):
    """Counts of voxels by true and by predicted class, those labelled -1 left out."""

    def __init__(self, classes: int, name: str) -> None:
        super().__init__(name=name)
        self.classes = classes
        self.counts = self.add_variable((classes, classes), "zeros", name="counts")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
        found = ops.cast(ops.reshape(ops.argmax(y_pred, axis=-1), (-1,)), "int32")
        # One cell more than there are: that of the unlabelled.
        cells = ops.where(labels >= 0, labels * self.classes + found, self.classes**2)
        counts = ops.bincount(cells, minlength=self.classes**2 + 1)[: self.classes**2]
        self.counts.assign_add(ops.cast(ops.reshape(counts, (self.classes, self.classes)), "float32"))


class VoxelAccuracy(_OfLabelledVoxels):
    """Share of the labelled voxels whose most probable class is the true one, over an epoch."""

    def __init__(self, classes: int, name: str = "accuracy") -> None:
        super().__init__(classes, name)

    def result(self) -> Any:
        return ops.sum(ops.diagonal(self.counts)) / ops.maximum(ops.sum(self.counts), 1.0)


class Dice(_OfLabelledVoxels):
    """The Dice score of the classes after the first, as `voxgap.evaluate.scores`, over an epoch's voxels."""

    def __init__(self, classes: int, name: str = "dice") -> None:
        super().__init__(classes, name)

    def result(self) -> Any:
        both = ops.sum(self.counts, axis=0) + ops.sum(self.counts, axis=1)
        each = 2.0 * ops.diagonal(self.counts) / ops.maximum(both, 1.0)
        has = ops.cast(both[1:] > 0, "float32")
        return ops.sum(each[1:] * has) / ops.maximum(ops.sum(has), 1.0)
