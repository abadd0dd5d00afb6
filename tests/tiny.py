"""Data sets and networks that are small enough to be trained in a second."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import keras
import numpy as np

from voxgap.dataset import Dataset
from voxgap.models import build_model

SHAPE = (8, 8, 8, 1)
CLASSES = ("dim", "middling", "bright")


def volumes(
    count: int, shape: tuple[int, ...] = SHAPE, seed: int = 0, missing_rate: float = 0.3
) -> np.ndarray:
    """Normal volumes with missing slices."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, *shape)).astype("float32")
    x[rng.random((count, shape[0])) < missing_rate] = np.nan
    x[:, 0, 0, 0] = 0.0  # no volume is wholly missing
    return x


def dataset(task: str = "classification", count: int = 48, outputs: int = 3, seed: int = 0) -> Dataset:
    """Volumes whose mean says their class (0, 1, 2), or is their target; two thirds are for training."""
    rng = np.random.default_rng(seed)
    x = volumes(count, seed=seed)
    kind = np.arange(count) % 3
    x += kind.reshape(-1, 1, 1, 1, 1).astype("float32")
    part = np.array(["train", "train", "train", "train", "validation", "test"])[np.arange(count) // 3 % 6]
    if task == "classification":
        targets, classes = kind, CLASSES
    else:
        # Far from 0 and 1: only a network that answers in the targets' own units comes near.
        targets = (1000 + 50 * kind[:, None] + rng.normal(size=(count, outputs))).astype("float32")
        classes = ()
    return Dataset(x, targets, task, classes, part, spacing=(2.0, 1.0, 1.0), channels=("t1",), name="tiny")


def network(values: Any, observed: Any) -> Any:
    """A user's own network: one convolution that knows nothing of gaps, reproducible."""
    initial = keras.initializers.HeNormal(seed=1)
    x = keras.layers.Conv3D(4, 3, strides=2, activation="relu", kernel_initializer=initial)(values)
    return keras.layers.Dropout(0.2, seed=2)(x)


def model(
    network: Any = network, strategy: Any = "gap_dropout", outputs: int = 3, **arguments: Any
) -> keras.Model:
    return build_model(network, SHAPE, outputs, strategy=strategy, **arguments)


def run_alone(code: str) -> str:
    """Run Python in a process of its own, beside the tests; what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
