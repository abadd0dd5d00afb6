"""Folders in which a patient has several files: each layout of the field is the same samples and channels."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from voxgap.dataset import load_data
from voxgap.dataset.folders import list_folder
from voxgap.errors import VoxgapError
from voxgap.io import read, write
from voxgap.volume import Volume

COUNT, LACKING = 12, (3, 8)
"""Patients; and those without their second channel."""


def of_class(index: int) -> str:
    return ("CN", "AD")[index % 2]


def value(index: int, channel: int, visit: int = 0) -> float:
    return 100 * visit + 10 * index + channel


def save(path: Path, number: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.full((2, 2, 2), number, np.float32))


def lay(root: Path, name: Callable[[int, str], str], channels: tuple[str, ...]) -> None:
    for index in range(COUNT):
        for channel, word in enumerate(channels):
            if channel != 1 or index not in LACKING:
                save(root / f"{name(index, word)}.npy", value(index, channel))


BRATS = ("t1c", "t1n", "t2f", "t2w")
LAYOUTS: dict[str, tuple[Callable[[int, str], str], tuple[str, ...]]] = {
    "class, patient, modality": (lambda i, c: f"{of_class(i)}/p{i:03d}/{c}", ("t1", "t2")),
    "class, patient and modality": (lambda i, c: f"{of_class(i)}/p{i:03d}_{c}", ("t1", "t2")),
    "patient, modality": (lambda i, c: f"p{i:03d}/{c}", ("flair", "t1")),
    "flat": (lambda i, c: f"p{i:03d}_{c}", ("t1", "t2")),
    "flat, modality first": (lambda i, c: f"{c}-p{i:03d}", ("T1w", "T2w")),
    "flat, modality in the middle": (lambda i, c: f"p{i:03d}_{c}_brain", ("CT", "PET")),
    "nnU-Net without a description": (lambda i, c: f"case_{i:03d}_{c}", ("0000", "0001")),
    "BraTS": (lambda i, c: f"BraTS-GLI-{i:05d}-000/BraTS-GLI-{i:05d}-000-{c}", BRATS),
    "BraTS of 2018": (
        lambda i, c: f"{of_class(i)}/B18_T{i}X_1/B18_T{i}X_1_{c}",
        ("flair", "t1", "t1ce", "t2"),
    ),
    "words of two parts": (lambda i, c: f"{of_class(i)}/s_{i}/s_{i}_{c}", ("t1", "t1_ce", "t2")),
    "words of two parts, flat": (lambda i, c: f"s_{i}_{c}", ("t1", "t1_ce", "t2")),
    "ADNI": (
        lambda i, c: (
            f"{i:03d}_S_{91 * i:04d}/{c}/2006-05-0{i % 9}_{c[0]}/I{37 * i}/ADNI_{i:03d}_{c}_I{37 * i}"
        ),
        ("FLAIR", "MPRAGE"),
    ),
    "sequences of a class": (lambda i, c: f"{of_class(i)}/p{i}/{c}/x{i}", ("dwi", "t2")),
    "capitals by chance": (lambda i, c: f"{of_class(i)}/p{i}/{c if i % 4 else c.upper()}", ("t1", "t2")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_patient_is_one_sample_and_a_file_that_is_not_there_a_missing_channel(
    layout: str, tmp_path: Path
) -> None:
    name, channels = LAYOUTS[layout]
    lay(tmp_path, name, channels)
    with pytest.warns(UserWarning, match="read as") as said:
        listing = list_folder(tmp_path)
    (text,) = (str(one.message) for one in said)
    assert text == (
        f"{tmp_path}: read as {len(channels)} channels: {', '.join(channels)}; {COUNT} patients; "
        f"{len(LACKING)} lack {channels[1]}"
    )
    assert listing.channels == channels
    found = set()
    for row in listing.rows:
        numbers = [None if file is None else float(np.load(file).flat[0]) for file in row.files]
        index = int(numbers[0] or 0) // 10
        found.add(index)
        lacking = index in LACKING
        assert numbers == [None if c == 1 and lacking else value(index, c) for c in range(len(channels))]
        *folders, _ = name(index, channels[0]).split("/")
        assert row.label == (folders.pop(0) if folders[:1] == [of_class(index)] else "")
        assert row.group == (folders[0] if folders else "")
    assert found == set(range(COUNT))
    assert len(listing.rows) == COUNT


def test_it_loads_with_patients_in_one_part_and_visits_are_samples(tmp_path: Path) -> None:
    for index in range(COUNT):
        for visit in range(1 + (index < 4)):
            for channel, word in enumerate(("t1", "t2")):
                where = tmp_path / of_class(index) / f"p{index}/ses-{visit}/{word}.npy"
                save(where, value(index, channel, visit))
    with pytest.warns(UserWarning, match="2 channels: t1, t2; 16 samples of 12 patients$"):
        data = load_data(tmp_path)
    assert (data.channels, data.classes, len(data)) == (("t1", "t2"), ("AD", "CN"), 16)
    assert data.groups is not None
    for volume, group in zip(data.volumes, data.groups, strict=True):
        index = int(group[1:])
        assert volume[0, 0, 0].tolist() in [[value(index, c, v) for c in range(2)] for v in range(2)]
    parts = {group: set(data.split[data.groups == group]) for group in set(data.groups)}
    assert all(len(held) == 1 for held in parts.values())


@pytest.mark.parametrize(
    ("names", "one", "other"),
    [
        ("{c}/p{i}/{v}", "left", "right"),
        ("{c}/p{i:02d}_{v}", "visit1", "visit2"),
        ("{c}/p{i}/{v}", "1", "2"),
        ("{c}/p{i}/{v}", "2006-05-01", "2007-05-01"),
        ("{c}/{v}/p{i}", "t1", "t2"),
    ],
)
def test_what_may_be_visits_or_sides_is_refused_with_the_manifest_to_write(
    names: str, one: str, other: str, tmp_path: Path
) -> None:
    for index in range(COUNT):
        for word in (one, other):
            save(tmp_path / f"{names.format(c=of_class(index), i=index, v=word)}.npy", index)
    with pytest.raises(VoxgapError) as error:
        list_folder(tmp_path)
    text = str(error.value)
    assert "may be channels of one sample or two samples of one patient" in text
    assert "\n" not in text
    first = [f"{names.format(c='AD', i=1, v=word)}.npy" for word in (one, other)]
    assert f"above `{first[0]},{first[1]},AD`, or `path,label,group` above `{first[0]},AD,PATIENT`" in text


def test_two_names_of_which_either_may_be_the_patient_are_in_doubt(tmp_path: Path) -> None:
    for name in ("anna", "bob"):
        for word in ("t1", "t2"):
            save(tmp_path / f"{name}_{word}.npy", 0)
    with pytest.raises(VoxgapError, match=r"anna_t1\.npy and anna_t2\.npy may be channels"):
        list_folder(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        "{c}/{i}",
        "{c}/scan{i}",
        "{c}/s{i}_x{i}",
        "{c}/img_{i}",
    ],
)
def test_a_class_of_single_files_stays_one(names: str, tmp_path: Path) -> None:
    for index in range(COUNT):
        save(tmp_path / f"{names.format(c=of_class(index), i=index)}.npy", index)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        listing = list_folder(tmp_path)
    assert (listing.channels, len(listing.rows)) == ((), COUNT)
    assert {row.group for row in listing.rows} == {""}


def test_scans_of_a_patient_that_name_nothing_in_common_are_samples_of_one_group(tmp_path: Path) -> None:
    for index in range(COUNT):
        for visit in range(2):
            save(tmp_path / of_class(index) / f"S{index}/S{index}_I{77 * index + 1000 * visit}.npy", index)
    with pytest.warns(UserWarning, match="read as 24 samples of 12 patients, by the names of folders"):
        listing = list_folder(tmp_path)
    assert [row.group for row in listing.rows if row.label == "CN"][:3] == ["S0", "S0", "S10"]


def test_numbers_behind_a_name_are_samples_and_that_is_said(tmp_path: Path) -> None:
    for index in range(COUNT):
        for number in (1, 2):
            save(tmp_path / of_class(index) / f"p{index:02d}_{number}.npy", index)
    with pytest.warns(UserWarning, match=r"p01_1\.npy and AD/p01_2\.npy are samples of their own; .*`group`"):
        assert len(list_folder(tmp_path).rows) == 2 * COUNT


@pytest.mark.parametrize(
    ("names", "rows", "grouped", "channels"),
    [
        ("P{i}/scan", 12, True, ()),
        ("P{i}/P{i}_mri", 12, True, ()),
        ("train/P{i}/{c}", 12, True, ("CT", "PET")),
        ("P{i}/{c}", 12, True, ("CT", "PET")),
        ("train/{k}/{i}", 12, False, ()),
        ("{i}/0", 12, False, ()),
    ],
)
def test_folders_are_of_patients_or_of_classes(
    names: str, rows: int, grouped: bool, channels: tuple[str, ...], tmp_path: Path
) -> None:
    for index in range(COUNT):
        for word in ("CT", "PET"):
            save(tmp_path / f"{names.format(i=index, c=word, k=of_class(index))}.npy", index)
    save(tmp_path / "atlas.npy", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        listing = list_folder(tmp_path)
    assert (len(listing.rows), listing.channels) == (rows, channels)
    assert all(bool(row.group) == grouped == (not row.label) for row in listing.rows)
    assert {row.split for row in listing.rows} == {"train" if names.startswith("train") else ""}


def test_folders_of_patients_say_no_class_and_what_to_do(tmp_path: Path) -> None:
    lay(tmp_path, LAYOUTS["BraTS"][0], BRATS)
    with (
        pytest.warns(UserWarning, match="read as 4 channels"),
        pytest.raises(
            VoxgapError, match="sub-folder per patient, and says no classes; list the patients with"
        ),
    ):
        load_data(tmp_path)
    # Classes whose samples are called alike, and of which there are fewer than samples, stay classes.
    for kind in ("cat", "dog"):
        for word in "abcde":
            save(tmp_path / f"pets/{kind}/{word}.npy", ord(word))
    assert {row.label for row in list_folder(tmp_path / "pets").rows} == {"cat", "dog"}


def test_a_folder_for_each_dicom_series_is_a_channel(tmp_path: Path) -> None:
    for index in range(4):
        for word in ("t1", "t2")[: 1 + (index != 3)]:
            folder = tmp_path / of_class(index) / f"p{index}"
            folder.mkdir(parents=True, exist_ok=True)
            held = np.full((2, 3, 3), value(index, int(word == "t2"))) + np.arange(3)
            write(folder / f"{word}.dicom", Volume(held.astype(np.float32), spacing=(2, 1, 1)))
            (folder / f"{word}.dicom").rename(folder / word)
    with pytest.warns(UserWarning, match="read as 2 channels: t1, t2; 4 patients; 1 lacks t2"):
        listing = list_folder(tmp_path)
    assert [row.group for row in listing.rows] == ["p1", "p3", "p0", "p2"]
    assert listing.rows[1].files == (tmp_path / "AD/p3/t1", None)
    assert read(tmp_path / "AD/p1/t2").values[0, 0, 0, 0] == value(1, 1)
