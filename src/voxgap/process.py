"""Processes of voxgap's own: what crashes, prints or takes too much memory in one of them takes nothing along.

A parent calls `start`, and reads `lines` or what `say` writes. The child is a module that begins with `tell_parent` (it
tells what it does, in lines of JSON) or with `serve` (it answers one request after the other). Either ends with its
parent, however that ended; and nothing that one side sends is ever executed by the other.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from numpy.typing import NDArray

Tell = Callable[..., None]
Answer = Callable[[dict[str, Any], BinaryIO], None]

READY = b"voxgap\n"
"""What a child that serves says first."""


def command(module: str, *arguments: object) -> list[str]:
    """Return what starts a module of voxgap, whatever lies in the current folder under the name of a package."""
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]


def start(
    module: str,
    *arguments: object,
    log: Path | None = None,
    environment: dict[str, str] | None = None,
    own_session: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a child.

    Args:
        module: to run.
        arguments: of its command line.
        log: where its standard error goes; nowhere by default.
        environment: variables that it has beside ours.
        own_session: whether Ctrl-C is for the parent alone, which then ends its child.
    """
    with contextlib.ExitStack() as files:
        return subprocess.Popen(
            command(module, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=files.enter_context(log.open("w")) if log else subprocess.DEVNULL,
            env=os.environ | (environment or {}),
            start_new_session=own_session,
        )


def lines(child: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """Yield what a child tells, until it ends."""
    assert child.stdout is not None
    yield from map(json.loads, child.stdout)


def end(child: subprocess.Popen[bytes]) -> None:
    """End a child now, if it has not ended; what it has told can still be read."""
    child.kill()
    child.wait()


def last_words(log: Path) -> str:
    """Return the last line of a child's log, which is most often why it ended."""
    said = log.read_text(errors="replace").strip().splitlines()
    return said[-1][:300] if said else "it said nothing"


def cause(child: subprocess.Popen[bytes], log: Path) -> str:
    """Return why a child died."""
    code = child.wait()
    if code < 0:
        likely = "; the usual cause is too little memory" if -code == signal.SIGKILL else ""
        return f"its process was ended by {signal.Signals(-code).name}{likely}"
    return f"its process ended with code {code}: {last_words(log)}"


def memory(child: subprocess.Popen[bytes]) -> int:
    """Return the bytes that a child holds; 0 where the system doesn't say."""
    try:
        pages = Path(f"/proc/{child.pid}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def cores() -> int:
    """Count the processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def lives(pid: int) -> bool:
    """Tell whether a process of this machine lives, whoever's it is; not to be asked on Windows, where that ends it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # another user's
    return True


# --- in the child ---------------------------------------------------------------------------------------------


def tell_parent() -> Tell:
    """Return what tells the parent something, as keywords; from here on this process ends when the parent does."""
    out = _own_output()

    def tell(**message: Any) -> None:
        out.write(json.dumps(message).encode() + b"\n")
        out.flush()

    def end_with_parent() -> None:
        # A pipe that nobody writes to: it ends when the parent does.
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    return tell


def serve(answer: Answer) -> None:
    """Answer one request, a line of JSON, after the other, until standard input ends."""
    answers = _own_output()
    answers.write(READY)
    answers.flush()
    while line := sys.stdin.buffer.readline():
        answer(json.loads(line), answers)
        answers.flush()


def say(answers: BinaryIO, answer: dict[str, Any], values: NDArray[Any] | None = None) -> None:
    """Write an answer: eight bytes of length, JSON, and the bytes of an array, whose shape and dtype it then names."""
    if values is not None:
        import numpy as np

        values = np.ascontiguousarray(values)
        answer = answer | {"shape": values.shape, "dtype": values.dtype.str}
    text = json.dumps(answer).encode()
    answers.write(len(text).to_bytes(8, "little") + text)
    if values is not None:
        answers.write(values.reshape(-1).view("u1").data)


def limit(address_space: int, file_size: int | None = None) -> None:
    """Bound what this process may take, in bytes; with a bound on files, for good. Windows has no such limits."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (address_space, -1 if file_size is None else address_space))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))


def _own_output() -> BinaryIO:
    """Keep standard output for what we say: what libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return out
