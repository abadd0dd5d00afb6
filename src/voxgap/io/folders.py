"""Folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from voxgap.errors import VoxgapError
from voxgap.files import naming, sweep, unfinished

MARK = ".voxgap"
"""An empty file in each folder written here: only such a folder is ever replaced."""


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a new folder beside `path`; when the block ends well, it takes the place of `path`.

    A folder that voxgap did not write is never removed. When the block raises, what stood at `path` stays.

    Raises:
        VoxgapError: Something else stands at `path`.
    """
    if path.exists() and not (path / MARK).is_file():
        raise VoxgapError(f"{path}: exists and was not written by voxgap; remove it, or choose another name")
    fresh, old = path.with_name(unfinished()), path.with_name(f"{unfinished('replaced')}-{path.name}"[:255])
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        fresh.mkdir()
        try:
            yield fresh
            (fresh / MARK).touch()
            if path.exists():
                os.rename(path, old)
            try:
                os.rename(fresh, path)
            except OSError:
                if old.exists():
                    os.rename(old, path)
                raise
        finally:
            for folder in (fresh, old):
                shutil.rmtree(folder, ignore_errors=True)
