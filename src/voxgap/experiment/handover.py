"""A data set in a folder, for the processes that work on it: volumes mapped, not copied into each."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from voxgap.dataset import Dataset

# What files were brought onto, and how they were drawn, matters to nobody who trains on the volumes.
_LEFT_OUT = ("grid", "drawn")


def hand_over(dataset: Dataset, folder: Path) -> None:
    """Write a data set into a folder of this process's own."""
    folder.mkdir(parents=True, exist_ok=True)
    rest = {}
    for field in dataclasses.fields(dataset):
        value = getattr(dataset, field.name)
        if hasattr(value, "__array__"):
            np.save(folder / f"{field.name}.npy", np.asarray(value), allow_pickle=False)
        elif field.name not in _LEFT_OUT:
            rest[field.name] = value
    (folder / "rest.json").write_text(json.dumps(rest))


def take_over(folder: Path) -> Dataset:
    """Read what `hand_over` has written; volumes stay on the disk until they are looked at."""
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in json.loads((folder / "rest.json").read_text()).items()
    }
    for file in folder.glob("*.npy"):
        fields[file.stem] = np.load(file, mmap_mode="r", allow_pickle=False)
    return Dataset(**fields)
