"""Arrays that several runs need, made once and mapped from disk by all processes of an experiment."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.files import forget, unfinished

KEPT_BYTES = 8 * 2**30


def cached(
    folder: Path | None, name: str, make: Callable[[], NDArray[Any]], limit: int = KEPT_BYTES
) -> NDArray[Any]:
    """Return the array of that name, made now if nobody has made it yet.

    Args:
        folder: where arrays are kept; None keeps none. It serves one experiment and is removed with it, so that no
            file outlives a crash of the machine.
        name: says all that the array depends on.
        make: makes it.
        limit: bytes that the folder may hold; what was used longest ago goes first.

    Returns:
        The array; from the disk it is read-only. A full disk costs time, not the run.
    """
    if folder is None:
        return make()
    path = folder / f"{name}.npy"
    # Whatever is wrong with a file: it can be made anew.
    with contextlib.suppress(OSError, ValueError, EOFError):
        array = _load(path)
        os.utime(path)
        return array
    array = make()
    temporary = folder / f"{unfinished()}.npy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(temporary, array, allow_pickle=False)
        os.replace(temporary, path)
        array = _load(path)
    except OSError:
        return array
    finally:
        temporary.unlink(missing_ok=True)
    forget((file for file in folder.glob("*.npy") if file.name[0] != "."), path.stem, limit)
    return array


def _load(path: Path) -> NDArray[Any]:
    if path.stat().st_size == 0:
        raise ValueError("empty")
    loaded: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return loaded
