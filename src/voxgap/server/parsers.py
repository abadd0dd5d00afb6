"""Processes that read uploads, so that a file that crashes a library costs its own request and no other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from voxgap.process import READY, command
from voxgap.resample import Record
from voxgap.server.limits import RequestError, Settings
from voxgap.server.metrics import Metrics
from voxgap.volume import Values, Volume

Parsed = tuple[Volume, list[Record]]
log = logging.getLogger("voxgap.server")
MAX_ANSWER = 2**20
_START = 60.0
# One file is read by one core; what BLAS would reserve for more counts against the memory of the child.
_ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}


@dataclass(frozen=True)
class Job:
    """One volume to read.

    Attributes:
        folder: Of this request alone.
        files: Names in it, None where a channel is missing; a folder's name for a series.
        channels: One for each file, or none where one file holds all.
        grid: As JSON.
        max_files: In an archive.
        step: Of `Grid.place`.
    """

    folder: str
    files: list[str | None]
    channels: list[str]
    grid: dict[str, Any]
    max_files: int
    step: float | None = None


class Parsers:
    """A few long-lived processes that read files; one that dies or takes too long is replaced.

    Args:
        settings: How many, and how long and large.
        metrics: Where lost ones are counted.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._idle: asyncio.Queue[asyncio.subprocess.Process] = asyncio.Queue()
        self._all: set[asyncio.subprocess.Process] = set()
        self._fresh: set[asyncio.subprocess.Process] = set()

    @property
    def pids(self) -> list[int]:
        """Of the processes."""
        return [process.pid for process in self._all]

    async def start(self) -> None:
        """Start all of them."""
        for _ in range(self._settings.parsers):
            self._idle.put_nowait(await self._spawn())

    async def close(self) -> None:
        """End all of them."""
        for process in list(self._all):
            await self._end(process)

    async def read(self, job: Job) -> Parsed:
        """Read one volume.

        Returns:
            What `Predictor.read` gives: the volume, on the network's grid, and the records that lead back.

        Raises:
            RequestError: 422 for a file that can't be read, crashes its reader or takes too long; 503 if the
                process was killed from outside.
        """
        process = await self._idle.get()
        try:
            if process.returncode is not None:  # it died while it was idle
                process = await self._replaced(process)
            if process in self._fresh:  # its start is no part of reading this file
                await asyncio.wait_for(_exactly(process, len(READY)), _START)
                self._fresh.discard(process)
            answer, values = await asyncio.wait_for(_ask(process, job), self._settings.parse_timeout)
        except TimeoutError:
            process = await self._replaced(process)
            raise RequestError(
                422, f"reading the file took over {self._settings.parse_timeout:g} s; send a smaller one"
            ) from None
        except (EOFError, OSError, ValueError):
            code = await self._end(process)
            process = await self._replaced(process)
            if code == -signal.SIGKILL:
                raise RequestError(
                    503, "the process that read this file was killed; send it again", retry_after=1
                ) from None
            raise RequestError(422, "the file crashed its reader; it is damaged, copy it again") from None
        except BaseException:
            # Half an answer would be taken for that of the next request.
            process = await asyncio.shield(self._replaced(process))
            raise
        finally:
            self._idle.put_nowait(process)
        if values is None:
            raise RequestError(422, str(answer["error"]))
        return Volume(values, answer["affine"], answer["spacing"]), answer["records"]

    async def _spawn(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *command("voxgap.server.child", self._settings.max_volume),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=2**22,
            env={**os.environ, **_ONE_THREAD},
            # Ctrl-C is for the server alone; and what the child starts can be ended with it.
            start_new_session=True,
        )
        self._all.add(process)
        self._fresh.add(process)
        return process

    async def _replaced(self, process: asyncio.subprocess.Process) -> asyncio.subprocess.Process:
        code = await self._end(process)
        self._metrics.parsers_lost.inc()
        log.warning("a parsing process ended (code %s) and was replaced", code)
        return await self._spawn()

    async def _end(self, process: asyncio.subprocess.Process) -> int:
        self._all.discard(process)
        self._fresh.discard(process)
        code = process.returncode
        if code is None:
            # One that crashed a moment ago keeps its own code: the signal comes too late for it.
            with contextlib.suppress(TimeoutError):
                code = await asyncio.wait_for(process.wait(), 0.2)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        return await process.wait() if code is None else code


async def _ask(process: asyncio.subprocess.Process, job: Job) -> tuple[dict[str, Any], Values | None]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
    await process.stdin.drain()
    size = int.from_bytes(await _exactly(process, 8), "little")
    if size > MAX_ANSWER:
        raise ValueError("an answer is too long")
    answer = json.loads(await _exactly(process, size))
    if "shape" not in answer:
        return answer, None
    values = np.empty(answer["shape"], np.float32)
    view = values.reshape(-1).view(np.uint8).data
    filled = 0
    while filled < len(view):
        block = await process.stdout.read(min(2**22, len(view) - filled))
        if not block:
            raise EOFError("the process ended")
        view[filled : filled + len(block)] = block
        filled += len(block)
    return answer, values


async def _exactly(process: asyncio.subprocess.Process, size: int) -> bytes:
    assert process.stdout is not None
    return await process.stdout.readexactly(size)


def shown(message: str, names: dict[Path, str]) -> str:
    """Return a message in which our own paths are the names that the client gave."""
    for path, name in sorted(names.items(), key=lambda pair: -len(str(pair[0]))):
        message = message.replace(str(path), name)
    return message
