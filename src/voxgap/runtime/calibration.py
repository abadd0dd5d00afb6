"""What validation data says of a classifier's probabilities: how confident they should be."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError

_LEAST = 1e-12  # a probability below this counts as this much, so that its logarithm is finite
LEAST_SAMPLES = 20
"""Of fewer, the temperature that fits is mostly chance: its logarithm has a standard error of 1 / sqrt(n v), where v,
the variance of the logits under the answer, is about 0.3 where 70 to 90 % are right: 0.4 with 20 samples."""
_PRIOR = 0.5
"""Standard deviation of the logarithm of temperatures before any sample is seen: two thirds lie between 0.6 and 1.6.
By the same reckoning it weighs as much as 13 samples."""
_COLDEST, _HOTTEST = 0.25, 10.0
"""Beyond four times surer, or ten times less sure, it is no calibration: that network is to be trained otherwise."""


@dataclass(frozen=True)
class Calibration:
    """How to read the probabilities of a classifier; fitted on data that it was not trained on.

    Args:
        temperature: above 1 the network is too confident, below 1 too timid.
        samples: that it was fitted on.
        log_loss: on them, before and after.
    """

    temperature: float
    samples: int = 0
    log_loss: tuple[float, float] = (math.nan, math.nan)

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values."""
        return asdict(self)

    @classmethod
    def of(cls, manifest: dict[str, Any], where: str) -> Calibration | None:
        """Return the calibration in a bundle's manifest, None where there is none.

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
        return cls(float(temperature))


def calibrate(probabilities: Any, targets: Any) -> dict[str, Any]:
    """Fit how to read a classifier's probabilities, on data that it was not trained on.

    Args:
        probabilities: `(n, classes)`.
        targets: class indices, `(n,)`.

    Returns:
        What a bundle keeps under `calibration`: see `Calibration`. Empty where `too_few` says why.

    Raises:
        VoxgapError: they are not one class of these for each row.
    """
    p, y = _checked(probabilities, targets)
    if too_few(y):
        return {}
    temperature = fit_temperature(p, y)
    losses = _log_loss(p, y), _log_loss(tempered(p, temperature), y)
    return Calibration(temperature, len(p), losses).to_json()


def too_few(targets: Any) -> str | None:
    """Return why nothing can be learnt of how confident a classifier should be, in one line; None where it can.

    Args:
        targets: class indices of validation data, `(n,)`.
    """
    count, classes = len(targets), len(np.unique(targets))
    if count >= LEAST_SAMPLES and classes > 1:
        return None
    held = f"{count} validation volumes" + (" of one class" if classes == 1 else "")
    return f"no calibrated probabilities: {held}; it takes {LEAST_SAMPLES} of two classes or more"


def fit_temperature(probabilities: Any, targets: Any) -> float:
    """Find the most probable temperature, by what came true and by what temperatures are like.

    Softmax probabilities are all that it takes: their logarithms are the logits up to a constant, which softmax
    ignores. Guo et al., On Calibration of Modern Neural Networks, ICML 2017. A weak log-normal prior around 1 keeps
    it finite where all answers are right, in the manner of Gelman et al., A weakly informative default prior
    distribution for logistic and other regression models, Annals of Applied Statistics 2, 2008.

    Args:
        probabilities: `(n, classes)`.
        targets: class indices, `(n,)`.

    Returns:
        The temperature, between 1/4 and 10.

    Raises:
        VoxgapError: they are not one class of these for each row, or there is none.
    """
    from scipy.optimize import minimize_scalar

    p, y = _checked(probabilities, targets)
    if not len(p):
        raise VoxgapError("a temperature is fitted on samples; there is none")

    def unlikely(log: float) -> float:
        return _log_loss(tempered(p, math.exp(log)), y) + (log / _PRIOR) ** 2 / 2 / len(p)

    found = minimize_scalar(unlikely, bounds=(math.log(_COLDEST), math.log(_HOTTEST)), method="bounded")
    return float(math.exp(found.x))


def tempered(probabilities: Any, temperature: float) -> NDArray[np.float64]:
    """Return probabilities at another temperature; which class is the most probable one stays.

    Args:
        probabilities: `(..., classes)`.
        temperature: that their logits are divided by.
    """
    logits = np.log(np.maximum(np.asarray(probabilities, np.float64), _LEAST)) / temperature
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=-1, keepdims=True))


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
