"""What is asked of `compare`, checked before data is read and Keras is loaded: names, counts, rates, the verdict."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from voxgap import decision
from voxgap.errors import VoxgapError
from voxgap.experiment.plan import BASELINES
from voxgap.files import canonical
from voxgap.names import NETWORKS
from voxgap.recipe import COMPARED, FILLS, PRESETS, Architecture, Gaps, Plain, Strategy, Training

if TYPE_CHECKING:
    from voxgap.experiment.comparison import Comparison
    from voxgap.experiment.plan import Experiment, Outcome, Run

Value = TypeVar("Value", bound=Plain)
Strategies = Sequence[str] | Mapping[str, "str | Strategy"]

DEFAULT_STRATEGIES = ("mean", "linear", "mask_channel", "masked_conv")
"""What is compared by default; and `complete`, where nothing but simulated gaps is missing."""
FOLDS = 5
RACE_REPEATS = 3
"""How often a race deals the folds anew at most; beyond, what training sets share leaves little to win."""
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_BY_DATA = Architecture(normalize="auto")
_GAP_OPTIONS = ("axis", "block_size", "per_channel", "strength")


@dataclass(frozen=True)
class Design:
    """What an experiment consists of beside its data and its networks; None where the data decides.

    Attributes:
        strategies: name -> a preset's name or a `Strategy`.
        models, test_rates, folds, repeats, seeds, split_seed: see `voxgap.experiment.plan.Experiment`.
        patterns, mechanisms, train_rates: of its gaps, each crossed with each.
        gaps: the rest of what is known of them.
        racing: see `voxgap.experiment.plan.Experiment`.
    """

    strategies: Mapping[str, str | Strategy] | None
    models: tuple[str, ...] | None
    patterns: tuple[str, ...] | None
    mechanisms: tuple[str, ...]
    gaps: Gaps
    train_rates: tuple[float, ...] | None
    test_rates: tuple[float, ...]
    folds: int
    repeats: int
    seeds: tuple[int, ...]
    split_seed: int
    racing: bool = False

    @property
    def ranked(self) -> tuple[str, ...]:
        """Strategies that take part in the ranking."""
        return tuple(name for name in self.strategies or DEFAULT_STRATEGIES if name not in BASELINES)


def designed(
    strategies: Strategies | None = None,
    *,
    models: str | Sequence[str] | None = None,
    pattern: str | Sequence[str] | None = None,
    mechanism: str | Sequence[str] = "mcar",
    train_rates: float | Sequence[float] | None = None,
    test_rates: float | Sequence[float] | None = None,
    folds: int = FOLDS,
    repeats: int = 1,
    seeds: int | Sequence[int] = 1,
    split_seed: int = 0,
    gap_options: Mapping[str, Any] | None = None,
    racing: bool = False,
) -> Design:
    """Return what these arguments of `voxgap.compare` ask for; a race deals the folds anew if nothing else is said.

    Raises:
        VoxgapError: one of them is not possible, whatever the data.
    """
    from voxgap.missingness.simulation import MECHANISMS, PATTERNS

    check_count("folds", folds)
    check_count("repeats", repeats)
    if folds == 1 and repeats > 1:
        raise VoxgapError(f"repeats {repeats}: the data's own split (folds=1) is always the same; give folds")
    if folds == 1 and racing:
        raise VoxgapError(
            "budget: the data's own split (folds=1) is one round, which decides nothing; give folds"
        )
    return Design(
        strategies=None if strategies is None else _strategies(strategies),
        models=None if models is None else _known("models", models, NETWORKS),
        patterns=None if pattern is None else _known("pattern", pattern, PATTERNS),
        mechanisms=_known("mechanism", mechanism, MECHANISMS),
        gaps=_gaps(gap_options or {}),
        train_rates=None if train_rates is None else _rates("train_rates", train_rates),
        test_rates=() if test_rates is None else _rates("test_rates", test_rates),
        folds=folds,
        repeats=RACE_REPEATS if racing and repeats == 1 else repeats,
        seeds=_seeds(seeds),
        split_seed=split_seed,
        racing=racing,
    )


def in_seconds(budget: str | float) -> float:
    """Return how long `90s`, `30m`, `1.5h` or a number of seconds is.

    Raises:
        VoxgapError: it is no time.
    """
    text = str(budget).strip()
    factor = _UNITS.get(text[-1:]) if isinstance(budget, str) else 1.0
    try:
        found = float(text[:-1] if isinstance(budget, str) else text) * (factor or math.nan)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise VoxgapError(f"budget {budget} is no time: give 90s, 30m or 2h")
    return found


@dataclass(frozen=True)
class Verdict:
    """How the verdict is to be found; see `Comparison.from_outcomes`.

    Attributes:
        metric, rope, reference: None: as is usual for the task; the best strategy.
        said: what errors call the three.
    """

    metric: str | None = None
    rope: float | None = None
    reference: str | None = None
    said: tuple[str, str, str] = ("metric", "rope", "reference")

    def on(self, experiment: Experiment, outcomes: Iterable[tuple[Run, Outcome]]) -> Comparison:
        """Find it from what came of an experiment so far."""
        from voxgap.experiment.comparison import Comparison

        return Comparison.from_outcomes(
            experiment, outcomes, metric=self.metric, rope=self.rope, reference=self.reference
        )

    def check(self, ranked: Iterable[str]) -> None:
        """Refuse before hours of training what would be refused after them, whatever the data.

        Args:
            ranked: strategies that take part.

        Raises:
            VoxgapError: the reference is not compared, or the rope is no width.
        """
        ranked = tuple(ranked)
        if self.reference is not None and self.reference not in ranked:
            raise VoxgapError(
                f"{self.said[2]} {self.reference} is not compared: choose one of {', '.join(ranked)}"
            )
        if self.rope is not None and not 0 <= self.rope < math.inf:
            raise VoxgapError(
                f"{self.said[1]} {self.rope:g} is no width: give 0 or more, in the unit of the metric"
            )

    def check_metric(self, task: str, classes: Sequence[str]) -> None:
        """Refuse a metric that the task does not have.

        Raises:
            VoxgapError: it is unknown.
        """
        known = choice = _metrics_of(task, len(classes))
        if task == "segmentation":
            choice = (*known[: len(known) - len(classes)], *(f"dice_{name}" for name in classes))
        if self.metric is not None and self.metric not in (*known, *choice):
            raise VoxgapError(
                f"{self.said[0]} {self.metric} is unknown for {task}: choose one of {', '.join(choice)}"
            )


@dataclass(frozen=True)
class Asked:
    """All that is asked of a comparison, but its data.

    Attributes:
        design: what is tried.
        architecture, training: of all networks; the data decides on `auto`, and on patches where none are asked for.
        threshold: how classes are named, see `voxgap.decision.asked`.
        verdict: how it is found.

    Raises:
        VoxgapError: the verdict can't be found so, or the threshold is no rule.
    """

    design: Design
    architecture: Architecture = _BY_DATA
    training: Training = COMPARED
    threshold: str | float = decision.DEFAULT
    verdict: Verdict = Verdict()

    def __post_init__(self) -> None:
        # Before data is read.
        self.verdict.check(self.design.ranked)
        decision.asked(self.threshold, "classification", 2)

    @classmethod
    def of(
        cls, design: Design, architecture: Mapping[str, Any], training: Mapping[str, Any], *rest: Any
    ) -> Asked:
        """Return what is asked in arguments of `build_model` and of `train`.

        Raises:
            VoxgapError: there is no such argument, or it can't be kept with the results.
        """
        allowed = [field.name for field in dataclasses.fields(Training)]
        if unknown := sorted(set(training) - set(allowed)):
            raise VoxgapError(f"no argument {unknown[0]!r}: for training, choose from {', '.join(allowed)}")
        return cls(
            design,
            _plain(Architecture.of({"normalize": "auto", **architecture}), "architecture", architecture),
            _plain(dataclasses.replace(COMPARED, **training), "training", training),
            *rest,
        )


def _metrics_of(task: str, classes: int) -> tuple[str, ...]:
    """Return the names of all metrics of a task: those of a data set of nothing."""
    import numpy as np

    from voxgap import metrics

    zeros = (1, 1, 1, 1)
    if task == "regression":
        return tuple(metrics.scores(task, [0.0, 1.0], [0.0, 1.0]))
    if task == "segmentation":
        found = metrics.scores(
            task, np.zeros(zeros, int), np.ones((*zeros, classes)), observed=np.zeros(zeros)
        )
        return tuple(found)
    return tuple(metrics.scores(task, [0, 1], np.eye(2)))


def _strategies(strategies: Strategies) -> dict[str, str | Strategy]:
    if isinstance(strategies, str):
        raise VoxgapError(f"strategies: give a list of names, such as ['mean', {strategies!r}]")
    pairs = (
        strategies.items() if isinstance(strategies, Mapping) else zip(strategies, strategies, strict=True)
    )
    found: dict[str, str | Strategy] = {}
    for name, strategy in pairs:
        if name in found:
            raise VoxgapError(f"strategies: {name!r} is there twice; give each name once")
        if name not in BASELINES and isinstance(strategy, str) and strategy not in (*PRESETS, *FILLS):
            choice = ", ".join(dict.fromkeys([*PRESETS, *FILLS, *BASELINES]))
            raise VoxgapError(f"no strategy {strategy!r}: choose from {choice}")
        found[name] = strategy
    if not found:
        raise VoxgapError("strategies: give at least one, such as mean")
    return found


def _known(name: str, values: str | Sequence[str], choice: Iterable[str]) -> tuple[str, ...]:
    several = (values,) if isinstance(values, str) else tuple(values)
    unknown = [value for value in several if value not in choice]
    if unknown or not several:
        said = f"{unknown[0]!r} is unknown" if unknown else "is empty"
        raise VoxgapError(f"{name} {said}: choose from {', '.join(choice)}")
    return tuple(dict.fromkeys(several))


def _rates(name: str, values: float | Sequence[float]) -> tuple[float, ...]:
    several = (values,) if isinstance(values, int | float) else tuple(values)
    for value in several:
        if not 0 <= value <= 1:
            raise VoxgapError(f"{name} {value} is out of range; give numbers from 0 to 1")
    if not several:
        raise VoxgapError(f"{name} is empty; give at least one number from 0 to 1")
    return tuple(dict.fromkeys(map(float, several)))


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(seeds, int):
        check_count("seeds", seeds)
        return tuple(range(seeds))
    if not seeds:
        raise VoxgapError("seeds is empty; give how many, or a list")
    return tuple(dict.fromkeys(int(seed) for seed in seeds))


def check_count(name: str, value: int) -> None:
    """Refuse what is no number of things.

    Raises:
        VoxgapError: it isn't whole, or below 1.
    """
    if not isinstance(value, int) or value < 1:
        raise VoxgapError(f"{name} must be a whole number of at least 1, got {value!r}")


def _gaps(options: Mapping[str, Any]) -> Gaps:
    unknown = sorted(set(options) - set(_GAP_OPTIONS))
    if unknown:
        raise VoxgapError(f"gap_options {unknown[0]!r} is unknown: choose from {', '.join(_GAP_OPTIONS)}")
    return _plain(Gaps(**options), "gap_options", options)


def _plain(value: Value, name: str, said: Mapping[str, Any]) -> Value:
    """Return a value that can be kept with the results.

    Raises:
        VoxgapError: it holds something that is no plain value.
    """
    for argument, one in {**said, name: value.to_json()}.items():  # those that were named first
        try:
            canonical(one)
        except (TypeError, ValueError):
            raise VoxgapError(
                f"{argument}: only names, numbers and lists can be kept with the results, not {one!r}"
            ) from None
    return value
