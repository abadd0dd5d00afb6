"""A server in a process of its own, as a test asks it: with its log, its parsers, its memory, and many clients."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

import server_cases as cases


class Process:
    """A server in a process of its own."""

    def __init__(self, folder: Path, seconds: float = 0.0, **settings: Any) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, str(Path(cases.__file__)), str(folder), str(seconds), json.dumps(settings)],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.popen.stderr is not None
        self.log: list[str] = []
        for line in self.popen.stderr:
            self.log.append(line)
            if found := re.search(r"(http://[\d.]+:(\d+))", line):
                self.url, self.port = found[1], int(found[2])
                break
        else:
            raise AssertionError("".join(self.log))
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.popen.stderr is not None
        self.log += self.popen.stderr

    def parsers(self) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == self.popen.pid:
                    found.append(int(entry.name))
        return found

    def memory(self, parsers: bool = True, peak: bool = True) -> int:
        """Bytes of the server and its parsers, at their peak or now."""
        peaks = []
        for pid in (self.popen.pid, *(self.parsers() if parsers else ())):
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                peaks += [int(kib) for kib in re.findall(rf"{'VmHWM' if peak else 'VmRSS'}:\s+(\d+)", status)]
        return 1024 * sum(peaks)


@contextlib.contextmanager
def running(folder: Path, seconds: float = 0.0, **settings: Any) -> Iterator[Process]:
    process = Process(folder, seconds, **settings)
    try:
        yield process
    finally:
        process.popen.kill()
        process.popen.wait()


@contextlib.contextmanager
def load(clients: int, ask: Callable[[httpx.Client], bool]) -> Iterator[None]:
    """Keep clients asking until the block ends, or `ask` says that it was the last time."""
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set() and ask(session):
            pass

    session = httpx.Client(timeout=60, limits=httpx.Limits(max_connections=None))
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        session.close()


def wait(until: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.05)
