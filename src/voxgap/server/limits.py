"""What the server takes and refuses: sizes, numbers, seconds, and how many requests at once."""

from __future__ import annotations

import asyncio
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
        queue: Most requests that are worked on at once; the next one is told to come back (503).
        max_pending: Most bytes of bodies that are held at once.
        timeout: Seconds from the first byte of a request after which it is given up (408 while it arrives, then 504).
        parse_timeout: Seconds after which a file is given up (422), and its process replaced.
        parsers: Processes that read files.
        max_batch: Most volumes that go through the network at once.
        max_wait: Seconds that a batch waits for as many requests as the last one had; a lone client never waits.
        reload: Seconds between looks at manifest.json for a new bundle; 0 looks on SIGHUP only.
        drain: Seconds after SIGTERM in which `/readyz` says no and requests are still taken.
        allow_hosts: Names that requests may be for, besides those of this machine; `*` for any.
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
    allow_hosts: tuple[str, ...] = ()


class RequestError(Exception):
    """A request that gets no result: its status and one line that names the remedy."""

    def __init__(self, status: int, detail: str, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}


def too_large(limit: int) -> RequestError:
    """Return the error for a body over the limit, in bytes."""
    return RequestError(413, f"the body is over {limit // MIB} MiB; send less at once")


class Place:
    """What one request holds: the bytes of its body, and when all have come, one of the places in the queue.

    Attributes:
        bytes: Of its body, so far.
        taken: Whether it has its place.
        pushed_out: Whether others needed the memory.
        limit: When it is given up.
    """

    def __init__(self, door: Admission) -> None:
        self._door = door
        self.bytes = 0
        self.taken = self.pushed_out = False
        self.limit: asyncio.Timeout | None = None

    def grow(self, count: int) -> None:
        """Hold more bytes.

        Raises:
            RequestError: 503, there is no memory, and no other body on its way is larger than this one.
        """
        self._door.hold(self, count)

    def take(self) -> None:
        """Take a place, now that the body is here.

        Raises:
            RequestError: 503, there is none.
        """
        self._door.enter(self)


class Admission:
    """Counts what arrives and what is worked on, so that overload is refused at the door and memory stays bounded.

    A body that is still on its way holds no place, only its bytes; and where those of all become too many, the
    largest on its way gives way. So nobody can keep others out by not sending.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._arriving: set[Place] = set()
        self._inside = self._outside = 0
        self.requests = 0

    @property
    def bytes(self) -> int:
        """Of all bodies that are held."""
        return self._inside + self._outside

    @contextlib.contextmanager
    def admit(self, size: int) -> Iterator[Place]:
        """Let a request send its body.

        Args:
            size: Bytes of it, as announced.

        Raises:
            RequestError: 503, with the seconds after which to come back.
        """
        self._check(size)
        place = Place(self)
        self._arriving.add(place)
        try:
            yield place
        finally:
            if place.taken:
                self.requests -= 1
                self._inside -= place.bytes
            else:
                self._forget(place)

    def hold(self, place: Place, count: int) -> None:
        """See `Place.grow`."""
        if place.pushed_out:
            raise busy()
        place.bytes += count
        self._outside += count
        # One that is alone is always taken, whatever its size.
        while place.bytes < self.bytes > self._settings.max_pending:
            largest = max(self._arriving, key=lambda one: one.bytes)
            self._forget(largest)
            largest.pushed_out = True
            if largest is place:
                raise busy()
            if largest.limit is not None:
                largest.limit.reschedule(0)

    def enter(self, place: Place) -> None:
        """See `Place.take`."""
        self._check(place.bytes)
        held = place.bytes
        self._forget(place)
        place.bytes, place.taken = held, True
        self._inside += held
        self.requests += 1

    def _check(self, size: int) -> None:
        crowded = self.requests and self._inside + size > self._settings.max_pending
        if crowded or self.requests >= self._settings.queue:
            raise busy()

    def _forget(self, place: Place) -> None:
        self._arriving.discard(place)
        self._outside -= place.bytes
        place.bytes = 0


def busy() -> RequestError:
    """Return the error that there is no room for one more."""
    return RequestError(503, "the server is busy; send the request again after a moment", retry_after=1)
