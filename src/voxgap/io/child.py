"""The child process of `isolated`: answers one call after another until its standard input ends."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from voxgap.io.isolated import READY
from voxgap.io.source import one_line

ALLOWED = ("voxgap.io.hdf5", "voxgap.io.matlab", "voxgap.io.netcdf")
LIBRARIES = 4 * 2**30
"""Address space that the libraries and their caches take."""


def main() -> None:
    """Answer calls, each with its length, a line of JSON, and the bytes of an array if it returns one."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # What a library prints must not be taken for an answer.
    answers.write(READY)
    answers.flush()
    while line := requests.readline():
        _answer(json.loads(line), answers)
        answers.flush()


def _answer(request: dict[str, Any], answers: BinaryIO) -> None:
    path = Path(request["path"])
    try:
        with one_line(path):
            if request["module"] not in ALLOWED:
                raise ValueError("not a task")
            _limit_memory(int(request["with"].get("max_bytes", 0)))
            task = getattr(importlib.import_module(request["module"]), request["task"])
            result = task(path, **request["with"])
            if inspect.isgenerator(result):
                _say({"stream": True}, answers)
                _stream(result, answers)
                result = None
    except ValueError as error:  # A VoxgapError is one.
        _say({"error": str(error)}, answers)
        return
    if isinstance(result, np.ndarray):
        array = np.ascontiguousarray(result)
        _say({"shape": array.shape, "dtype": array.dtype.str}, answers)
        answers.write(array.reshape(-1).view(np.uint8).data)
    else:
        _say({"result": result}, answers)


def _say(answer: dict[str, Any], answers: BinaryIO) -> None:
    text = json.dumps(answer).encode()
    answers.write(len(text).to_bytes(8, "little") + text)


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


def _limit_memory(max_bytes: int) -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limit.
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (LIBRARIES + 2 * max_bytes, -1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
