"""Which file a cell means, and what in a folder is a sample."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest

import voxgap as vg
from voxgap import paths
from voxgap.dataset import load_data
from voxgap.errors import VoxgapError
from voxgap.runtime.inputs import list_items


def save(*files: Path) -> None:
    for index, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.full((2, 3, 4), index, np.float32))


def test_a_cell_is_relative_to_its_table_or_to_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for cell, expected in {
        "a.npy": tmp_path / "a.npy",
        "./b/../a.npy": tmp_path / "b/../a.npy",
        "/data/a.npy": Path("/data/a.npy"),
        "~/a.npy": tmp_path / "home/a.npy",
        "~root/a.npy": tmp_path / "~root/a.npy",
        "$HOME/a.npy": tmp_path / "$HOME/a.npy",
        "a.h5::ct": tmp_path / "a.h5::ct",
        "p1/": tmp_path / "p1",
    }.items():
        assert paths.resolve(cell, tmp_path) == expected, cell


@pytest.mark.skipif(os.sep != "/", reason="there a backslash parts folders anyway")
def test_a_backslash_is_a_slash_unless_a_file_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    save(tmp_path / "scans/a.npy", tmp_path / "home/b.npy")
    assert paths.resolve(r".\scans\a.npy", tmp_path) == tmp_path / "scans/a.npy"
    assert paths.resolve(r"scans\a.npy::x\y", tmp_path) == tmp_path / "scans/a.npy::x/y"
    assert paths.resolve(r"~\b.npy", tmp_path) == tmp_path / "home/b.npy"
    assert paths.resolve(r"scans\none.npy", tmp_path) == tmp_path / r"scans\none.npy", (
        "named as it was written"
    )
    assert paths.resolve("\\" + "x" * 5000, tmp_path) == tmp_path / ("\\" + "x" * 5000)
    save(tmp_path / r"scans\a.npy")
    assert paths.resolve(r"scans\a.npy", tmp_path) == tmp_path / r"scans\a.npy"


def test_what_no_person_put_there_is_no_sample(tmp_path: Path) -> None:
    save(*(tmp_path / kind / f"{index}.npy" for kind in ("cat", "dog") for index in range(6)))
    for junk in ("__MACOSX/cat/._0.npy", "__MACOSX/0.npy", "@eaDir/0.npy", ".Trashes/0.npy", "cat/._0.npy"):
        save(tmp_path / junk)
    for junk in ("cat/.DS_Store", "cat/Thumbs.db", "dog/desktop.ini", ".DS_Store"):
        (tmp_path / junk).write_bytes(b"junk")
    (tmp_path / "cat/__MACOSX").mkdir()
    save(tmp_path / "cat/__MACOSX/0.npy")
    data = load_data(tmp_path)
    assert (data.classes, len(data)) == (("cat", "dog"), 12)
    assert len(list_items([tmp_path], ["t1"])) == 12


@pytest.mark.parametrize(
    "drawn",
    ["0_mask.npy", "mask.npy", "0-seg.npy", "0_label1.npy", "case_gt.npy", "caseMask.npy", "0.Labels.npy"],
)
def test_label_maps_beside_images_are_no_samples_and_that_is_said(drawn: str, tmp_path: Path) -> None:
    save(*(tmp_path / kind / f"{index}.npy" for kind in ("cat", "dog") for index in range(6)))
    save(tmp_path / "cat" / drawn)
    for read in (lambda: load_data(tmp_path), lambda: list_items([tmp_path], ["t1"])):
        with pytest.warns(
            UserWarning, match=rf"cat: left out {drawn}, .* columns path and label_map"
        ) as said:
            assert len(read()) == 12
        assert sum("left out" in str(one.message) for one in said) == 1


def test_a_folder_of_label_maps_alone_has_samples(tmp_path: Path) -> None:
    save(*(tmp_path / kind / f"{index}_mask.npy" for kind in ("cat", "dog") for index in range(6)))
    save(tmp_path / "cat/7_masked_mask.npy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(paths.volumes(tmp_path / "cat")) == 7
    save(tmp_path / "words/unmasked.npy", tmp_path / "words/segment.npy", tmp_path / "words/gtx.npy")
    assert len(paths.volumes(tmp_path / "words")) == 3


@pytest.mark.parametrize(
    "folders", [("images", "masks"), ("imagesTr", "labelsTr"), ("img", "gt"), ("Scans", "Seg")]
)
def test_folders_of_images_and_of_label_maps_are_no_classes(folders: tuple[str, str], tmp_path: Path) -> None:
    save(*(tmp_path / folder / f"{index}.npy" for folder in folders for index in range(6)))
    data = load_data(tmp_path)
    assert data.task == "segmentation"
    # Images hold 0 to 5, and the label map of each what stands six files further.
    assert [int(name) for name in np.array(data.classes)[data.targets[:, 0, 0, 0]]] == list(range(6, 12))
    assert data.volumes[:, 0, 0, 0, 0].tolist() == list(range(6))


def test_classes_may_be_called_after_masks(tmp_path: Path) -> None:
    save(*(tmp_path / kind / f"{index}.npy" for kind in ("with_mask", "mask-less") for index in range(6)))
    save(*(tmp_path / "third" / f"{index}.npy" for index in range(6, 12)))
    assert load_data(tmp_path).classes == ("mask-less", "third", "with_mask")


def test_what_is_called_as_a_volume_and_is_no_file_is_listed(tmp_path: Path) -> None:
    save(tmp_path / "in/a.npy", tmp_path / "in/deep/b.npy")
    (tmp_path / "in/notes.txt").touch()
    for name in ("gone.nii.gz", "deep/gone.mha", "notes", "readme.md"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "nowhere")
    (tmp_path / "in/circle.nii").symlink_to(tmp_path / "in/circle.nii")
    os.mkfifo(tmp_path / "in/pipe.nrrd")
    found = [
        str(Path(item.name).relative_to(tmp_path / "in")) for item in list_items([tmp_path / "in"], ["t1"])
    ]
    assert found == ["a.npy", "circle.nii", "gone.nii.gz", "pipe.nrrd", "deep/b.npy", "deep/gone.mha"]
    for name in ("circle.nii", "gone.nii.gz", "pipe.nrrd"):
        with pytest.raises((VoxgapError, OSError), match=name):
            vg.read(tmp_path / "in" / name)
