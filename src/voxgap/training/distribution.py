"""One training on several devices of a machine, through TensorFlow's own distribution."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from voxgap.errors import VoxgapError


class Devices(NamedTuple):
    """How many devices share a batch, and the scope in which their model is built and compiled."""

    number: int
    scope: contextlib.AbstractContextManager[Any]


def on_devices(distribute: bool | Sequence[str], batch_size: int) -> Devices:
    """Prepare a training whose batches are shared among devices.

    Each device gets its part of every batch, and the gradients are summed: `tf.distribute.MirroredStrategy`. Batch
    normalisation goes by each device's part.

    Args:
        distribute: False: one device, as usual. True: all GPUs. Or their names, such as `["GPU:0", "GPU:1"]`.
        batch_size: of all devices together.

    Raises:
        VoxgapError: the backend is another, there is no such device, or batches can't be shared evenly.
    """
    if not distribute:
        return Devices(1, contextlib.nullcontext())
    if keras.backend.backend() != "tensorflow":
        raise VoxgapError("distribute works with KERAS_BACKEND=tensorflow only")
    import tensorflow as tf

    here = [device.name.removeprefix("/physical_device:") for device in tf.config.list_logical_devices()]
    here = [name.removeprefix("/device:") for name in here]
    wanted = [name for name in here if name.startswith("GPU")] if distribute is True else list(distribute)
    unknown = [name for name in wanted if name not in here]
    if unknown or not wanted:
        raise VoxgapError(
            f"distribute: no device {unknown[0] if unknown else 'GPU'!r} here; there are {', '.join(here)}"
        )
    if batch_size % len(wanted):
        raise VoxgapError(
            f"distribute: a batch of {batch_size} can't be shared evenly by {len(wanted)} devices; change batch_size"
        )
    return Devices(len(wanted), tf.distribute.MirroredStrategy(wanted).scope())
