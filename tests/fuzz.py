"""Damage to valid files, and what a reader must make of it: a volume, or one line that names the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck
from hypothesis import strategies as st

from voxgap.errors import VoxgapError
from voxgap.io import read

ONE_FOLDER = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


def mutate(draw: Callable[[Any], Any], content: bytearray) -> bytearray:
    """Replace a few bytes, mostly in the headers, and perhaps cut off the end."""
    last = len(content) - 1
    places = st.integers(0, min(last, 600)) | st.integers(0, last) | st.integers(max(0, last - 400), last)
    for place in draw(st.lists(places, max_size=6)):
        content[place] = draw(st.integers(0, 255))
    if draw(st.integers(0, 3)) == 0:
        del content[draw(st.integers(0, last)) :]
    return content


def read_or_refuse(path: Path) -> None:
    try:
        volume = read(path, max_bytes=2**26)
    except VoxgapError as error:
        assert str(path) in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert volume.values.ndim == 4
        assert not np.isinf(volume.values).any()


def write_and_read(folder: Path, name: str, content: bytes) -> None:
    """Read these bytes as a file of this suffix; `classic.nc` is one of `.nc`."""
    path = folder / f"fuzz{name[name.index('.') :]}"
    path.write_bytes(content)
    read_or_refuse(path)
