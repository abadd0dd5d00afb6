"""The process that reads uploads: limited in memory, and of no consequence if it dies.

It answers one request line of JSON after another: eight bytes of length, JSON, and the values of the volume.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from voxgap.errors import VoxgapError
from voxgap.grid import Grid, read_sample, scan_sample
from voxgap.io import one_line
from voxgap.resample import Record
from voxgap.server.archives import unpack
from voxgap.volume import Volume

READY = b"ready\n"
"""What it says when it has started."""
LIBRARIES = 2 * 2**30
"""Address space that the libraries take."""
COPIES = 6
"""Copies of a volume, at most, while it is decoded and resampled in double precision."""


def main() -> None:
    """Answer until standard input ends."""
    max_volume = int(sys.argv[1])
    _limit(max_volume)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # What a library prints must not be taken for an answer.
    answers.write(READY)
    answers.flush()
    while line := requests.readline():
        answer, values = _answer(json.loads(line), max_volume)
        text = json.dumps(answer).encode()
        answers.write(len(text).to_bytes(8, "little") + text)
        if values is not None:
            answers.write(memoryview(values.reshape(-1).view(np.uint8)))
        answers.flush()


def _answer(request: dict[str, Any], max_volume: int) -> tuple[dict[str, Any], Any]:
    try:
        with one_line(Path(request["folder"])):
            volume, records = _read(request, max_volume)
            values = np.ascontiguousarray(volume.values, np.dtype("<f4"))
    except VoxgapError as error:
        return {"error": str(error)}, None
    affine = None if volume.affine is None else volume.affine.tolist()
    return {"shape": values.shape, "affine": affine, "spacing": volume.spacing, "records": records}, values


def _read(request: dict[str, Any], max_volume: int) -> tuple[Volume, list[Record]]:
    """The volume of one file, of one file per channel, or of a folder, and how it came onto the network's grid."""
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


def _limit(max_volume: int) -> None:
    os.umask(0o077)
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limits.
        import resource

        size = LIBRARIES + COPIES * max_volume
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * max_volume, 2 * max_volume))


if __name__ == "__main__":
    main()
