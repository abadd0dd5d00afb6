"""What a network answered for each case: against scikit-learn, `voxgap.metrics` and what the table reads back."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from voxgap import metrics, table
from voxgap.dataset import Dataset, load_data
from voxgap.dataset.names import case_names
from voxgap.evidence import (
    BINS,
    Cases,
    collect,
    precision_and_recall,
    precision_recall,
    reliability,
    roc,
    sureness,
)
from voxgap.metrics.metrics import dice_of

SHAPE = (2, 3, 4)
TASKS = ("classification", "regression", "segmentation")


def data(task: str, count: int = 60, classes: int = 3, seed: int = 0, outputs: int = 1) -> Dataset:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, *SHAPE, 1)).astype("float32")
    x[rng.random(x.shape) < 0.2] = np.nan
    x[:, 0, 0, 0] = np.arange(count)[:, None]
    names = tuple("abcdefgh"[:classes]) if task != "regression" else ()
    wanted: Any = rng.integers(0, classes, count)
    if task == "regression":
        wanted = rng.normal(50, 10, (count, outputs)).astype("float32")
    if task == "segmentation":
        wanted = rng.integers(-1, classes, (count, *SHAPE)).astype("int16")
        wanted[:, 0, 0, 0] = 0
    split = np.array(["train", "validation", "test"])[np.arange(count) % 3]
    groups = np.array([f"g{index % 7}" for index in range(count)])
    return Dataset(x, wanted, task, names, split, groups=groups)  # type: ignore[arg-type]


class Network:
    """Answers by which volume it is, and remembers which ones it was asked."""

    def __init__(self, known: Dataset, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.asked: list[int] = []
        if known.task == "regression":
            self.answers = known.targets + rng.normal(size=known.targets.shape).astype("float32")
            return
        where = known.targets.shape if known.task == "segmentation" else (len(known),)
        logits = rng.normal(size=(*where, len(known.classes))) + 1.5 * (
            known.targets[..., None] == np.arange(len(known.classes))
        )
        odds = np.exp(logits)
        self.answers = (odds / odds.sum(axis=-1, keepdims=True)).astype("float32")

    def __call__(self, volumes: Any) -> Any:
        which = np.asarray(volumes)[:, 0, 0, 0, 0].astype(int)
        self.asked += which.tolist()
        return self.answers[which]


def collected(task: str, **more: Any) -> tuple[Dataset, Network, Cases]:
    known = data(task, **more)
    network = Network(known)
    return known, network, collect(known, network)


@pytest.mark.parametrize("task", TASKS)
def test_each_case_that_was_not_trained_on_is_answered_once(task: str) -> None:
    known, network, cases = collected(task)
    held_out = np.flatnonzero(known.split != "train")
    assert network.asked == held_out.tolist()
    np.testing.assert_array_equal(cases.index, held_out)
    assert cases.names == tuple(case_names(known.take(held_out)))
    assert cases.missing_rate == pytest.approx([np.isnan(known.volumes[i]).mean() for i in held_out])
    assert len(cases.part("validation")) + len(cases.part("test")) == len(cases)
    assert len(collect(known.part("train"), network)) == 0


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_a_row_says_what_evaluate_scores(tmp_path: Path, threshold: float | None) -> None:
    known, network, cases = collected("classification", classes=2)
    cases = replace(cases, threshold=threshold)
    cases.write(tmp_path / "p.csv")
    header, rows, _ = table.read(tmp_path / "p.csv")
    assert header == ["case", "index", "group", "split", "label", "class", "p_a", "p_b", "missing_rate"]
    found = [dict(zip(header, row.cells, strict=True)) for row in rows]
    for split in ("validation", "test"):
        part = np.flatnonzero(known.split == split)
        some = [row for row in found if row["split"] == split]
        assert [int(row["index"]) for row in some] == part.tolist()
        assert [row["group"] for row in some] == known.groups[part].tolist()  # type: ignore[index]
        assert [float(row["p_b"]) for row in some] == pytest.approx(network.answers[part, 1], abs=1e-6)
        right = np.mean([row["class"] == row["label"] for row in some])
        scored = metrics.scores(
            "classification", known.targets[part], network.answers[part], threshold=threshold
        )
        assert right == pytest.approx(scored["accuracy"])
        np.testing.assert_array_equal(
            cases.part(split).confusion,
            metrics.confusion_matrix(known.targets[part], network.answers[part], threshold),
        )


def test_a_row_of_numbers(tmp_path: Path) -> None:
    for outputs, names in ((1, ["target", "value"]), (2, ["target_0", "target_1", "value_0", "value_1"])):
        _, _, cases = collected("regression", outputs=outputs)
        cases.write(tmp_path / "p.csv")
        header, rows, _ = table.read(tmp_path / "p.csv")
        assert header == ["case", "index", "group", "split", *names, "missing_rate"]
        values = np.array([row.cells[4:-1] for row in rows], float)
        np.testing.assert_allclose(values, np.concatenate([cases.targets, cases.answers], axis=1), rtol=1e-5)


@pytest.mark.parametrize("threshold", [None, 0.7])
def test_a_row_of_a_label_map_has_its_dice(tmp_path: Path, threshold: float | None) -> None:
    known = data("segmentation", classes=2)
    known.targets[1] = 0  # a case without foreground
    network = Network(known)
    network.answers[1] = (1, 0)
    cases = collect(known, network, threshold)
    cases.write(tmp_path / "p.csv")
    header, rows, _ = table.read(tmp_path / "p.csv")
    assert header == ["case", "index", "group", "split", "dice_a", "dice_b", "dice", "missing_rate"]
    for row in rows:
        index = int(row.cells[1])
        each = metrics.dice(known.targets[index][None], network.answers[index][None], threshold)
        assert [float(cell or "nan") for cell in row.cells[4:6]] == pytest.approx(each, rel=1e-5, nan_ok=True)
        assert float(row.cells[6] or "nan") == pytest.approx(each[1], rel=1e-5, nan_ok=True)
    assert rows[0].cells[5] == ""
    whole = metrics.voxel_confusion(
        known.part("test").targets, network.answers[known.split == "test"], threshold
    )
    np.testing.assert_array_equal(cases.part("test").confusion, whole)


def test_dice_is_that_on_the_grid_of_the_label_map() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(18, 6, 8, 10, 1)).astype("float32")
    maps = rng.integers(0, 3, (18, 6, 8, 10))
    split = np.repeat(["train", "validation", "test"], 6)
    fine = Dataset.from_arrays(x, label_maps=maps, split=split, spacing=(1.0, 1.0, 1.0))
    with pytest.warns(UserWarning, match="cut off"):
        known = load_data(fine, size=(4, 8, 6), spacing=(1.0, 1.0, 1.0))
    answers = rng.dirichlet((1, 1, 1), size=(18, 4, 8, 6))
    batches = iter([answers[6:]])
    cases = collect(known, lambda _: next(batches))
    part = known.part("test")
    scored = metrics.scores("segmentation", part.targets, answers[12:], own_grids=part.on_own_grids)
    table_of_all = cases.part("test").confusion
    assert table_of_all.sum() == maps[12:].size
    np.testing.assert_allclose(dice_of(table_of_all), [scored[f"dice_{i}"] for i in range(3)])


def test_cells_are_safe_for_spreadsheets(tmp_path: Path) -> None:
    known = data("classification")
    names = tuple(f"{sign}cmd|' /C calc'!A{index}" for index, sign in enumerate("=+-@" * 15))
    known = replace(known, names=names, classes=("=a", "+b", "-c"), groups=np.array(["@g"] * len(known)))
    cases = collect(known, Network(known))
    cases.write(tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="") as stream:
        cells = [cell for row in csv.reader(stream) for cell in row]
    assert sum(cell.startswith("'") for cell in cells) == 4 * len(cases)
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)
    header, rows, _ = table.read(tmp_path / "p.csv")
    assert [row.cells[0] for row in rows] == list(cases.names)
    assert {row.cells[header.index("label")] for row in rows} == set(known.classes)


@pytest.mark.parametrize("digits", [1, 6])
def test_curves_are_those_of_scikit_learn(digits: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        positive = rng.random(80) < 0.4
        scores = np.round(np.clip(0.3 * positive + rng.random(80) * 0.7, 0, 1), digits)
        false, true = roc(positive, scores)
        expected = sklearn_metrics.roc_curve(positive, scores, drop_intermediate=False)
        np.testing.assert_allclose(false, expected[0])
        np.testing.assert_allclose(true, expected[1])
        recall, precision, average = precision_recall(positive, scores)
        above, found, _ = sklearn_metrics.precision_recall_curve(positive, scores)
        # It has a last point of its own, from the lowest threshold on.
        np.testing.assert_allclose(precision, above[-2::-1][: len(precision)])
        np.testing.assert_allclose(recall, found[-2::-1][: len(recall)])
        assert average == pytest.approx(sklearn_metrics.average_precision_score(positive, scores))


def test_reliability_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(500)
    true = rng.random(500) < p**2
    counts, mean, share = reliability(sureness(np.stack([1 - p, p], axis=1), true.astype(int)))
    expected_share, expected_mean = calibration_curve(true, p, n_bins=BINS)
    np.testing.assert_allclose(mean, expected_mean)
    np.testing.assert_allclose(share, expected_share)
    assert counts.sum() == 500


def test_reliability_of_several_classes_is_that_of_the_answer() -> None:
    p = np.array([[0.91, 0.05, 0.04], [0.93, 0.05, 0.02], [0.3, 0.5, 0.2], [1.0, 0.0, 0.0]])
    counts, mean, share = reliability(sureness(p, np.array([0, 1, 1, 0])))
    assert counts.tolist() == [1, 3]
    assert mean == pytest.approx([0.5, (0.91 + 0.93 + 1) / 3])
    assert share == pytest.approx([1, 2 / 3])


def test_sureness_of_voxels_adds_up() -> None:
    known, network, cases = collected("segmentation")
    held_out = known.split != "train"
    said = known.targets[held_out] >= 0
    p, y = network.answers[held_out][said], known.targets[held_out][said]
    np.testing.assert_allclose(cases.sureness.sum(axis=0), sureness(p, y).sum(axis=0))


def test_precision_and_recall_are_those_of_scikit_learn() -> None:
    _, _, cases = collected("classification")
    precision, recall = precision_and_recall(cases.confusion)
    expected = sklearn_metrics.precision_recall_fscore_support(cases.targets, cases.named)
    np.testing.assert_allclose(precision, expected[0])
    np.testing.assert_allclose(recall, expected[1])
    assert np.isnan(precision_and_recall(np.array([[3, 0], [0, 0]]))).tolist() == [[False, True]] * 2


@pytest.mark.parametrize("task", TASKS)
def test_the_worst_case_comes_first(task: str) -> None:
    known, network, cases = collected(task, outputs=2)
    first = int(cases.index[7])
    if task == "regression":
        network.answers[first] = 500
    elif task == "classification":
        network.answers[first] = np.eye(3)[(known.targets[first] + 1) % 3]
    else:
        network.answers[first] = np.eye(3)[(np.maximum(known.targets[first], 0) + 1) % 3]
    worst = collect(known, network).worst(5)
    assert worst.index[0] == first
    assert len(worst) == 5
    assert (np.diff(worst.errors[1:]) <= 0).all() if task != "regression" else len(set(worst.names)) == 5
