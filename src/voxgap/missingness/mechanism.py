"""Whether what is missing depends on the label or on observed values: permutation tests against MCAR.

Each test compares how much of a volume is missing with something that is known: its class, the level of what
is observed in it, or the values beside its gaps. Values count as deviations from the mean of their position
over all volumes, as in Little's test of MCAR (Journal of the American Statistical Association 83, 1988), so
that gaps that are always at a dark border are no finding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.metrics.metrics import area
from voxgap.metrics.significance import holm
from voxgap.missingness.permutation import MAX_DRAWS, Floats, flip, permute
from voxgap.observed import blocks, moments, voxel_means
from voxgap.volume import AXES, Values, as_batch, channel_names

LEVEL = 0.05
"""The chance, over all tests of one data set, of a finding where there is nothing to find."""
FEWEST = 8
"""Volumes, or groups, below which nothing is tested."""
SMOOTHNESS_VOLUMES = 200

NOBODY_KNOWS = (
    "No test can prove that gaps are completely at random, and none can tell gaps that depend on observed "
    "values (MAR) from gaps that depend on the missing values themselves (MNAR): that needs knowledge of how "
    "the data was acquired."
)


@dataclass(frozen=True)
class Dependence:
    """One thing that missingness may depend on, as asked of the data.

    Args:
        about: `label`, or `values`.
        channel: The channel whose gaps it is about; `all` for all together.
        question: What was asked.
        answer: What the data shows, whether or not it may be chance.
        effect: An area under the ROC curve (classes), a correlation, or a difference in standard deviations.
        p_value: Of a permutation test.
        adjusted: The same corrected for the number of tests, by Holm's method.
        units: Independent volumes or groups that it rests on.
    """

    about: Literal["label", "values"]
    channel: str
    question: str
    answer: str
    effect: float
    p_value: float
    adjusted: float
    units: int

    @property
    def found(self) -> bool:
        """Whether chance is an unlikely explanation, all tests considered."""
        return self.adjusted <= LEVEL


@dataclass(frozen=True)
class Evidence:
    """What the tests found, and how smooth the values are.

    Args:
        tests: The smallest p-value first; empty where nothing could be tested.
        smoothness: Axis name to the correlation of neighbouring observed voxels along it, -1 to 1.
        auc: How well the missing rate alone tells the classes apart, for two classes with gaps: 0.5 to 1.
    """

    tests: tuple[Dependence, ...]
    smoothness: Mapping[str, float]
    auc: float | None = None

    def depends_on(self, about: Literal["label", "values"]) -> bool:
        """Return whether a test found that missingness depends on the label, or on observed values."""
        return any(test.found for test in self.tests if test.about == about)

    @property
    def conclusion(self) -> str:
        """What the tests say together, in a sentence or two."""
        if not self.tests:
            return "Nothing could be tested: that takes gaps, in different amounts or places, in several volumes."
        found = [what for what in ("label", "values") if self.depends_on(what)]
        if not found:
            count = f"{len(self.tests)} tests" if len(self.tests) > 1 else "the one test"
            return f"No evidence against gaps that are missing completely at random (MCAR), in {count}."
        on = " and on ".join({"label": "the label", "values": "observed values"}[what] for what in found)
        return f"What is missing depends on {on}: it is not missing completely at random (not MCAR)."

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain dictionaries, lists and numbers."""
        tests = [asdict(test) | {"found": test.found} for test in self.tests]
        smoothness = dict(self.smoothness)
        return {
            "conclusion": self.conclusion,
            "limits": NOBODY_KNOWS,
            "tests": tests,
            "smoothness": smoothness,
            "auc_of_missing_rate": self.auc,
        }


@dataclass(frozen=True)
class _Summary:
    """Per volume: the rate, the level of what is observed, beside the gaps, and of others where one has gaps.

    Args:
        rate, level, beside: `(volumes, channels)`; NaN where there is nothing to look at.
        elsewhere: `(volumes, channels with gaps, other channels)`.
    """

    rate: Floats
    level: Floats
    beside: Floats
    elsewhere: Floats
    channels: tuple[str, ...]
    smoothness: dict[str, float]


class _Result(NamedTuple):
    effect: float
    p_value: float
    units: int


@dataclass(frozen=True)
class _Asked:
    """A test before it is corrected for the others."""

    about: Literal["label", "values"]
    channel: str
    question: str
    answer: str
    effect: float
    p_value: float
    units: int


def examine(
    volumes: Any,
    targets: Any = None,
    *,
    classes: Sequence[str] = (),
    groups: Any = None,
    channels: Sequence[str] = (),
    max_draws: int = MAX_DRAWS,
    seed: int | np.random.Generator = 0,
) -> Evidence:
    """Test whether what is missing depends on the label, or on values that are observed.

    Asked of each channel with gaps:
      - Does its missing rate go with the class, or the target?
      - Does its missing rate go with the level of what is observed in it, or in another channel?
      - Are the observed values beside its gaps higher or lower than elsewhere in the same volume?
      - Are other channels higher or lower where it is missing than elsewhere in the same volume?

    The first two are permutation tests (of the correlation; studentised for levels, whose variance depends on
    the rate: DiCiccio and Romano, Journal of the American Statistical Association 112, 2017). With groups,
    whole groups of one size change places, and volumes within a group (Winkler et al., NeuroImage 123, 2015).
    The last two are sign-flipping tests of the groups' sums. Channels that always go missing together count
    as one.

    Args:
        volumes: `(batch, depth, height, width, channels)`.
        targets: A class index per volume, `(batch,)` of integers, or numbers `(batch,)` or `(batch, outputs)`.
        classes: Names of the classes, by index.
        groups: A name for each volume (patient, recording); volumes of one group may resemble each other.
        channels: Names of the channels.
        max_draws: Permutations at most; a test that is far from a finding stops early (Besag and Clifford,
            Biometrika 78, 1991).
        seed: A number, or a generator to go on with.

    Returns:
        The tests, corrected for their number.

    Raises:
        VoxgapError: The volumes are not such a batch, or targets or groups are not one per volume.
    """
    batch = as_batch(volumes)
    summary = _summarise(batch, channel_names(channels, batch.shape[-1], "channels"))
    codes = np.arange(len(batch))
    if groups is not None:
        codes = np.unique(_one_each("groups", groups, len(batch)), return_inverse=True)[1]
    label = None if targets is None else _one_each("targets", targets, len(batch))
    if len(np.unique(codes)) < FEWEST or not summary.rate.any():
        return Evidence((), summary.smoothness)
    rng = np.random.default_rng(seed)
    asked = [*_ask_label(summary, label, classes, codes, max_draws, rng)]
    asked += _ask_values(summary, codes, max_draws, rng)
    adjusted = holm([test.p_value for test in asked]).tolist()
    tests = [Dependence(**vars(test), adjusted=value) for test, value in zip(asked, adjusted, strict=True)]
    order = sorted(tests, key=lambda test: test.p_value)
    return Evidence(tuple(order), summary.smoothness, _auc_alone(summary.rate.mean(axis=1), label))


# --- what is tested -------------------------------------------------------------------------------------------


def _ask_label(
    summary: _Summary,
    targets: NDArray[Any] | None,
    classes: Sequence[str],
    codes: NDArray[np.int_],
    max_draws: int,
    rng: np.random.Generator,
) -> Iterator[_Asked]:
    """Ask, overall and for each channel, whether the missing rate goes with the class or the target."""
    if targets is None:
        return
    is_class = targets.dtype.kind in "iu"
    found = np.unique(targets)
    labels = (targets[:, None] == found).astype(float) if is_class else targets.reshape(len(targets), -1)
    rates = {"all": summary.rate.mean(axis=1)}
    if len(summary.channels) > 1:
        rates |= dict(zip(summary.channels, summary.rate.T, strict=True))
    for channel, rate in rates.items():
        if _constant(rate) or len(found) < 2:
            continue
        r, p = permute(rate, labels, codes, max_draws, rng, studentise=False)
        best = int(np.argmax(np.abs(r)))
        effect, answer = float(r[best]), f"r = {r[best]:.2f}"
        if is_class:
            name = classes[int(found[best])] if classes else str(found[best])
            effect = area(labels[:, best] > 0, rate)
            more = "more" if effect >= 0.5 else "less"
            answer = (
                f"{more} is missing in class {name} (AUC of the rate alone {max(effect, 1 - effect):.2f})"
            )
        what = "the class" if is_class else "the target"
        question = f"Does {_rate_of(channel)} go with {what}?"
        yield _Asked("label", channel, question, answer, effect, p, len(np.unique(codes)))


def _ask_values(
    summary: _Summary, codes: NDArray[np.int_], max_draws: int, rng: np.random.Generator
) -> Iterator[_Asked]:
    """Ask, for each channel with gaps, whether they go with observed values of it or of other channels."""
    for index, channel in enumerate(summary.channels):
        rest = [other for other in range(len(summary.channels)) if other != index]
        of = "the gaps" if channel == "all" else f"the gaps of {channel}"
        levels = [_levels(summary, index, i, codes, max_draws, rng) for i in range(len(summary.channels))]
        if own := levels[index]:
            it = "it" if channel != "all" else "the volume"
            question = f"Does {_rate_of(channel)} go with the level of what is observed in {it}?"
            answer = f"{_higher(own.effect)} level where more is missing (r = {own.effect:.2f})"
            yield _Asked("values", channel, question, answer, *own)
        if best := _strongest(levels, rest):
            other, result = best
            question = f"Does {_rate_of(channel)} go with the level of another channel?"
            level = f"{_higher(result.effect)} level of {summary.channels[other]}"
            answer = f"{level} where more is missing (r = {result.effect:.2f})"
            yield _Asked("values", channel, question, answer, *result)
        if own := _differences(summary.beside[:, index], codes, max_draws, rng):
            question = f"Are values beside {of} unlike those elsewhere in the volume?"
            answer = f"{abs(own.effect):.2g} sd {_higher(own.effect)} beside the gaps"
            yield _Asked("values", channel, question, answer, *own)
        found = [_differences(scores, codes, max_draws, rng) for scores in summary.elsewhere[:, index].T]
        if best := _strongest(found, rest):
            other, result = best
            question = f"Are other channels at {of} unlike elsewhere in the volume?"
            by = f"{abs(result.effect):.2g} sd {_higher(result.effect)}"
            yield _Asked(
                "values", channel, question, f"{summary.channels[other]} is {by} at the gaps", *result
            )


def _rate_of(channel: str) -> str:
    return "the missing rate" if channel == "all" else f"the missing rate of {channel}"


def _higher(effect: float) -> str:
    return "higher" if effect > 0 else "lower"


def _strongest(results: Sequence[_Result | None], among: Sequence[int]) -> tuple[int, _Result] | None:
    """Return the index and result of the smallest p-value, corrected (Bonferroni) for the choice."""
    possible = [(index, result) for index in among if (result := results[index]) is not None]
    if not possible:
        return None
    index, result = min(possible, key=lambda pair: pair[1].p_value)
    return index, result._replace(p_value=min(1.0, result.p_value * len(possible)))


def _levels(
    summary: _Summary,
    gaps_of: int,
    level_of: int,
    codes: NDArray[np.int_],
    max_draws: int,
    rng: np.random.Generator,
) -> _Result | None:
    """Test the missing rate of one channel against the level of another, where that is observed."""
    rate, level = summary.rate[:, gaps_of], summary.level[:, level_of]
    there = ~np.isnan(level)
    units = len(np.unique(codes[there]))
    if units < FEWEST or _constant(rate[there]) or _constant(level[there]):
        return None
    r, p = permute(rate[there], level[there, None], codes[there], max_draws, rng, studentise=True)
    return _Result(float(r[0]), p, units)


def _differences(
    scores: Floats, codes: NDArray[np.int_], max_draws: int, rng: np.random.Generator
) -> _Result | None:
    """Test whether differences within volumes are 0 on average; NaN where a volume has none."""
    there = ~np.isnan(scores)
    units = len(np.unique(codes[there]))
    if units < FEWEST or not scores[there].any():
        return None
    return _Result(*flip(scores[there], codes[there], max_draws, rng), units)


def _constant(values: Floats) -> bool:
    return float(np.ptp(values)) <= 1e-9 * max(1.0, float(np.abs(values).max()))


def _auc_alone(rate: Floats, targets: NDArray[Any] | None) -> float | None:
    if targets is None or targets.dtype.kind not in "iu" or len(np.unique(targets)) != 2 or not rate.any():
        return None
    value = area(targets == targets.max(), rate)
    return max(value, 1 - value)


def _one_each(what: str, values: Any, count: int) -> NDArray[Any]:
    array = np.asarray(values)
    if array.shape[:1] != (count,):
        raise VoxgapError(
            f"{len(array) if array.ndim else 'one'} {what} for {count} volumes; give one for each"
        )
    return array


# --- what the tests look at -----------------------------------------------------------------------------------


def _summarise(batch: Values, channels: tuple[str, ...]) -> _Summary:
    """Look at all voxels, a few volumes at a time, twice."""
    found = moments(batch).pooled()
    # So few volumes are each their own mean.
    mean = (found.mean if len(batch) < FEWEST else voxel_means(batch)).astype(np.float32)
    deviation = np.where(found.deviation > 0, found.deviation, 1).astype(np.float32)
    together = all((np.isnan(chunk) == np.isnan(chunk[..., :1])).all() for chunk in blocks(batch))
    parts: list[tuple[Floats, ...]] = []
    smooth = np.zeros((2, 3))
    every = max(1, len(batch) // SMOOTHNESS_VOLUMES)
    for chunk in blocks(batch):
        residual = (chunk - mean) / deviation
        if together:
            residual = residual.mean(axis=-1, keepdims=True)
        observed = ~np.isnan(residual)
        residual = np.where(observed, residual, 0).astype(np.float32)
        parts.append(_per_volume(residual, observed))
        smooth += _products(residual[::every], observed[::every])
    rate, level, beside, elsewhere = (np.concatenate(part) for part in zip(*parts, strict=True))
    return _Summary(
        rate,
        level,
        beside,
        elsewhere,
        ("all",) if together else channels,
        {axis: float(a / b) if b else 0.0 for axis, a, b in zip(AXES, *smooth, strict=True)},
    )


def _per_volume(residual: Values, observed: NDArray[np.bool_]) -> tuple[Floats, ...]:
    """Return rate, level, beside and elsewhere, as in `_Summary`, of a few volumes."""
    flat = residual.reshape(len(residual), -1, residual.shape[-1])
    seen = observed.reshape(flat.shape).astype(np.float32)
    gaps = _gaps_beside(observed).reshape(flat.shape)
    there, total = _sums(seen), _sums(flat)
    rate, level, gap_mean = 1 - there / flat.shape[1], _ratio(total, there), _ratio(_sums(gaps), there)
    spread = np.sqrt(np.maximum(_ratio(_sums(gaps * gaps), there) - gap_mean**2, 0))
    beside = _ratio(_ratio(_sums(gaps * flat), there) - gap_mean * level, spread)
    missing = (1 - seen).swapaxes(1, 2)
    at_gaps, seen_at_gaps = (missing @ flat).astype(np.float64), (missing @ seen).astype(np.float64)
    rest, seen_in_rest = total[:, None] - at_gaps, there[:, None] - seen_at_gaps
    elsewhere = _ratio(at_gaps, seen_at_gaps) - _ratio(rest, seen_in_rest)
    return rate, level, beside, elsewhere


def _sums(values: Values) -> Floats:
    """Return the sums over voxels of `(volumes, voxels, channels)`."""
    # As a matrix product: NumPy's own sum over a middle axis is several times slower.
    return (np.ones(values.shape[1], np.float32) @ values).astype(np.float64)


def _gaps_beside(observed: NDArray[np.bool_]) -> Values:
    """Return the share of the neighbours of each observed voxel that is missing; 0 at missing ones."""
    gaps = np.zeros(observed.shape, np.float32)
    # A voxel at the border has fewer neighbours: that must not look like fewer gaps.
    neighbours = np.zeros((1, *observed.shape[1:4], 1), np.float32)
    for axis in (1, 2, 3):
        length = observed.shape[axis] - 1
        first, second = (_part(axis, start, length) for start in (0, 1))
        for here, there in ((first, second), (second, first)):
            gaps[here] += ~observed[there]
            neighbours[here] += 1
    gaps *= observed
    gaps /= np.maximum(neighbours, 1)
    return gaps


def _products(residual: Values, observed: NDArray[np.bool_]) -> Floats:
    """Return, for each axis, the sums whose ratio is the correlation of observed neighbours."""
    sums = np.zeros((2, 3))
    for axis in (1, 2, 3):
        length = observed.shape[axis] - 1
        first, second = (_part(axis, start, length) for start in (0, 1))
        a, b = residual[first] * observed[second], residual[second] * observed[first]
        sums[:, axis - 1] = np.vdot(a, b), (np.vdot(a, a) + np.vdot(b, b)) / 2
    return sums


def _part(axis: int, start: int, length: int) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, slice(start, start + length))


def _ratio(a: Any, b: Any) -> Floats:
    """Return a / b, NaN where b is 0."""
    return np.divide(a, b, out=np.full(np.broadcast_shapes(np.shape(a), np.shape(b)), np.nan), where=b > 0)
