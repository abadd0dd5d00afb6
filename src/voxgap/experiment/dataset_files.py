"""A data set in a folder, for the processes that work on it: volumes mapped, not copied into each."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from voxgap.dataset import Dataset, lazy
from voxgap.dataset.drawn import Drawn, InArchive
from voxgap.ragged import differ, is_by_item

# What files were brought onto matters to nobody who trains on the volumes.
_LEFT_OUT = ("grid", "drawn")
_DRAWN = "drawn.npz"
_SHAPES = "shapes"
"""Of arrays whose items differ in shape; see `voxgap.dataset.lazy`."""


def write_dataset(dataset: Dataset, folder: Path) -> None:
    """Write a data set into a folder of this process's own."""
    folder.mkdir(parents=True, exist_ok=True)
    rest: dict[str, Any] = {}
    shapes: dict[str, Any] = {}
    for field in dataclasses.fields(dataset):
        value = getattr(dataset, field.name)
        if is_by_item(value) and differ(value):
            shapes[field.name] = lazy.save(folder / f"{field.name}.npy", value)
        elif hasattr(value, "__array__"):
            np.save(folder / f"{field.name}.npy", np.asarray(value), allow_pickle=False)
        elif field.name not in _LEFT_OUT:
            rest[field.name] = value
    if dataset.drawn is not None:
        rest["drawn"] = _written(dataset.drawn, folder / _DRAWN)
    (folder / "rest.json").write_text(json.dumps(rest | {_SHAPES: shapes}))


def _written(drawn: Drawn, file: Path) -> dict[str, Any]:
    """Write label maps into a compressed file, and return all else that there is of them."""
    steps: list[Any] = []
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:  # one at a time: they may be large
        for index, held in enumerate(drawn.maps):
            steps.append(None)
            if held is not None:
                label_map, steps[-1] = held.read()
                with archive.open(f"{index}.npy", "w", force_zip64=True) as member:
                    np.save(member, label_map, allow_pickle=False)
    return {"codes": dict(drawn.codes), "unsaid": drawn.unsaid, "steps": steps}


def open_dataset(folder: Path) -> Dataset:
    """Read what `write_dataset` has written; volumes stay on the disk until they are looked at."""
    rest = json.loads((folder / "rest.json").read_text())
    drawn, shapes = rest.pop("drawn", None), rest.pop(_SHAPES)
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in rest.items()
    }
    if drawn is not None:
        maps = tuple(
            None if steps is None else InArchive(folder / _DRAWN, str(index), steps)
            for index, steps in enumerate(drawn["steps"])
        )
        fields["drawn"] = Drawn(maps, drawn["codes"], drawn["unsaid"])
    for file in folder.glob("*.npy"):
        if file.stem in shapes:
            fields[file.stem] = lazy.OnDisk.npy(file, [tuple(shape) for shape in shapes[file.stem]])
        else:
            fields[file.stem] = np.load(file, mmap_mode="r", allow_pickle=False)
    return Dataset(**fields)
