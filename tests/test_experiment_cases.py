"""What is kept of each test case: names, truth and answer, from which the scores can be had again."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest

from voxgap import metrics
from voxgap.dataset import Dataset
from voxgap.experiment.cases import case_rows

RNG = np.random.default_rng(3)
VOLUMES = RNG.normal(size=(12, 2, 3, 4, 1)).astype("float32")


def probabilities(*shape: int) -> np.ndarray:
    raw = RNG.gamma(1.0, size=shape).astype("float32")
    return raw / raw.sum(axis=-1, keepdims=True)


def test_a_classification_can_be_scored_again_from_its_rows() -> None:
    groups = [f"patient {i // 2}" for i in range(12)]
    data = Dataset.from_arrays(VOLUMES, np.array(["a", "b", "c"])[np.arange(12) % 3], groups=groups)
    said = probabilities(12, 3)
    gapped = VOLUMES.copy()
    gapped[0, 0] = np.nan
    rows = case_rows(data, gapped, said)
    assert list(rows[0]) == ["case", "group", "label", "class", "p_a", "p_b", "p_c", "missing_rate"]
    assert [row["group"] for row in rows] == groups
    assert [row["missing_rate"] for row in rows[:2]] == [0.5, 0.0]
    # A digest of what was read, not of what the network was shown.
    assert [row["case"] for row in rows] == [hashlib.sha256(v.tobytes()).hexdigest()[:12] for v in VOLUMES]
    truth = ["abc".index(row["label"]) for row in rows]
    again = np.array([[row[f"p_{c}"] for c in "abc"] for row in rows])
    assert metrics.scores("classification", truth, again) == pytest.approx(
        metrics.scores("classification", data.targets, said), rel=1e-6
    )
    named = [row["class"] == row["label"] for row in rows]
    assert np.mean(named) == pytest.approx(metrics.accuracy(data.targets, said))
    np.testing.assert_array_equal(again.astype("float32"), said)


def test_files_give_their_names_and_no_group_is_no_column() -> None:
    data = Dataset.from_arrays(VOLUMES, np.arange(12) % 2)
    named = dataclasses.replace(data, names=tuple(f"p{i}/t1.nii" for i in range(12)))
    rows = case_rows(named.take([7, 2]), VOLUMES[[7, 2]], probabilities(2, 2))
    assert [row["case"] for row in rows] == ["p7/t1.nii", "p2/t1.nii"]
    assert "group" not in rows[0]


@pytest.mark.parametrize("outputs", [0, 2])
def test_a_regression_has_its_numbers(outputs: int) -> None:
    targets = RNG.normal(size=(12, outputs) if outputs else 12).astype("float32")
    data = Dataset.from_arrays(VOLUMES, targets=targets)
    said = RNG.normal(size=(12, max(outputs, 1))).astype("float32")
    rows = case_rows(data, VOLUMES, said)
    wanted = ["target_0", "target_1", "value_0", "value_1"] if outputs else ["target", "value"]
    assert list(rows[0])[1:-1] == wanted
    again = np.array([[row[name] for name in wanted] for row in rows]).astype("float32")
    np.testing.assert_array_equal(again, np.hstack([targets.reshape(12, -1), said]))


def test_a_segmentation_has_the_dice_of_each_case_by_the_names_of_its_classes() -> None:
    maps = RNG.integers(0, 2, (12, 2, 3, 4))  # nobody has the third class
    maps[3] = -1
    data = Dataset.from_arrays(VOLUMES, label_maps=maps, classes=("back", "grey", "white"))
    said = probabilities(12, 2, 3, 4, 3)
    said[..., 2] = 0
    rows = case_rows(data, VOLUMES, said)
    assert list(rows[0])[1:-1] == ["dice", "dice_back", "dice_grey", "dice_white"]
    assert all(np.isnan(rows[3][name]) for name in ("dice", "dice_back", "dice_grey"))
    for index, row in enumerate(rows):
        if index == 3:
            continue
        answer, truth = said[index].argmax(axis=-1) == 1, maps[index] == 1
        grey = 2 * (answer & truth).sum() / (answer.sum() + truth.sum())
        assert row["dice_grey"] == pytest.approx(grey)
        assert row["dice"] == pytest.approx(grey)
        assert np.isnan(row["dice_white"])


def test_of_two_classes_the_threshold_names_one() -> None:
    data = Dataset.from_arrays(VOLUMES, np.array(["no", "yes"])[np.arange(12) % 2])
    said = probabilities(12, 2)
    for threshold in (None, 0.2, 0.9):
        rows = case_rows(data, VOLUMES, said, threshold)
        scored = metrics.scores("classification", data.targets, said, threshold=threshold)
        assert np.mean([row["class"] == row["label"] for row in rows]) == pytest.approx(scored["accuracy"])
