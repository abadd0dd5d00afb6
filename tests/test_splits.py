"""Division: how many samples each part gets, whose classes and groups they are, and which shares are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxgap.dataset import SPLITS, Dataset, load_data
from voxgap.dataset.splits import Division
from voxgap.errors import VoxgapError

CLASSES = np.repeat(["a", "b", "c"], [50, 30, 20])
NOTHING = np.random.default_rng(0).normal(size=(len(CLASSES), 2, 2, 2, 1)).astype(np.float32)


def shares_of(split: np.ndarray) -> list[float]:
    return [float(np.mean(split == part)) for part in SPLITS]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, [0.6, 0.2, 0.2]),
        ({"validation": 0.1, "test": 0.1}, [0.8, 0.1, 0.1]),
        ({"validation": 0.1, "test": 0}, [0.9, 0.1, 0]),
        ({"test": 0.5}, [0.3, 0.2, 0.5]),
    ],
)
def test_samples_are_dealt_out_in_the_shares_that_are_asked_for_class_by_class(
    asked: dict[str, float], found: list[float], tmp_path: Path
) -> None:
    data = Dataset.from_arrays(NOTHING, CLASSES, split=asked)
    for label in range(3):
        assert shares_of(data.split[data.targets == label]) == pytest.approx(found, abs=0.05)
    np.savez(tmp_path / "d.npz", volumes=NOTHING, labels=CLASSES)
    read = load_data(tmp_path / "d.npz", **{f"{part}_share": share for part, share in asked.items()})
    assert np.array_equal(read.split, data.split)


@pytest.mark.parametrize("count", [37, 40, 100, 250])
@pytest.mark.parametrize("shares", [(0.05, 0.05), (0.1, 0.1), (0.15, 0), (0.07, 0.13), (0.3, 0.3)])
@pytest.mark.filterwarnings("error")
def test_numbers_to_predict_are_dealt_out_in_the_shares_that_are_asked_for(
    count: int, shares: tuple[float, float]
) -> None:
    numbers = np.random.default_rng(count).normal(size=count).astype(np.float32)
    split = Division(None, *shares).parts(numbers, None, 0, "data")
    found = [np.sum(split == part) for part in SPLITS]
    wanted = count * np.array([1 - sum(shares), *shares])
    assert np.abs(found - wanted).max() <= max(1, 0.02 * count)


def test_shares_that_can_not_be_kept_are_said() -> None:
    few = np.repeat(np.arange(8), 5)
    said = (
        r"^data: of 40 samples that are dealt out train 24 \(60%; asked for 90%\), validation 8 \(20%; asked for 5%\), "
        r"test 8 \(20%; asked for 5%\): classes of few samples can't be divided more finely$"
    )
    with pytest.warns(UserWarning, match=said):
        Division(None, 0.05, 0.05).parts(few, None, 0, "data", tuple("abcdefgh"))
    groups = np.repeat(["a", "b", "c"], [20, 10, 10])
    with pytest.warns(UserWarning, match="groups stay whole, and"):
        Division(None, 0.1, 0.1).parts(np.zeros(40, int), groups, 0, "data")


def test_what_is_asked_for_as_it_is_by_default_is_the_default() -> None:
    asked = Dataset.from_arrays(NOTHING, CLASSES, split={"validation": 0.2, "test": 0.2})
    assert np.array_equal(asked.split, Dataset.from_arrays(NOTHING, CLASSES).split)


def test_groups_stay_in_one_part_in_whatever_shares() -> None:
    groups = np.random.default_rng(0).integers(0, 40, len(CLASSES))
    split = Dataset.from_arrays(NOTHING, CLASSES, groups=groups, split={"validation": 0.15, "test": 0}).split
    assert all(len(set(split[groups == group])) == 1 for group in groups)
    assert set(split) == {"train", "validation"}


def test_a_table_without_a_validation_part_gives_that_share_of_its_training_part(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", NOTHING[0])
    rows = [f"a.npy,{label},{'test' if i % 4 == 0 else 'train'}" for i, label in enumerate(CLASSES)]
    (tmp_path / "d.csv").write_text("\n".join(["path,label,split", *rows]))
    with pytest.warns(UserWarning, match="the same volume"):
        split = load_data(tmp_path / "d.csv", validation_share=0.4).split
    assert shares_of(split) == pytest.approx([0.45, 0.3, 0.25], abs=0.02)
    assert [i % 4 == 0 for i in range(100)] == (split == "test").tolist()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"validation": 0}, "validation share must be above 0"),
        ({"validation": 0.5, "test": 0.5}, "leave nothing to train on"),
        ({"test": 0.8}, "validation share 0.2 and test share 0.8 leave nothing"),
        ({"test": 1}, "test share must be from 0 to below 1, as in 0.1, got 1"),
        ({"test": -0.1}, "test share must be"),
        ({"validation": float("nan")}, "validation share must be"),
        ({"validation": "half"}, "validation share must be"),
        ({"train": 0.5}, "no share of 'train' is asked for"),
    ],
)
def test_shares_that_are_none_are_refused(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(VoxgapError, match=said):
        Division.of(asked)


def test_a_share_that_leaves_a_part_without_a_class_is_refused_and_a_default_one_is_not() -> None:
    groups = np.where(CLASSES == "c", "all", np.arange(len(CLASSES)).astype(str))
    with pytest.raises(
        VoxgapError, match=r"class 'c', of 20 samples .* missing in the (train|validation) part"
    ):
        Dataset.from_arrays(NOTHING, CLASSES, groups=groups, split={"test": 0})
    few = np.array(["a"] * 98 + ["b"] * 2)
    assert "test" in Dataset.from_arrays(NOTHING, few).split
    with pytest.raises(VoxgapError, match="class 'b', of 2 samples"):
        Dataset.from_arrays(NOTHING, few, split={"test": 0.2})


@pytest.mark.parametrize("part", ["validation", "test"])
def test_data_that_says_a_part_is_given_no_share_of_it(part: str) -> None:
    sample = load_data("sample:brain")
    for data in ("sample:brain", sample):
        with pytest.raises(VoxgapError, match=f"brain: has a split of its own, which says the {part} part"):
            load_data(data, **{f"{part}_share": 0.1})
    alone = np.full(len(CLASSES), "train")
    with pytest.raises(VoxgapError, match="which has no test part; leave out its share, or the split"):
        Division(alone, test=0.1).refuse_for(alone, "data")
    with pytest.raises(VoxgapError, match="scoring deals no samples out"):
        load_data(sample, scoring=True, **{f"{part}_share": 0.1})
