"""A race: strategies go round by round, and those that can't win any more leave, so that time goes to the rest.

A round is one split: each strategy that is still in, with all conditions and seeds. Splits come one after the other,
and what a race comes to is a function of the outcomes alone: killed and started again, it finds out where it was by
running through them. Time only bounds how many rounds begin. Baselines take part while the data is divided for the
first time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voxgap.errors import VoxgapError
from voxgap.experiment.plan import BASELINES, Experiment, Outcome, Run
from voxgap.experiment.ranking import deciding, default_rope, scores_of, tables_of
from voxgap.metrics.comparison import LOWER_IS_BETTER
from voxgap.metrics.racing import look, looks, share
from voxgap.metrics.significance import size_ratio

if TYPE_CHECKING:
    from voxgap.experiment.asked import Verdict
    from voxgap.experiment.store import Store

MARGIN = 1.2
"""How much more than by its estimate a round is given, where a budget is proposed."""
Pairs = Iterable[tuple[Run, Outcome]]


@dataclass(frozen=True)
class Race:
    """How far a race is.

    Attributes:
        rounds: that all have ended. most: that there can be.
        left: after how many rounds a strategy left.
        over: nothing is left to find out, or no round is left.
        due: runs of the next round.
        level: share of the level that each look has.
    """

    rounds: int
    most: int
    left: Mapping[str, int]
    over: bool
    due: tuple[Run, ...]
    level: float

    def counts(self, run: Run, folds: int) -> bool:
        """Whether a run belongs to the rounds that all have ended, and its strategy was in then."""
        number = run.repeat * folds + run.fold + 1
        return number <= min(self.rounds, self.left.get(run.strategy, self.most))

    @property
    def words(self) -> str:
        """Who left, and whether rounds are left, in words; empty where nobody left and it ended before."""
        said = []
        for number in sorted(set(self.left.values())):
            names = [name for name, when in self.left.items() if when == number]
            said.append(f"Left after {number} rounds: {', '.join(names)}.")
        if not self.over:
            said.append(f"{self.rounds} of at most {self.most} rounds were done; a larger budget goes on.")
        elif self.rounds == self.most:
            said.append(f"All {self.most} rounds were done.")
        return " ".join(said)


def race_of(experiment: Experiment, outcomes: Pairs, verdict: Verdict) -> Race:
    """Run through the outcomes of a race, and say how far it is.

    Args:
        experiment: with `racing`.
        outcomes: of its runs so far.
        verdict: how it is to be found.
    """
    pairs = list(outcomes)
    metric, rope, reference = deciding(pairs, verdict.metric), verdict.rope, verdict.reference
    by_split = _by_split(experiment)
    splits = [*by_split]
    names = [name for name, _ in experiment.strategies if name not in BASELINES]
    at = looks(experiment.folds, experiment.repeats)
    level = share(at)
    ended = {run for run, _ in pairs}
    ratio = _ratio(pairs)
    found = tables_of(list(scores_of(pairs, metric)), names, splits)
    table = np.stack([found[name] for name in names]) * (-1 if metric in LOWER_IS_BETTER else 1)
    inside = np.ones(len(names), bool)
    left: dict[str, int] = {}
    for number, split in enumerate(splits, start=1):
        racing = [name for name, still in zip(names, inside, strict=True) if still]
        due = [run for run in by_split[split] if run.strategy in racing or _beside(run)]
        missing = tuple(run for run in due if run not in ended)
        if missing:
            return Race(number - 1, len(splits), left, False, missing, level)
        table[~inside, number - 1] = np.nan
        if number not in at:
            continue
        so_far = {name: found[name][:number] for name in names}
        width = default_rope(metric, so_far, reference) if rope is None else rope
        place = None if reference is None else names.index(reference)
        stays, over = look(table[:, :number], inside, ratio, level=level, rope=width, reference=place)
        left |= dict.fromkeys(np.array(names)[inside & ~stays].tolist(), number)
        inside = stays
        if over:
            return Race(number, len(splits), left, True, (), level)
    return Race(len(splits), len(splits), left, True, (), level)


def check_budget(experiment: Experiment, least: float, budget: float) -> None:
    """Refuse a budget that is too short for a single round, before anything is trained.

    Args:
        experiment: with `racing`.
        least: seconds of all runs of the experiment, if each stops as early as it may.
        budget: seconds.

    Raises:
        VoxgapError: it is.
    """
    runs = experiment.runs()
    due = sum(not (run.repeat or run.fold) for run in runs)
    needed = least * due / len(runs)
    if needed > budget:
        minutes = math.ceil(MARGIN * needed / 60)
        raise VoxgapError(
            f"budget of {budget:.0f} s: the first round trains {due} networks, which takes about {needed:.0f} s here "
            f"if each stops early; give {minutes}m or more, fewer strategies or fewer epochs"
        )


def rounds(
    experiment: Experiment,
    store: Store,
    verdict: Verdict,
    tell: Callable[[Race], None],
    since: float,
    budget: float | None,
) -> Callable[[], bool]:
    """Return what adds the next round of a race, where there is one and the budget has room for it.

    Args:
        experiment: with `racing`.
        store: of its outcomes.
        verdict: how it is to be found.
        tell: told how far the race is, before each round and after the last.
        since: when it began, on the clock `time.monotonic`, pauses left out.
        budget: seconds for all rounds; None: as long as it takes.
    """

    def more() -> bool:
        race = race_of(experiment, outcomes := store.outcomes(experiment), verdict)
        tell(race)
        spent = time.monotonic() - since
        expected = spent / len(outcomes) * len(race.due) if outcomes else 0.0
        if race.over or (budget is not None and spent + expected > budget):
            return False
        store.due(experiment, race.due)
        return True

    return more


def _by_split(experiment: Experiment) -> dict[tuple[int, int], list[Run]]:
    found: dict[tuple[int, int], list[Run]] = {}
    for run in experiment.runs():  # split by split
        found.setdefault((run.repeat, run.fold), []).append(run)
    return found


def _beside(run: Run) -> bool:
    return run.strategy in BASELINES and run.repeat == 0


def _ratio(pairs: list[tuple[Run, Outcome]]) -> float:
    """Test samples for each training sample; of runs that trained on fewer, as `drop` does, the most count."""
    done = [outcome for run, outcome in pairs if outcome.status == "done" and run.strategy not in BASELINES]
    return size_ratio([o.n_train for o in done], [o.n_test for o in done]) if done else 1.0


def without_late(pairs: Pairs, race: Race | None, folds: int) -> tuple[tuple[Run, Outcome], ...]:
    """Return the outcomes that a verdict rests on: in a race, those of its whole rounds."""
    return tuple(pair for pair in pairs if race is None or race.counts(pair[0], folds))
