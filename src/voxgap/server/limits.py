"""What the server takes and refuses: sizes, numbers, seconds, and how many requests at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """Limits and habits of a server.

    Args:
        max_upload: Largest body of a request, in bytes.
        max_json: Largest JSON body: numbers as text are slow to read.
        max_volume: Largest volume that a file may hold, as float32 in bytes, before it is on the network's grid.
        max_files: Most files in one request, or in one zip archive.
        max_volumes: Most volumes in one request.
        queue: Most requests that are admitted at once; the next one is told to come back (503).
        max_pending: Most bytes of bodies that are admitted at once.
        timeout: Seconds after which a request is given up (504).
        parse_timeout: Seconds after which a file is given up (422), and its process replaced.
        parsers: Processes that read files.
        max_batch: Most volumes that go through the network at once.
        max_wait: Seconds that a batch waits for as many requests as the last one had; a lone client never waits.
        reload: Seconds between looks at manifest.json for a new bundle; 0 looks on SIGHUP only.
        drain: Seconds after SIGTERM in which `/readyz` says no and requests are still taken.
    """

    max_upload: int = 256 * MIB
    max_json: int = 8 * MIB
    max_volume: int = 512 * MIB
    max_files: int = 2048
    max_volumes: int = 64
    queue: int = 64
    max_pending: int = 1024 * MIB
    timeout: float = 60.0
    parse_timeout: float = 30.0
    parsers: int = 2
    max_batch: int = 16
    max_wait: float = 0.004
    reload: float = 0.0
    drain: float = 1.0


class RequestError(Exception):
    """A request that gets no result: its status and one line that names the remedy."""

    def __init__(self, status: int, detail: str, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}


class Admission:
    """Counts what is being worked on, so that overload is refused at the door and memory stays bounded."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.requests = 0
        self.bytes = 0

    @contextlib.contextmanager
    def admit(self, size: int) -> Iterator[None]:
        """Take a request in, before its body is read.

        Args:
            size: Bytes of its body, as announced.

        Raises:
            RequestError: 503, with the seconds after which to come back.
        """
        full = self.requests >= self._settings.queue
        # One that is alone is always taken, whatever its size.
        if full or (self.requests and self.bytes + size > self._settings.max_pending):
            raise RequestError(
                503, "the server is busy; send the request again after a moment", retry_after=1
            )
        self.requests += 1
        self.bytes += size
        try:
            yield
        finally:
            self.requests -= 1
            self.bytes -= size
