"""What validation data says of a classifier's probabilities: how confident they should be, and where to decide."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError

_LEAST = 1e-12  # a probability below this counts as this much, so that its logarithm is finite
_HOTTEST = 20.0  # temperatures are looked for between a twentieth and twenty


@dataclass(frozen=True)
class Calibration:
    """How to read the probabilities of a classifier; fitted on data that it was not trained on.

    Args:
        temperature: above 1 the network is too confident, below 1 too timid.
        threshold: with two classes, the least probability of the second at which it is the answer; None decides
            for the more probable one.
        samples: that it was fitted on.
        log_loss: on them, before and after.
    """

    temperature: float
    threshold: float | None = None
    samples: int = 0
    log_loss: tuple[float, float] = (math.nan, math.nan)

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)

    @classmethod
    def of(cls, manifest: dict[str, Any], where: str) -> Calibration | None:
        """The calibration in a bundle's manifest, None where there is none.

        Raises:
            VoxgapError: the field holds something else.
        """
        data = manifest.get("calibration")
        if not data:
            return None
        known = data if isinstance(data, dict) else {}
        temperature, threshold = known.get("temperature"), known.get("threshold")
        if not _lies_in(temperature, 1e-3, 1e3) or not (threshold is None or _lies_in(threshold, 0, 1)):
            raise VoxgapError(
                f"{where}: field calibration must hold a positive temperature, and a threshold in [0, 1] or null"
            )
        return cls(float(temperature), None if threshold is None else float(threshold))


def calibrate(probabilities: Any, targets: Any) -> dict[str, Any]:
    """Fit how to read a classifier's probabilities, on data that it was not trained on.

    Args:
        probabilities: `(n, classes)`.
        targets: class indices, `(n,)`.

    Returns:
        What a bundle keeps under `calibration`: see `Calibration`. Empty without samples.

    Raises:
        VoxgapError: they are not one class of these for each row.
    """
    p, y = _checked(probabilities, targets)
    if not len(p):
        return {}
    temperature = fit_temperature(p, y)
    losses = _log_loss(p, y), _log_loss(tempered(p, temperature), y)
    threshold = youden_threshold(p[:, 1], y) if p.shape[1] == 2 else None
    return Calibration(temperature, threshold, len(p), losses).to_json()


def fit_temperature(probabilities: Any, targets: Any) -> float:
    """Find the temperature at which probabilities fit what came true best.

    Softmax probabilities are all that it takes: their logarithms are the logits up to a constant, which softmax
    ignores. One number is fitted, so that a few hundred samples do. Guo et al., On Calibration of Modern Neural
    Networks, ICML 2017.

    Args:
        probabilities: `(n, classes)`.
        targets: class indices, `(n,)`.

    Returns:
        The temperature of the least log loss, between 1/20 and 20: at a bound where all answers are right.

    Raises:
        VoxgapError: they are not one class of these for each row, or there is none.
    """
    from scipy.optimize import minimize_scalar

    p, y = _checked(probabilities, targets)
    if not len(p):
        raise VoxgapError("a temperature is fitted on samples; there is none")
    bound = math.log(_HOTTEST)
    found = minimize_scalar(
        lambda log: _log_loss(tempered(p, math.exp(log)), y), bounds=(-bound, bound), method="bounded"
    )
    return float(math.exp(found.x))


def tempered(probabilities: Any, temperature: float) -> NDArray[np.float64]:
    """Probabilities at another temperature; which class is the most probable one stays.

    Args:
        probabilities: `(..., classes)`.
        temperature: that their logits are divided by.
    """
    logits = np.log(np.maximum(np.asarray(probabilities, np.float64), _LEAST)) / temperature
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=-1, keepdims=True))


def youden_threshold(scores: Any, targets: Any) -> float | None:
    """Find the threshold at which sensitivity plus specificity is largest.

    Args:
        scores: probability of the second class, `(n,)`.
        targets: 0 or 1, `(n,)`.

    Returns:
        Midway between two scores, the nearest to 0.5 of equally good ones; None unless both classes are there.
        Youden, Index for rating diagnostic tests, Cancer 1950.
    """
    scores, positive = np.asarray(scores, np.float64), np.asarray(targets) == 1
    if positive.all() or not positive.any():
        return None
    levels = np.unique(scores)
    cuts = np.concatenate([[levels[0] / 2], (levels[1:] + levels[:-1]) / 2, [(levels[-1] + 1) / 2]])
    sensitivity = 1 - np.searchsorted(np.sort(scores[positive]), cuts) / positive.sum()
    specificity = np.searchsorted(np.sort(scores[~positive]), cuts) / (~positive).sum()
    index = sensitivity + specificity
    best = cuts[index >= index.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])


def _log_loss(probabilities: NDArray[Any], targets: NDArray[np.intp]) -> float:
    own = probabilities[np.arange(len(targets)), targets]
    return float(-np.log(np.maximum(own, _LEAST)).mean())


def _checked(probabilities: Any, targets: Any) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    p, y = np.asarray(probabilities, np.float64), np.asarray(targets)
    fit = p.ndim == 2 and y.shape == p.shape[:1] and (y.dtype.kind in "iu" or not len(y))
    if not fit or (len(y) and (y.min() < 0 or y.max() >= p.shape[1])):
        raise VoxgapError("calibration takes probabilities (n, classes) and a class index for each of the n")
    return p, y.astype(np.intp)


def _lies_in(value: Any, low: float, high: float) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
