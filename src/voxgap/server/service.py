"""What the routes share: the bundle, the batches, the parsing processes, and the doorkeeper."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request

from voxgap.runtime import Predictor
from voxgap.server.batching import Batcher
from voxgap.server.drifting import Stream
from voxgap.server.limits import Admission, Settings, too_large
from voxgap.server.live import Live
from voxgap.server.metrics import Metrics
from voxgap.server.parsers import Parsers


class Service:
    """One running server.

    Args:
        folder: Of the bundle.
        settings: Limits.
        load: Takes the folder, returns a predictor.
    """

    def __init__(self, folder: Path, settings: Settings, load: Callable[[Path], Predictor]) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.live = Live(folder, load, self.metrics, warm=tuple({1, settings.max_batch}))
        self.stream = Stream(self.live, self.metrics)
        self.batcher = Batcher(settings.max_batch, settings.max_wait, self.metrics)
        self.parsers = Parsers(settings, self.metrics)
        self.admission = Admission(settings)
        self.draining = False
        self.metrics.watch("voxgap_requests_active", "Admitted requests.", lambda: self.admission.requests)
        self.metrics.watch(
            "voxgap_queue", "Requests that wait for the network.", lambda: self.batcher.waiting
        )

    @property
    def ready(self) -> bool:
        """Whether a load balancer should send requests here."""
        return not self.draining

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run everything that has to run beside the requests."""
        await self.parsers.start()
        self.batcher.start()
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[Any]] = {loop.create_task(self.stream.run())}
        if self.settings.reload:
            tasks.add(loop.create_task(self.live.watch(self.settings.reload)))

        def look() -> None:
            task = loop.create_task(self.live.refresh())
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        # A loop hears signals in the main thread only; a test runs its loop in another.
        hears = threading.current_thread() is threading.main_thread()
        if hears:
            loop.add_signal_handler(signal.SIGHUP, look)
        try:
            yield
        finally:
            if hears:
                loop.remove_signal_handler(signal.SIGHUP)
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.batcher.close()
            await self.parsers.close()

    @contextlib.asynccontextmanager
    async def admitted(self, request: Request) -> AsyncIterator[None]:
        """Let a request in, for as long as a request may take; it takes its place when its body is here (`Guard`).

        Raises:
            RequestError: 503, too many are inside; or 413, its body is too large.
            TimeoutError: It took too long.
        """
        announced = request.headers.get("content-length", "")
        size = int(announced) if announced.isascii() and announced.isdecimal() else self.settings.max_upload
        if size > self.settings.max_upload:
            raise too_large(self.settings.max_upload)
        now = asyncio.get_running_loop().time()
        # Where the connection is ours, it knows when the first byte came.
        deadline = request.scope["state"].get("deadline", now + self.settings.timeout)
        with self.admission.admit(size) as place:
            request.state.place = place
            async with asyncio.timeout_at(deadline) as place.limit:
                yield
