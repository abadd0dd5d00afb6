"""What a segmentation is trained on: cross-entropy with soft Dice."""

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
        """Return the loss of each volume, `(batch,)`, for labels `(batch, depth, height, width)` and probabilities."""
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
        """Return the arguments that make the same loss, for Keras's saved files."""
        return {"name": self.name, "class_weights": self.class_weights}
