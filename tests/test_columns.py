"""Columns that are called as patients are: the group, where they name some."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import numpy as np
import pytest

from voxgap.dataset.manifest import read_manifest
from voxgap.errors import VoxgapError

NAMES = [f"P{index // 2}" for index in range(8)]


def table(folder: Path, path: str = "path", **columns: list[str]) -> Path:
    np.save(folder / "a.npy", np.zeros((2, 2, 2)))
    held = {path: ["a.npy"] * 8, "label": ["0", "1"] * 4, **columns}
    with (folder / "d.csv").open("w", newline="") as file:
        csv.writer(file).writerows([list(held), *zip(*held.values(), strict=True)])
    return folder / "d.csv"


@pytest.mark.parametrize("path", ["path", "t1"])
@pytest.mark.parametrize(
    "column", ["id", "ID", "patient", "patient_id", "Patient ID", "subject", "participant_id", "case"]
)
def test_names_of_patients_are_the_group_and_that_is_said_once(
    column: str, path: str, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match=f"column `{column}` is read as `group`") as said:
        listing = read_manifest(table(tmp_path, path, **{column: NAMES}))
    assert len(said) == 1
    assert listing.channels == (() if path == "path" else ("t1",))
    assert [row.group for row in listing.rows] == NAMES


def test_of_several_the_patient_and_a_group_is_the_group(tmp_path: Path) -> None:
    scans = [str(index) for index in range(8)]
    with pytest.warns(UserWarning, match="column `id` is not used|`subject` is read as `group`") as said:
        listing = read_manifest(table(tmp_path, id=scans, subject=NAMES))
    assert [row.group for row in listing.rows] == NAMES
    assert len(said) == 1, "what is beside a group needs no word"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        listing = read_manifest(table(tmp_path, id=scans, group=NAMES[::-1]))
    assert [row.group for row in listing.rows] == NAMES[::-1]


@pytest.mark.parametrize("cells", [["", *NAMES[1:]], ["yes", "no"] * 4])
def test_what_lacks_names_or_may_be_classes_is_no_group(cells: list[str], tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="column `case` is not used; patient names go into `group`"):
        listing = read_manifest(table(tmp_path, case=cells))
    assert {row.group for row in listing.rows} == {""}
    with pytest.raises(VoxgapError, match=r"column `case` is read as a channel.*go into `group`$"):
        read_manifest(table(tmp_path, "t1", case=cells))


def test_a_column_of_files_is_a_channel_whatever_it_is_called(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="column `recording` is read as a channel"):
        listing = read_manifest(table(tmp_path, "t1", recording=["a.npy"] * 8))
    assert listing.channels == ("t1", "recording")
