"""Training that stops at the right moment, keeps the best weights, and survives a kill."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from voxgap import patches
from voxgap.augment import mirrors
from voxgap.fill import PerChannel
from voxgap.history import History
from voxgap.layers import VolumeNormalization
from voxgap.layers.intensity import Normalized
from voxgap.ragged import shapes_of
from voxgap.recipe import ClassWeight, Fall, Precision, Training
from voxgap.training import objective
from voxgap.training import precision as precisions
from voxgap.training.agreement import Agreeing, as_they_are, further_gaps
from voxgap.training.averaging import ema_momentum, kept_weights, swapping
from voxgap.training.checking import as_callbacks, check_parts, identity, intended, own_rate
from voxgap.training.checkpoint import Checkpoint, fingerprint
from voxgap.training.compiled import Compiled, Ready, structure
from voxgap.training.distribution import Devices, on_devices
from voxgap.training.examples import Examples
from voxgap.training.loader import Augment, Loader, owners
from voxgap.training.progress import reporting
from voxgap.training.supervisor import Progress, Report, Supervisor


def train(
    model: keras.Model,
    dataset: Any,
    *,
    loss: str | Callable[..., Any] | None = Training.loss,
    optimizer: str | keras.optimizers.Optimizer = Training.optimizer,
    learning_rate: float = Training.learning_rate,
    epochs: int = Training.epochs,
    batch_size: int = Training.batch_size,
    patience: int = Training.patience,
    min_delta: float = Training.min_delta,
    lr_patience: int | None = Training.lr_patience,
    monitor: str = Training.monitor,
    class_weight: ClassWeight = Training.class_weight,
    augment: str | Augment | None = Training.augment,
    augment_kind: str = Training.augment_kind,
    precision: Precision = Training.precision,
    patch_size: int | Sequence[int] | None = Training.patch_size,
    patches_per_volume: int | None = Training.patches_per_volume,
    distribute: bool | Sequence[str] = Training.distribute,
    ema: float = Training.ema,
    schedule: Fall = Training.schedule,
    warmup: float = Training.warmup,
    weight_decay: float = Training.weight_decay,
    label_smoothing: float = Training.label_smoothing,
    consistency: float = Training.consistency,
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
        dataset: `vg.load_data` gives one; or anything whose `part(name)` has what `Examples` has.
        loss: name or function; by default sparse categorical cross-entropy, mean squared error, or for
            segmentation cross-entropy plus soft Dice. A loss for classes without "sparse" in its name is given
            one-hot targets; one for segmentation label maps, -1 where unlabelled.
        optimizer: name, or a Keras optimizer, which keeps its own rate.
        learning_rate: that the named optimizer starts with.
        epochs: at most so many.
        batch_size: volumes, or patches, of each step.
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
            they are read. Predict with `voxgap.patches.predict_patches`. By default, where volumes are of several
            shapes, what the model takes; see `Dataset.input_shape`.
        patches_per_volume: patches of each volume in an epoch; by default as many as tile it.
        distribute: share each batch among all GPUs (True) or the named devices, such as `["GPU:0", "GPU:1"]`.
        ema: watch and keep an average of the weights over about so many epochs (Polyak and Juditsky, Acceleration of
            stochastic approximation by averaging, 1992) in place of those of the last step; 0: none.
        schedule: how the learning rate falls: `plateau`, halved where nothing improves, or `cosine`, to a hundredth
            over all `epochs` (Loshchilov and Hutter, SGDR, 2017); see `Schedule`.
        warmup: epochs in which the learning rate rises to the one it starts with; 0: none.
        weight_decay: by which a named optimizer shrinks the weights beside the gradient, times its rate (Loshchilov and
            Hutter, Decoupled weight decay, 2019): adam becomes AdamW. Biases and the weights of normalisations stay. 0:
            what that optimizer does by itself.
        label_smoothing: share of each label that is given to all classes alike (Szegedy et al., Rethinking the
            Inception architecture, 2016), in `val_loss`, too; of a classification by cross-entropy.
        consistency: weight in the loss of how far the answer to each volume with further gaps, drawn anew in each step
            in the shapes of the data's own, is from that to the volume as it is (Sajjadi et al., NeurIPS 2016); not in
            `val_loss`. A step takes about twice as long. 0: none.
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

    Example:
        >>> import voxgap as vg
        >>> data = vg.load_data("sample:brain")
        >>> data = data.take(range(0, len(data), 12))  # a few will do here
        >>> model = vg.build_model("cnn3d", data.volumes.shape[1:], len(data.classes), filters=(4,))
        >>> history = vg.train(model, data, epochs=1, verbose=False)
        >>> len(history.epochs), history.reason
        (1, 'epochs')
    """
    asked = Training(
        loss,
        optimizer,
        learning_rate,
        epochs,
        batch_size,
        patience,
        min_delta,
        lr_patience,
        monitor,
        class_weight,
        augment,
        augment_kind,
        precision,
        None if patch_size is None else patches.patch_size(patch_size),
        patches_per_volume,
        distribute,
        ema,
        schedule,
        warmup,
        weight_decay,
        label_smoothing,
        consistency,
    )
    history = fit(
        model,
        Examples.of(dataset.part("train")),
        Examples.of(dataset.part("validation")),
        asked,
        seed=seed,
        checkpoint=None if checkpoint is None else Checkpoint(Path(checkpoint), keep_checkpoint),
        compiled=compiled,
        callbacks=callbacks,
        verbose=verbose,
        progress=progress,
    )
    if verbose is not False:
        for remark in history.remarks(getattr(dataset, "classes", ())):
            warnings.warn(remark, stacklevel=2)
    return history


def fit(
    model: keras.Model,
    training: Examples,
    validation: Examples,
    asked: Training,
    *,
    seed: int = 0,
    checkpoint: Checkpoint | None = None,
    compiled: Compiled | None = None,
    callbacks: Any = (),
    verbose: bool | None = None,
    progress: Report | None = None,
) -> History:
    """Train on one part and watch another; see `train`, which says what went wrong besides."""
    shapes = [*shapes_of(training.volumes), *shapes_of(validation.volumes)]
    if asked.patch_size is None and len(set(shapes)) > 1:
        whole = training.task != "segmentation"
        asked = dataclasses.replace(asked, patch_size=patches.size_for(model.input_shape, shapes, whole))
    schedule, transform = intended(asked, training.task)
    watching = as_callbacks(callbacks)
    check_parts(model, training, validation, asked.patch_size)
    ready, batches = _prepared(model, training, asked, transform, seed, checkpoint, compiled)
    seen = validation if asked.patch_size is None else validation.tiles(asked.patch_size)
    watched = Loader(
        seen.volumes,
        ready.encode(seen.targets),
        asked.batch_size,
        devices=batches.devices,
        second=as_they_are if asked.consistency else None,
    )
    if checkpoint is not None:
        named = [identity(value) for value in (asked.loss, ready.network.optimizer, transform)]
        _sign(checkpoint, asked, named, structure(model), seed, batches.per_volume, (training, validation))
        checkpoint.policy = ready.policy
    with contextlib.ExitStack() as stack:
        report = stack.enter_context(reporting(verbose, progress, model.name))
        supervisor = Supervisor(
            schedule,
            asked.monitor,
            asked.epochs,
            len(batches),
            report,
            ready.counts,
            asked.lr_patience is None,
        )
        if checkpoint is not None:
            stack.enter_context(checkpoint.held())
            supervisor.resume(ready.network, checkpoint)
        if not supervisor.over:
            _run(ready.network, batches, watched, supervisor, watching, asked.epochs)
        supervisor.finish(ready.network)
    chance = objective.chance(
        ready.network, training.task, ready.encode, training.targets, validation.targets
    )
    if ready.network is not model:
        model.set_weights(ready.network.get_weights())
    _uncompile(model)
    return History(
        tuple(supervisor.state.records),
        asked.monitor,
        supervisor.best_epoch,
        max(asked.epochs, supervisor.epoch),
        supervisor.reason,
        ready.policy,
        tuple(supervisor.state.never),
        chance,
        len(batches),
        patch_size=asked.patch_size,
        mirrors=mirrors(transform),
    )


def refit(
    model: keras.Model,
    examples: Examples,
    asked: Training,
    rates: Sequence[float],
    *,
    seed: int = 0,
    verbose: bool | None = None,
    progress: Report | None = None,
) -> None:
    """Train on all there is, once a training with a held-out part has shown for how long: nothing is watched.

    Args:
        model: as for `train`, new; it holds the weights of the last epoch afterwards.
        examples: all of them.
        asked: how that training went; its epochs don't count.
        rates: the learning rate of each epoch.
        seed, verbose, progress: see `train`.
    """
    _, transform = intended(asked, examples.task)
    check_parts(model, examples, examples, asked.patch_size)
    ready, batches = _prepared(model, examples, asked, transform, seed)
    network, epochs = ready.network, len(rates)
    with reporting(verbose, progress, model.name) as report:
        steps = len(batches)

        def tell(batch: int, logs: Any = None) -> None:
            done = int(keras.ops.convert_to_numpy(network.optimizer.iterations))
            report(Progress((done - 1) // steps, epochs, batch + 1, steps))

        at_rate = keras.callbacks.LearningRateScheduler(lambda epoch: rates[epoch])
        follow = keras.callbacks.LambdaCallback(on_epoch_begin=batches.begin, on_train_batch_end=tell)
        network.fit(batches, epochs=epochs, callbacks=[at_rate, follow], verbose=0, shuffle=False)
    model.set_weights(kept_weights(network))
    _uncompile(model)


def _prepared(
    model: keras.Model,
    training: Examples,
    asked: Training,
    transform: Augment | None,
    seed: int,
    checkpoint: Checkpoint | None = None,
    compiled: Compiled | None = None,
) -> tuple[Ready, Loader]:
    """Adapt a model, compile what is trained of it, and make its batches."""
    size = asked.patch_size
    adapt_model(model, training if size is None else training.tiles(size))
    devices = on_devices(asked.distribute, asked.batch_size)
    weights = objective.class_weights(
        training.targets, asked.class_weight, training.task, model.output_shape[-1]
    )
    of_voxels = training.task == "segmentation"
    momentum = ema_momentum(asked, len(owners(training.volumes, size, asked.patches_per_volume)))
    ready = _compiled(
        model, asked, training.task, weights if of_voxels else None, momentum, devices, checkpoint, compiled
    )
    return ready, Loader(
        training.volumes,
        ready.encode(training.targets),
        asked.batch_size,
        seed,
        None if weights is None or of_voxels else weights[training.targets].astype(np.float32),
        augment=transform,
        spacing=training.spacing,
        patch_size=size,
        per_volume=asked.patches_per_volume,
        devices=devices.number,
        second=further_gaps if asked.consistency else None,
    )


def _compiled(
    model: keras.Model,
    asked: Training,
    task: str,
    voxel_weights: np.ndarray | None,
    momentum: float | None,
    devices: Devices,
    checkpoint: Checkpoint | None,
    compiled: Compiled | None,
) -> Ready:
    """Compile a model, or the twin of it that trains in the best precision; or take over one that is."""
    extra = asked.weight_decay, asked.label_smoothing
    goal = (task, asked.loss, asked.optimizer, own_rate(asked), voxel_weights, momentum, *extra)
    began_in = checkpoint and checkpoint.policy

    def compile_anew() -> Ready:
        policy = began_in or precisions.choose(model, asked.precision, asked.batch_size)
        itself = policy == "float32" and not asked.distribute and compiled is None
        with devices.scope:
            network = model if itself else precisions.with_policy(model, policy)
            network = Agreeing(network, asked.consistency, task) if asked.consistency else network
            return Ready(network, *objective.compile_model(network, *goal), policy)

    if compiled is None:
        return compile_anew()
    same = [
        repr([*goal, asked.consistency]),
        identity(asked.optimizer),
        asked.precision,
        began_in,
        asked.batch_size,
        asked.distribute,
    ]
    return compiled.get(model, same, compile_anew)


def _sign(
    checkpoint: Checkpoint,
    asked: Training,
    named: Sequence[Any],
    network: str,
    seed: int,
    per_volume: int | None,
    parts: Sequence[Examples],
) -> None:
    """Tell a checkpoint by what it may be gone on with: the same network, data and settings."""
    settings: list[Any] = [
        network,
        named,
        asked.batch_size,
        asked.class_weight,
        seed,
        asked.monitor,
        asked.precision,
    ]
    settings += [] if asked.patch_size is None else [asked.patch_size, per_volume]
    settings += [asked.label_smoothing] if asked.label_smoothing else []
    settings += [{"consistency": asked.consistency}] if asked.consistency else []
    arrays = (array for part in parts for array in (part.volumes, part.targets))
    checkpoint.key = fingerprint(settings, *arrays)
    name, config = named[1]
    numbers = {key: f"{value:g}" for key, value in config.items() if isinstance(value, int | float)}
    told = (
        "batch_size",
        "class_weight",
        "monitor",
        "precision",
        "patch_size",
        "patches_per_volume",
        "label_smoothing",
        "consistency",
    )
    checkpoint.settings = {"optimizer": name, **numbers} | {
        "loss": str(named[0]).strip("'"),
        "augment": str(named[2]),
        "seed": str(seed),
        **{field: str(getattr(asked, field)) for field in told},
    }


def _run(
    network: keras.Model,
    batches: Loader,
    watched: Loader,
    supervisor: Supervisor,
    watching: Sequence[keras.callbacks.Callback],
    epochs: int,
) -> None:
    follow = keras.callbacks.LambdaCallback(on_epoch_begin=batches.begin)
    try:
        network.fit(
            batches,
            validation_data=watched,
            initial_epoch=supervisor.epoch,
            epochs=epochs,
            callbacks=[*swapping(network), supervisor, follow, *watching],
            verbose=0,
            shuffle=False,
        )
    except KeyboardInterrupt:
        if not supervisor.epoch:
            raise
        supervisor.reason = "interrupted"


def _uncompile(model: keras.Model) -> None:
    """Forget loss, metrics and optimizer: a model's file then needs nothing of training, and is a third as large."""
    if model.compiled:
        model.compiled = False
        model._compile_loss = model._compile_metrics = model._loss_tracker = None
        del model.optimizer


def adapt_model(model: keras.Model, training: Examples) -> None:
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
    parts = {id(part) for layer in layers if isinstance(layer, PerChannel) for part in layer.layers}
    for layer in layers:
        if hasattr(layer, "adapt") and not getattr(layer, "invert", False) and id(layer) not in parts:
            layer.adapt(seen)
