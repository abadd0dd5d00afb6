"""What a case is called where people read of it: never by an absolute path, which may say whose it is and where."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from voxgap import paths

if TYPE_CHECKING:
    from voxgap.dataset.dataset import Dataset

_DIGITS = 12


def of_files(samples: Sequence[Sequence[Path | None]], folder: Path) -> tuple[str, ...]:
    """Name samples after their first files, seen from the data's own folder; "" where a file lies elsewhere.

    Args:
        samples: The files of each, None where a channel is missing.
        folder: Of the manifest, or that holds the classes.
    """
    return tuple(paths.within(next(filter(None, files), None), folder) for files in samples)


def case_names(data: Dataset) -> list[str]:
    """Return what each sample is called: its file as `of_files` has it, else a digest of its values.

    The digest is the first 12 digits of the SHA-256 of the float32 values, little-endian, in C order.
    """
    return [
        (data.names[index] if data.names else "") or _digest(volume)
        for index, volume in enumerate(data.volumes)
    ]


def _digest(volume: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(volume, "<f4").tobytes()).hexdigest()[:_DIGITS]
