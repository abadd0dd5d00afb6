"""When a training lowers its learning rate, when it stops, and which epoch it keeps."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from voxgap.errors import VoxgapError
from voxgap.training import Schedule
from voxgap.training.checkpoint import State
from voxgap.training.supervisor import Supervisor


@pytest.mark.parametrize("seed", range(40))
def test_the_schedule_decides_as_keras_s_callbacks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Eighths: sums and differences are exact, so that ties are ties in both.
    values = rng.integers(0, 24, 30) / 8
    values[rng.integers(1, 30, 2)] = np.inf
    patience, lr_patience = int(rng.integers(1, 8)), int(rng.integers(1, 5))
    min_delta = float(rng.choice([0, 0.125, 0.5]))
    schedule = Schedule(0.01, patience, min_delta, lr_patience, 0.3, min_learning_rate=1e-4)
    model = SimpleNamespace(stop_training=False, optimizer=SimpleNamespace(learning_rate=0.01))
    shared = {"monitor": "v", "mode": "min", "min_delta": min_delta}
    stock = [
        keras.callbacks.EarlyStopping(patience=patience, **shared),
        keras.callbacks.ReduceLROnPlateau(patience=lr_patience, factor=0.3, min_lr=1e-4, **shared),
    ]
    for callback in stock:
        callback.set_model(model)
        callback.on_train_begin()
    for epoch, value in enumerate(values):
        for callback in stock:
            callback.on_epoch_end(epoch, {"v": value})
        stop, rate = schedule.after(values[: epoch + 1])
        assert stop == model.stop_training, f"epoch {epoch}"
        assert rate == pytest.approx(model.optimizer.learning_rate), f"epoch {epoch}"
        if stop:
            break


COSINE: dict[str, Any] = {"schedule": "cosine", "epochs": 9}


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0), (9, 0), (9, 3), (30, 2.5), (30, 0.5), (4, 3.9)])
def test_a_cosine_has_the_rates_of_the_formula_whatever_the_values(epochs: int, warmup: float) -> None:
    schedule = Schedule(0.02, patience=50, lr_patience=1, schedule="cosine", warmup=warmup, epochs=epochs)
    values = np.random.default_rng(epochs).normal(size=epochs).tolist()
    found = [schedule.after(values[:epoch])[1] for epoch in range(epochs)]
    for epoch, rate in enumerate(found):
        at = epoch + 0.5
        fallen = 0.02 * (0.01 + 0.99 * math.cos(math.pi / 2 * (at - warmup) / (epochs - warmup)) ** 2)
        assert rate == pytest.approx(0.02 * at / warmup if at < warmup else fallen), f"epoch {epoch}"
    assert schedule.after([*values, 1.0, 2.0])[1] == pytest.approx(0.0002)
    # Patience is what it was.
    assert [Schedule(patience=2, **COSINE).after([1.0, *[1.0] * n])[0] for n in range(3)] == [
        False,
        False,
        True,
    ]


def test_a_plateau_lowers_what_warm_up_reached() -> None:
    plain, warm = Schedule(0.1, lr_patience=1), Schedule(0.1, lr_patience=1, warmup=2)
    values = [1.0] * 5
    found, risen = ([schedule.after(values[:n])[1] for n in range(5)] for schedule in (plain, warm))
    assert risen == pytest.approx([0.1 * 0.25, found[1] * 0.75, *found[2:]])
    assert found[4] < found[2]


def trained(schedule: Schedule, epochs: int, own: dict[int, float], state: State | None = None) -> State:
    """Epochs without an improvement, in `own` at a rate that a callback sets; they go on from a state."""
    optimizer = SimpleNamespace(learning_rate=schedule.learning_rate, use_ema=False)
    model = SimpleNamespace(optimizer=optimizer, stop_training=False, get_weights=list)
    supervisor = Supervisor(schedule, "val_loss", 9, 1, None)
    supervisor.set_model(model)
    if state is not None:
        optimizer.learning_rate = state.records[-1]["next"]
        supervisor.resume(model, SimpleNamespace(load=lambda _: state))
        supervisor.checkpoint = None
    supervisor.on_train_begin()
    for epoch in range(supervisor.epoch, epochs):
        supervisor.on_epoch_begin(epoch)
        optimizer.learning_rate = own.get(epoch, optimizer.learning_rate)
        supervisor.on_epoch_end(epoch, {"loss": 1.0, "val_loss": 1.0})
        supervisor.state.records[-1]["next"] = optimizer.learning_rate
    return supervisor.state


def rates(state: State) -> list[float]:
    return [record["learning_rate"] for record in state.records]


@pytest.mark.parametrize(
    "schedule", [Schedule(0.1, lr_patience=3), Schedule(0.1, warmup=2, **COSINE), Schedule(0.1, warmup=3)]
)
@pytest.mark.parametrize("own", [{}, {4: 0.001}])
def test_a_training_resumed_after_any_epoch_has_the_rates_of_one_that_never_stopped(
    schedule: Schedule, own: dict[int, float]
) -> None:
    whole = rates(trained(schedule, 9, own))
    if own:
        assert whole[4] == 0.001
    else:
        assert whole == pytest.approx([schedule.after([1.0] * epoch)[1] for epoch in range(9)])
    for epoch in range(1, 9):
        assert rates(trained(schedule, 9, own, trained(schedule, epoch, own))) == whole


def test_the_schedule_never_raises_the_learning_rate() -> None:
    schedule = Schedule(1e-8, lr_patience=1, min_learning_rate=1e-6)
    assert schedule.after([1.0, 2.0, 3.0])[1] <= 1e-8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"patience": 0}, "patience"),
        ({"min_delta": -1.0}, "min_delta"),
        ({"lr_factor": 1.0}, "lr_factor"),
        ({"schedule": "linear"}, "schedule must be plateau or cosine"),
        ({"schedule": "cosine"}, "a cosine needs the epochs"),
        ({"epochs": 9}, "a cosine needs the epochs"),
        ({"warmup": -1.0}, "warmup must be a finite number of epochs, at least 0"),
        ({"warmup": float("nan")}, "warmup"),
        ({"warmup": float("inf")}, "warmup"),
        (COSINE | {"warmup": 9}, "fewer than the 9 over which the rate falls"),
    ],
)
def test_a_schedule_that_is_not_possible_is_refused(arguments: dict, said: str) -> None:
    with pytest.raises(VoxgapError, match=said):
        Schedule(**arguments)


def test_ties_are_broken_by_the_loss() -> None:
    supervisor = Supervisor(Schedule(), "val_accuracy", 5, 1, None)
    rows = ((0.5, 0.9), (0.8, 0.7), (0.8, 0.4), (0.8, 0.6), (0.8, float("nan")))
    records = [{"val_accuracy": accuracy, "val_loss": loss} for accuracy, loss in rows]
    supervisor.state = State(records, [3] * len(records))
    assert supervisor.best_epoch == 2


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        # (classes named, accuracy, loss)
        ([(1, 0.9, 0.6), (2, 0.8, 0.5)], 1),
        ([(1, 0.9, 0.6), (2, 0.8, 0.7)], 0),  # one class for all, and no better loss
        ([(2, 0.8, 0.5), (1, 0.9, 0.6)], 0),
        ([(2, 0.8, 0.5), (1, 0.9, 0.4)], 1),
        ([(2, 0.5, 0.3), (2, 0.8, 0.6), (1, 0.9, 0.55)], 1),  # the better loss is not that of what was kept
        ([(1, 0.9, 0.6), (2, 0.8, 0.5), (2, 0.85, 0.55), (1, 0.9, 0.6)], 2),
        ([(1, 0.9, float("nan")), (2, 0.1, 9.0)], 1),
    ],
)
def test_one_class_for_all_is_never_kept_where_there_is_a_better_loss(rows: list, kept: int) -> None:
    supervisor = Supervisor(Schedule(), "val_accuracy", 9, 1, None)
    records = [{"val_accuracy": accuracy, "val_loss": loss} for _, accuracy, loss in rows]
    supervisor.state = State(records, [named for named, *_ in rows])
    assert supervisor.best_epoch == kept
    # And patience does not run out at the side of such a network.
    assert np.isfinite(supervisor.values[kept])
