"""What of an image is a measured value, in every format of images: grey and colours are.

Transparency says how a pixel is shown; the numbers of a palette are no grey, but in a label map they are the labels,
and what measures (OME-TIFF, ImageJ, GDAL, more than 8 bits) has a palette to show them by.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Say = Callable[[Path], None]
"""Warns of what is left out of a file or folder."""
RGB = ("red", "green", "blue")


def say_transparency(path: Path) -> None:
    """Warn that the transparency of an image is not read: where it was measured, that is a loss."""
    warnings.warn(
        f"{path}: transparency (alpha) is left out; if it was measured, save it as an image of its own",
        stacklevel=3,
    )


def say_palette(path: Path) -> None:
    """Warn that the colours of a palette are not read, since its numbers look measured."""
    warnings.warn(
        f"{path}: its palette colours numbers of more than 8 bits, or one of several samples: the numbers are "
        "read; if the colours are meant, save it as RGB",
        stacklevel=3,
    )


def shown(indices: NDArray[Any], table: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the colours `(..., 3)` of the numbers of a palette `(n, 3)`, NaN where a number is."""
    missing = np.isnan(indices)
    found = table.astype(np.float32)[np.where(missing, 0, indices).astype(np.int64)]
    found[missing] = np.nan
    return found
