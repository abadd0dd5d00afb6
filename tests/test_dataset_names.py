"""What cases are called: files seen from the data's own folder, else a digest; never an absolute path."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import voxgap as vg
from voxgap.dataset import Dataset, load_data
from voxgap.dataset.names import case_names, of_files
from voxgap.volume import Volume


def save(file: Path, value: float) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    vg.write(file, Volume(np.full((2, 3, 4), value, np.float32)))
    return file


def digest(volume: np.ndarray) -> str:
    return hashlib.sha256(volume.astype("<f4").tobytes()).hexdigest()[:12]


def manifest(folder: Path, columns: str, rows: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "data.csv"
    file.write_text("\n".join([f"{columns},label", *rows]))
    return file


@pytest.mark.parametrize("relative", [False, True])
def test_files_below_the_manifest_are_named_and_others_are_not(
    tmp_path: Path, relative: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "Jane Roe"
    inside = [save(home / "scans" / f"{index}.npy", index) for index in range(5)]
    outside = save(tmp_path / "elsewhere" / "x.npy", 5)
    cells = [*(f"scans/{file.name}" for file in inside[:4]), str(inside[4]), str(outside)]
    file = manifest(home, "path", [f"{cell},{index % 2}" for index, cell in enumerate(cells)])
    monkeypatch.chdir(home)
    data = load_data("data.csv" if relative else file)
    assert data.names is not None
    assert data.names[:4] == tuple(f"scans/{index}.npy" for index in range(4))
    # An absolute cell is seen from the folder where it lies in it, and else it is no name at all.
    assert data.names[4] == "scans/4.npy"
    assert case_names(data)[5] == digest(data.volumes[5])
    for name in case_names(data):
        assert not Path(name).is_absolute()
        assert "Jane Roe" not in name
        assert "elsewhere" not in name


def test_a_folder_of_classes_and_a_patient_of_several_files(tmp_path: Path) -> None:
    for index in range(4):
        save(tmp_path / "classes" / "ab"[index % 2] / f"{index}.npy", index)
    assert sorted(load_data(tmp_path / "classes").names or ()) == ["a/0.npy", "a/2.npy", "b/1.npy", "b/3.npy"]
    for index in range(4):
        save(tmp_path / f"p{index}" / "t1.npy", index)
        save(tmp_path / f"p{index}" / "t2.npy", index)
    rows = [f"{'' if index == 1 else f'p{index}/t1.npy'},p{index}/t2.npy,{index % 2}" for index in range(4)]
    named = load_data(manifest(tmp_path, "t1,t2", rows))
    assert named.names == ("p0/t1.npy", "p1/t2.npy", "p2/t1.npy", "p3/t1.npy")


def test_names_go_with_their_samples() -> None:
    x = np.random.default_rng(0).normal(size=(6, 2, 3, 4, 1)).astype("float32")
    bare = Dataset.from_arrays(x, np.arange(6) % 2)
    assert case_names(bare) == [digest(volume) for volume in x]
    data = replace(bare, names=tuple("abcdef"))
    assert data.take([4, 1]).names == ("e", "b")
    assert case_names(data.part("train")) == [
        n for n, part in zip("abcdef", data.split, strict=True) if part == "train"
    ]
    assert data.with_volumes(x + 1).names == data.names
    assert data.tiled((1, 3, 4), 12).names == tuple(name for name in "abcdef" for _ in range(2))
    with pytest.raises(vg.VoxgapError, match="names"):
        replace(bare, names=("a", "b"))


def test_what_leads_out_of_the_folder_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "lists", Path("lists"), Path("elsewhere/../lists")):
        files = ["../hospital/Mueller_Hans/s0.nii.gz", "a/../../s0.npy", "a/../s1.npy", "../lists/s2.npy"]
        assert of_files([[folder / file] for file in files], folder) == ("", "", "s1.npy", "s2.npy")
        assert of_files([(Path("/scans/b.nii.gz"),), (None,)], folder) == ("", "")
