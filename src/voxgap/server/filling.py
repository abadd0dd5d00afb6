"""Gaps filled as the network fills them, for people to look at; and in several ways, for what that leaves open."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import numpy as np

from voxgap.errors import VoxgapError
from voxgap.runtime.draws import Pooled
from voxgap.server.batching import Outcome
from voxgap.server.limits import RequestError
from voxgap.server.live import Loaded
from voxgap.volume import Values

_lock = threading.Lock()


async def filled(loaded: Loaded, volume: Values) -> Values:
    """Fill the gaps of a volume with the bundle's own fill layer, in raw units.

    The layer is part of the bundle's Keras model, which is loaded when it is first asked for, whatever engine
    answers predictions.

    Args:
        loaded: The version that the volume was read for.
        volume: `(depth, height, width, channels)`, NaN = missing.

    Returns:
        The same volume; observed values are untouched.

    Raises:
        RequestError: 501, the bundle holds no Keras model, or one that is refused, or Keras is not installed.
    """
    if "keras" not in loaded.bundle.manifest.files:
        raise RequestError(
            501, "this bundle holds no Keras model, whose fill layer this needs; serve the original"
        )
    return await asyncio.to_thread(_fill, loaded, volume)


async def drawn(loaded: Loaded, volumes: Values, draws: int, seed: int) -> tuple[Outcome, Values]:
    """Pool the answers for volumes over draws of what their gaps may hide; one request at a time, beside the batches.

    Args:
        loaded: The version that the volumes were read for.
        volumes: `(n, depth, height, width, channels)`, NaN = missing.
        draws, seed: See `Predictor.predict`.

    Returns:
        What came out, and the standard deviations that the fill leaves.

    Raises:
        RequestError: 501, the bundle's fill says no deviation, or it holds no Keras model.
    """
    try:
        await asyncio.to_thread(loaded.predictor.check_draws, draws)
    except VoxgapError as error:
        raise RequestError(501, str(error).replace(f"{loaded.folder}: ", "")) from None

    arrived = time.perf_counter()

    def run() -> tuple[Pooled, float]:
        with _lock:
            started = time.perf_counter()
            return loaded.predictor.predict(volumes, draws=draws, seed=seed), started

    found, started = await asyncio.to_thread(run)
    seconds = time.perf_counter() - started
    return Outcome(found.values, started - arrived, seconds, len(volumes)), found.fill_deviation


def _fill(loaded: Loaded, volume: Values) -> Values:
    try:
        # One at a time: a model of 500 MB would otherwise be loaded by each of two first requests.
        with _lock:
            found = np.asarray(loaded.filler.predict_on_batch(volume[None])[0], np.float32)
        return np.where(np.isnan(volume), found, volume)
    except ImportError:
        raise RequestError(501, "filling needs Keras: pip install 'voxgap[train]' on the server") from None
    except VoxgapError as error:  # where the bundle lies is nobody's business
        raise RequestError(501, str(error).replace(f"{loaded.folder}{os.sep}", "")) from None
