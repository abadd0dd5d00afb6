"""The process that reads uploads: limited in memory, and of no consequence if it dies."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from voxgap.errors import VoxgapError
from voxgap.grid import Grid, read_sample, scan_sample
from voxgap.io import one_line
from voxgap.process import limit, say, serve
from voxgap.resample import Record
from voxgap.server.archives import unpack
from voxgap.volume import Volume

LIBRARIES = 2 * 2**30
"""Address space that the libraries take."""
COPIES = 6
"""Copies of a volume, at most, while it is decoded and resampled in double precision."""


def main() -> None:
    """Answer until standard input ends."""
    max_volume = int(sys.argv[1])
    os.umask(0o077)
    limit(LIBRARIES + COPIES * max_volume, 2 * max_volume)
    serve(lambda request, answers: say(answers, *_answer(request, max_volume)))


def _answer(request: dict[str, Any], max_volume: int) -> tuple[dict[str, Any], Any]:
    try:
        with one_line(Path(request["folder"])):
            volume, records = _read(request, max_volume)
            values = np.ascontiguousarray(volume.values, np.dtype("<f4"))
    except VoxgapError as error:
        return {"error": str(error)}, None
    affine = None if volume.affine is None else volume.affine.tolist()
    return {"affine": affine, "spacing": volume.spacing, "records": records}, values


def _read(request: dict[str, Any], max_volume: int) -> tuple[Volume, list[Record]]:
    """Read the volume of a file, of one file per channel, or of a folder, and say how it came onto the grid."""
    folder = Path(request["folder"])
    grid = Grid.from_json(request["grid"], "grid")
    files: list[Path | None] = [None if name is None else folder / name for name in request["files"]]
    for index, file in enumerate(files):
        if file is not None and file.suffix == ".zip":
            files[index] = unpack(
                file, file.with_suffix(""), max_bytes=max_volume, max_files=request["max_files"]
            )
    sample = scan_sample(files, request["channels"], grid=grid, max_bytes=max_volume)
    volume, records, *_ = read_sample(sample, grid, max_volume, request["step"])
    return volume, records


if __name__ == "__main__":
    main()
