"""What a training minimises and watches, by task: loss, metrics, class weights, and how targets are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from voxgap.errors import VoxgapError
from voxgap.layers import DeepSupervision
from voxgap.recipe import ClassWeight
from voxgap.training.metrics import Accuracy, Counts, Dice
from voxgap.training.segmentation import DeeplySupervised, DiceCrossEntropy

Encode = Callable[[np.ndarray], np.ndarray]

# What can be watched, beside the loss; `True`: the higher the better.
METRICS: dict[str, dict[str, bool]] = {
    "classification": {"accuracy": True},
    "regression": {"mae": False},
    "segmentation": {"dice": True, "accuracy": True},
}


def check_monitor(monitor: str, task: str) -> None:
    """Refuse to watch what this task doesn't measure.

    Raises:
        VoxgapError: it is not `val_loss`, or `val_` and one of the task's metrics.
    """
    names = ["val_loss", *(f"val_{name}" for name in METRICS[task])]
    if monitor not in names:
        raise VoxgapError(f"monitor must be {' or '.join(names)}, got {monitor!r}")


def check_smoothing(label_smoothing: float, loss: Any, task: str) -> None:
    """Refuse to smooth labels that are no classes, or whose loss doesn't say how.

    Raises:
        VoxgapError: the task is another, or the loss is.
    """
    if label_smoothing and task != "classification":
        raise VoxgapError(f"label_smoothing is for a classification, this is a {task}: leave it out")
    if label_smoothing and loss not in (None, "sparse_categorical_crossentropy", "categorical_crossentropy"):
        raise VoxgapError(
            f"label_smoothing is of the cross-entropy, the loss is {loss!r}: leave out one of them"
        )


def higher_is_better(monitor: str) -> bool:
    """Return whether the watched quantity is one that should grow."""
    return any(metrics.get(monitor.removeprefix("val_"), False) for metrics in METRICS.values())


def compile_model(
    model: keras.Model,
    task: str,
    loss: Any,
    optimizer: Any,
    learning_rate: float,
    class_weights: np.ndarray | None = None,
    ema_momentum: float | None = None,
    weight_decay: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[Encode, Counts | None]:
    """Compile a model for its task.

    Args:
        model, loss, optimizer, learning_rate, weight_decay, label_smoothing: see `train`.
        task: what the model is for.
        class_weights: `(classes,)`, for the loss of a segmentation.
        ema_momentum: of the moving average of the weights, None where there is none, or the optimizer has its own.

    Returns:
        The function that encodes targets as the loss wants them, and what counts the classes named, if there are any.

    Raises:
        VoxgapError: no such loss or optimizer, or a loss that doesn't suit the task.
    """
    classes = model.output_shape[-1]
    counts = None if task == "regression" else Accuracy(classes)
    metrics: list[Any] = [*METRICS[task]] if counts is None else [counts]
    if task == "segmentation":
        metrics = [Dice(classes), counts]
        function = _segmentation_loss(loss, class_weights)
        if any(isinstance(layer, DeepSupervision) for layer in model._flatten_layers(include_self=False)):
            function = DeeplySupervised(function, classes)
    elif label_smoothing:
        function = keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing)
    else:
        function = _named_loss(loss, task)
    made = _optimizer(optimizer, learning_rate, weight_decay)
    if weight_decay and isinstance(optimizer, str):
        # What shifts and scales has no size that says something of a function's smoothness.
        made.exclude_from_weight_decay([v for v in model.trainable_variables if len(v.shape) < 2])
    if ema_momentum is not None:
        made.use_ema, made.ema_momentum = True, ema_momentum
    # XLA compiles Conv3D for the CPU into code ten times slower than oneDNN's.
    model.compile(optimizer=made, loss=function, metrics=metrics, jit_compile=False)
    if task == "regression":
        return _as_rows, None
    if task == "segmentation" or "sparse" in str(
        getattr(function, "name", getattr(function, "__name__", ""))
    ):
        return (lambda targets: targets), counts
    return (lambda targets: np.eye(classes, dtype=np.float32)[targets]), counts


def _as_rows(targets: np.ndarray) -> np.ndarray:
    return targets.reshape(len(targets), -1).astype(np.float32)


def chance(model: keras.Model, task: str, encode: Encode, training: Any, validation: Any) -> float | None:
    """Compute the loss of an answer that knows of the training targets only how frequent, or how large, they are.

    Args:
        model: compiled.
        task: of the data; a segmentation has no such number.
        encode: of the loss.
        training, validation: targets.

    Returns:
        The loss on the validation targets, None where there is none that says something.
    """
    if task == "segmentation":
        return None
    if task == "regression":
        guess = _as_rows(training).mean(axis=0)
    else:
        counts = np.bincount(training, minlength=model.output_shape[-1])
        guess = counts / counts.sum()
    answer = np.tile(guess.astype(np.float32), (len(validation), 1))
    loss = float(keras.ops.convert_to_numpy(model.compute_loss(y=encode(validation), y_pred=answer)))
    return loss if np.isfinite(loss) and loss > 0 else None


def _named_loss(loss: Any, task: str) -> Any:
    default = "sparse_categorical_crossentropy" if task == "classification" else "mean_squared_error"
    try:
        return keras.losses.get(default if loss is None else loss)
    except ValueError:
        raise VoxgapError(f"no loss {loss!r}: use a Keras name such as {default}") from None


def _segmentation_loss(loss: Any, class_weights: np.ndarray | None) -> Any:
    if loss in (None, "dice_cross_entropy", "batch_dice_cross_entropy"):
        weights = None if class_weights is None else class_weights.tolist()
        return DiceCrossEntropy(weights, batch=loss == "batch_dice_cross_entropy")
    if class_weights is not None:
        raise VoxgapError("class_weight needs the loss of its own that segmentation has: leave out loss")
    if loss == "sparse_categorical_crossentropy":
        return keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)
    if isinstance(loss, str):
        raise VoxgapError(
            f"no loss {loss!r} for segmentation: dice_cross_entropy, batch_dice_cross_entropy, "
            "sparse_categorical_crossentropy, or a function (label maps with -1 where unlabelled, probabilities) "
            "-> loss"
        )
    return loss


def _optimizer(optimizer: Any, learning_rate: float, weight_decay: float) -> keras.optimizers.Optimizer:
    if not isinstance(optimizer, str):
        # A copy: an optimizer serves one model only, and the caller may have others to train.
        return type(optimizer).from_config(optimizer.get_config())
    config = {"learning_rate": learning_rate} | ({"weight_decay": weight_decay} if weight_decay else {})
    try:
        return keras.optimizers.get({"class_name": optimizer, "config": config})
    except ValueError:
        raise VoxgapError(f"no optimizer {optimizer!r}: use a Keras name such as adam or sgd") from None


def class_weights(targets: Any, class_weight: ClassWeight, task: str, classes: int) -> np.ndarray | None:
    """Weigh each class, or None.

    Args:
        targets: class indices `(n,)`, or label maps `(n, depth, height, width)` with -1.
        class_weight: see `train`.
        task: of the data.
        classes: how many the model knows.

    Returns:
        `(classes,)`, such that the samples of a classification, or the labelled voxels of a segmentation, weigh 1
        on average.

    Raises:
        VoxgapError: the task has no classes, or the weights don't fit them.
    """
    if class_weight is None:
        return None
    if task == "regression":
        raise VoxgapError("class_weight is for classes: a regression has none")
    counts = _counts(targets, classes)
    if class_weight == "balanced":
        per_class = 1.0 / np.maximum(counts, 1)
    elif isinstance(class_weight, dict):
        missing = set(np.flatnonzero(counts).tolist()) - set(class_weight)
        if missing or any(w < 0 for w in class_weight.values()) or not any(class_weight.values()):
            raise VoxgapError(
                f"class_weight needs a weight for each class, >= 0 and not all 0; missing: {sorted(missing)}"
            )
        per_class = np.array([class_weight.get(c, 0.0) for c in range(len(counts))])
    else:
        raise VoxgapError(f"class_weight must be 'balanced', a dictionary or None, got {class_weight!r}")
    return np.asarray(per_class * counts.sum() / (per_class @ counts))


def _counts(targets: Any, classes: int) -> np.ndarray:
    """Return how many samples or labelled voxels each class has."""
    counts = np.zeros(classes, np.int64)
    for some in targets if len(targets.shape) > 1 else [targets]:  # maps one by one, for memory
        labels = np.asarray(some)
        counts += np.bincount(labels[labels >= 0].ravel(), minlength=classes)
    return counts
