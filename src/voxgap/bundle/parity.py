"""How far a runtime's answers are from those of the trained Keras model, and how far they may be."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOLERANCES = {"float32": 1e-5, "float16": 1e-2, "int8": 1e-1}
"""The largest difference that an export may have, by the precision of its weights.

In float32 only the order of additions differs between runtimes. float16 keeps 11 bits of a weight, int8 8 bits of
weights and features: what that costs depends on the network, so that the difference is measured each time.
"""


@dataclass(frozen=True)
class Parity:
    """What a proof found.

    Args:
        inputs: how many were compared.
        max_difference: largest `|got - expected| / max(1, |expected|)`; infinite where one of them is not a number
            and the other is.
        class_agreement: share of inputs (of voxels, for a segmentation) with the same class; None for values.
        tolerance: that the difference was held against.
    """

    inputs: int
    max_difference: float
    class_agreement: float | None
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.max_difference <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """Return the proof as it stands in the manifest."""
        return asdict(self)


def differences(expected: NDArray[Any], got: NDArray[Any]) -> NDArray[np.float64]:
    """Return the difference of each answer from the expected one.

    It is absolute up to 1, as for probabilities, and relative beyond, for values in units of their own.

    Args:
        expected, got: `(inputs, ...)`.

    Returns:
        The largest difference of each input, `(inputs,)`; infinite for another shape, or a NaN on one side.
    """
    if got.shape != expected.shape:
        return np.full(len(expected), np.inf)
    a, b = expected.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore"):
        gap = np.abs(a - b) / np.maximum(1, np.abs(a))
    gap = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, gap)
    return np.nan_to_num(gap, nan=np.inf, posinf=np.inf).reshape(len(a), -1).max(axis=1, initial=0)


def measure(expected: NDArray[Any], got: NDArray[Any], classes: bool, tolerance: float) -> Parity:
    """Compare a runtime's answers with the expected ones.

    Args:
        expected, got: `(inputs, outputs)`, or `(inputs, depth, height, width, classes)`.
        classes: whether the last axis holds probabilities of classes.
        tolerance: the largest difference that is allowed.
    """
    largest = float(differences(expected, got).max(initial=0))
    agreement = None
    if classes:
        same = got.shape == expected.shape and expected.argmax(axis=-1) == got.argmax(axis=-1)
        agreement = float(np.mean(same))
    return Parity(len(expected), largest, agreement, tolerance)
