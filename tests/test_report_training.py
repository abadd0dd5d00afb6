"""The page of one training: whole, self-contained, of every task, and what it says of the cases."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stand_in
from test_evidence import Network, data
from test_report import checked
from voxgap import metrics
from voxgap.bundle.evidence import WORST, write_evidence
from voxgap.dataset import Dataset
from voxgap.evidence import NO_TEST, Cases, collect
from voxgap.history import History
from voxgap.promises import RATES
from voxgap.report import cases as drawn
from voxgap.report.training import OF_ALL, OF_EACH, shown_part
from voxgap.runtime import Bundle

EPOCHS = tuple({"loss": 1.0 / n, "val_loss": 1.2 / n, "accuracy": 0.5, "seconds": 1.0} for n in range(1, 4))
FULL = pytest.mark.full
HISTORY = History(EPOCHS, "val_loss", 2, 5, "patience")


def bundle(folder: Path, known: Dataset, network: Network, **more: Any) -> Bundle:
    scores = {
        part: metrics.scores(known.task, known.part(part).targets, network(known.part(part).volumes))
        for part in ("validation", "test")
        if part in known.split
    }
    said = {
        "data": {"name": "/home/jane/scans.csv"},
        "network": "resnet3d",
        "strategy": {"fill": "mean", "attention": False, "fill_options": {}},
        "arguments": {"architecture": {"filters": [4, 8]}, "seed": 3},
        "versions": {"keras": "3.15.1"},
        "task": known.task,
        "classes": list(known.classes),
        "outputs": len(known.classes) or 1,
        "input": {"shape": list(known.volumes.shape[1:]), "channels": list(known.channels)},
        "scores": scores,
    }
    return Bundle(folder, stand_in.manifest(**said | more))


def page_of(folder: Path, known: Dataset, **more: Any) -> str:
    network = Network(known)
    cases = collect(known, network)
    write_evidence(bundle(folder, known, network, **more), known, cases, network, HISTORY)
    return checked(folder / "evidence" / "report.html")


def gapped(count: int = 150) -> Dataset:
    """Two channels, of which one is missing more often in one class; half of it for the test."""
    rng = np.random.default_rng(0)
    targets = np.arange(count) % 2
    volumes = rng.normal(size=(count, 4, 4, 4, 2)).astype(np.float32) + targets[:, None, None, None, None]
    volumes[rng.random(count) < 0.2 + 0.6 * targets, ..., 1] = np.nan
    split = np.repeat(["test", "validation", "train"], [count - 40, 20, 20])
    return Dataset.from_arrays(volumes, labels=targets, split=split, channels=("t1", "flair"))


def test_a_page_says_what_comes_from_the_gaps_and_how_sure_each_pattern_is(tmp_path: Path) -> None:
    known = gapped()

    def by_the_gaps(volumes: Any) -> Any:
        sure = np.where(np.isnan(volumes).any(axis=(1, 2, 3, 4)), 0.8, 0.2)
        return np.stack([1 - sure, sure], axis=1)

    own = [{"missing": [1], "rate": 0, "temperature": 3.0, "samples": 20}]
    for patterns, words in ((own, OF_EACH), (None, OF_ALL)):
        by_gaps = {} if patterns is None else {"patterns": patterns, "rates": list(RATES)}
        calibration = {"temperature": 1.5, "samples": 50} | by_gaps
        folder = bundle(tmp_path, known, Network(known), scores={}, calibration=calibration)
        write_evidence(folder, known, collect(known, by_the_gaps), by_the_gaps, HISTORY)
        page = checked(tmp_path / "evidence" / "report.html")
        assert words in page
        assert "flair missing, and nothing of the rest" in page
        share = re.search(r"accuracy above chance, ([\d.]+) .* comes from what is missing alone", page)
        assert share is not None
        assert float(share[1]) == pytest.approx(1, abs=0.1)


def cases_of(known: Dataset) -> Cases:
    return collect(known, Network(known)).part("test")


def test_a_page_of_classes(tmp_path: Path) -> None:
    known = data("classification")
    rests = {"test": {"n": 20, "groups": 7, "intervals": {"accuracy": [0.25, 0.875]}}}
    page = page_of(tmp_path, known, calibration={"temperature": 2.0, "samples": 20}, intervals=rests)
    assert "(0.250 to 0.875)" in page
    assert "bootstrap over groups" in page
    titles = ("Scores", "Classes", "Telling classes apart", "Probabilities", "Worst cases", "Training")
    assert [page.index(f"<h2>{title}</h2>") for title in titles] == sorted(
        page.index(f"<h2>{title}</h2>") for title in titles
    )
    cases = cases_of(known)
    right = int((cases.named == cases.targets).sum())
    assert f"Of 20 test cases it answers {right} right" in page
    assert all(f"{name}: " in page for name in cases.worst(WORST).names)
    assert page.count("data:image/png;base64,") == WORST
    assert "calibrated" in page
    assert "jane" not in page
    assert "scans.csv" in page


def test_a_page_says_how_it_was_made(tmp_path: Path) -> None:
    known = data("classification")
    network = Network(known)
    settings = {
        "size": "8,8,8",
        "missing-values": "-1000",
        "threshold": "youden",
        "mask-channel": True,
        "seed": 3,
    }
    reasons = {"test": {"n": 20, "intervals": {}, "reasons": {"auc": "the same in every draw"}}}
    how = {"command": "voxgap train 'my scans.csv' --size 8,8,8", "settings": settings}
    described = bundle(tmp_path, known, network, intervals=reasons)
    write_evidence(described, known, collect(known, network), network, HISTORY, **how)
    page = checked(tmp_path / "evidence" / "report.html")
    assert "<pre>voxgap train &#39;my scans.csv&#39; --size 8,8,8</pre>" in page
    for name, value in {
        "size": "8,8,8",
        "missing values": "-1000",
        "threshold": "youden",
        "mask channel": "yes",
    }.items():
        assert f"<td>{name}</td><td>{value}</td>" in page
    assert "<td>architecture</td>" not in page  # said once
    assert "In the test part no interval for auc: the same in every draw." in page


@pytest.mark.parametrize("task", [pytest.param("regression", marks=FULL), "segmentation"])
def test_a_page_of_other_tasks(tmp_path: Path, task: str) -> None:
    page = page_of(tmp_path, data(task))
    assert page.count("data:image/png;base64,") == WORST
    assert ("Answers and targets" in page) == (task == "regression")
    assert ("dice of b" in page) == (task == "segmentation")


@pytest.mark.full
def test_without_a_test_part_the_page_shows_the_validation_part(tmp_path: Path) -> None:
    known = data("classification")
    known = replace(known, split=np.where(known.split == "test", "train", known.split))
    page = page_of(tmp_path, known)
    assert "Of 20 validation cases" in page
    assert NO_TEST in page
    assert shown_part(collect(known, Network(known)))[0] == "validation"


def test_nothing_is_written_of_no_case(tmp_path: Path) -> None:
    known = data("classification")
    network = Network(known)
    write_evidence(
        bundle(tmp_path, known, network), known, collect(known.part("train"), network), network, HISTORY
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "kind",
    ["one case", *(pytest.param(k, marks=FULL) for k in ("one class", "all missing", "never answered"))],
)
def test_what_is_drawn_of_little(tmp_path: Path, kind: str) -> None:
    """Each of these leaves a score undefined or a picture empty."""
    known = data("classification")
    if kind == "one case":
        known = known.take(
            np.r_[np.flatnonzero(known.split == "train"), np.flatnonzero(known.split == "test")[:1]]
        )
        known = known.with_volumes(
            np.where(np.arange(len(known))[:, None, None, None, None] == 20, 20, known.volumes)
        )
    elif kind == "one class":
        known = replace(known, targets=np.zeros(len(known), int))
    elif kind == "all missing":
        known.volumes[:, :, 1:] = np.nan
    else:
        known = replace(known, classes=("a", "b", "<never>"), targets=known.targets % 2)
    page = page_of(tmp_path, known)
    assert ("Telling classes apart" in page) == (kind not in ("one case", "one class"))
    assert ("It never answers &lt;never&gt;" in page) == (kind == "never answered")


def test_many_classes_are_drawn_by_those_that_are_told_apart_worst() -> None:
    known = data("classification", count=600, classes=8)
    known = replace(known, classes=tuple(f"class {i}" for i in range(20)), targets=np.arange(600) // 3 % 20)
    cases = cases_of(known)
    areas = drawn.areas(cases)
    each = {
        name: metrics.auc(cases.targets == i, cases.answers[:, i]) for i, name in enumerate(known.classes)
    }
    assert len(areas) == drawn.MOST_CURVES
    assert [name for name, _, _ in areas] == sorted(each, key=each.__getitem__)[: drawn.MOST_CURVES]
    assert [area for _, area, _ in areas] == pytest.approx(sorted(each.values())[: drawn.MOST_CURVES])


def test_a_confusion_matrix_says_its_counts() -> None:
    axes = drawn.confusion(np.array([[5, 1], [0, 4]]), ("dim", "bright"), "cases").axes[0]
    assert [text.get_text() for text in axes.texts] == ["5", "1", "0", "4"]
    assert axes.yaxis_inverted()
    voxels = drawn.confusion(np.array([[3, 1], [0, 4]]), ("dim", "bright"), "voxels").axes[0]
    assert [text.get_text() for text in voxels.texts] == ["75.0%", "25.0%", "0.0%", "100.0%"]


def test_gaps_and_label_maps_can_be_seen() -> None:
    volume = np.random.default_rng(0).random((3, 5, 6, 2)).astype("float32")
    volume[1] = np.nan
    maps = {"truth": np.zeros((3, 5, 6), int), "answer": np.zeros((3, 5, 6), int)}
    maps["truth"][0, 0, 0] = maps["answer"][2, 0, 0] = 1
    figure = drawn.picture(volume, ("t1", "t2"), maps, ("outside", "lesion"))
    assert [axes.get_ylabel() for axes in figure.axes] == ["t1", "t2", "truth", "answer"]
    # Slices that hold something of a label map, and no other.
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["slice 0", "slice 2"]
    images = [axes.images[0].get_array() for axes in figure.axes]
    assert (images[0] != images[2]).any()
    assert (images[2] != images[3]).any()
    volume[..., 1] = np.nan
    plain = drawn.picture(volume, ("t1", "t2"), {}, ())
    assert len(plain.axes) == 1
    shown = np.asarray(plain.axes[0].images[0].get_array())
    red = np.isclose(shown, (0xE4 / 255, 0x57 / 255, 0x2E / 255)).all(axis=-1)
    assert 0.25 < red.mean() < 0.4


def test_slices_without_anything_to_see_are_left_out() -> None:
    volume = np.zeros((20, 5, 6, 2), np.float32)
    volume[..., 1] = np.nan
    volume[3, 2, 2, 0], volume[7, :, :, 0], volume[9, 1, 1, 0] = 1, np.nan, np.nan
    axes = drawn.picture(volume, ("t1", "t2"), {}, ()).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["slice 3", "slice 7", "slice 9"]


@pytest.mark.parametrize("depth", [1, 7, 8, 9, 15, 40])
def test_no_slice_is_drawn_twice(depth: int) -> None:
    volume = np.random.default_rng(0).random((depth, 3, 4, 1)).astype("float32")
    ticks = drawn.picture(volume, ("t1",), {}, ()).axes[0].get_xticklabels()
    chosen = [int(tick.get_text().removeprefix("slice ")) for tick in ticks]
    assert len(set(chosen)) == min(depth, 7)
    assert chosen == sorted(chosen)


@pytest.mark.parametrize("gap", [False, True])
def test_each_colour_of_a_picture_is_in_its_legend(gap: bool) -> None:
    from voxgap.report.cases import picture

    volume = np.random.default_rng(0).normal(size=(6, 5, 5, 1)).astype(np.float32)
    maps = np.zeros((6, 5, 5), int)
    maps[2:4] = 1
    volume[2, :2] = np.nan if gap else 0
    (legend,) = picture(volume, ("ct",), {"truth": maps}, ("back", "organ")).legends
    assert [text.get_text() for text in legend.get_texts()] == ["organ", *["not observed"] * gap]
