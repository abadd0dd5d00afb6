"""When to stop and what to keep: the schedule, and the callback that carries it out."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from voxgap.errors import VoxgapError
from voxgap.history import Reason
from voxgap.names import SCHEDULES
from voxgap.training.averaging import kept_weights
from voxgap.training.checkpoint import Checkpoint, State
from voxgap.training.metrics import Counts
from voxgap.training.objective import higher_is_better

Report = Callable[["Progress"], None]

LEAST = 0.01
"""Share of the learning rate that a cosine ends at."""


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
    """Which learning rate each epoch has and when to stop: a function of the monitored values so far.

    It has no state, so a training resumed after a kill decides as if it had never stopped.

    Args:
        learning_rate: at the start.
        patience: epochs without an improvement after which training stops (Prechelt 1998).
        min_delta: by how much a value must be lower to count as an improvement.
        lr_patience: epochs without an improvement after which the learning rate is multiplied by `lr_factor`.
        lr_factor: in (0, 1).
        min_learning_rate: never below.
        schedule: `plateau` is what the last three say; with `cosine` the rate falls, whatever the values are, along
            half a cosine to a hundredth of what it was (Loshchilov and Hutter, SGDR, 2017).
        warmup: epochs over which it rises before. Each epoch has the rate of its middle.
        epochs: over which a cosine falls, with those of the warm-up; of no other schedule.
    """

    learning_rate: float = 1e-3
    patience: int = 10
    min_delta: float = 0.0
    lr_patience: int = 4
    lr_factor: float = 0.5
    min_learning_rate: float = 1e-6
    schedule: str = "plateau"
    warmup: float = 0.0
    epochs: int | None = None

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise VoxgapError(f"schedule must be {' or '.join(SCHEDULES)}, got {self.schedule!r}")
        if (self.schedule == "cosine") != (self.epochs is not None):
            raise VoxgapError("a cosine needs the epochs over which it falls, and no other schedule does")
        if not 0 <= self.warmup < (self.epochs or np.inf):
            few = (
                "" if self.epochs is None else f" and fewer than the {self.epochs} over which the rate falls"
            )
            raise VoxgapError(f"warmup must be a finite number of epochs, at least 0{few}, got {self.warmup}")
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
        if self.epochs is not None:
            rate = self.learning_rate
        return wait >= self.patience, rate * self._share(len(values))

    def _share(self, epoch: int) -> float:
        """Return what warm-up and cosine leave of the rate in an epoch, from 0."""
        middle = epoch + 0.5
        if middle < self.warmup:
            return middle / self.warmup
        if self.epochs is None:
            return 1.0
        fallen = min(1.0, (middle - self.warmup) / (self.epochs - self.warmup))
        return LEAST + (1 - LEAST) * (1 + math.cos(math.pi * fallen)) / 2


class Supervisor(keras.callbacks.Callback):
    """Keeps the record and the best weights, and carries out what the schedule decides."""

    def __init__(
        self,
        schedule: Schedule,
        monitor: str,
        planned: int,
        steps: int,
        progress: Report | None,
        counts: Counts | None = None,
        lr_patience_by_default: bool = False,
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self.monitor = monitor
        self.planned = planned
        self.steps = steps
        self.progress = progress or (lambda _: None)
        self.counts = counts
        self.lr_patience_by_default = lr_patience_by_default
        self.state = State()
        self.reason: Reason = "epochs"
        self.checkpoint: Checkpoint | None = None
        self._rate = schedule.learning_rate

    @property
    def epoch(self) -> int:
        """The number of epochs that have ended."""
        return len(self.state.records)

    @property
    def over(self) -> bool:
        """Whether a resumed training had in fact ended."""
        return self.epoch >= self.planned or self.reason != "epochs"

    @property
    def values(self) -> list[float]:
        """The monitored quantity, lower is better; an epoch that gave NaN is worse than any.

        So is one whose network names one class for all, where another that doesn't has less loss.
        """
        losses = [_loss(record) for record in self.state.records]
        several = [loss for loss, n in zip(losses, self.state.named, strict=True) if n != 1]
        least = min(several, default=np.inf)
        return [
            np.inf if n == 1 and least < loss else self._value(record)
            for record, n, loss in zip(self.state.records, self.state.named, losses, strict=True)
        ]

    def _value(self, record: dict[str, float]) -> float:
        value = record[self.monitor]
        if not np.isfinite(value):
            return np.inf
        return -value if higher_is_better(self.monitor) else value

    def _rank(self, record: dict[str, float]) -> tuple[float, float]:
        """Return the monitored quantity, then the loss."""
        return self._value(record), _loss(record)

    def _better(self, state: State, epoch: int, kept: int) -> bool:
        """Return whether the network of an epoch is to be kept in the place of an earlier one's.

        One that names one class for all has the accuracy of many a better one: it is not kept where another, which
        doesn't, has less loss.
        """
        losses = [_loss(record) for record in state.records]
        single = [n == 1 for n in state.named]
        if single[epoch] and any(losses[e] < losses[epoch] and not single[e] for e in range(epoch)):
            return False
        if single[kept] and not single[epoch] and losses[epoch] < losses[kept]:
            return True
        return self._rank(state.records[epoch]) < self._rank(state.records[kept])

    @property
    def best_epoch(self) -> int:
        """The epoch whose network is kept, from 0."""
        kept = 0
        for epoch in range(1, self.epoch):
            if self._better(self.state, epoch, kept):
                kept = epoch
        return kept

    def resume(self, model: keras.Model, checkpoint: Checkpoint) -> None:
        """Go on from what the folder holds, if it holds anything."""
        self.checkpoint = checkpoint
        loaded = checkpoint.load(model)
        if loaded is None:
            return
        self.state = loaded
        if self.lr_patience_by_default:
            # It follows from the patience, and more of that must not change the epochs that ran.
            kept = int(loaded.schedule["lr_patience"])
            self.schedule = dataclasses.replace(self.schedule, lr_patience=kept)
        asked = dataclasses.asdict(self.schedule)
        if loaded.schedule != asked and not self._went_by_the_schedule():
            raise checkpoint.foreign(loaded.schedule, asked)
        self._rate = Schedule(**loaded.schedule).after(self.values)[1]
        self._decide(model)

    def _went_by_the_schedule(self) -> bool:
        """Tell whether the epochs that ran would be the same by this schedule: another patience need not matter."""
        values = self.values
        for epoch, record in enumerate(self.state.records):
            stop, rate = self.schedule.after(values[:epoch])
            if stop or not np.isclose(rate, record["learning_rate"], rtol=1e-5, atol=0):
                return False
        return True

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin with the rate of the first epoch; a training that is gone on with has its own."""
        if not self.epoch:
            self._set(self.model, self.schedule.after([])[1])

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Show how far the epoch is."""
        self.progress(Progress(self.epoch, self.planned, batch + 1, self.steps))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note the time."""
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Record the epoch, keep its weights if they are the best, and do what the schedule decides."""
        record = {k: float(v) for k, v in (logs or {}).items()}
        record["learning_rate"] = _learning_rate(self.model)
        record["seconds"] = time.perf_counter() - self._started
        named, never = _named(self.counts)
        state = dataclasses.replace(
            self.state,
            records=[*self.state.records, record],
            named=[*self.state.named, named],
            schedule=dataclasses.asdict(self.schedule),
        )
        best = not self.epoch or self._better(state, self.epoch, self.best_epoch)
        if best:
            state = dataclasses.replace(state, best_weights=kept_weights(self.model), never=never)
        # At once, after the copy: a Ctrl-C in between would leave this epoch with another's weights.
        self.state = state
        self._decide(self.model)
        if self.checkpoint is not None:
            self.checkpoint.save(self.model, self.state, best)
        self.progress(Progress(epoch, self.planned, self.steps, self.steps, record, best))

    def _decide(self, model: keras.Model) -> None:
        stop, rate = self.schedule.after(self.values)
        if not np.isfinite(self.state.records[-1]["loss"]):
            stop, self.reason = True, "diverged"
        elif stop:
            self.reason = "patience"
        self._set(model, rate)
        # A callback may have said so before.
        model.stop_training = stop or bool(model.stop_training)

    def _set(self, model: keras.Model, rate: float) -> None:
        # Only when the schedule says another: else a callback's own rate would last for one epoch.
        if rate != self._rate:
            model.optimizer.learning_rate = self._rate = rate

    def finish(self, model: keras.Model) -> None:
        """Put the best weights into the model, and empty the checkpoint unless it is to be kept.

        Raises:
            VoxgapError: the first epoch ended in NaN.
        """
        hopeless = not np.isfinite(self._value(self.state.records[self.best_epoch]))
        if self.checkpoint is not None:
            self.checkpoint.clear() if hopeless or not self.checkpoint.keep else self.checkpoint.end()
        if hopeless:
            raise VoxgapError(
                f"the loss was NaN from the first epoch on: lower the learning rate ({self.schedule.learning_rate:g})"
            )
        if self.reason == "epochs" and self.epoch < self.planned:
            self.reason = "callback"
        model.set_weights(self.state.best_weights)


def _loss(record: dict[str, float]) -> float:
    loss = record.get("val_loss", np.inf)
    return loss if np.isfinite(loss) else np.inf


def _named(counts: Counts | None) -> tuple[int, list[int]]:
    """Count the classes named in validation, which has just ended, and say which of those that are there were not."""
    if counts is None:
        return 0, []
    confusion = counts.confusion()
    there, named = confusion.sum(axis=1) > 0, confusion.sum(axis=0) > 0
    return int(named.sum()), np.flatnonzero(there & ~named).tolist()


def _learning_rate(model: keras.Model) -> float:
    # On several devices there is a copy on each, which is no number.
    return float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
