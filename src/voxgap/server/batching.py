"""Batches across requests: what arrives while the network is busy goes through it together next."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from voxgap.errors import VoxgapError
from voxgap.runtime import Predictor
from voxgap.server.live import Loaded
from voxgap.server.metrics import Metrics
from voxgap.volume import Values


class Outcome(NamedTuple):
    """What came out for the volumes of one request, and where the seconds went."""

    outputs: Values
    queue_seconds: float
    predict_seconds: float
    batch: int


class _Waiting(NamedTuple):
    loaded: Loaded
    volumes: Values
    future: asyncio.Future[Outcome]
    since: float


class Batcher:
    """Feeds one network from many requests.

    While the network computes, requests queue up, and all of them make the next batch. When it is idle, a
    request goes in at once, unless the last batch held several: then their clients are about to ask again, and
    the batch waits for as many, at most `max_wait`. So a lone client never waits for others.

    Args:
        max_batch: Most volumes in a batch.
        max_wait: Seconds.
        metrics: Where batches are counted.
    """

    def __init__(self, max_batch: int, max_wait: float, metrics: Metrics) -> None:
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._metrics = metrics
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._wanted = 1
        # One thread: batches follow each other, and each has all cores. The loop stays free for requests.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Requests that wait for the network."""
        return len(self._waiting)

    def start(self) -> None:
        """Begin to serve; call it from inside the loop."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="batches")

    async def close(self) -> None:
        """Stop; what still waits is cancelled."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        while self._waiting:
            self._waiting.popleft().future.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def predict(self, loaded: Loaded, volumes: Values) -> Outcome:
        """Predict volumes, together with those of other requests.

        Args:
            loaded: The bundle that they were read for.
            volumes: `(n, depth, height, width, channels)`, checked.

        Returns:
            Their outputs, in order.
        """
        if len(volumes) <= self._max_batch:
            return await self._enqueue(loaded, volumes)
        parts = [volumes[i : i + self._max_batch] for i in range(0, len(volumes), self._max_batch)]
        outcomes = await asyncio.gather(*(self._enqueue(loaded, part) for part in parts))
        return Outcome(
            np.concatenate([outcome.outputs for outcome in outcomes]),
            outcomes[0].queue_seconds,
            sum(outcome.predict_seconds for outcome in outcomes),
            max(outcome.batch for outcome in outcomes),
        )

    def _enqueue(self, loaded: Loaded, volumes: Values) -> asyncio.Future[Outcome]:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(loaded, volumes, future, time.perf_counter()))
        if not self._arrived.is_set() and self._enough():
            self._arrived.set()
        return future

    async def _run(self) -> None:
        last = 1
        while True:
            await self._gather(last)
            batch = self._take()
            if not batch:
                continue
            last = len(batch)
            await self._serve(batch)

    async def _serve(self, batch: list[_Waiting]) -> None:
        started = time.perf_counter()
        volumes = [entry.volumes for entry in batch]
        try:
            outputs, seconds = await asyncio.get_running_loop().run_in_executor(
                self._thread, _timed, batch[0].loaded.predictor, volumes
            )
        except Exception as error:
            if isinstance(error, VoxgapError) and len(batch) > 1:
                # One volume without an answer: the requests beside it are to have theirs.
                for entry in batch:
                    await self._serve([entry])
                return
            for entry in batch:
                if not entry.future.done():
                    entry.future.set_exception(error)
            return
        count = len(outputs)
        self._metrics.batch.observe(count)
        self._metrics.predict.observe(seconds)
        first = 0
        for entry in batch:
            part = outputs[first : first + len(entry.volumes)]
            first += len(entry.volumes)
            if not entry.future.done():
                entry.future.set_result(Outcome(part, started - entry.since, seconds, count))

    async def _gather(self, expected: int) -> None:
        """Wait for a first request, and a moment for as many as the last batch held."""
        await self._until(1, None)
        with contextlib.suppress(TimeoutError):
            await self._until(expected, self._max_wait)

    async def _until(self, count: int, seconds: float | None) -> None:
        # Woken once, not by each request on the way.
        self._wanted = count
        if not self._enough():
            self._arrived.clear()
            async with asyncio.timeout(seconds):
                await self._arrived.wait()

    def _enough(self) -> bool:
        """Return whether as many requests wait as are waited for, or a whole batch."""
        held = len(self._waiting)
        return held >= self._wanted or sum(len(entry.volumes) for entry in self._waiting) >= self._max_batch

    def _take(self) -> list[_Waiting]:
        """Return the next batch: requests for one bundle and of one shape, in the order in which they came."""
        batch: list[_Waiting] = []
        room = self._max_batch
        while self._waiting and len(self._waiting[0].volumes) <= room:
            if batch and not _together(batch[0], self._waiting[0]):
                break
            entry = self._waiting.popleft()
            if entry.future.done():  # its request was given up
                continue
            batch.append(entry)
            room -= len(entry.volumes)
        return batch


def _together(one: _Waiting, other: _Waiting) -> bool:
    return one.loaded is other.loaded and one.volumes.shape[1:] == other.volumes.shape[1:]


def _timed(predictor: Predictor, volumes: list[Values]) -> tuple[Values, float]:
    started = time.perf_counter()
    batch = volumes[0] if len(volumes) == 1 else np.concatenate(volumes)
    outputs = predictor.predict(batch, batch_size=len(batch))
    return outputs, time.perf_counter() - started
