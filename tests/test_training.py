"""Training: when it stops, what it keeps, that a killed one goes on, and what it refuses."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

import tiny
from voxgap import augment as va
from voxgap.errors import VoxgapError
from voxgap.history import History
from voxgap.training import Progress, adapt_model, train
from voxgap.training.objective import class_weights
from voxgap.training.progress import _Beginning, reporting

DATA = tiny.dataset()
QUICK: dict[str, Any] = {
    "precision": "float32",
    "batch_size": 8,
    "learning_rate": 0.03,
    "lr_patience": 1,
    "verbose": False,
}


def named(value: Any) -> str:
    """A test's name must be the same in every process, or they can't be shared between processes."""
    return re.sub(r" at 0x\w+", "", str(value))[:80]


def fit(model: keras.Model | None = None, data: Any = DATA, **arguments: Any) -> tuple[keras.Model, History]:
    model = tiny.model() if model is None else model
    return model, train(model, data, **QUICK | arguments)


def plain(values: Any, observed: Any) -> Any:
    """A network without anything that differs between training and inference."""
    return keras.layers.Dense(4, kernel_initializer=keras.initializers.HeNormal(seed=3))(values)


def validation_loss(model: keras.Model) -> float:
    part = DATA.part("validation")
    probabilities = model.predict(part.volumes, verbose=0)
    return float(-np.log(probabilities[np.arange(len(part)), part.targets]).mean())


# --- the best weights --------------------------------------------------------------------------------------


def worse_than_the_best(history: History) -> bool:
    return history.best_epoch < len(history.epochs) - 1


def assert_best_weights(model: keras.Model, history: History) -> None:
    assert worse_than_the_best(history), "this training tests nothing: its last epoch was its best"
    values = [epoch["val_loss"] for epoch in history.epochs]
    assert history.best_epoch == int(np.argmin(values))
    assert validation_loss(model) == pytest.approx(min(values), rel=1e-4)
    assert validation_loss(model) != pytest.approx(values[-1], rel=1e-4)


OVERFITS = {"learning_rate": 0.3, "lr_patience": 50}


def test_best_weights_are_restored_when_patience_ends() -> None:
    model, history = fit(epochs=40, patience=3, **OVERFITS)
    assert history.reason == "patience"
    assert len(history.epochs) == history.best_epoch + 1 + 3
    assert history.saved_epochs == 40 - len(history.epochs)
    assert_best_weights(model, history)


@pytest.mark.full
def test_best_weights_are_restored_when_the_epochs_run_out() -> None:
    # As many epochs as patience allows: the last is not the best, whatever rounding makes of the curve.
    _, stopped = fit(epochs=40, patience=2, **OVERFITS)
    model, history = fit(epochs=len(stopped.epochs), patience=50, **OVERFITS)
    assert history.reason == "epochs"
    assert_best_weights(model, history)


@pytest.mark.parametrize("moment", ["epoch", "step"])
def test_best_weights_are_restored_after_ctrl_c(moment: str) -> None:
    worse: list[int] = []

    def interrupt(progress: Progress) -> None:
        if progress.record is not None and progress.epoch > 0 and not progress.best:
            worse.append(progress.epoch)
        if worse and (moment == "epoch" or (progress.record is None and progress.step == 1)):
            raise KeyboardInterrupt

    model, history = fit(epochs=40, patience=30, progress=interrupt, **OVERFITS)
    assert history.reason == "interrupted"
    assert_best_weights(model, history)


def test_ctrl_c_before_the_first_epoch_ended_is_not_swallowed() -> None:
    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(epochs=3, progress=interrupt)


@pytest.mark.full
def test_the_monitor_may_be_accuracy() -> None:
    _, history = fit(epochs=5, monitor="val_accuracy")
    ranks = [(-epoch["val_accuracy"], epoch["val_loss"]) for epoch in history.epochs]
    assert history.best_epoch == ranks.index(
        min(ranks)
    )  # Of epochs as accurate, the one with the least loss.


def test_what_went_wrong_is_warned_of_unless_it_is_to_be_silent() -> None:
    arguments: dict[str, Any] = {"epochs": 1, "learning_rate": 1e-9, "batch_size": 100}
    with pytest.warns(UserWarning, match="never names class") as warned:
        model, history = fit(tiny.model(plain, "mean"), verbose=None, **arguments)
    said = "\n".join(str(w.message) for w in warned)
    part = DATA.part("validation")
    named = set(model.predict(part.volumes, verbose=0).argmax(axis=-1).tolist())
    assert set(history.never) == set(part.targets.tolist()) - named
    assert all(tiny.CLASSES[c] in said for c in history.never)
    assert history.chance == pytest.approx(np.log(3), rel=0.01)
    assert "stayed at chance" in said
    assert "single training step" in said
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(tiny.model(plain, "mean"), loss="categorical_crossentropy", **arguments)


def test_callbacks_of_keras_are_called_and_may_stop() -> None:
    class Stopper(keras.callbacks.Callback):
        epochs = 0

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            assert "val_loss" in logs
            self.epochs += 1
            if epoch == 1:
                self.model.stop_training = True

    stopper = Stopper()
    seen: list[float] = []
    rates = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.01 / (epoch + 1))
    told = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: seen.append(batch))
    _, history = fit(epochs=5, callbacks=[stopper, rates, told], lr_patience=50)
    assert (stopper.epochs, history.reason, len(history.epochs)) == (2, "callback", 2)
    assert "a callback stopped it after epoch 2" in history.summary()
    stopper.epochs = 0
    assert len(fit(epochs=3, callbacks=stopper)[1].epochs) == stopper.epochs == 2
    assert len(fit(epochs=1, callbacks=None)[1].epochs) == 1
    assert len(seen) == 2 * history.steps
    assert [e["learning_rate"] for e in history.epochs] == pytest.approx([0.01, 0.005])


def test_a_training_is_shown_where_somebody_looks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Progress(0, 2, 3, 3, {"loss": 1.0, "val_loss": 0.5, "seconds": 1.0}, best=True)

    def shown(verbose: bool | None, progress: Any = None) -> str:
        with reporting(verbose, progress, "cnn3d") as report:
            report(told)
        return capsys.readouterr().out

    assert shown(None) == shown(False) == ""
    assert shown(True) == "cnn3d  epoch 1/2  loss 1.0000  val_loss 0.5000  1.0 s  *\n"
    seen: list[Progress] = []
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, to rich
    assert "best val_loss 0.5000 (epoch 1)" in shown(None)
    assert shown(None, seen.append) == shown(False, seen.append) == ""  # who reports it already sees it once
    assert seen == [told] * 2


def test_a_log_begins_before_the_first_epoch_ends() -> None:
    def log(steps: int, seconds: float, epoch: int = 0) -> list[str]:
        begun = _Beginning()
        lines = [
            begun.said(Progress(epoch, 40, step, steps), 100 + seconds * step) for step in range(1, steps + 1)
        ]
        lines.append(begun.said(Progress(epoch, 40, steps, steps, {"loss": 1.0}), 1e3))
        return [f"{place}: {line}" for place, line in enumerate(lines, 1) if line]

    assert log(100, 0.5) == ["6: epochs 1 to 40 at most, of 100 steps, each about 50 s and its validation"]
    assert log(100, 20.0) == ["2: epochs 1 to 40 at most, of 100 steps, each about 2000 s and its validation"]
    assert log(3, 0.5, epoch=7) == [
        "3: epochs 8 to 40 at most, of 3 steps, each about 1.5 s and its validation"
    ]
    assert log(1, 0.5) == ["1: epochs 1 to 40 at most, of 1 step"]


@pytest.mark.full
def test_progress_tells_of_every_step_and_epoch() -> None:
    seen: list[Progress] = []
    _, history = fit(epochs=2, progress=seen.append)
    steps = -(-len(DATA.part("train")) // 8)
    assert [p.step for p in seen if p.record is None] == [*range(1, steps + 1)] * 2
    ends = [p for p in seen if p.record is not None]
    assert [(p.epoch, p.epochs, p.steps) for p in ends] == [(0, 2, steps), (1, 2, steps)]
    assert [p.record for p in ends] == list(history.epochs)
    assert ends[0].best


def test_training_learns_and_both_tasks_answer_in_their_units() -> None:
    data = tiny.dataset("regression", outputs=2)
    model = tiny.model("cnn3d", "mask_channel", 2, task="regression", filters=(4, 8))
    history = train(
        model, data, epochs=12, learning_rate=0.01, batch_size=8, patience=12, precision="float32"
    )
    test = data.part("test")
    error = np.abs(model.predict(test.volumes, verbose=0) - test.targets).mean()
    # The spread of the targets is about 41: the mean would err by about 33.
    assert error < 25
    assert history.best["val_mae"] < 25


def other_data(split: str) -> Any:
    volumes = DATA.volumes.copy()
    volumes[DATA.split == split] += 1
    return DATA.with_volumes(volumes)


# --- data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["mean", "knn", "linear", "matrix_factorization"])
def test_validation_and_test_data_cannot_leak(strategy: str) -> None:
    def statistics(data: Any) -> list[np.ndarray]:
        model = tiny.model(plain, strategy)
        adapt_model(model, data.part("train"))
        return model.get_layer("prepare").get_weights()

    expected = statistics(DATA)
    volumes = DATA.volumes.copy()
    volumes[DATA.split != "train"] = np.random.default_rng(0).normal(
        1e3, 9, volumes[DATA.split != "train"].shape
    )
    for a, b in zip(statistics(DATA.with_volumes(volumes)), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    changed = statistics(other_data("train"))
    assert any((a != b).any() for a, b in zip(changed, expected, strict=True))


def test_train_adapts_to_the_training_part_only() -> None:
    seen: list[tuple[int, ...]] = []
    data = SimpleNamespace(task=DATA.task, part=lambda split: seen.append(split) or DATA.part(split))
    model, _ = fit(tiny.model(plain, "mean"), data=data, epochs=1)
    assert set(seen) == {"train", "validation"}, "training looked at the test part"
    expected = np.nanmean(DATA.part("train").volumes, axis=0)
    np.testing.assert_allclose(model.get_layer("prepare").get_layer("fill").constant, expected, atol=1e-5)


def test_a_regression_answers_in_units_learnt_from_training_targets() -> None:
    data = tiny.dataset("regression", outputs=2)
    model = tiny.model(plain, "mean", 2, task="regression")
    adapt_model(model, data.part("train"))
    layer = model.get_layer("network").get_layer("denormalize")
    np.testing.assert_allclose(layer.mean, data.part("train").targets.mean(axis=0), rtol=1e-6)


# --- augmentation ------------------------------------------------------------------------------------------


@pytest.mark.full
def test_augmentation_is_given_seeds_and_spacing_and_only_training_volumes() -> None:
    seen: dict[tuple[int, ...], np.ndarray] = {}

    def record(volumes: np.ndarray, seed: tuple[int, ...], *, spacing: Any, threads: int) -> np.ndarray:
        assert spacing == DATA.spacing
        assert threads >= 1
        seen[seed] = volumes
        return volumes

    model, history = fit(epochs=2, seed=5, augment=record)
    part = DATA.part("train")
    steps = -(-len(part) // 8)
    assert set(seen) == {(5, epoch, index) for epoch in range(2) for index in range(steps)}
    for epoch in range(2):
        volumes = np.concatenate([seen[5, epoch, index] for index in range(steps)])
        assert sorted(v.tobytes() for v in volumes) == sorted(v.tobytes() for v in part.volumes)
    # What leaves the volumes as they are trains as nothing at all does.
    untouched, plainly = fit(epochs=2, seed=5, augment="none")
    assert [e["loss"] for e in plainly.epochs] == [e["loss"] for e in history.epochs]
    for a, b in zip(model.get_weights(), untouched.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.full
@pytest.mark.parametrize(
    "augment",
    [
        pytest.param("default", marks=pytest.mark.full),
        "flip,noise:0..0.1",
        pytest.param(va.preset("video", "strong"), marks=pytest.mark.full, id="video"),
    ],
)
def test_augmentation_changes_training_the_same_way_every_time(augment: Any) -> None:
    runs = [fit(epochs=2, augment=augment)[1] for _ in range(2)]
    losses = [[(e["loss"], e["val_loss"]) for e in run.epochs] for run in runs]
    assert losses[0] == losses[1]
    assert losses[0] != [(e["loss"], e["val_loss"]) for e in fit(epochs=2)[1].epochs]


# --- class weights, losses, optimizers ---------------------------------------------------------------------


def test_balanced_class_weights_are_scikit_learn_s() -> None:
    targets = np.random.default_rng(0).choice(3, 200, p=[0.7, 0.2, 0.1])
    per_class = compute_class_weight("balanced", classes=np.arange(3), y=targets)
    weights = class_weights(targets, "balanced", "classification", 3)
    np.testing.assert_allclose(weights, per_class, rtol=1e-6)


def test_class_weights_weigh_the_loss() -> None:
    model = tiny.model(plain, "mean")
    part = DATA.part("train")
    adapt_model(model, part)
    probabilities = model.predict(part.volumes, verbose=0)
    losses = -np.log(probabilities[np.arange(len(part)), part.targets])
    weights = np.array([0.0, 1.0, 5.0])[part.targets]
    # One batch of everything: the epoch's loss is that of the weights it began with.
    _, history = fit(model, epochs=1, batch_size=len(part), class_weight={0: 0.0, 1: 1.0, 2: 5.0})
    assert history.epochs[0]["loss"] == pytest.approx((losses * weights / weights.mean()).mean(), rel=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [
        {"loss": "categorical_crossentropy", "optimizer": "sgd"},
        {"loss": keras.losses.CategoricalFocalCrossentropy(), "optimizer": "AdamW"},
        pytest.param({"loss": "kl_divergence", "optimizer": "rmsprop"}, marks=pytest.mark.full),
        pytest.param(
            {"loss": keras.losses.SparseCategoricalCrossentropy(), "optimizer": "nadam"},
            marks=pytest.mark.full,
        ),
        pytest.param({"loss": keras.losses.sparse_categorical_crossentropy}, marks=pytest.mark.full),
    ],
    ids=named,
)
def test_losses_and_optimizers_of_keras(arguments: dict) -> None:
    _, history = fit(tiny.model(plain, "mean"), epochs=4, **arguments)
    assert history.epochs[-1]["loss"] < history.epochs[0]["loss"]
    assert history.epochs[0]["learning_rate"] == pytest.approx(0.03)


@pytest.mark.full
def test_an_optimizer_of_ones_own_keeps_its_rate_and_serves_again() -> None:
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    for _ in range(2):  # as `compare` does, with the same arguments for every strategy
        _, history = fit(tiny.model(plain, "mean"), epochs=2, optimizer=optimizer)
        assert history.epochs[0]["learning_rate"] == pytest.approx(0.05)


@pytest.mark.parametrize("loss", ["mae", "huber"])
def test_losses_of_a_regression(loss: str) -> None:
    data = tiny.dataset("regression")
    _, history = fit(tiny.model(plain, "mean", task="regression"), data, epochs=2, loss=loss)
    assert np.isfinite(history.best["val_loss"])


class Part:
    """A data set with one field changed, without `Dataset`'s own checks."""

    def __init__(self, data: Any = DATA, **changed: Any) -> None:
        self.data, self.changed, self.task = data, changed, changed.get("task", data.task)

    def part(self, split: str) -> Any:
        part = self.data.part(split)
        fields = {"volumes": part.volumes, "targets": part.targets, "task": part.task}
        return SimpleNamespace(
            **fields | {k: v(fields) if callable(v) else v for k, v in self.changed.items()}
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"epochs": 0}, "epochs and batch_size"),
        ({"batch_size": 0}, "epochs and batch_size"),
        ({"loss": "crossentropy"}, "no loss 'crossentropy'"),
        ({"optimizer": "sdg"}, "no optimizer 'sdg'"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"patience": 0}, "patience"),
        ({"lr_patience": -1}, "lr_patience"),
        ({"monitor": "val_auc"}, "monitor must be"),
        ({"schedule": "linear"}, "schedule must be plateau or cosine, got 'linear'"),
        (
            {"warmup": 2, "schedule": "cosine"},
            "warmup must be a finite number of epochs, at least 0 and fewer than the 2",
        ),
        ({"weight_decay": -0.1}, "weight_decay must be a number, 0 for none, got -0.1"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"consistency": -1.0}, "consistency must be a weight, 0 for none, got -1.0"),
        ({"label_smoothing": 0.1, "loss": "mse"}, "the loss is 'mse': leave out one of them"),
        (
            {"label_smoothing": 0.1, "data": tiny.dataset("regression")},
            "label_smoothing is for a classification, this is a regression",
        ),
        ({"class_weight": "equal"}, "class_weight"),
        ({"class_weight": {0: 1.0}}, r"class_weight .*\[1, 2\]"),
        ({"class_weight": {0: 1.0, 1: -1.0, 2: 1.0}}, "class_weight"),
        ({"class_weight": {0: 0.0, 1: 0.0, 2: 0.0}}, "class_weight"),
        ({"precision": "float16"}, "precision must be"),
        ({"augment": "spin:3"}, "transform 'spin' is unknown"),
        ({"augment": "default", "augment_kind": "picture"}, "kind 'picture' is unknown"),
        ({"augment": 7}, "augment must be"),
        ({"augment": va.Crop((4, 4, 4))}, "needs one shape"),
        ({"callbacks": [5]}, "callbacks must be Keras callbacks, got 5$"),
        ({"callbacks": "stop"}, "callbacks must be Keras callbacks, got 'stop'$"),
        ({"callbacks": keras.callbacks.Callback}, "Callback'>; call it"),
        (
            {"optimizer": keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 5))},
            "learning rate",
        ),
        ({"data": Part(volumes=np.zeros((0, 8, 8, 8, 1), "float32"))}, "no train volumes"),
        ({"data": Part(volumes=np.zeros((3, 8, 8, 9, 1), "float32"))}, "the model takes"),
        ({"data": Part(targets=np.zeros(2, int))}, "targets"),
        ({"data": Part(targets=lambda f: f["targets"] + 1)}, "class 3"),
        ({"data": Part(volumes=lambda f: np.full_like(f["volumes"], np.nan))}, "observed"),
        (
            {"data": Part(volumes=lambda f: np.where(np.isnan(f["volumes"]), np.inf, f["volumes"]))},
            "infinite",
        ),
    ],
    ids=named,
)
def test_what_is_not_possible_is_one_line(arguments: dict, said: str) -> None:
    with pytest.raises(VoxgapError, match=said) as caught:
        fit(**{"epochs": 2} | arguments)
    assert "\n" not in str(caught.value)


def test_targets_of_another_width_than_the_outputs_are_refused() -> None:
    data = tiny.dataset("regression", outputs=3)
    with pytest.raises(VoxgapError, match="outputs"):
        fit(tiny.model(plain, "mean", 2, task="regression"), data, epochs=1)


# --- divergence --------------------------------------------------------------------------------------------


def test_a_loss_that_is_nan_from_the_start_says_what_to_do(tmp_path: Path) -> None:
    arguments = {"epochs": 3, "checkpoint": tmp_path / "c"}
    with pytest.raises(VoxgapError, match="lower the learning rate"):
        fit(tiny.model(plain, "mean"), optimizer="sgd", learning_rate=1e38, **arguments)
    # And doing it is not answered with the checkpoint of the training that went wrong.
    _, history = fit(tiny.model(plain, "mean"), optimizer="sgd", learning_rate=1e-3, **arguments)
    assert len(history.epochs) == 3


def test_a_loss_that_becomes_nan_later_stops_and_keeps_the_best() -> None:
    model = tiny.model(plain, "mean")

    def poison(progress: Progress) -> None:
        if progress.epoch == 2 and progress.step == 1:
            model.set_weights([np.full_like(w, np.nan) for w in model.get_weights()])

    _, history = fit(model, epochs=9, progress=poison, learning_rate=1e-3)
    assert history.reason == "diverged"
    assert len(history.epochs) == 3
    assert history.best_epoch < 2
    assert validation_loss(model) == pytest.approx(history.best["val_loss"], rel=1e-4)


# --- precision ---------------------------------------------------------------------------------------------


def test_training_in_bfloat16_leaves_a_float32_model() -> None:
    model = tiny.model("cnn3d", "masked_conv", filters=(4,))
    _, history = fit(model, epochs=3, precision="bfloat16")
    assert history.policy == "mixed_bfloat16"
    assert model.get_layer("network").layers[-1].dtype_policy.name == "float32"
    assert all(w.dtype == "float32" for w in model.weights)
    # The weights came over: rounding is all that differs.
    assert validation_loss(model) == pytest.approx(history.best["val_loss"], rel=0.05)
