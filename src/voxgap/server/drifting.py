"""The watch over what a server is sent: one stream for all who serve a bundle, which goes on after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path

from voxgap.drift import FALSE_ALARMS, Watch
from voxgap.errors import VoxgapError
from voxgap.files import held, write_bytes
from voxgap.runtime import Bundle
from voxgap.server.live import Live
from voxgap.server.metrics import Metrics

log = logging.getLogger("voxgap.server")

_SECONDS = 1.0
"""Between updates: no request waits for one, and a server that is killed loses no more."""
_MOST = 10_000
"""Looks that wait at once; of more, the oldest are not counted."""
_PATIENCE = 5.0  # seconds, for other servers of the same bundle

Looks = Mapping[str, float]


class Stream:
    """What is known of the scans that a bundle is sent: by this server, and by others that serve the same folder.

    The state is a file in the bundle, named after the reference that it is held against. Whoever removes it begins
    anew, and so does whoever trains anew.

    Args:
        live: the bundle that answers now.
        metrics: where its numbers are shown.
    """

    def __init__(self, live: Live, metrics: Metrics) -> None:
        self._live = live
        self._waiting: deque[Looks] = deque(maxlen=_MOST)
        self._lock = threading.Lock()
        self._of: Bundle | None = None
        self._file: Path | None = None
        self._seen = 0
        self.watch: Watch | None = None
        metrics.watch(
            "voxgap_drift_scans", "Watched for drift.", lambda: self.watch.scans if self.watch else 0
        )
        metrics.watch(
            "voxgap_drift_evidence",
            "That scans are not like the training data's; 1 at the start, NaN where the bundle has no reference.",
            lambda: self.watch.evidence if self.watch else math.nan,
        )
        metrics.watch(
            "voxgap_drift_alarm", "Drift was found: 1, and stays.", lambda: float(self.warning is not None)
        )
        metrics.watch("voxgap_drift_false_alarms", "Chance of an alarm, ever, without drift.", _stated)

    @property
    def warning(self) -> str | None:
        """What was found, in words; None while nothing was."""
        watch = self.watch
        return watch.words() if watch is not None and watch.alarmed else None

    def take(self, looks: Iterable[Looks | None]) -> None:
        """Remember what is watched of the scans of a request, for the next update."""
        self._waiting.extend(look for look in looks if look is not None)

    async def run(self) -> None:
        """Update again and again, until it is cancelled; what waits then is counted still."""
        try:
            while True:
                await asyncio.to_thread(self.update)
                await asyncio.sleep(_SECONDS)
        finally:
            self.update()

    def update(self) -> None:
        """Count the scans that wait, in the state that all share; where it can't be written, in memory."""
        with self._lock:
            before = self.warning
            bundle = self._live.current.bundle
            if self._of is None or bundle.manifest.reference != self._of.manifest.reference:
                self._begin(bundle)
            looks = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if self.watch is not None:
                self._count(looks)
            if before is None and self.warning is not None:
                log.warning("drift: %s", self.warning)

    def _begin(self, bundle: Bundle) -> None:
        self._of, self._file, self._seen = bundle, None, 0
        try:
            self.watch = bundle.watch()
        except VoxgapError as error:  # the network answers all the same
            self.watch = None
            log.warning("drift is not watched: %s", error)
        if self.watch is not None and bundle.manifest.reference is not None:
            name = bundle.manifest.reference.path.replace("reference-", "drift-", 1)
            self._file = bundle.folder / name

    def _count(self, looks: list[Looks]) -> None:
        assert self.watch is not None
        file = self._file
        if file is None:
            _add(self.watch, looks)
        elif not looks:
            if _changed(file) != self._seen:
                self._seen, self.watch = _changed(file), self._state(file)
        else:
            try:
                with held(file.with_name(f".{file.name}.lock"), f"{file} is written", seconds=_PATIENCE):
                    watch = self._state(file)
                    _add(watch, looks)
                    write_bytes(file, json.dumps(watch.to_json()).encode())
                self.watch, self._seen = watch, _changed(file)
            except OSError as error:
                log.warning("drift is watched until this server ends, and by it alone: %s", error)
                self._file = None
                _add(self.watch, looks)
            except VoxgapError:  # others write: at the next update
                self._waiting.extendleft(reversed(looks))

    def _state(self, file: Path) -> Watch:
        """Return the state that is in a file, or the beginning where there is none."""
        try:
            return Watch.from_json(json.loads(file.read_bytes()))
        except FileNotFoundError:
            pass
        except ValueError as error:
            log.warning("%s: not the state of a watch, which begins anew (%s)", file, error)
        begun = None if self._of is None else self._of.watch()
        assert begun is not None
        return begun


def _changed(file: Path) -> int:
    """Return when a file was written last; 0 where there is none."""
    with contextlib.suppress(FileNotFoundError):
        return file.stat().st_mtime_ns
    return 0


def _add(watch: Watch, looks: Iterable[Looks]) -> None:
    for look in looks:
        watch.update(look)


def _stated() -> float:
    return FALSE_ALARMS
