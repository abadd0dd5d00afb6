"""Keras and its backend, imported without the lines that TensorFlow prints while it looks for a GPU.

Every room that needs Keras imports it from here first, so that no door prints them: not the command line, not
`import voxgap`, not a module of its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

# As its C++ writes them, before any log level is read, and what follows on a line of its own.
_LOG = re.compile(
    rb"WARNING: All log messages before absl::|[IWE]\d{4} |\d{4}-\d\d-\d\d [\d:.]+: [IWE] |To enable the following"
)


@contextlib.contextmanager
def _without_tensorflow_s_log() -> Iterator[None]:
    """Keep what is written to file descriptor 2, and hand on afterwards what is no log of TensorFlow's.

    Who sets TF_CPP_MIN_LOG_LEVEL to 0, 1 or 2 wants to see it, and sees all.
    """
    if "keras" in sys.modules or os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") != "3":
        yield
        return
    try:
        sys.stderr.flush()
        saved = os.dup(2)
    except (OSError, AttributeError, ValueError):  # there is no such descriptor to print on
        yield
        return
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            with contextlib.suppress(OSError, AttributeError, ValueError):
                sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            said.seek(0)
            for line in said:
                if failed or not _LOG.match(line):
                    os.write(2, line)


with _without_tensorflow_s_log():
    import keras

# A network for each strategy is no mistake to be told of ("retracing").
if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "3":
    logging.getLogger("tensorflow").setLevel(logging.ERROR)

__all__ = ["answers", "has_gpu", "keras"]


def has_gpu() -> bool:
    """Return whether the backend computes on a GPU."""
    if keras.backend.backend() == "torch":  # Keras lists no devices of PyTorch's
        import torch

        return bool(torch.cuda.is_available())
    return any(device.startswith(("gpu", "cuda")) for device in keras.distribution.list_devices())


def answers(model: keras.Model, volumes: Any, batch_size: int = 16) -> np.ndarray:
    """Return what a model answers, batch by batch.

    `Model.predict` builds a pipeline of tf.data at each call, which takes longer than a few volumes: 0.2 to 0.4 s.

    Args:
        model: of one output.
        volumes: `(n, depth, height, width, channels)`, n at least 1.
        batch_size: volumes at once.
    """
    found = []
    for start in range(0, len(volumes), batch_size):
        batch = np.asarray(volumes[start : start + batch_size])
        # Of several devices each answers the whole batch.
        found.append(model.predict_on_batch(batch)[: len(batch)])
    return np.concatenate(found)
