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
    """Cross-entropy of the labelled voxels plus 1 - soft Dice; voxels labelled -1 don't count.

    The soft Dice is the mean over the classes that a volume's label map has, or those of a batch together. Milletari et
    al. 2016 (V-Net) for the Dice loss, in the compound and with the plain sums of Isensee et al. 2021 (nnU-Net).

    Args:
        class_weights: weight of each class in the cross-entropy and in the Dice mean; None: all alike.
        batch: whether the sums of the soft Dice go over a batch, not over each volume: of a patch that has next to
            nothing of a class, the Dice says little.

    Called on label maps `(batch, depth, height, width)` and probabilities `(batch, ..., classes)`.
    """

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        name: str = "dice_cross_entropy",
        batch: bool = False,
    ) -> None:
        super().__init__(name=name)
        self.batch = batch
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
        both = ops.sum(truth * probabilities, axis=1)
        if self.batch:
            per_class, predicted, both = (
                ops.sum(s, axis=0, keepdims=True) for s in (per_class, predicted, both)
            )
        dice = 2.0 * both / ops.maximum(per_class + predicted, _LEAST)
        present = ops.cast(per_class > 0, "float32") * weights
        lost = ops.sum((1.0 - dice) * present, axis=-1) / ops.maximum(ops.sum(present, axis=-1), _LEAST)
        return entropy + lost

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make the same loss, for Keras's saved files."""
        return {"name": self.name, "class_weights": self.class_weights, "batch": self.batch}


class DeeplySupervised(keras.losses.Loss):
    """The loss of a network's own answer and of those of its coarser stages, each weighing half of the one before.

    Args:
        loss: of one answer: a loss of Keras, or a function.
        classes: of one answer.

    Called on label maps and what `DeepSupervision` returns. Isensee et al. 2021 (nnU-Net).
    """

    def __init__(self, loss: Any, classes: int) -> None:
        name = getattr(loss, "name", getattr(loss, "__name__", "loss"))
        super().__init__(name=name, reduction=None)  # each part is a mean already
        self.loss = loss
        self.classes = classes
        self._part = loss if isinstance(loss, keras.losses.Loss) else _Mean(loss)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the weighed mean of the losses, a scalar; of one answer its own loss."""
        count = y_pred.shape[-1] // self.classes
        total, weights = 0.0, 0.0
        for number in range(count):
            answer = y_pred[..., number * self.classes : (number + 1) * self.classes]
            total = total + self._part(y_true, answer) * 0.5**number
            weights += 0.5**number
        return total / weights

    def get_config(self) -> dict[str, Any]:
        """Return what it was made of."""
        return {"loss": self.loss, "classes": self.classes}


class _Mean(keras.losses.Loss):
    """A function as a loss."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.function(y_true, y_pred)
