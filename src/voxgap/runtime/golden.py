"""The golden inputs that a bundle keeps, and what its trained model answered: read at one place, within bounds."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.volume import Values

_MAX_BYTES = 2**31


@dataclass(frozen=True, eq=False)
class Golden:
    """What every export of a bundle must answer.

    Args:
        inputs: `(n, depth, height, width, channels)` float32, NaN = missing.
        outputs: `(n, ...)` float32, the Keras model's own answers.
        gaps: `(n,)`, the kind of gap in each input.
    """

    inputs: Values
    outputs: Values
    gaps: NDArray[np.str_]


def read_golden(path: Path) -> Golden:
    """Read golden inputs; nothing in the file is executed.

    Args:
        path: that `Bundle.verified` gave.

    Raises:
        VoxgapError: it is not what `save_bundle` wrote, or would unpack to more than 2 GiB.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > _MAX_BYTES:
                raise ValueError("too large")
        with np.load(path, allow_pickle=False) as stored:
            inputs, outputs = (np.asarray(stored[name], np.float32) for name in ("inputs", "outputs"))
            gaps = np.asarray(stored["gaps"])
        if inputs.ndim != 5 or gaps.dtype.kind != "U" or not len(inputs) == len(outputs) == gaps.size:
            raise ValueError("of other shapes")
    except Exception as error:  # whatever a damaged archive makes NumPy raise
        reason = " ".join(str(error).split())[:100]
        raise VoxgapError(f"{path}: not golden inputs ({reason}); save the bundle again") from None
    return Golden(inputs, outputs, gaps)
