"""The data files beside this module."""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt


def read(name: str) -> dict[str, npt.NDArray[Any]]:
    """Return all arrays of one data file of the package."""
    with (
        (resources.files(__package__) / f"{name}.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        return dict(arrays)
