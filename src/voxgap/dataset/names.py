"""What a case is called where people read of it: never by an absolute path, which may say whose it is and where."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from voxgap.dataset.dataset import Dataset

_DIGITS = 12


def of_files(samples: Sequence[Sequence[Path | None]], folder: Path) -> tuple[str, ...]:
    """Name samples after their first files, seen from the data's own folder; "" where a file lies elsewhere.

    Args:
        samples: The files of each, None where a channel is missing.
        folder: Of the manifest, or that holds the classes.
    """
    return tuple(_relative(next(filter(None, files), None), folder) for files in samples)


def case_names(data: Dataset) -> list[str]:
    """Return what each sample is called: its file as `of_files` has it, else a digest of its values.

    The digest is the first 12 digits of the SHA-256 of the float32 values, little-endian, in C order.
    """
    return [
        (data.names[index] if data.names else "") or _digest(volume)
        for index, volume in enumerate(data.volumes)
    ]


def _relative(file: Path | None, folder: Path) -> str:
    # `..` is taken back first: what leads out of the folder lies elsewhere, and says where.
    inside = None if file is None else Path(os.path.abspath(file))
    if inside is None or not inside.is_relative_to(os.path.abspath(folder)):
        return ""
    return inside.relative_to(os.path.abspath(folder)).as_posix()


def _digest(volume: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(volume, "<f4").tobytes()).hexdigest()[:_DIGITS]
