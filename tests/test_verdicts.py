"""False alarms and power of verdicts, by fewer of the experiments that `benchmarks/verdicts.py` simulates."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import planted
from voxgap.experiment.asked import Verdict
from voxgap.experiment.racing import race_of

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "verdicts.py"


@pytest.fixture(scope="module")
def verdicts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verdicts", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("experiments", [400, pytest.param(10_000, marks=pytest.mark.full)])
@pytest.mark.parametrize("judge", ["now", "race"])
def test_false_alarms_stay_at_their_level(verdicts: ModuleType, judge: str, experiments: int) -> None:
    most = 0.05 + 3.3 * np.sqrt(0.05 * 0.95 / experiments)
    for kind in ("equal", "one noisy"):
        assert (
            verdicts.false_alarms(getattr(verdicts, judge), kind, 4, 15, verdicts.ratio_of(5), experiments)
            <= most
        )


def test_of_few_folds_half_the_runs_show_what_all_did_before(verdicts: ModuleType) -> None:
    for folds in (3, 5):
        ratio, effects = verdicts.ratio_of(folds), verdicts.EFFECTS["brain"]
        before, runs = verdicts.power(verdicts.before, effects, 2 * folds, ratio, 400)
        now, fewer = verdicts.power(verdicts.now, effects, folds, ratio, 400)
        assert fewer == runs / 2
        assert now >= before


def test_races_are_simulated_as_they_are_run(verdicts: ModuleType) -> None:
    plan = planted.experiment(("a", "b", "c", "d"), racing=True, folds=5, repeats=2)
    ratio = 20 / 64  # of planted outcomes
    rng = np.random.default_rng(0)
    scores = verdicts.drawn(rng, [0.8, 0.77, 0.7, 0.7], np.full((6, 4), 0.02), 10, ratio)
    simulated = verdicts.race(scores, ratio, 0.01)
    runs = plan.runs()
    made = dict(planted.outcomes(plan, dict.fromkeys("abcd", 0.5)))
    assert len(set(simulated.runs)) > 1
    for one, count in zip(scores, simulated.runs, strict=True):
        known = {
            run: dataclasses.replace(
                made[run],
                scores={0.5: {"accuracy": float(one["abcd".index(run.strategy), 5 * run.repeat + run.fold])}},
            )
            for run in runs
        }
        race = race_of(plan, known.items(), Verdict(rope=0.01))
        assert race.over
        assert sum(race.counts(run, plan.folds) for run in runs) == count
