"""Which engine is the quickest on this machine: measured once, remembered in the user's cache."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from voxgap.files import cache_folder, digest, write_bytes
from voxgap.runtime.engines import RUNTIMES, Engine
from voxgap.volume import Values

REPEATS = 3


def fastest(opened: Mapping[str, Callable[[], Engine]], model: str, batch: Values) -> tuple[str, Engine]:
    """Time engines on one batch, or remember what was found the last time.

    Args:
        opened: by name, opens the engine; the first one is preferred where two are within a tenth.
        model: its digest, which the memory is kept under, beside the machine and the engines' versions.
        batch: to time them with.

    Returns:
        The name and the opened engine.
    """
    if len(opened) == 1:
        (name,) = opened
        return name, opened[name]()
    memory = cache_folder() / "engines" / f"{_key(list(opened), model, batch.shape)}.json"
    known = _recall(memory)
    if known in opened:
        return known, opened[known]()
    engines = {name: open_() for name, open_ in opened.items()}
    seconds = {name: _time(engine, batch) for name, engine in engines.items()}
    limit = min(seconds.values()) * 1.1
    name = next(name for name, taken in seconds.items() if taken <= limit)
    with contextlib.suppress(OSError):  # a machine without a home measures each time
        write_bytes(memory, json.dumps({"engine": name, "seconds": seconds}).encode())
    return name, engines[name]


def _time(engine: Engine, batch: Values) -> float:
    engine(batch)  # the first call compiles
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        engine(batch)
        taken.append(time.perf_counter() - started)
    return min(taken)


def _key(names: list[str], model: str, shape: tuple[int, ...]) -> str:
    versions = [_version(RUNTIMES[name].package) for name in names]
    machine = [platform.node(), platform.machine(), os.cpu_count()]
    facts: list[Any] = [names, versions, machine, model, shape]
    return digest(facts)[:32]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _recall(memory: Path) -> str:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return str(json.loads(memory.read_bytes())["engine"])
    return ""
