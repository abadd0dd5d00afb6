"""The history: what it says of a training, as a sentence, a table, JSON and a picture."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from voxgap.history import History, Reason


def history(
    reason: Reason = "patience", epochs: int = 6, planned: int = 10, metric: str = "accuracy"
) -> History:
    records = [
        {
            "loss": 1 / (i + 1),
            metric: 0.1 * i,
            "val_loss": 0.5 + (i - 2) ** 2 / 10,
            f"val_{metric}": 0.3,
            "learning_rate": 1e-3,
            "seconds": 2.0 + (i == 0),
        }
        for i in range(epochs)
    ]
    return History(tuple(records), "val_loss", min(2, epochs - 1), planned, reason)


def test_what_stopping_saved() -> None:
    h = history()
    assert h.best == {"epoch": 3, **h.epochs[2]}
    assert h.seconds == pytest.approx(13)
    assert h.saved_epochs == 4
    # The first epoch is slower everywhere: the median does not count it four times more.
    assert h.saved_seconds == pytest.approx(8)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (
            "patience",
            ["best epoch 3", "val_loss 0.5", "patience ran out after epoch 6", "4 of 10 epochs", "8 s"],
        ),
        ("epochs", ["all planned epochs ran"]),
        ("interrupted", ["interrupted"]),
        ("diverged", ["NaN"]),
        ("callback", ["a callback stopped it after epoch 6"]),
    ],
)
def test_the_summary_is_one_line_that_says_why(reason: Reason, said: list[str]) -> None:
    summary = history(reason).summary()
    assert "\n" not in summary
    assert all(part in summary for part in said), summary
    assert ("saved" in summary) == (reason == "patience")


def test_a_best_epoch_that_was_the_last_asks_for_more() -> None:
    best_last = dataclasses.replace(history("epochs"), best_epoch=len(history().epochs) - 1)
    assert "it was the last: train longer" in best_last.summary()
    assert "train longer" not in history("epochs").summary()
    assert "train longer" not in dataclasses.replace(best_last, reason="interrupted").summary()


def test_remarks_name_what_went_wrong_and_nothing_else() -> None:
    fine = dataclasses.replace(history(), chance=0.7, steps=4)
    assert fine.remarks(["a", "b"]) == []
    (never,) = dataclasses.replace(fine, never=(1, 2)).remarks(["a", "tumour"])
    assert "class tumour, number 2" in never
    (chance,) = dataclasses.replace(fine, chance=0.505).remarks()  # the least loss is 0.5
    assert "stayed at chance: 0.5 at best, 0.505" in chance
    (single,) = dataclasses.replace(fine, steps=1).remarks()
    assert "single training step" in single
    assert not any("\n" in text for text in (never, chance, single))


def test_the_csv_holds_every_epoch(tmp_path: Path) -> None:
    h = history()
    h.to_csv(tmp_path / "deep" / "history.csv")
    with (tmp_path / "deep" / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == list("123456")
    for row, epoch in zip(rows, h.epochs, strict=True):
        assert {k: float(v) for k, v in row.items() if k != "epoch"} == epoch


def test_the_manifest_part_is_plain_json() -> None:
    data = json.loads(json.dumps(history().to_json(), allow_nan=False))
    assert data["best_epoch"] == 3
    assert data["epochs"] == 6
    assert data["planned"] == 10
    assert data["reason"] == "patience"


@pytest.mark.parametrize(
    "h",
    [
        history(),
        pytest.param(history("epochs", epochs=1, planned=1), marks=pytest.mark.full),
        pytest.param(history("interrupted", metric="mae"), marks=pytest.mark.full),
        History(({"loss": 1.0, "val_loss": float("nan"), "seconds": 1.0},) * 2, "val_loss", 0, 5, "diverged"),
    ],
    ids=["patience", "one epoch", "regression", "diverged"],
)
def test_the_picture_is_a_png_with_something_on_it(h: History, tmp_path: Path) -> None:
    from matplotlib.image import imread

    h.plot(tmp_path / "history.png")
    image = imread(tmp_path / "history.png")
    assert image.shape[1] > image.shape[0] > 200
    assert len(np.unique(image.reshape(-1, image.shape[-1]), axis=0)) > 5


@pytest.mark.full
def test_the_picture_marks_the_best_epoch_and_what_was_saved(tmp_path: Path) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.image import imread

    def share(h: History, colour: str) -> float:
        h.plot(tmp_path / "history.png")
        pixels = imread(tmp_path / "history.png")[..., :3]
        return float((np.abs(pixels - to_rgb(colour)).max(axis=-1) < 0.02).mean())

    red, green = "#c8472f", "#dfe9dc"
    assert share(history(), red) > 0.0005
    assert share(history(), green) > 0.05
    assert share(history("epochs", epochs=10), green) == 0


def test_it_is_printed_in_a_line() -> None:
    said = repr(history())
    assert said == str(history())
    assert said.startswith(f"History({len(history().epochs)} of {history().planned} epochs in ")
    assert history().summary() in said
    assert "\n" not in said


def test_dice_says_on_which_grid_it_was_counted() -> None:
    epochs = ({"loss": 1.0, "dice": 0.4, "val_dice": 0.5, "seconds": 1.0},)
    watched = dataclasses.replace(history(), epochs=epochs, best_epoch=0, monitor="val_dice")
    assert "(val_dice 0.5 on the network's grid)" in watched.summary()
