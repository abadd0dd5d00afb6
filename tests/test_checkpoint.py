"""Checkpoints: a killed training goes on as if nothing had happened, and never from another's state."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import tiny
from test_training import fit, other_data
from voxgap import augment as va
from voxgap.errors import VoxgapError
from voxgap.history import History
from voxgap.training import Progress, train


class KilledError(BaseException):
    """As a kill would, it passes every `except Exception` and `except KeyboardInterrupt`."""


def without_time(history: History) -> list[dict[str, float]]:
    return [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in history.epochs]


def killed_at(epoch: int, step: int | None) -> Any:
    def kill(progress: Progress) -> None:
        here = (
            progress.record is not None if step is None else progress.record is None and progress.step == step
        )
        if progress.epoch == epoch and here:
            raise KilledError

    return kill


RESUMABLE = {"epochs": 6, "patience": 6}


@pytest.fixture(scope="module")
def uninterrupted() -> tuple[list[np.ndarray], History]:
    model, history = fit(**RESUMABLE)
    return model.get_weights(), history


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param([(0, 2)], marks=pytest.mark.full),
        pytest.param([(2, None)], marks=pytest.mark.full),
        [(1, 3), (4, 1)],
        pytest.param([(5, None)], marks=pytest.mark.full),
    ],
    ids=str,
)
def test_a_killed_training_goes_on_as_if_nothing_had_happened(
    moments: list, tmp_path: Path, uninterrupted: tuple[list[np.ndarray], History]
) -> None:
    folder = tmp_path / "checkpoint"
    for moment in moments:
        with pytest.raises(KilledError):
            fit(checkpoint=folder, progress=killed_at(*moment), **RESUMABLE)
    seen: list[Progress] = []
    # A new model each time: its layers have other automatic names, as in a notebook cell that is run again.
    model, history = fit(checkpoint=folder, progress=seen.append, **RESUMABLE)
    weights, reference = uninterrupted
    assert without_time(history) == without_time(reference)
    assert (history.best_epoch, history.reason) == (reference.best_epoch, reference.reason)
    for a, b in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    epoch, step = moments[-1]
    first = epoch + (step is None)
    assert not [p for p in seen if p.epoch < first], "epochs that were done were done again"
    assert not folder.exists()


@pytest.mark.full
def test_a_killed_training_by_all_the_options_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    arguments: dict[str, Any] = RESUMABLE | {"schedule": "cosine", "warmup": 2, "ema": 1}
    arguments |= {
        "weight_decay": 0.1,
        "label_smoothing": 0.1,
        "consistency": 0.5,
        "checkpoint": tmp_path / "c",
    }
    whole, reference = fit(**arguments)
    rates = [epoch["learning_rate"] for epoch in reference.epochs]
    assert rates[0] < rates[1] < rates[2] > rates[3] > rates[4]
    for moment in ((0, None), (1, 3), (4, 1)):
        with pytest.raises(KilledError):
            fit(progress=killed_at(*moment), **arguments)
    model, history = fit(**arguments)
    assert without_time(history) == without_time(reference)
    for a, b in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.full
def test_a_cosine_that_has_fallen_does_not_go_on(tmp_path: Path) -> None:
    kept: dict[str, Any] = {"checkpoint": tmp_path / "c", "keep_checkpoint": True, "schedule": "cosine"}
    fit(epochs=2, **kept)
    with pytest.raises(VoxgapError, match=r"epochs was 2, is 3: .*other data or settings"):
        fit(epochs=3, **kept)


@pytest.mark.full
def test_more_epochs_go_on_as_if_there_had_been_no_end(
    tmp_path: Path, uninterrupted: tuple[list[np.ndarray], History]
) -> None:
    folder = tmp_path / "kept"
    kept: dict[str, Any] = {"checkpoint": folder, "keep_checkpoint": True}
    fit(**kept, **RESUMABLE | {"epochs": 2})
    files = {p.name for p in folder.iterdir()}
    assert len(files) == 3  # the state, the best and the last weights: no more
    # And by another patience, as long as it would have made no difference.
    with pytest.raises(KilledError):
        fit(**kept, progress=killed_at(3, 1), **RESUMABLE | {"patience": 5})
    seen: list[Progress] = []
    model, history = fit(**kept, progress=seen.append, **RESUMABLE)
    weights, reference = uninterrupted
    assert without_time(history) == without_time(reference)
    assert min(p.epoch for p in seen) == 3
    for a, b in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    # Nothing is left to do: the same weights and history again, and no epoch less than there were.
    model, again = fit(**kept, progress=killed_at(0, 1), **RESUMABLE | {"epochs": 4})
    assert without_time(again) == without_time(reference)
    assert again.saved_epochs == 0
    np.testing.assert_array_equal(model.get_weights()[0], weights[0])


@pytest.mark.full
def test_a_training_goes_on_when_it_is_given_more_patience(tmp_path: Path) -> None:
    kept: dict[str, Any] = {"checkpoint": tmp_path / "c", "keep_checkpoint": True, "learning_rate": 0.3}
    kept |= {"lr_patience": 50, "epochs": 40}
    _, short = fit(patience=2, **kept)
    assert short.reason == "patience"
    _, longer = fit(patience=3, **kept)
    assert len(longer.epochs) > len(short.epochs)
    assert without_time(longer)[: len(short.epochs)] == without_time(short)
    # But not with less, by which it would have stopped before.
    with pytest.raises(VoxgapError, match=r"patience was 3, is 1: .*other data or settings"):
        fit(patience=1, **kept)


@pytest.mark.full
def test_more_patience_goes_on_where_the_learning_rate_follows_from_it(tmp_path: Path) -> None:
    kept: dict[str, Any] = {"checkpoint": tmp_path / "c", "keep_checkpoint": True, "learning_rate": 0.3}
    _, short = fit(patience=3, epochs=40, **kept)
    assert short.reason == "patience"
    assert short.epochs[-1]["learning_rate"] < 0.3
    _, longer = fit(
        patience=8, epochs=40, **kept
    )  # by itself it would lower the rate after 3 epochs, not after 1
    assert len(longer.epochs) > len(short.epochs)
    assert without_time(longer)[: len(short.epochs)] == without_time(short)


@pytest.mark.full
def test_a_killed_training_with_augmentation_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    def jitter(volumes: np.ndarray, seed: Any, **arguments: Any) -> np.ndarray:
        time.sleep(np.random.default_rng().exponential(0.005))
        return va.preset("scan", "strong")(volumes, seed, **arguments)

    arguments = {"augment": jitter, "epochs": 3}
    whole, reference = fit(**arguments)
    with pytest.raises(KilledError):
        fit(checkpoint=tmp_path / "c", progress=killed_at(1, 3), **arguments)
    model, history = fit(checkpoint=tmp_path / "c", **arguments)
    assert without_time(history) == without_time(reference)
    for a, b in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


CHILD = """
import sys, numpy as np, tiny
from voxgap.training import train
model = tiny.model("resnet3d", "gap_dropout", filters=(2, 4), dropout=0.2)
history = train(model, tiny.dataset(), epochs=8, patience=8, batch_size=8, learning_rate=0.02, lr_patience=1,
                precision="float32", checkpoint=sys.argv[1], progress=lambda p: print("step", flush=True))
records = [[v for k, v in sorted(e.items()) if k != "seconds"] for e in history.epochs]
np.savez(sys.argv[2], np.array(records), *model.get_weights())
"""


@pytest.mark.full
def test_a_training_that_is_really_killed_goes_on(tmp_path: Path) -> None:
    rng = np.random.default_rng()

    def run(name: str, steps: int | None) -> bool:
        """Run to the end, or kill -9 some microseconds after a number of steps."""
        with subprocess.Popen(
            [
                sys.executable,
                "-c",
                CHILD,
                str(tmp_path / f"{name}-checkpoint"),
                str(tmp_path / f"{name}.npz"),
            ],
            cwd=Path(tiny.__file__).parent,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as child:
            assert child.stdout is not None
            for count, _ in enumerate(child.stdout):
                if count == steps:
                    child.send_signal(signal.SIGKILL)
        return child.returncode == 0

    assert run("whole", None)
    for _ in range(6):
        if run("killed", int(rng.integers(1, 14))):
            break
    else:
        assert run("killed", None)
    with np.load(tmp_path / "whole.npz") as whole, np.load(tmp_path / "killed.npz") as killed:
        assert whole.files == killed.files
        for name in whole.files:
            np.testing.assert_array_equal(killed[name], whole[name])


@pytest.fixture(scope="module")
def interrupted_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train") / "checkpoint"
    with pytest.raises(KilledError):
        fit(checkpoint=folder, progress=killed_at(1, None), **RESUMABLE)
    return folder


@pytest.mark.parametrize(
    ("changed", "which"),
    [
        ({"batch_size": 4}, "batch_size was 8, is 4"),
        ({"seed": 1}, "seed was 0, is 1"),
        ({"loss": "categorical_crossentropy"}, "loss was .*, is categorical_crossentropy"),
        ({"optimizer": "sgd"}, "optimizer was Adam, is SGD"),
        ({"optimizer": keras.optimizers.Adam(0.03, beta_1=0.5)}, "beta_1 was 0.9, is 0.5"),
        ({"class_weight": "balanced"}, "class_weight was None, is balanced"),
        ({"monitor": "val_accuracy"}, "monitor was val_loss, is val_accuracy"),
        ({"augment": "default"}, "augment was None, is .+"),
        ({"learning_rate": 0.01}, "learning_rate was 0.03, is 0.01"),
        ({"schedule": "cosine"}, "schedule was plateau, is cosine; epochs was None, is 6"),
        ({"warmup": 3.0}, "warmup was 0.0, is 3.0"),
        ({"weight_decay": 0.1}, r"state\.json"),
        ({"label_smoothing": 0.1}, "label_smoothing was 0.0, is 0.1"),
        ({"consistency": 0.1}, "consistency was 0.0, is 0.1"),
        ({"data": other_data("train")}, r"state\.json"),
        ({"data": other_data("validation")}, r"state\.json"),
    ],
    ids=lambda changed: "-".join(changed) if isinstance(changed, dict) else "",
)
def test_another_training_does_not_go_on_from_this_checkpoint(
    changed: dict, which: str, interrupted_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(interrupted_folder, folder)
    before = sorted(folder.iterdir())
    with pytest.raises(VoxgapError, match="other data or settings; remove the folder") as refused:
        fit(checkpoint=folder, **RESUMABLE | changed)
    assert re.search(f"{which}: the checkpoint", str(refused.value))
    assert sorted(folder.iterdir()) == before


def test_another_network_does_not_go_on_from_this_checkpoint(
    interrupted_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(interrupted_folder, folder)
    with pytest.raises(VoxgapError, match="other data or settings"):
        fit(tiny.model(strategy="mean"), checkpoint=folder, **RESUMABLE)


@pytest.mark.parametrize(
    "damage", ["truncated", "empty", "noise", "json", "fields", "missing", "shapes", "list"]
)
def test_a_damaged_checkpoint_is_one_line(damage: str, interrupted_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(interrupted_folder, folder)
    state, last = folder / "state.json", next(folder.glob("last-*.npz"))
    if damage == "truncated":
        last.write_bytes(last.read_bytes()[:-200])
    elif damage == "empty":
        last.write_bytes(b"")
    elif damage == "noise":
        data = bytearray(last.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 400] = os.urandom(400)
        last.write_bytes(data)
    elif damage == "json":
        state.write_text("{")
    elif damage == "fields":
        state.write_text(json.dumps({k: v for k, v in json.loads(state.read_text()).items() if k != "best"}))
    elif damage == "list":
        state.write_text("[1]")
    elif damage == "missing":
        last.unlink()
    else:
        with np.load(last) as file:
            np.savez(last, *[file[name][..., None] for name in file.files])
    with pytest.raises(VoxgapError, match="damaged checkpoint") as caught:
        fit(checkpoint=folder, **RESUMABLE)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_folder_keeps_what_is_not_the_training_s(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    np.savez(tmp_path / "data.npz", 1)
    fit(epochs=2, checkpoint=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.npz", "notes.txt"]


@pytest.mark.full
def test_an_augmentation_of_ones_own_resumes_and_another_does_not(tmp_path: Path) -> None:
    def flipped(axis: int) -> Any:
        return functools.partial(flip, axis=axis)

    def flip(volumes: np.ndarray, seed: Any, *, axis: int, **arguments: Any) -> np.ndarray:
        return np.flip(volumes, axis)

    folder = tmp_path / "c"
    with pytest.raises(KilledError):
        fit(epochs=2, checkpoint=folder, augment=flipped(2), progress=killed_at(0, None))
    with pytest.raises(VoxgapError, match="other data or settings"):
        fit(epochs=2, checkpoint=folder, augment=flipped(3))
    _, history = fit(epochs=2, checkpoint=folder, augment=flipped(2))
    assert len(history.epochs) == 2


@pytest.mark.full
def test_a_loss_of_ones_own_resumes(tmp_path: Path) -> None:
    def make_loss() -> Any:
        def mine(y_true: Any, y_pred: Any) -> Any:
            return keras.losses.categorical_crossentropy(y_true, y_pred)

        return mine

    with pytest.raises(KilledError):
        fit(epochs=3, checkpoint=tmp_path / "c", loss=make_loss(), progress=killed_at(0, None))
    _, history = fit(epochs=3, checkpoint=tmp_path / "c", loss=make_loss())
    assert len(history.epochs) == 3


@pytest.mark.full
def test_a_resumed_training_keeps_the_precision_that_it_began_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = iter(["mixed_bfloat16"])
    monkeypatch.setattr("voxgap.training.precision.choose", lambda *_: next(chosen))
    folder = tmp_path / "checkpoint"
    with pytest.raises(KilledError):
        fit(checkpoint=folder, progress=killed_at(1, None), precision="auto", **RESUMABLE)
    # A second choice, which a busier machine might have made otherwise, would end the iterator.
    _, history = fit(checkpoint=folder, precision="auto", **RESUMABLE)
    assert history.policy == "mixed_bfloat16"
    assert len(history.epochs) == RESUMABLE["epochs"]


def test_one_training_at_a_time_has_a_folder(tmp_path: Path) -> None:
    data, folder = tiny.dataset(), tmp_path / "new" / "checkpoint"

    def second(_: Any) -> None:
        with pytest.raises(VoxgapError, match=r"checkpoint: a network is trained there by another .*wait"):
            train(tiny.model(), data, epochs=1, checkpoint=folder)
        refused.append(True)

    refused: list[bool] = []
    train(tiny.model(), data, epochs=1, checkpoint=folder, progress=second)
    assert refused
    assert not folder.parent.exists()
