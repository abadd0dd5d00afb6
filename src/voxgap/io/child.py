"""The child process of `isolated`: answers one call after another until its standard input ends."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from voxgap.io.source import one_line
from voxgap.process import limit, say, serve

ALLOWED = ("voxgap.io.hdf5", "voxgap.io.matlab", "voxgap.io.netcdf")
LIBRARIES = 4 * 2**30
"""Address space that the libraries and their caches take."""


def main() -> None:
    """Answer calls."""
    serve(_answer)


def _answer(request: dict[str, Any], answers: BinaryIO) -> None:
    path = Path(request["path"])
    try:
        with one_line(path):
            if request["module"] not in ALLOWED:
                raise ValueError("not a task")
            limit(LIBRARIES + 2 * int(request["with"].get("max_bytes", 0)))
            task = getattr(importlib.import_module(request["module"]), request["task"])
            result = task(path, **request["with"])
            if inspect.isgenerator(result):
                say(answers, {"stream": True})
                _stream(result, answers)
                result = None
    except ValueError as error:  # A VoxgapError is one.
        say(answers, {"error": str(error)})
        return
    if isinstance(result, np.ndarray):
        say(answers, {}, result)
    else:
        say(answers, {"result": result})


def _stream(pieces: Iterator[Any], answers: BinaryIO) -> None:
    """Send arrays one after the other, each with its length; a length of 0 stands before the last word."""
    try:
        for piece in pieces:
            data = np.ascontiguousarray(piece, np.float32).reshape(-1).view(np.uint8).data
            answers.write(len(data).to_bytes(8, "little"))
            answers.write(data)
            answers.flush()
    finally:
        answers.write(bytes(8))


if __name__ == "__main__":
    main()
