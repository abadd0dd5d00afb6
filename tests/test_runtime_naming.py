"""What label maps are called: however a scan is named, its map has a name inside of the folder for maps."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from voxgap.errors import VoxgapError
from voxgap.runtime import job
from voxgap.runtime.inputs import Item, list_items
from voxgap.runtime.naming import below, label_map_names
from voxgap.volume import Volume


@pytest.mark.parametrize(
    "scans",
    [
        [("/d/m/../other/x.nii.gz", "/d/m")],
        [("/d/m/../../etc/x.nii.gz", "/d/m"), ("/d/m/a.nii.gz", "/d/m")],
        [("/d/m/../new/x.npy", ""), ("/d/m/y.npy", "")],
        [("../new/x.npy", ""), ("y.npy", "")],
        [("/d/m/a/../../x.npy", "/d/m"), ("/d/m/x.npy", "/d/m")],
        [("/d/a.h5::../../x", "/d"), ("/d/a.h5::..", "/d")],
    ],
)
def test_no_name_leaves_the_folder(scans: list[tuple[str, str]]) -> None:
    names = label_map_names(scans)
    assert len({*names}) == len(scans)
    assert all(not os.path.isabs(name) and ".." not in Path(name).parts for name in names)


def test_a_manifest_names_scans_beside_its_folder(tmp_path: Path) -> None:
    for name in ("lists/own.npy", "new/scan.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, np.zeros((2, 3, 4), np.float32))
    manifest = tmp_path / "lists" / "l.csv"
    for cells, expected in [
        (["../new/scan.npy"], ["scan.nii.gz"]),
        (["../lists/own.npy"], ["own.nii.gz"]),
        (["own.npy", "../new/scan.npy"], ["own.nii.gz", "scan.nii.gz"]),
    ]:
        manifest.write_text("\n".join(["path", *cells]))
        items = list_items([manifest], ["a"], out=tmp_path / "preds")
        assert [Path(item.label_map).stem.split(".")[0] for item in items] == [
            name.split(".")[0] for name in expected
        ]
        assert all(".." not in item.label_map for item in items)


def test_a_path_that_only_begins_like_a_folder_is_not_below_it() -> None:
    assert below("/d/m/x", "/d/m")
    assert below("/d/n/../m/x", "/d/m")
    assert not below("/d/m/../x", "/d/m")
    assert not below("/d/mm/x", "/d/m")


@pytest.mark.parametrize("name", ["../new/scan.nii.gz", "a/../../scan.nii.gz", "{}/scan.nii.gz"])
def test_a_map_is_written_nowhere_else(tmp_path: Path, name: str) -> None:
    def label_map(*_: Any) -> Volume:
        return Volume(np.zeros((2, 3, 4, 1), np.float32))

    predictor: Any = SimpleNamespace(label_map=label_map, count_voxels=lambda _: {})
    item = Item("scan.npy", ("scan.npy",), label_map=name.format(tmp_path))
    read: Any = SimpleNamespace(item=item, volume=label_map(), records=[], scan=None)
    wanted: Any = SimpleNamespace(maps=str(tmp_path / "preds"), outside=0)
    with pytest.raises(VoxgapError, match="lies outside of"):
        job._write_map(predictor, read, SimpleNamespace(values=None), wanted)  # type: ignore[arg-type]
    assert not [*tmp_path.rglob("*.nii.gz")]
