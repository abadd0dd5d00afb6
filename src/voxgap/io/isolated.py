"""Calls that run in a child process, because the C library below them can crash on damaged bytes.

HDF5 ends the whole process on some files, and a reader must not take a server with it. One child per process
answers all calls; it is started by the first one, limited in memory, and replaced when it dies or takes too
long. Both sides speak JSON lines and plain bytes: nothing that the child sends is ever executed.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.process import READY, end, start

SECONDS = 15.0
"""Longest silence of the child, after which the file is taken for damaged."""
STARTING = 60.0
"""Longest time that the child may take to start, on a machine with other work."""
SLOWEST = 10 * 2**20
"""Bytes per second that even a slow disk and decoder deliver: a large read may be silent for longer."""
MAX_LINE = 2**28

_lock = threading.Lock()
_child: _Child | None = None


def isolated(
    task: Callable[..., Any],
    path: Path,
    *,
    size: int = 0,
    into: NDArray[np.float32] | None = None,
    **arguments: Any,
) -> Any:
    """Call a function in the child process.

    Args:
        task: A function of a module, called with `path` and the arguments; returns what JSON can say, one array
            of numbers, or yields arrays of float32, which are never in the child all at once.
        path: The file it reads.
        size: Bytes that it has to read, for how long to wait.
        into: What the arrays that it yields fill, one after the other.
        arguments: What JSON can say.

    Returns:
        What the function returns.

    Raises:
        VoxgapError: The function raised, crashed, or took too long.
    """
    place = os.path.abspath(path)  # The child may stand in another folder.
    request = {"module": task.__module__, "task": task.__qualname__, "path": place, "with": arguments}
    with _lock:
        try:
            answer, result = _running().ask(request, SECONDS + size / SLOWEST, into)
        except (OSError, EOFError, ValueError) as error:
            _stop()
            reason = str(error) if isinstance(error, TimeoutError) else "its library crashed on it"
            raise VoxgapError(f"{path}: can't be read, damaged ({reason}); copy it again") from error
        except BaseException:
            _stop()  # Half an answer would be taken for that of the next call.
            raise
    if "error" in answer:
        raise VoxgapError(answer["error"].replace(place, str(path)))
    return result


class _Child:
    """The process, and how to talk to it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.seconds = STARTING
        self.process = start("voxgap.io.child")
        self._exactly(len(READY))

    def ask(
        self, request: dict[str, Any], seconds: float, into: NDArray[np.float32] | None = None
    ) -> tuple[dict[str, Any], Any]:
        assert self.process.stdin is not None
        self.seconds = seconds
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        answer = self._line()
        if "stream" in answer:
            assert into is not None
            return self._filled(into), into
        if "shape" not in answer:
            return answer, answer.get("result")
        array = np.empty(answer["shape"], np.dtype(answer["dtype"]))
        self._fill(array.reshape(-1).view(np.uint8).data)
        return answer, array

    def _filled(self, into: NDArray[np.float32]) -> dict[str, Any]:
        """Fill an array with the pieces that come, and return what is said at their end."""
        view, filled = into.reshape(-1).view(np.uint8).data, 0
        while length := int.from_bytes(self._exactly(8), "little"):
            if length > len(view) - filled:
                raise ValueError("an answer is too long")
            self._fill(view[filled : filled + length])
            filled += length
        answer = self._line()
        if "error" not in answer and filled < len(view):
            raise ValueError("an answer is too short")
        return answer

    def _line(self) -> dict[str, Any]:
        size = int.from_bytes(self._exactly(8), "little")
        if size > MAX_LINE:
            raise ValueError("an answer is too long")
        answer: dict[str, Any] = json.loads(self._exactly(size))
        return answer

    def _fill(self, view: memoryview) -> None:
        filled = 0
        while filled < len(view):
            block = self._read(min(2**22, len(view) - filled))
            view[filled : filled + len(block)] = block
            filled += len(block)

    def _exactly(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            found += self._read(size - len(found))
        return bytes(found)

    def _read(self, size: int) -> bytes:
        assert self.process.stdout is not None
        # Windows can't wait for a pipe: there the child may take as long as it likes.
        if os.name != "nt" and not select.select([self.process.stdout], [], [], self.seconds)[0]:
            raise TimeoutError(f"no answer in {self.seconds:.0f} seconds")
        block = os.read(self.process.stdout.fileno(), size)
        if not block:
            raise EOFError("the child ended")
        return block


def _running() -> _Child:
    global _child
    # After a fork, the parent's child belongs to the parent.
    if _child is None or _child.owner != os.getpid() or _child.process.poll() is not None:
        _child = _Child()
    return _child


@atexit.register
def _stop() -> None:
    global _child
    if _child is not None and _child.owner == os.getpid():
        end(_child.process)
        for stream in (_child.process.stdin, _child.process.stdout):
            if stream is not None:
                stream.close()
    _child = None
