"""Strategies in order, under one condition or several, baselines beside them, and the verdict in words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.experiment.plan import BASELINES, Outcome, Run
from voxgap.files import finite
from voxgap.metrics.comparison import LOWER_IS_BETTER, Paired, Place, rank
from voxgap.metrics.significance import ROPE
from voxgap.names import metric_called

DECIDING = {"segmentation": "dice", "classification": "accuracy", "regression": "mae"}
"""The metric that decides where none is named; the first of these that the scores have."""
SHARE_OF_MEAN = 0.01
"""Differences up to this share of a mean error don't matter, where the unit is the data's own."""
UNBOUNDED = frozenset({"mae", "rmse", "log_loss"})

Table = NDArray[np.float64]


class Condition(NamedTuple):
    """Under what strategies are compared: the network, and the gaps it is trained and tested with."""

    model: str
    pattern: str
    mechanism: str
    train_rate: float
    test_rate: float

    def __str__(self) -> str:
        if not self.pattern or not self.train_rate + self.test_rate:
            return f"{self.model}, gaps as they are"
        rates = f"{self.train_rate:.0%} in training, {self.test_rate:.0%} in the test"
        return f"{self.model}, {self.pattern} missing ({self.mechanism.upper()}), {rates}"


class Score(NamedTuple):
    """One number: what it belongs to, the split `(repeat, fold)` and the seed, and samples of that split."""

    name: str
    condition: Condition
    split: tuple[int, int]
    seed: int
    value: float


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Strategies from the best to the worst.

    Attributes:
        metric: that they are ranked by.
        lower_is_better: whether it is an error or a loss.
        rope: differences up to this one don't matter, in the metric's unit.
        reference: strategy that the others are compared with; None: with the best.
        conditions: over which the scores of a split are averaged.
        places: strategies, the best first; intervals are cut to what the metric can be.
        baselines: `complete` and `drop`, which take no part; `against` is None.
        left: after how many rounds a strategy left, where they raced: it is a rival no more.
    """

    metric: str
    lower_is_better: bool
    rope: float
    reference: str | None
    conditions: tuple[Condition, ...]
    places: tuple[Place, ...]
    baselines: tuple[Place, ...] = ()
    left: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def ranked(self) -> tuple[tuple[int | None, Place], ...]:
        """Each place with its rank, from 1; None of one without a score."""
        return tuple(
            (None if math.isnan(place.mean) else rank, place) for rank, place in enumerate(self.places, 1)
        )

    @property
    def best(self) -> str | None:
        """The strategy that scores best; None where none has a score."""
        return next((place.strategy for rank, place in self.ranked if rank), None)

    @property
    def words(self) -> str:
        """What the ranking shows, and no more."""
        scored = [place for rank, place in self.ranked if rank]
        if not scored:
            return "No run has a score yet."
        if len(scored) == 1:
            only = scored[0]
            return f"{only.strategy} scores {only.mean:.3g}; no other has a score to compare it with."
        return (
            _against_best(scored, self.left) if self.reference is None else _against(self.reference, scored)
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and numbers; None for NaN."""
        return finite(
            {
                "metric": self.metric,
                "lower_is_better": self.lower_is_better,
                "rope": self.rope,
                "reference": self.reference,
                "words": self.words,
                "conditions": [condition._asdict() for condition in self.conditions],
                "places": [{"rank": rank, **dataclasses.asdict(place)} for rank, place in self.ranked],
                "baselines": [dataclasses.asdict(place) for place in self.baselines],
                **({"left": dict(self.left)} if self.left else {}),
            }
        )


def ranking(
    scores: Iterable[Score],
    names: Iterable[str],
    sizes: Mapping[tuple[int, int], tuple[int, int]],
    metric: str,
    *,
    rope: float | None = None,
    reference: str | None = None,
    left: Mapping[str, int] | None = None,
    level: float = 1.0,
) -> Ranking:
    """Rank by the scores of runs; several conditions of a split are averaged, as several seeds are.

    They share its test samples, so they make its score steadier, and never count as further splits.

    Args:
        scores: of all runs that ended well.
        names: all that take part, baselines too; one without a score comes last.
        sizes: for each split, samples in its training and its test set.
        metric: says whether lower is better.
        rope: None: 0.01, or 1 % of the mean of the reference, or the best, for errors in the data's unit.
        reference: name to compare with, instead of the best.
        left: after how many rounds a strategy left, where they race, see `voxgap.experiment.racing`.
        level: share of the level that a look at a race has.

    Raises:
        VoxgapError: The reference is not among the names.
    """
    scores = list(scores)
    splits = sorted({score.split for score in scores}) or [(0, 0)]
    tables = tables_of(scores, list(names), splits)
    taking_part = {name: table for name, table in tables.items() if name not in BASELINES}
    if reference is not None and reference not in taking_part:
        known = ", ".join(taking_part) or "none"
        raise VoxgapError(f"reference {reference!r} is none of the strategies that are compared: {known}")
    n_train, n_test = (np.array([sizes[split][side] for split in splits]) if scores else 1 for side in (0, 1))
    lower = metric in LOWER_IS_BETTER

    def ranked(which: Mapping[str, Table], rope: float) -> tuple[Place, ...]:
        places = rank(
            *(which, n_train, n_test),
            rope=rope,
            lower_is_better=lower,
            reference=reference,
            left=left or {},
            level=level,
        )
        return tuple(_possible(place, metric) for place in places)

    if rope is None:
        rope = default_rope(metric, taking_part, reference)
    places = ranked(taking_part, rope) if taking_part else ()
    beside = []
    for name in [name for name in BASELINES if name in tables]:
        # Ranked once along with the others for its mean only: what it would be over all of their runs.
        among = {place.strategy: place for place in ranked({**taking_part, name: tables[name]}, rope)}
        beside.append(dataclasses.replace(among[name], against=None, verdict=None))
    conditions = tuple(dict.fromkeys(score.condition for score in scores))
    return Ranking(metric, lower, rope, reference, conditions, places, tuple(beside), dict(left or {}))


def deciding_metric(task: str) -> str:
    """Return the metric that decides for a task where none is named."""
    return DECIDING.get(task, DECIDING["classification"])


def deciding(pairs: Sequence[tuple[Run, Outcome]], wanted: str | None) -> str:
    """Return the metric that decides: the one that is wanted, or what is usual for these scores.

    Raises:
        VoxgapError: no run has the one that is wanted.
    """
    known = dict.fromkeys(
        metric for _, outcome in pairs for values in outcome.scores.values() for metric in values
    )
    if wanted is None:
        return next(
            (metric for metric in DECIDING.values() if metric in known), next(iter(known), "accuracy")
        )
    wanted = metric_called(wanted, classes_of(pairs))
    if known and wanted not in known:
        raise VoxgapError(f"metric {wanted!r} is not among the scores; choose one of {', '.join(known)}")
    return wanted


def classes_of(pairs: Iterable[tuple[Run, Outcome]], column: str = "dice_") -> tuple[str, ...]:
    """Return the names of the classes of label maps, by the scores of the first case; `p_` those of whole volumes."""
    tables = (rows for _, outcome in pairs for rows in outcome.predictions.values() if rows)
    first = next(tables, ({},))[0]
    return tuple(name.removeprefix(column) for name in first if name.startswith(column))


def conditions_of(run: Run) -> Iterator[tuple[float, Condition]]:
    """Yield each test rate of a run, and the condition that its score there is under."""
    for rate in run.test_rates:
        yield rate, Condition(run.model, run.pattern, run.mechanism, run.train_rate, rate)


def scores_of(pairs: Sequence[tuple[Run, Outcome]], metric: str) -> Iterator[Score]:
    """Yield what the runs scored; `complete`, which has no gaps, stands beside each condition of its network."""
    ended = [(run, outcome) for run, outcome in pairs if outcome.status == "done"]
    conditions = dict.fromkeys(
        c for run, _ in ended if run.strategy != "complete" for _, c in conditions_of(run)
    )
    for run, outcome in ended:
        of_run = list(conditions_of(run))
        if run.strategy == "complete":
            alike = [c for c in conditions if c.model == run.model]
            of_run = [(rate, c) for rate in run.test_rates for c in alike] or of_run
        for rate, condition in of_run:
            value = outcome.scores.get(rate, {}).get(metric)
            if value is not None:
                yield Score(run.strategy, condition, (run.repeat, run.fold), run.seed, value)


def tables_of(scores: list[Score], names: list[str], splits: Sequence[tuple[int, int]]) -> dict[str, Table]:
    """Return `(splits, seeds x conditions)` by name, NaN where there is no score."""
    rows = {split: i for i, split in enumerate(splits)}
    columns: dict[tuple[Any, ...], int] = {}
    for score in scores:
        columns.setdefault((score.condition, score.seed), len(columns))
    empty = np.full((len(rows), max(len(columns), 1)), np.nan)
    tables = {name: empty.copy() for name in names}
    for score in (score for score in scores if score.name in tables):
        tables[score.name][rows[score.split], columns[score.condition, score.seed]] = score.value
    return tables


def _possible(place: Place, metric: str) -> Place:
    """Cut the interval to the values that the metric can take: of few folds it reaches beyond them."""
    least = -math.inf if metric == "r2" else 0.0
    most = math.inf if metric in UNBOUNDED else 1.0
    low, high = np.clip((place.low, place.high), least, most)
    return dataclasses.replace(place, low=float(low), high=float(high))


def default_rope(metric: str, tables: Mapping[str, Table], reference: str | None) -> float:
    """Return the region of equivalence where none is asked for, from tables of scores by name."""
    if metric not in UNBOUNDED:
        return ROPE
    means = {name: float(np.nanmean(t)) for name, t in tables.items() if not np.isnan(t).all()}
    if not means:
        return ROPE
    best = (min if metric in LOWER_IS_BETTER else max)(means.values())
    return SHARE_OF_MEAN * abs(best if reference is None else means.get(reference, best))


def _against_best(scored: list[Place], left: Mapping[str, int]) -> str:
    best, *others = scored
    beaten = [place for place in others if place.verdict and place.verdict.decision == "worse"]
    gone = [place.strategy for place in others if place.strategy in left and place not in beaten]
    others = [place for place in others if place.strategy not in gone]
    if gone:
        return _against_best([best, *others], {}) + (
            f" Left early, since almost surely worse by more than matters: {', '.join(gone)}."
        )
    if len(beaten) == len(others):
        return f"{best.strategy} is better than {_listed(beaten, 'worse')}."
    # The verdict that counts is on the strongest of those that are not beaten.
    rival = next(place for place in others if place not in beaten)
    words = [f"{best.strategy} scores best, but {rival.verdict.words if rival.verdict else ''}."]
    if beaten:
        words.append(f"It is better than {_listed(beaten, 'worse')}.")
    return " ".join(words)


def _against(reference: str, scored: list[Place]) -> str:
    by_decision: dict[str, list[Place]] = {}
    for place in scored:
        if place.verdict:
            by_decision.setdefault(place.verdict.decision, []).append(place)
    words = []
    if better := by_decision.get("better"):
        verb = "is" if len(better) == 1 else "are"
        words.append(f"{_listed(better, 'better')} {verb} better than {reference}.")
    else:
        words.append(f"No strategy is shown to be better than {reference}.")
    if worse := by_decision.get("worse"):
        words.append(f"{_listed(worse, 'worse')} {'is' if len(worse) == 1 else 'are'} worse.")
    if same := by_decision.get("same"):
        words.append(f"{_listed(same, 'same')} {'is' if len(same) == 1 else 'are'} practically the same.")
    for place in by_decision.get("undecided", []) + by_decision.get("unknown", []):
        if place.verdict:
            words.append(place.verdict.words[:1].upper() + place.verdict.words[1:] + ".")
    return " ".join(words)


def _listed(places: list[Place], decision: str) -> str:
    named = [f"{place.strategy} ({chance(place.against, decision)})" for place in places if place.against]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def chance(pair: Paired, decision: str) -> str:
    """Return the probability of a decision on a pair, in words: `P = 0.97`."""
    probability = float(getattr(pair, decision))
    return "P > 0.99" if probability >= 0.995 else f"P = {probability:.2f}"
