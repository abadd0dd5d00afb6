"""Training that stops at the right moment, keeps the best weights, and survives a kill."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import keras
import numpy as np

from voxgap import patches
from voxgap.augment import Compose, from_text
from voxgap.errors import VoxgapError
from voxgap.history import History
from voxgap.layers import VolumeNormalization
from voxgap.layers.intensity import Normalized
from voxgap.training import objective
from voxgap.training import precision as precisions
from voxgap.training.checkpoint import Checkpoint, fingerprint
from voxgap.training.compiled import Compiled, Ready, structure
from voxgap.training.distribution import on_devices
from voxgap.training.loader import Augment, Loader
from voxgap.training.objective import ClassWeight
from voxgap.training.precision import Precision
from voxgap.training.progress import reporting
from voxgap.training.supervisor import Report, Schedule, Supervisor


class Samples(Protocol):
    """What training reads of a data set: volumes `(n, depth, height, width, channels)` and their targets.

    Targets are class indices, numbers, or label maps `(n, depth, height, width)` with -1 where nobody said. Volumes
    and label maps may be lazy: they are read item by item, or by the patch.
    """

    @property
    def volumes(self) -> Any: ...

    @property
    def targets(self) -> Any: ...

    @property
    def task(self) -> str: ...

    def part(self, split: str) -> Samples: ...


def train(
    model: keras.Model,
    dataset: Samples,
    *,
    loss: str | Callable[..., Any] | None = None,
    optimizer: str | keras.optimizers.Optimizer = "adam",
    learning_rate: float = 1e-3,
    epochs: int = 100,
    batch_size: int = 16,
    patience: int = 10,
    min_delta: float = 0.0,
    lr_patience: int | None = None,
    monitor: str = "val_loss",
    class_weight: ClassWeight = None,
    augment: str | Augment | None = None,
    augment_kind: str = "scan",
    precision: Precision = "auto",
    patch_size: int | Sequence[int] | None = None,
    patches_per_volume: int | None = None,
    distribute: bool | Sequence[str] = False,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    keep_checkpoint: bool = False,
    compiled: Compiled | None = None,
    callbacks: keras.callbacks.Callback | Sequence[keras.callbacks.Callback] | None = (),
    verbose: bool | None = None,
    progress: Report | None = None,
) -> History:
    """Adapt and train a model on the `train` part of a data set, watching its `validation` part.

    The weights of the best epoch are in the model afterwards, whatever ended the training: patience, the last
    epoch or Ctrl-C. The model itself stays float32, and is not compiled; where the processor is fast in bfloat16,
    a twin of it is trained in mixed precision.

    Args:
        model: from `build_model`, or any Keras model that takes volumes with NaN.
        dataset: see `Samples`; `vg.load_data` gives one.
        loss: name or function; by default sparse categorical cross-entropy, mean squared error, or for
            segmentation cross-entropy plus soft Dice. A loss for classes without "sparse" in its name is given
            one-hot targets; one for segmentation label maps, -1 where unlabelled.
        optimizer: name, given `learning_rate`, or a Keras optimizer, which keeps its own.
        epochs: at most so many.
        patience, min_delta, lr_patience: see `Schedule`; `lr_patience` is by default under half of `patience`.
        monitor: `val_loss`, or `val_` and a metric: `val_accuracy`, `val_mae`, `val_dice`.
        class_weight: weight of each class in the loss; `balanced` weighs by 1 / frequency (of voxels, where
            there are label maps).
        augment: changes the training volumes anew in each epoch, on the CPU beside the step: `none`,
            `default`, `strong`, a list such as `flip,rotate:10`, or a callable; see `voxgap.training.loader`. Mind
            what would change a label: docs/augmentation.md.
        augment_kind: what the presets are for: `scan`, `video` or `grid`.
        precision: `auto`, `float32` or `bfloat16`.
        patch_size: `(depth, height, width)`: train on random patches of that size, which the model was built for,
            and validate on those that tile the validation volumes. See `Loader` for how they are drawn; only
            they are read. Predict with `voxgap.patches.predict_patches`.
        patches_per_volume: patches of each volume in an epoch; by default as many as tile it.
        distribute: share each batch among all GPUs (True) or the named devices, such as `["GPU:0", "GPU:1"]`.
        seed: of the order of the batches, of patches and of augmentation.
        checkpoint: a folder that holds the training after each epoch: started again with the same arguments, it
            goes on where it was killed. It is emptied when the training ends. One training at a time holds it.
        keep_checkpoint: leave it there instead: with more `epochs`, or more `patience` where that ran out, the same
            training goes on from its end, as if it had never stopped.
        compiled: what trainings of similar networks in this process leave to each other; see `Compiled`.
        callbacks: of Keras, as in `fit`: one, or several. They see the network that is trained, which may be a twin of
            `model` in mixed precision; what they do beside watching is not in the checkpoint.
        verbose: show a bar (elsewhere than on a terminal or in a notebook, a line an epoch) and warn of what went
            wrong. None: the bar only on a terminal or in a notebook. False: neither.
        progress: called after each step and epoch; takes the place of the bar.

    Returns:
        The `History`.

    Raises:
        VoxgapError: the data, a name or a number is not possible, another training holds the checkpoint, or the
            first epoch ended in NaN.
        KeyboardInterrupt: Ctrl-C before the first epoch ended: there is nothing to keep yet.
    """
    schedule, transform = intended(
        dataset.task,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=_own_rate(optimizer, learning_rate),
        patience=patience,
        min_delta=min_delta,
        lr_patience=lr_patience,
        monitor=monitor,
        augment=augment,
        augment_kind=augment_kind,
    )
    learning_rate = schedule.learning_rate
    watching = _callbacks(callbacks)
    size = None if patch_size is None else patches.patch_size(patch_size)
    if patches_per_volume is not None and (size is None or patches_per_volume < 1):
        raise VoxgapError("patches_per_volume must be at least 1, and goes with a patch_size")
    training, validation = dataset.part("train"), dataset.part("validation")
    _check(model, training, validation, size)
    adapt_model(model, training if size is None else _tiles(training, size))
    store = None if checkpoint is None else Checkpoint(Path(checkpoint), keep_checkpoint)
    weights = objective.class_weights(training.targets, class_weight, dataset.task, model.output_shape[-1])
    of_voxels = dataset.task == "segmentation"
    devices = on_devices(distribute, batch_size)
    goal = (dataset.task, loss, optimizer, learning_rate, weights if of_voxels else None)

    def compile_anew() -> Ready:
        policy = (store and store.policy) or precisions.choose(model, precision, batch_size)
        itself = policy == "float32" and not distribute and compiled is None
        with devices.scope:
            network = model if itself else precisions.with_policy(model, policy)
            return Ready(network, *objective.compile_model(network, *goal), policy)

    if compiled is None:
        trained, encode, counts, policy = compile_anew()
    else:
        asked = [repr(goal), _identity(optimizer), precision, store and store.policy, batch_size, distribute]
        trained, encode, counts, policy = compiled.get(model, asked, compile_anew)
    batches = Loader(
        training.volumes,
        encode(training.targets),
        batch_size,
        seed,
        None if weights is None or of_voxels else weights[training.targets].astype(np.float32),
        augment=transform,
        spacing=getattr(training, "spacing", None),
        patch_size=size,
        per_volume=patches_per_volume,
        devices=devices.number,
    )
    seen = validation if size is None else _tiles(validation, size)
    watched = Loader(seen.volumes, encode(seen.targets), batch_size, devices=devices.number)
    if store is not None:
        means = [_identity(value) for value in (loss, trained.optimizer, transform)]
        settings = [structure(model), means, batch_size, class_weight, seed, monitor, precision]
        settings += [] if size is None else [size, batches.per_volume]
        arrays = (array for part in (training, validation) for array in (part.volumes, part.targets))
        store.key, store.policy = fingerprint(settings, *arrays), policy
        store.settings = _words_of(trained.optimizer) | {
            "loss": str(means[0]).strip("'"),
            "augment": str(means[2]),
            "batch_size": str(batch_size),
            "class_weight": str(class_weight),
            "seed": str(seed),
            "monitor": monitor,
            "precision": precision,
            "patch_size": str(size),
            "patches_per_volume": str(patches_per_volume),
        }
    with contextlib.ExitStack() as stack:
        report = stack.enter_context(reporting(verbose, progress, model.name))
        supervisor = Supervisor(schedule, monitor, epochs, len(batches), report, counts, lr_patience is None)
        if store is not None:
            stack.enter_context(store.held())
            supervisor.resume(trained, store)
        if not supervisor.over:
            follow = keras.callbacks.LambdaCallback(on_epoch_begin=batches.begin)
            try:
                trained.fit(
                    batches,
                    validation_data=watched,
                    initial_epoch=supervisor.epoch,
                    epochs=epochs,
                    callbacks=[supervisor, follow, *watching],
                    verbose=0,
                    shuffle=False,
                )
            except KeyboardInterrupt:
                if not supervisor.epoch:
                    raise
                supervisor.reason = "interrupted"
        supervisor.finish(trained)
    chance = objective.chance(trained, dataset.task, encode, training.targets, validation.targets)
    if trained is not model:
        model.set_weights(trained.get_weights())
    _uncompile(model)
    history = History(
        tuple(supervisor.state.records),
        monitor,
        supervisor.best_epoch,
        max(epochs, supervisor.epoch),
        supervisor.reason,
        policy,
        tuple(supervisor.state.never),
        chance,
        len(batches),
    )
    if verbose is not False:
        for remark in history.remarks(getattr(dataset, "classes", ())):
            warnings.warn(remark, stacklevel=2)
    return history


def _uncompile(model: keras.Model) -> None:
    """Forget loss, metrics and optimizer: a model's file then needs nothing of training, and is a third as large."""
    if model.compiled:
        model.compiled = False
        model._compile_loss = model._compile_metrics = model._loss_tracker = None
        del model.optimizer


def adapt_model(model: keras.Model, training: Samples) -> None:
    """Learn the statistics of filling and normalising from training data, in raw units.

    Args:
        model: from `build_model`; one without those layers is left alone.
        training: the part that the network is trained on, and no other.
    """
    layers = list(model._flatten_layers(include_self=False))
    for layer in layers:
        if getattr(layer, "invert", False):
            layer.adapt(training.targets.reshape(len(training.targets), -1))
    adapt_layers(layers, training.volumes)


def adapt_layers(layers: Sequence[keras.layers.Layer], volumes: Any) -> None:
    """Learn what filling and normalising need, in the units that come out of a normalisation before them.

    Args:
        layers: of a model or its `prepare`.
        volumes: raw training volumes, `(n, depth, height, width, channels)` with NaN.
    """
    own_units = next((layer for layer in layers if isinstance(layer, VolumeNormalization)), None)
    seen = volumes if own_units is None else Normalized(volumes, own_units)
    for layer in layers:
        if hasattr(layer, "adapt") and not getattr(layer, "invert", False):
            layer.adapt(seen)


def _tiles(part: Samples, size: patches.Size) -> Samples:
    """The patches that tile the volumes of a part, read when they are asked for."""
    volumes = patches.Patches(part.volumes, size)
    maps = part.task == "segmentation"
    targets = (
        patches.Patches(part.targets, size) if maps else np.repeat(part.targets, len(volumes.corners), 0)
    )
    return SimpleNamespace(volumes=volumes, targets=targets, task=part.task)


def _check(model: keras.Model, training: Samples, validation: Samples, size: patches.Size | None) -> None:
    expected = tuple(model.input_shape[1:])
    if size is not None:
        if expected[:3] != size:
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


def _check_label_maps(model: keras.Model, part: Samples, name: str) -> None:
    outputs, wanted = model.output_shape, tuple(part.volumes.shape[:4])
    if len(outputs) != 5:
        raise VoxgapError("the model answers for whole volumes: build it with task='segmentation'")
    if tuple(part.targets.shape) != wanted:
        raise VoxgapError(f"{name} label maps have shape {tuple(part.targets.shape)}, the volumes {wanted}")
    highest = max(int(np.max(label_map)) for label_map in part.targets)
    if highest >= outputs[-1]:
        raise VoxgapError(
            f"{name} label maps reach class {highest}, the model has {outputs[-1]} outputs (0 to {outputs[-1] - 1})"
        )
    if highest < 0:
        raise VoxgapError(f"no voxel of the {name} label maps is labelled")


def intended(
    task: str,
    *,
    epochs: int = 100,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    patience: int = 10,
    min_delta: float = 0.0,
    lr_patience: int | None = None,
    monitor: str = "val_loss",
    augment: str | Augment | None = None,
    augment_kind: str = "scan",
) -> tuple[Schedule, Augment | None]:
    """Return the schedule and the augmentation that arguments of `train` ask for; no data is needed to refuse them.

    Raises:
        VoxgapError: a name or a number is not possible.
    """
    if epochs < 1 or batch_size < 1:
        raise VoxgapError(f"epochs and batch_size must be at least 1, got {epochs} and {batch_size}")
    objective.check_monitor(monitor, task)
    lr_patience = max(1, (patience - 1) // 2) if lr_patience is None else lr_patience
    return Schedule(learning_rate, patience, min_delta, lr_patience), _augmentation(augment, augment_kind)


def _own_rate(optimizer: str | keras.optimizers.Optimizer, named: float) -> float:
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        return named
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


def _callbacks(given: Any) -> list[keras.callbacks.Callback]:
    """Callbacks as Keras's `fit` takes them: one, several, or None."""
    found = list(keras.tree.flatten(given)) if given is not None else []
    for one in found:
        if not isinstance(one, keras.callbacks.Callback):
            hint = "; call it, to make one" if isinstance(one, type) else ""
            raise VoxgapError(f"callbacks must be Keras callbacks, got {one!r}{hint}")
    return found


def _identity(value: Any) -> Any:
    """What a loss, optimizer or augmentation is, in words that are the same in every process."""
    if hasattr(value, "get_config"):
        # Keras numbers the names.
        return type(value).__name__, {k: v for k, v in value.get_config().items() if k != "name"}
    return re.sub(" at 0x[0-9a-f]+", "", repr(getattr(value, "__name__", value)))


def _words_of(optimizer: keras.optimizers.Optimizer) -> dict[str, str]:
    """An optimizer's settings by their names."""
    name, config = _identity(optimizer)
    numbers = {key: f"{value:g}" for key, value in config.items() if isinstance(value, int | float)}
    return {"optimizer": name, **numbers}
