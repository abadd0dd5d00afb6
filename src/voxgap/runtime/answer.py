"""The answer for one volume, with what a person needs to judge it: from the network's output to a decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.acquire import Advice
from voxgap.promises import Promise
from voxgap.volume import Values


@dataclass(frozen=True, eq=False)
class Answer:
    """What a network says of one volume.

    Args:
        values: probabilities of the classes `(classes,)`, values `(outputs,)`, or for each voxel
            `(depth, height, width, classes)`: the network's own, the same in every engine.
        label: the class that is named, see `voxgap.decision`; None for a regression and for label maps.
        top: the most probable classes and their probabilities, the largest first.
        calibrated: `values` as probabilities that came true as often on validation data; None where the bundle
            has no calibration.
        missing_rate: share of the scan's own values that is missing, in [0, 1]; of the input's, where nobody knows how
            it came onto the network's grid.
        promise: what is guaranteed of it for such gaps; None where the bundle guarantees nothing.
        advice: which missing channel is worth acquiring next; None where the bundle has no certificate.
        windows: along depth, whose mean the answer is, where the input is deeper than the network's.
        drift: one sentence for each way in which the input differs from the training data.
        precision: `float32`, or what was computed in.
        difference: largest difference from float32, as measured on the bundle's golden inputs; 0 in float32.
        engine: that computed it.
        version: SHA-256 of the trained model's file, its first 12 digits.
        seconds: that it took.
        fill_deviation: standard deviation that the fill leaves in each of `values`, which are then the mean over draws
            of it; None without draws.
        looks: what a drift test watches of the input; None where the bundle has nothing to hold it against.

    Example:
        >>> import voxgap as vg
        >>> volume = vg.load_data("sample:brain").part("test").volumes[0]
        >>> answer = vg.load("bundle").answer(volume)
        >>> answer.label == answer.top[0][0], answer.missing_rate
        (True, 0.0)
    """

    values: Values
    label: str | None
    top: tuple[tuple[str, float], ...]
    calibrated: NDArray[np.float64] | None
    missing_rate: float
    drift: tuple[str, ...]
    precision: str
    difference: float | None
    engine: str
    version: str
    seconds: float
    windows: int = 1
    promise: Promise | None = None
    advice: Advice | None = None
    fill_deviation: Values | None = None
    looks: Mapping[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values; of an answer for each voxel without the voxels."""
        whole = self.values.ndim == 1
        return {
            "class": self.label,
            "top": [{"class": name, "probability": p} for name, p in self.top],
            "values": self.values.tolist() if whole else None,
            "calibrated": self.calibrated.tolist() if whole and self.calibrated is not None else None,
            "guarantee": self.promise and self.promise.to_json(),
            "advice": self.advice and self.advice.to_json(),
            "fill_deviation": self.fill_deviation.tolist()
            if whole and self.fill_deviation is not None
            else None,
            "missing_rate": self.missing_rate,
            "windows": self.windows,
            "drift": list(self.drift),
            "precision": self.precision,
            "difference": self.difference,
            "engine": self.engine,
            "version": self.version,
            "seconds": self.seconds,
        }


def top(probabilities: Values, classes: tuple[str, ...], count: int) -> tuple[tuple[str, float], ...]:
    """Return the most probable classes, the largest first; the earlier one of equals."""
    order = np.argsort(-probabilities, kind="stable")[:count]
    return tuple((classes[i], float(probabilities[i])) for i in order)
