"""The 3D sets of MedMNIST, by name: small volumes, labelled and split, to compare networks on.

Yang et al., "MedMNIST v2: a large-scale lightweight benchmark for 2D and 3D biomedical image classification",
Scientific Data 10, 41 (2023), https://doi.org/10.1038/s41597-022-01721-8; data CC BY 4.0. Names, checksums and
classes are those of the package medmnist 3.0.2 (Apache-2.0).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from voxgap.dataset.download import Report, fetch
from voxgap.errors import VoxgapError
from voxgap.files import cache_folder
from voxgap.io.arrays import npz_shapes, read_npz_arrays
from voxgap.io.source import too_large
from voxgap.volume import times

PREFIX = "medmnist:"
URL = "https://zenodo.org/records/10519652/files/{}.npz?download=1"
_PARTS = {"train": "train", "val": "validation", "test": "test"}


class _Published(NamedTuple):
    """What is known of one set: the MD5 of its files with volumes of 28³ and 64³, and its classes."""

    md5: str
    md5_64: str
    classes: tuple[str, ...]


SETS = {
    "organmnist3d": _Published(
        "a0c5a1ff56af4f155c46d46fbb45a2fe",
        "58a2205adf14a9d0a189cb06dc78bf10",
        (
            *("liver", "kidney-right", "kidney-left", "femur-right", "femur-left", "bladder", "heart"),
            *("lung-right", "lung-left", "spleen", "pancreas"),
        ),
    ),
    "nodulemnist3d": _Published(
        "8755a7e9e05a4d9ce80a24c3e7a256f3", "c47c5b7d457bf6332200d2ea6d64ecd8", ("benign", "malignant")
    ),
    "adrenalmnist3d": _Published(
        "bbd3c5a5576322bc4cdfea780653b1ce", "17721accfe9fb005146a47d33bc54b2f", ("normal", "hyperplasia")
    ),
    "fracturemnist3d": _Published(
        "6aa7b0143a6b42da40027a9dda61302f",
        "f01d7e6316aedf4210da0da5b7437b42",
        ("buckle rib fracture", "nondisplaced rib fracture", "displaced rib fracture"),
    ),
    "vesselmnist3d": _Published(
        "b41fd4f7e7e2feedddb201585ecafa1b", "6bb274a8846e1097066dcd64e2c4520f", ("vessel", "aneurysm")
    ),
    "synapsemnist3d": _Published(
        "1235b78a3cd6280881dd7850a78eadb6",
        "43bd14ebf3af9d3dd072446fedc14d5e",
        ("inhibitory synapse", "excitatory synapse"),
    ),
}


def find(data: str, report: Report | None = None) -> Path:
    """Return the file of a set, downloaded into the user's cache where it isn't there yet.

    Args:
        data: `medmnist:organmnist3d` for volumes of 28³, `medmnist:organmnist3d_64` for 64³, and so on.
        report: Told of the progress of a download.

    Raises:
        VoxgapError: There is no such set, or it can't be fetched: with what to fetch, and where to put it.
    """
    name = data.removeprefix(PREFIX).lower()
    published = SETS.get(name.removesuffix("_64"))
    if published is None:
        raise VoxgapError(f"{data}: no such set; there are {', '.join(SETS)}, and each with _64")
    md5 = published.md5_64 if name.endswith("_64") else published.md5
    return fetch(URL.format(name), cache_folder() / f"{name}.npz", md5, report)


def is_medmnist(names: Collection[str]) -> bool:
    """Tell by the names of its arrays whether an `.npz` file is one of MedMNIST's."""
    return {f"{part}_{kind}" for part in _PARTS for kind in ("images", "labels")} <= set(names)


def read(path: Path, max_bytes: int) -> dict[str, Any]:
    """Read a file of MedMNIST, as arguments of `Dataset.from_arrays`.

    Args:
        path: The `.npz` file; its name says what its classes are called.
        max_bytes: Refuse volumes that would take more memory than this.

    Raises:
        VoxgapError: Its volumes are pictures (2D), don't fit each other, or are too many.
    """
    shapes = npz_shapes(path)
    images = [shapes[f"{part}_images"] for part in _PARTS]
    shape = images[0][1:]
    if any(len(each) not in (4, 5) or each[1:] != shape for each in images):
        raise VoxgapError(f"{path}: images of {', '.join(map(times, images))}; voxgap takes the 3D sets")
    counts = [each[0] for each in images]
    size = 4 * sum(counts) * math.prod(shape)
    if size > max_bytes:
        raise VoxgapError(too_large(str(path), size, max_bytes))
    volumes = np.empty((sum(counts), *shape), np.float32)
    labels, start = [], 0
    for part, count in zip(_PARTS, counts, strict=True):
        found = read_npz_arrays(path, max_bytes, (f"{part}_images", f"{part}_labels"))
        volumes[start : start + count] = found[f"{part}_images"]
        labels.append(found[f"{part}_labels"])
        start += count
    if len({each.shape[1:] for each in labels}) > 1:
        raise VoxgapError(f"{path}: the labels of its parts differ in shape; fetch it again")
    published = SETS.get(path.stem.removesuffix("_64"))
    return {
        "volumes": volumes,
        "labels": np.concatenate(labels),
        "classes": None if published is None else published.classes,
        "split": np.repeat(list(_PARTS.values()), counts),
    }
