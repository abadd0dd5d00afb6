"""What of an image is a measured value, in every format of images: grey and colours are.

Transparency says how a pixel is shown; the numbers of a palette are no grey, but in a label map they are the labels.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RGB = ("red", "green", "blue")


def say_transparency(path: Path) -> None:
    """Warn that the transparency of an image is not read: where it was measured, that is a loss."""
    warnings.warn(
        f"{path}: transparency (alpha) is left out; if it was measured, save it as an image of its own",
        stacklevel=3,
    )


def shown(indices: NDArray[Any], table: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the colours `(..., 3)` of the numbers of a palette `(n, 3)`, NaN where a number is."""
    missing = np.isnan(indices)
    found = table.astype(np.float32)[np.where(missing, 0, indices).astype(np.int64)]
    found[missing] = np.nan
    return found
