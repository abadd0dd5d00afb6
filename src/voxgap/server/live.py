"""The bundle that is being served, and how a new one takes its place without a failed request."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from voxgap.errors import VoxgapError
from voxgap.files import sha256
from voxgap.runtime import MANIFEST, Bundle, Predictor
from voxgap.runtime.golden import Golden
from voxgap.runtime.manifest import Input
from voxgap.server.metrics import Metrics

log = logging.getLogger("voxgap.server")


@dataclass(frozen=True, eq=False)
class Loaded:
    """One version of the bundle; a request keeps the one that it began with.

    Attributes:
        predictor: Answers.
        folder: Of the bundle.
        version: SHA-256 of its manifest.json.
    """

    predictor: Predictor
    folder: Path
    version: str

    @property
    def name(self) -> str:
        """Of the bundle's folder."""
        return self.folder.resolve().name

    @functools.cached_property
    def bundle(self) -> Bundle:
        """The files of this version."""
        return Bundle(self.folder, self.predictor.manifest)

    @functools.cached_property
    def golden(self) -> Golden | None:
        """Inputs of its own to try it with; a server without them is none the worse."""
        with contextlib.suppress(VoxgapError):
            found = self.bundle.golden()
            if found is not None and found.inputs.shape[1:] == self.input.shape:
                return found
        return None

    @functools.cached_property
    def filler(self) -> Any:
        """The part of its Keras model that fills gaps, loaded when it is first asked for."""
        from voxgap.fill.base import filling

        return filling(self.bundle.keras_model())

    @property
    def input(self) -> Input:
        """What the network takes."""
        return self.predictor.manifest.input

    @functools.cached_property
    def sha256(self) -> str:
        """Of the model's file that answers."""
        digests = [entry.digest for entry in self.predictor.manifest.files.values()]
        return next((sha for sha in digests if sha.startswith(self.predictor.running.version)), self.version)


class Live:
    """Holds the bundle that answers now.

    Args:
        folder: Of the bundle.
        load: Takes the folder, returns a predictor.
        metrics: Where reloads are counted.
        warm: Batch sizes to try a new network with, so that no request pays for its first call.
    """

    def __init__(
        self, folder: Path, load: Callable[[Path], Predictor], metrics: Metrics, warm: tuple[int, ...] = (1,)
    ) -> None:
        self.folder = folder
        self._load = load
        self._metrics = metrics
        self._warm = warm
        self._complaint = ""
        self._lock = asyncio.Lock()
        self.current = self._loaded()
        self._announce()

    async def refresh(self) -> bool:
        """Load the bundle again if its manifest is another one; what can't be loaded leaves the old one.

        Returns:
            Whether a new one answers now.
        """
        async with self._lock:
            try:
                if sha256(self.folder / MANIFEST) == self.current.version:
                    return False
                fresh = await asyncio.to_thread(self._loaded)
            except Exception as error:  # whatever a bundle that is half there makes an engine raise
                self._failed(error)
                return False
            self.current, self._complaint = fresh, ""
            self._metrics.reloads.labels("loaded").inc()
            self._announce()
            log.info("now serving %s, version %s", fresh.name, fresh.sha256[:12])
            return True

    async def watch(self, seconds: float) -> None:
        """Look for a new bundle again and again."""
        while True:
            await asyncio.sleep(seconds)
            await self.refresh()

    def _loaded(self) -> Loaded:
        # The digest first: a bundle that is replaced meanwhile is found to be new at the next look.
        version = sha256(self.folder / MANIFEST) if (self.folder / MANIFEST).is_file() else ""
        predictor = self._load(self.folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for size in self._warm:
                predictor.predict(np.zeros((size, *predictor.input_shape), np.float32), batch_size=size)
        return Loaded(predictor, self.folder, version)

    def _announce(self) -> None:
        self._metrics.model.clear()
        self._metrics.model.labels(self.current.name, self.current.sha256).set(1)

    def _failed(self, error: Exception) -> None:
        line = str(error) if isinstance(error, VoxgapError | OSError) else f"{type(error).__name__}: {error}"
        if line != self._complaint:  # once, not at every look
            log.error("the new bundle can't be loaded, the old one goes on: %s", line.splitlines()[0])
            self._metrics.reloads.labels("failed").inc()
        self._complaint = line
