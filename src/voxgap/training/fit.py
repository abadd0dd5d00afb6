"""Training that stops at the right moment, keeps the best weights, and survives a kill."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import keras
import numpy as np

from voxgap.augment import Compose, from_text
from voxgap.errors import VoxgapError
from voxgap.history import History, Reason
from voxgap.training import precision as precisions
from voxgap.training.checkpoint import Checkpoint, fingerprint
from voxgap.training.loader import Augment, Loader
from voxgap.training.precision import Precision

ClassWeight = Literal["balanced"] | dict[int, float] | None
Report = Callable[["Progress"], None]


class Samples(Protocol):
    """What training reads of a data set: volumes `(n, depth, height, width, channels)` and their targets."""

    @property
    def volumes(self) -> np.ndarray: ...

    @property
    def targets(self) -> np.ndarray: ...

    @property
    def task(self) -> str: ...

    def part(self, split: str) -> Samples: ...


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a training is, as told to `progress` after each step and each epoch.

    Attributes:
        epoch: from 0; epochs: how many are planned.
        step: steps done in this epoch; steps: how many it has.
        record: the epoch's metrics once it is over, None before.
        best: whether that epoch is the best so far.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    record: dict[str, float] | None = None
    best: bool = False


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When to lower the learning rate and when to stop: a function of the monitored values so far.

    It has no state, so a training resumed after a kill decides as if it had never stopped.

    Args:
        learning_rate: at the start.
        patience: epochs without an improvement after which training stops (Prechelt 1998).
        min_delta: by how much a value must be lower to count as an improvement.
        lr_patience: epochs without an improvement after which the learning rate is multiplied by `lr_factor`.
        lr_factor: in (0, 1).
        min_learning_rate: never below.
    """

    learning_rate: float = 1e-3
    patience: int = 10
    min_delta: float = 0.0
    lr_patience: int = 4
    lr_factor: float = 0.5
    min_learning_rate: float = 1e-6

    def __post_init__(self) -> None:
        for name, low in (("learning_rate", 0.0), ("min_delta", None), ("lr_patience", 0), ("patience", 0)):
            value = getattr(self, name)
            if not np.isfinite(value) or value < 0 or (low is not None and value <= low):
                raise VoxgapError(
                    f"{name} must be {'positive' if low is not None else 'at least 0'}, got {value}"
                )
        if not 0 < self.lr_factor < 1:
            raise VoxgapError(f"lr_factor must be between 0 and 1, got {self.lr_factor}")

    def after(self, values: Sequence[float]) -> tuple[bool, float]:
        """Decide after the epochs whose monitored values, lower is better, are given.

        Returns:
            `(stop, learning_rate)` for the next epoch.
        """
        lowest, wait, lr_wait = np.inf, 0, 0
        rate = self.learning_rate
        for value in values:
            if value < lowest - self.min_delta:
                lowest, wait, lr_wait = value, 0, 0
                continue
            wait, lr_wait = wait + 1, lr_wait + 1
            if lr_wait >= self.lr_patience:
                # Never up: a rate that begins below the minimum stays.
                rate, lr_wait = min(rate, max(rate * self.lr_factor, self.min_learning_rate)), 0
        return wait >= self.patience, rate


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
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: Report | None = None,
) -> History:
    """Adapt and train a model on the `train` part of a data set, watching its `validation` part.

    The weights of the best epoch are in the model afterwards, whatever ended the training: patience, the last
    epoch or Ctrl-C. The model itself stays float32; where the processor is fast in bfloat16, a twin of it is
    trained in mixed precision.

    Args:
        model: from `build_model`, or any Keras model that takes volumes with NaN.
        dataset: see `Samples`; `vg.load_data` gives one.
        loss: name or function; by default sparse categorical cross-entropy or mean squared error, by task. A
            loss for classes without "sparse" in its name is given one-hot targets.
        optimizer: name, given `learning_rate`, or a Keras optimizer, which keeps its own.
        epochs: at most so many.
        patience, min_delta, lr_patience: see `Schedule`; `lr_patience` is by default under half of `patience`.
        monitor: `val_loss`, or `val_` and a metric: `val_accuracy`, `val_mae`.
        class_weight: weight of each class in the loss; `balanced` weighs by 1 / frequency.
        augment: changes the training volumes anew in each epoch, on the CPU beside the step: `none`,
            `default`, `strong`, a list such as `flip,rotate:10`, or a callable; see `voxgap.training.loader`. Mind
            what would change a label: docs/augmentation.md.
        augment_kind: what the presets are for: `scan`, `video` or `grid`.
        precision: `auto`, `float32` or `bfloat16`.
        seed: of the order of the batches, and of augmentation.
        checkpoint: a folder that holds the training after each epoch: started again with the same arguments, it
            goes on where it was killed. It is emptied when the training ends.
        progress: called after each step and epoch.

    Returns:
        The `History`.

    Raises:
        VoxgapError: the data, a name or a number is not possible, or the first epoch ended in NaN.
        KeyboardInterrupt: Ctrl-C before the first epoch ended: there is nothing to keep yet.
    """
    if epochs < 1 or batch_size < 1:
        raise VoxgapError(f"epochs and batch_size must be at least 1, got {epochs} and {batch_size}")
    training, validation = dataset.part("train"), dataset.part("validation")
    _check(model, training, validation)
    transform = _augmentation(augment, augment_kind)
    if isinstance(optimizer, keras.optimizers.Optimizer):
        learning_rate = _own_rate(optimizer)
    lr_patience = max(1, (patience - 1) // 2) if lr_patience is None else lr_patience
    schedule = Schedule(learning_rate, patience, min_delta, lr_patience)
    adapt_model(model, training)
    store = None if checkpoint is None else Checkpoint(Path(checkpoint))
    policy = (store and store.policy) or precisions.choose(model, precision, batch_size)
    trained = model if policy == "float32" else precisions.with_policy(model, policy)
    metric = "accuracy" if dataset.task == "classification" else "mae"
    if monitor not in ("val_loss", f"val_{metric}"):
        raise VoxgapError(f"monitor must be val_loss or val_{metric}, got {monitor!r}")
    encode = _compile(trained, loss, optimizer, learning_rate, dataset.task, metric)
    weights = _class_weights(training.targets, class_weight, dataset.task)
    batches = Loader(
        training.volumes,
        encode(training.targets),
        batch_size,
        seed,
        weights,
        augment=transform,
        spacing=getattr(training, "spacing", None),
    )
    watched = Loader(validation.volumes, encode(validation.targets), batch_size)
    supervisor = Supervisor(schedule, monitor, epochs, len(batches), progress)
    if store is not None:
        means = [_identity(value) for value in (loss, trained.optimizer, transform)]
        # Keras numbers unnamed layers by what the process has built before, which says nothing of the model.
        structure = re.sub(r'_\d+(?=")', "", model.to_json())
        settings = [structure, means, batch_size, class_weight, seed, monitor, precision]
        arrays = (array for part in (training, validation) for array in (part.volumes, part.targets))
        store.key, store.policy = fingerprint(settings, schedule, *arrays), policy
        supervisor.resume(trained, store)
    if not supervisor.over:
        follow = keras.callbacks.LambdaCallback(on_epoch_begin=batches.begin)
        try:
            trained.fit(
                batches,
                validation_data=watched,
                initial_epoch=supervisor.epoch,
                epochs=epochs,
                callbacks=[supervisor, follow],
                verbose=0,
                shuffle=False,
            )
        except KeyboardInterrupt:
            if not supervisor.records:
                raise
            supervisor.reason = "interrupted"
    history = supervisor.finish(trained, policy)
    if trained is not model:
        model.set_weights(trained.get_weights())
    return history


def adapt_model(model: keras.Model, training: Samples) -> None:
    """Learn the statistics of filling and normalising from training data, in raw units.

    Args:
        model: from `build_model`; one without those layers is left alone.
        training: the part that the network is trained on, and no other.
    """
    for layer in model._flatten_layers(include_self=False):
        if hasattr(layer, "adapt"):
            inverse = getattr(layer, "invert", False)
            layer.adapt(training.targets.reshape(len(training.targets), -1) if inverse else training.volumes)


def _check(model: keras.Model, training: Samples, validation: Samples) -> None:
    expected = tuple(model.input_shape[1:])
    for name, part in (("train", training), ("validation", validation)):
        if not len(part.volumes):
            raise VoxgapError(f"the data set has no {name} volumes: give it a split with some")
        found = tuple(part.volumes.shape[1:])
        if len(found) != 4 or any(e is not None and e != f for e, f in zip(expected, found, strict=True)):
            raise VoxgapError(f"{name} volumes have shape {found}, the model takes {expected}")
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


def _compile(
    model: keras.Model, loss: Any, optimizer: Any, learning_rate: float, task: str, metric: str
) -> Callable[[np.ndarray], np.ndarray]:
    """Compile; return the function that encodes targets as the loss wants them."""
    default = "sparse_categorical_crossentropy" if task == "classification" else "mean_squared_error"
    loss = default if loss is None else loss
    try:
        function = keras.losses.get(loss)
    except ValueError:
        raise VoxgapError(f"no loss {loss!r}: use a Keras name such as {default}") from None
    if isinstance(optimizer, str):
        try:
            settings = {"class_name": optimizer, "config": {"learning_rate": learning_rate}}
            optimizer = keras.optimizers.get(settings)
        except ValueError:
            raise VoxgapError(f"no optimizer {optimizer!r}: use a Keras name such as adam or sgd") from None
    else:
        # A copy: an optimizer serves one model only, and the caller may have others to train.
        optimizer = type(optimizer).from_config(optimizer.get_config())
    # XLA compiles Conv3D for the CPU into code ten times slower than oneDNN's.
    model.compile(optimizer=optimizer, loss=function, metrics=[metric], jit_compile=False)
    if task == "regression":
        return lambda targets: targets.reshape(len(targets), -1).astype(np.float32)
    if "sparse" in str(getattr(function, "name", getattr(function, "__name__", ""))):
        return lambda targets: targets
    classes = model.output_shape[-1]
    return lambda targets: np.eye(classes, dtype=np.float32)[targets]


def _own_rate(optimizer: keras.optimizers.Optimizer) -> float:
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


def _identity(value: Any) -> Any:
    """What a loss, optimizer or augmentation is, in words that are the same in every process."""
    if hasattr(value, "get_config"):
        # Keras numbers the names.
        return type(value).__name__, {k: v for k, v in value.get_config().items() if k != "name"}
    return re.sub(" at 0x[0-9a-f]+", "", repr(getattr(value, "__name__", value)))


def _class_weights(targets: np.ndarray, class_weight: ClassWeight, task: str) -> np.ndarray | None:
    """One weight a training sample, 1 on average, or None."""
    if class_weight is None:
        return None
    if task != "classification":
        raise VoxgapError("class_weight is for classification: a regression has no classes")
    if class_weight == "balanced":
        counts = np.bincount(targets)
        per_class = 1.0 / np.maximum(counts, 1)
    elif isinstance(class_weight, dict):
        missing = set(np.unique(targets).tolist()) - set(class_weight)
        if missing or any(w < 0 for w in class_weight.values()) or not any(class_weight.values()):
            raise VoxgapError(
                f"class_weight needs a weight for each class, >= 0 and not all 0; missing: {sorted(missing)}"
            )
        per_class = np.array([class_weight.get(c, 0.0) for c in range(int(targets.max()) + 1)])
    else:
        raise VoxgapError(f"class_weight must be 'balanced', a dictionary or None, got {class_weight!r}")
    weights = per_class[targets]
    return (weights / weights.mean()).astype(np.float32)


class Supervisor(keras.callbacks.Callback):
    """Keeps the record and the best weights, and carries out what the schedule decides."""

    def __init__(
        self, schedule: Schedule, monitor: str, planned: int, steps: int, progress: Report | None
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self.monitor = monitor
        self.planned = planned
        self.steps = steps
        self.progress = progress or (lambda _: None)
        self.records: list[dict[str, float]] = []
        self.best_weights: list[np.ndarray] = []
        self.reason: Reason = "epochs"
        self.checkpoint: Checkpoint | None = None

    @property
    def epoch(self) -> int:
        return len(self.records)

    @property
    def over(self) -> bool:
        """Whether a resumed training had in fact ended."""
        return self.epoch >= self.planned or self.reason != "epochs"

    @property
    def values(self) -> list[float]:
        """The monitored quantity, lower is better; an epoch that gave NaN is worse than any."""
        return [self._value(record) for record in self.records]

    def _value(self, record: dict[str, float]) -> float:
        value = record[self.monitor]
        if not np.isfinite(value):
            return np.inf
        return -value if self.monitor.endswith("accuracy") else value

    @property
    def best_epoch(self) -> int:
        return int(np.argmin(self.values))

    def resume(self, model: keras.Model, checkpoint: Checkpoint) -> None:
        """Go on from what the folder holds, if it holds anything."""
        self.checkpoint = checkpoint
        loaded = checkpoint.load(model)
        if loaded is not None:
            self.records, self.best_weights = loaded
            self._decide(model)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.progress(Progress(self.epoch, self.planned, batch + 1, self.steps))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        record = {k: float(v) for k, v in (logs or {}).items()}
        record["learning_rate"] = float(self.model.optimizer.learning_rate)
        record["seconds"] = time.perf_counter() - self._started
        best = not self.records or self._value(record) < min(self.values)
        weights = self.model.get_weights() if best else self.best_weights
        # Together, after the copy: a Ctrl-C in between would leave this epoch with another's weights.
        self.records, self.best_weights = [*self.records, record], weights
        self._decide(self.model)
        if self.checkpoint is not None:
            self.checkpoint.save(self.model, self.records, self.best_weights, best)
        self.progress(Progress(epoch, self.planned, self.steps, self.steps, record, best))

    def _decide(self, model: keras.Model) -> None:
        stop, rate = self.schedule.after(self.values)
        if not np.isfinite(self.records[-1]["loss"]):
            stop, self.reason = True, "diverged"
        elif stop:
            self.reason = "patience"
        if rate != float(model.optimizer.learning_rate):
            model.optimizer.learning_rate = rate
        model.stop_training = stop

    def finish(self, model: keras.Model, policy: str) -> History:
        """Put the best weights into the model, empty the checkpoint, and return the record."""
        if self.checkpoint is not None:
            self.checkpoint.clear()
        if not np.isfinite(self.values[self.best_epoch]):
            raise VoxgapError(
                f"the loss was NaN from the first epoch on: lower the learning rate ({self.schedule.learning_rate:g})"
            )
        model.set_weights(self.best_weights)
        return History(tuple(self.records), self.monitor, self.best_epoch, self.planned, self.reason, policy)
