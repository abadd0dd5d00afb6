"""Conformal prediction for each pattern of gaps by itself: thresholds from answers that a network never learnt from.

Without assumptions on the network: Vovk et al., Algorithmic Learning in a Random World, 2005; by pattern (Mondrian) as
for missing values in Zaffran et al., Conformal Prediction with Missing Values, ICML 2023, and Predictive Uncertainty
Quantification with Missing Covariates, 2024. Patterns of which too few scans are there borrow from scans that have
more, as in CP-MDA-Exact there: channels are taken away from them, and the network answers again.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.missingness.mechanism import examine
from voxgap.names import COVERAGE
from voxgap.promises import TOLERANCE, Claim, Guarantee, Pattern, counted, missing_of
from voxgap.trust.scoring import Predict, at_once, members_of
from voxgap.volume import Values

if TYPE_CHECKING:
    from voxgap.dataset import Dataset

Floats = NDArray[np.float64]
LEAST = 50
"""Scans, or groups of them, that a claim takes."""
LOWEST = 0.5
"""Coverage that can be asked for."""
MOST_SUBSETS = 15
"""Sets of missing channels that are tried where channels are taken away: all of four channels."""
LEVELS = 1 / (1 + np.exp(-np.linspace(-14, 14, 2801)))
"""Thresholds that the region of a class is chosen from, evenly spaced logits: so fine that coarseness costs no per cent
of coverage where a network's probabilities lie close together."""
_EXACT = 1e-9  # of a count, against rounding


def check_coverage(coverage: Any) -> float:
    """Return a coverage that can be asked for, from 0.5 on and below 1, or raise a `VoxgapError`."""
    if not isinstance(coverage, Real) or not 0 < float(coverage) < 1:
        raise VoxgapError(f"coverage must be a number between 0 and 1, such as {COVERAGE}; got {coverage!r}")
    if float(coverage) < LOWEST:
        raise VoxgapError(
            f"coverage {coverage!r}: what is wrong more often than right guarantees nothing; give {LOWEST} or more"
        )
    return float(coverage)


def calibrated(data: Dataset, predict: Predict, coverage: float = COVERAGE, seed: int = 0) -> Guarantee:
    """Calibrate what can be guaranteed, on data that the network was neither trained nor chosen on.

    Args:
        data: its samples, with their gaps; targets count among the network's classes.
        predict: answers volumes.
        coverage: share of scans, of each pattern of gaps, for which the answer is to hold; of a segmentation, mean
            share of a class's volume that is to lie within its region.
        seed: of the test whether gaps depend on anything.

    Returns:
        The claims of all patterns with enough scans. Of several channels, further ones are borrowed by taking channels
        away, unless the gaps were found to depend on values or label.

    Raises:
        VoxgapError: the coverage is none.
    """
    check_coverage(coverage)
    counts = np.array([missing_of(volume) for volume in data.volumes])
    members = members_of(data)
    scores = scored(data, predict, range(len(data)))
    claims = claimed(data.task, scores, patterns_of(data, counts), members, coverage)
    informative = ""
    channels = data.volumes.shape[-1]
    if channels > 1 and len(data):
        informative = _informative(data, seed)
        if not informative:
            claims |= borrowed(data, predict, counts, members, coverage, set(claims))
    return Guarantee(coverage, claims, tuple(data.channels), len(np.unique(members)), TOLERANCE, informative)


def scored(data: Dataset, predict: Predict, which: Sequence[int], missing: Sequence[int] = ()) -> Floats:
    """Score answers for what conformal prediction compares.

    Args:
        data: samples and targets.
        predict: answers volumes.
        which: samples, by index.
        missing: channels that are taken away.

    Returns:
        Of a classification the probability of the true class `(n, 1)`, as in Sadinle et al., Least Ambiguous Set-Valued
        Classifiers, JASA 114, 2019: of all ways the smallest sets, and no coin is tossed, so that every runtime has the
        same. Of a regression the distance from the true value, `(n, outputs)`. Of a segmentation which share of each
        class is missed at each of `LEVELS`, `(n, classes - 1, levels)`; NaN where there is nothing of it.
    """
    found = []
    step = at_once(data)
    for start in range(0, len(which), step):
        some = data.take(np.array(which[start : start + step]))
        answers = np.asarray(predict(without(some.volumes, missing)))
        found.append(scores_of(data.task, np.asarray(some.targets), answers))
    return np.concatenate(found) if found else np.zeros((0, 1))


def scores_of(task: str, targets: NDArray[Any], answers: NDArray[Any]) -> Floats:
    """Score answers, see `scored`."""
    values = np.asarray(answers, np.float64)
    if task == "regression":
        return np.asarray(np.abs(values.reshape(len(values), -1) - targets.reshape(len(values), -1)))
    if task == "classification":
        return values[np.arange(len(values)), targets][:, None]
    return np.stack([_missed(truth, answer) for truth, answer in zip(targets, values, strict=True)])


def _missed(truth: NDArray[Any], probabilities: Floats) -> Floats:
    """Which share of each class, but the first, lies outside of its region at each level."""
    found = np.full((probabilities.shape[-1] - 1, len(LEVELS)), np.nan)
    for label in range(1, probabilities.shape[-1]):
        own = probabilities[truth == label, label]
        if own.size:
            # A voxel is missed by each level above its probability.
            first = np.searchsorted(LEVELS, own, side="right")
            found[label - 1] = np.bincount(first, minlength=len(LEVELS) + 1)[:-1].cumsum() / own.size
    return found


def claimed(
    task: str,
    scores: Floats,
    patterns: Sequence[Pattern],
    members: NDArray[np.intp],
    coverage: float,
) -> dict[Pattern, Claim]:
    """Choose the thresholds of each pattern that enough groups have.

    Args:
        task: of the scores.
        scores: of `scored`.
        patterns: of each sample.
        members: the group of each sample, from 0: groups count, and each as much as another.
        coverage: that is asked for.
    """
    places: dict[Pattern, list[int]] = {}
    for index, pattern in enumerate(patterns):
        places.setdefault(pattern, []).append(index)
    found = {}
    for pattern, which in places.items():
        claim = _claim(task, scores[which], members[which], coverage)
        if claim is not None:
            found[pattern] = claim
    return found


def _claim(task: str, scores: Floats, members: NDArray[np.intp], coverage: float) -> Claim | None:
    count = len(np.unique(members))
    if count < LEAST:
        return None
    limits: list[float | None]
    if task == "segmentation":
        limits = [region_threshold(curves, members, coverage) for curves in scores.swapaxes(0, 1)]
    elif task == "regression":
        limits = [quantile(column, members, coverage) for column in scores.T]
    else:
        lowest = quantile(-scores[:, 0], members, coverage)
        limits = [None if lowest is None else -lowest]
    known = [limit is not None for limit in limits]
    if not (any(known) if task == "segmentation" else all(known)):
        return None
    if task == "segmentation":
        # A region rests on the scans that have its class.
        has = ~np.isnan(scores[:, :, 0])
        count = min(len(np.unique(members[there])) for there, one in zip(has.T, known, strict=True) if one)
    return Claim(tuple(limits), count)


def quantile(scores: Floats, members: NDArray[np.intp], coverage: float) -> float | None:
    """Return the least score that a new group's sample stays at or below with this probability; None if none is enough.

    Without groups the `ceil(coverage (n + 1))`-th smallest. Samples of one group share the weight of one: Lee, Barber
    and Willett, Distribution-free inference with hierarchical data, 2023.

    Args:
        scores: `(n,)`.
        members: the group of each, numbers.
        coverage: between 0 and 1.
    """
    weights = _weights(members)
    order = np.argsort(scores, kind="stable")
    reached = np.flatnonzero(np.cumsum(weights[order]) >= coverage * (len(np.unique(members)) + 1) - _EXACT)
    return float(scores[order[reached[0]]]) if len(reached) else None


def region_threshold(missed: Floats, members: NDArray[np.intp], coverage: float) -> float | None:
    """Return the highest of `LEVELS` at which a new group's mean share of missed volume is at most `1 - coverage`.

    Angelopoulos et al., Conformal Risk Control, ICLR 2024. Only scans that have the class count, so that those that
    have nothing to miss do not make it look better.

    Args:
        missed: `(n, levels)`, see `scored`.
        members: the group of each, numbers.
        coverage: between 0 and 1.

    Returns:
        None where fewer than `LEAST` groups have the class, or nothing but the whole volume is enough.
    """
    has = ~np.isnan(missed[:, 0])
    count = len(np.unique(members[has]))
    if count < LEAST:
        return None
    risk = (_weights(members[has]) @ missed[has] + 1) / (count + 1)
    fine = np.flatnonzero(risk <= 1 - coverage + _EXACT)
    return float(LEVELS[fine[-1]]) if len(fine) else None


def _weights(members: NDArray[np.intp]) -> Floats:
    _, place, counts = np.unique(members, return_inverse=True, return_counts=True)
    return np.asarray(1 / counts[place])


def _informative(data: Dataset, seed: int) -> str:
    """Return what the gaps were found to depend on, in a sentence; nothing where no test found anything."""
    targets = None if data.task == "segmentation" else data.targets
    found = examine(
        data.volumes,
        targets,
        classes=data.classes,
        groups=data.groups,
        channels=data.channels,
        seed=seed,
    )
    return found.conclusion if found.depends_on("label") or found.depends_on("values") else ""


def subsets(
    channels: int, seen: Sequence[tuple[int, ...]], most: int = MOST_SUBSETS
) -> list[tuple[int, ...]]:
    """Return sets of channels that may be missing: every one but all, or of many channels those seen and single ones.

    Args:
        channels: how many there are.
        seen: those that occur.
        most: sets, from which on not all are listed.
    """
    if channels < most.bit_length() + 1:
        return [some for size in range(channels) for some in itertools.combinations(range(channels), size)]
    single = [(), *((channel,) for channel in range(channels))]
    return list(dict.fromkeys([*single, *sorted(set(seen))]))[: max(most, channels + 1)]


def patterns_of(data: Dataset, counts: NDArray[np.int64], missing: Sequence[int] = ()) -> list[Pattern]:
    """Return the pattern of each sample, once these channels are taken away.

    Args:
        data: the samples.
        counts: voxels that are missing, `(n, channels)`.
        missing: channels.
    """
    voxels = math.prod(data.volumes.shape[1:-1])
    left = counts.copy()
    left[:, list(missing)] = voxels
    rows, place = np.unique(left, axis=0, return_inverse=True)  # of many scans few are different
    kinds = [counted(row, voxels) for row in rows]
    return [kinds[index] for index in place.ravel()]


def borrowed(
    data: Dataset,
    predict: Predict,
    counts: NDArray[np.int64],
    members: NDArray[np.intp],
    coverage: float,
    known: set[Pattern],
) -> dict[Pattern, Claim]:
    """Claims for further patterns, from scans that have at least those channels, the others taken away.

    Args:
        data, predict, coverage: as for `calibrated`.
        counts: voxels that are missing, `(n, channels)`.
        members: the group of each sample, from 0.
        known: patterns that have a claim of their own.
    """
    own = [pattern.missing for pattern in patterns_of(data, counts)]
    found: dict[Pattern, Claim] = {}
    for missing in subsets(counts.shape[1], own)[1:]:
        made = patterns_of(data, counts, missing)
        able = [i for i, had in enumerate(own) if set(had) <= set(missing) and made[i] not in known]
        units = Counter(pattern for pattern, _ in {(made[i], members[i]) for i in able})
        which = [i for i in able if units[made[i]] >= LEAST]
        scores = scored(data, predict, which, missing)
        claims = claimed(data.task, scores, [made[i] for i in which], members[which], coverage)
        found |= {pattern: replace(claim, rests="assumption") for pattern, claim in claims.items()}
    return found


def without(volumes: Any, missing: Sequence[int]) -> Values:
    """Return a copy of volumes `(..., channels)` without these channels."""
    left = np.array(volumes, np.float32)
    left[..., list(missing)] = np.nan
    return left


def least_for(coverage: float) -> int:
    """How many scans, or groups, of a pattern a claim of this coverage takes."""
    return max(LEAST, math.ceil(coverage / (1 - coverage) - _EXACT))
