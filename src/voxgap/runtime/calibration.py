"""What validation data says of a classifier's probabilities: how confident they should be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.promises import RATES, Pattern, pattern_of

_LEAST = 1e-12  # a probability below this counts as this much, so that its logarithm is finite
LEAST_SAMPLES = 20
"""Of fewer, the temperature that fits is mostly chance: its logarithm has a standard error of 1 / sqrt(n v), where v,
the variance of the logits under the answer, is about 0.3 where 70 to 90 % are right: 0.4 with 20 samples."""
_PRIOR = 0.5
"""Standard deviation of the logarithm of temperatures before any sample is seen: two thirds lie between 0.6 and 1.6.
By the same reckoning it weighs as much as 13 samples. That of one pattern of gaps is as near to the common one."""
_FOLDS = 5
_MOST_PATTERNS = 2**16
_COLDEST, _HOTTEST = 0.25, 10.0
"""Beyond four times surer, or ten times less sure, it is no calibration: that network is to be trained otherwise."""


@dataclass(frozen=True)
class OfPattern:
    """The temperature for one pattern of gaps.

    Args:
        missing, rate: of the pattern, see `voxgap.promises.Pattern`.
        temperature: for inputs with such gaps.
        samples: that it was fitted on.
    """

    missing: tuple[int, ...]
    rate: int
    temperature: float
    samples: int = 0


@dataclass(frozen=True)
class Calibration:
    """How to read the probabilities of a classifier; fitted on data that it was not trained on.

    Args:
        temperature: above 1 the network is too confident, below 1 too timid.
        samples: that it was fitted on.
        log_loss: on them, before and after.
        patterns: temperatures by pattern of gaps, where they were found to be better than the one; inputs with other
            gaps have that.
    """

    temperature: float
    samples: int = 0
    log_loss: tuple[float, float] = (math.nan, math.nan)
    patterns: tuple[OfPattern, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values."""
        facts = asdict(self)
        if not self.patterns:
            del facts["patterns"]
            return facts
        return facts | {"rates": list(RATES)}  # which the page counts by

    def of_gaps(self, pattern: Pattern) -> float:
        """Return the temperature for inputs with such gaps."""
        own = (one.temperature for one in self.patterns if (one.missing, one.rate) == pattern)
        return next(own, self.temperature)

    def of_input(self, volume: Any) -> float:
        """Return the temperature for an input, `(depth, height, width, channels)`, NaN = missing."""
        return self.of_gaps(pattern_of(volume)) if self.patterns else self.temperature

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
        try:
            if (of_patterns := known.get("patterns")) is not None and list(known["rates"]) != list(RATES):
                raise ValueError("of other rates")
            return cls(float(temperature), patterns=_patterns(of_patterns or []))
        except (KeyError, TypeError, ValueError):
            raise VoxgapError(
                f"{where}: field calibration.patterns must hold temperatures of patterns; train the bundle again"
            ) from None


def calibrate(
    probabilities: Any, targets: Any, patterns: Sequence[Pattern] | None = None, groups: Any = None
) -> dict[str, Any]:
    """Fit how to read a classifier's probabilities, on data that it was not trained on.

    Each pattern of gaps has a temperature of its own where that lowers the log loss of samples that it was not fitted
    on, by more than its standard error.

    Args:
        probabilities: `(n, classes)`.
        targets: class indices, `(n,)`.
        patterns: of the gaps of each; without them there is one temperature for all.
        groups: a name for each; those of one group are left out together.

    Returns:
        What a bundle keeps under `calibration`: see `Calibration`. Empty where `too_few` says why.

    Raises:
        VoxgapError: they are not one class of these for each row.
    """
    p, y = _checked(probabilities, targets)
    if too_few(y):
        return {}
    temperature = fit_temperature(p, y)
    own = {} if patterns is None or not _is_better(p, y, patterns, groups) else _by_pattern(p, y, patterns)
    each_one = list(patterns or ())
    found = tuple(OfPattern(*pattern, t, each_one.count(pattern)) for pattern, t in sorted(own.items()))
    made = Calibration(temperature, len(p), patterns=found)
    each = [made.of_gaps(pattern) for pattern in each_one] or [temperature] * len(p)
    losses = _log_loss(p, y), _log_loss(tempered(p, np.array(each)[:, None]), y)
    return Calibration(temperature, len(p), losses, found).to_json()


def _by_pattern(
    p: NDArray[np.float64], y: NDArray[np.intp], patterns: Sequence[Pattern]
) -> dict[Pattern, float]:
    """Return the temperature of each pattern: the rarer it is, the nearer to that of all."""
    common = fit_temperature(p, y)
    places = {pattern: [i for i, one in enumerate(patterns) if one == pattern] for pattern in set(patterns)}
    return {pattern: fit_temperature(p[some], y[some], common) for pattern, some in places.items()}


def _is_better(p: NDArray[np.float64], y: NDArray[np.intp], patterns: Sequence[Pattern], groups: Any) -> bool:
    """Return whether temperatures by pattern lower the log loss of samples that they were not fitted on."""
    members = np.arange(len(p)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if len(set(patterns)) < 2 or len(np.unique(members)) < _FOLDS:
        return False
    fold = np.random.default_rng(0).permutation(members.max() + 1)[members] % _FOLDS
    gains = np.empty(len(p))
    for one in range(_FOLDS):
        known, asked = np.flatnonzero(fold != one), np.flatnonzero(fold == one)
        common = fit_temperature(p[known], y[known])
        own = _by_pattern(p[known], y[known], [patterns[i] for i in known.tolist()])
        each = np.array([own.get(patterns[i], common) for i in asked.tolist()])[:, None]
        gains[asked] = _losses(tempered(p[asked], common), y[asked]) - _losses(
            tempered(p[asked], each), y[asked]
        )
    by_group = np.bincount(members, gains)
    return bool(by_group.sum() > by_group.std() * math.sqrt(len(by_group)))


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


def fit_temperature(probabilities: Any, targets: Any, around: float = 1.0) -> float:
    """Find the most probable temperature, by what came true and by what temperatures are like.

    Softmax probabilities are all that it takes: their logarithms are the logits up to a constant, which softmax
    ignores. Guo et al., On Calibration of Modern Neural Networks, ICML 2017. A weak log-normal prior around 1 keeps
    it finite where all answers are right, in the manner of Gelman et al., A weakly informative default prior
    distribution for logistic and other regression models, Annals of Applied Statistics 2, 2008.

    Args:
        probabilities: `(n, classes)`.
        targets: class indices, `(n,)`.
        around: the temperature that is likeliest before any sample is seen.

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
        return _log_loss(tempered(p, math.exp(log)), y) + ((log - math.log(around)) / _PRIOR) ** 2 / 2 / len(
            p
        )

    found = minimize_scalar(unlikely, bounds=(math.log(_COLDEST), math.log(_HOTTEST)), method="bounded")
    return float(math.exp(found.x))


def tempered(probabilities: Any, temperature: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return probabilities at another temperature; which class is the most probable one stays.

    Args:
        probabilities: `(..., classes)`.
        temperature: that their logits are divided by; one for all, or `(..., 1)`.
    """
    logits = np.log(np.maximum(np.asarray(probabilities, np.float64), _LEAST)) / temperature
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=-1, keepdims=True))


def _log_loss(probabilities: NDArray[Any], targets: NDArray[np.intp]) -> float:
    return float(_losses(probabilities, targets).mean())


def _losses(probabilities: NDArray[Any], targets: NDArray[np.intp]) -> NDArray[np.float64]:
    own = probabilities[np.arange(len(targets)), targets]
    return np.asarray(-np.log(np.maximum(own, _LEAST)), np.float64)


def _patterns(data: Sequence[Mapping[str, Any]]) -> tuple[OfPattern, ...]:
    if len(data) > _MOST_PATTERNS:
        raise ValueError("too many")
    found = tuple(
        OfPattern(
            tuple(map(int, one["missing"])), int(one["rate"]), float(one["temperature"]), int(one["samples"])
        )
        for one in data
    )
    if not all(_lies_in(one.temperature, 1e-3, 1e3) for one in found):
        raise ValueError("not a temperature")
    return found


def _checked(probabilities: Any, targets: Any) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    p, y = np.asarray(probabilities, np.float64), np.asarray(targets)
    fit = p.ndim == 2 and y.shape == p.shape[:1] and (y.dtype.kind in "iu" or not len(y))
    if not fit or (len(y) and (y.min() < 0 or y.max() >= p.shape[1])):
        raise VoxgapError("calibration takes probabilities (n, classes) and a class index for each of the n")
    return p, y.astype(np.intp)


def _lies_in(value: Any, low: float, high: float) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
