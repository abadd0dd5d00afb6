"""What is asked of a training, and what it is to learn from, checked before anything is compiled."""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np

from voxgap import patches
from voxgap.augment import Compose, from_text
from voxgap.errors import VoxgapError
from voxgap.ragged import shapes_of
from voxgap.recipe import Training
from voxgap.training import objective, precision
from voxgap.training.examples import Examples
from voxgap.training.loader import Augment
from voxgap.training.supervisor import Schedule


def check_parts(
    model: keras.Model, training: Examples, validation: Examples, size: patches.Size | None
) -> None:
    """Refuse parts that a model can't be trained on.

    Raises:
        VoxgapError: a part is empty, or its volumes or targets are not those that the model takes.
    """
    expected = tuple(model.input_shape[1:])
    if size is not None:
        if any(e not in (None, s) for e, s in zip(expected[:3], size, strict=True)):
            raise VoxgapError(
                f"patch_size is {size}, but the model takes {expected[:3]}: build it with the patch as input_shape"
            )
        expected = (None, None, None, *expected[3:])
    for name, part in (("train", training), ("validation", validation)):
        if not len(part.volumes):
            raise VoxgapError(f"the data set has no {name} volumes: give it a split with some")
        found = tuple(part.volumes.shape[1:])
        if len(found) != 4 or any(e is not None and e != f for e, f in zip(expected, found, strict=True)):
            raise VoxgapError(f"{name} volumes have shape {found}, the model takes {expected}")
        if training.task == "segmentation":
            _check_label_maps(model, part, name)
            continue
        if len(part.targets) != len(part.volumes):
            raise VoxgapError(f"{len(part.volumes)} {name} volumes, but {len(part.targets)} targets")
        outputs = model.output_shape[-1]
        width = part.targets.size // len(part.targets)
        if training.task == "regression" and width != outputs:
            raise VoxgapError(f"{name} targets have {width} values each, the model has {outputs} outputs")
        if training.task == "classification" and part.targets.max() >= outputs:
            raise VoxgapError(
                f"{name} targets reach class {part.targets.max()}, the model has {outputs} outputs (0 to {outputs - 1})"
            )


def _check_label_maps(model: keras.Model, part: Examples, name: str) -> None:
    outputs, sizes = model.output_shape, [shape[:3] for shape in shapes_of(part.volumes)]
    if len(outputs) != 5:
        raise VoxgapError("the model answers for whole volumes: build it with task='segmentation'")
    if shapes_of(part.targets) != sizes:
        raise VoxgapError(
            f"{name} label maps have shape {tuple(part.targets.shape)}, the volumes {tuple(part.volumes.shape[:4])}"
        )
    highest = max(int(np.max(label_map)) for label_map in part.targets)
    if highest >= outputs[-1]:
        raise VoxgapError(
            f"{name} label maps reach class {highest}, the model has {outputs[-1]} outputs (0 to {outputs[-1] - 1})"
        )
    if highest < 0:
        raise VoxgapError(f"no voxel of the {name} label maps is labelled")


def intended(training: Training, task: str) -> tuple[Schedule, Augment | None]:
    """Return the schedule and the augmentation that are asked for; no data is needed to refuse them.

    Raises:
        VoxgapError: a name or a number is not possible.
    """
    epochs, batch_size, patience = training.epochs, training.batch_size, training.patience
    if epochs < 1 or batch_size < 1:
        raise VoxgapError(f"epochs and batch_size must be at least 1, got {epochs} and {batch_size}")
    size, each = training.patch_size, training.patches_per_volume
    if each is not None and each < 1:
        raise VoxgapError(f"patches_per_volume must be at least 1, got {each}")
    if each is not None and size is None:
        raise VoxgapError("patches_per_volume goes with a patch_size: give one")
    if not 0 <= training.ema < np.inf:
        raise VoxgapError(f"ema must be a number of epochs, 0 for none, got {training.ema}")
    if not 0 <= training.weight_decay < np.inf:
        raise VoxgapError(f"weight_decay must be a finite number, at least 0, got {training.weight_decay}")
    if not 0 <= training.label_smoothing < 1:
        raise VoxgapError(f"label_smoothing must be in [0, 1), got {training.label_smoothing}")
    objective.check_smoothing(training.label_smoothing, training.loss, task)
    if not 0 <= training.consistency < np.inf:
        raise VoxgapError(f"consistency must be a weight, 0 for none, got {training.consistency}")
    objective.check_monitor(training.monitor, task)
    precision.check_name(training.precision)
    lr_patience = max(1, (patience - 1) // 2) if training.lr_patience is None else training.lr_patience
    schedule = Schedule(
        own_rate(training),
        patience,
        training.min_delta,
        lr_patience,
        schedule=training.schedule,
        warmup=training.warmup,
        epochs=epochs if training.schedule == "cosine" else None,
    )
    return schedule, _augmentation(training.augment, training.augment_kind)


def own_rate(training: Training) -> float:
    """Return the learning rate at the start: that of an optimizer which has its own."""
    optimizer = training.optimizer
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        return training.learning_rate
    rate = optimizer.get_config()["learning_rate"]
    if not isinstance(rate, float):
        raise VoxgapError(
            "the optimizer has a schedule as its learning rate: give it a number, which train lowers"
        )
    return rate


def _augmentation(augment: Any, kind: str) -> Augment | None:
    if isinstance(augment, str):
        augment = from_text(augment, kind)
    if augment is not None and not callable(augment):
        raise VoxgapError(f"augment must be none, default, strong, a list or a callable, got {augment!r}")
    # `none` copies every volume for nothing.
    return None if isinstance(augment, Compose) and not augment.transforms else augment


def as_callbacks(given: Any) -> list[keras.callbacks.Callback]:
    """Return callbacks as Keras's `fit` takes them: one, several, or None."""
    found = list(keras.tree.flatten(given)) if given is not None else []
    for one in found:
        if not isinstance(one, keras.callbacks.Callback):
            hint = "; call it, to make one" if isinstance(one, type) else ""
            raise VoxgapError(f"callbacks must be Keras callbacks, got {one!r}{hint}")
    return found


def identity(value: Any) -> Any:
    """Return what a loss, optimizer or augmentation is, in words that are the same in every process."""
    if hasattr(value, "get_config"):
        # Keras numbers the names.
        return type(value).__name__, {k: v for k, v in value.get_config().items() if k != "name"}
    return re.sub(" at 0x[0-9a-f]+", "", repr(getattr(value, "__name__", value)))
