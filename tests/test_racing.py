"""Races: how much each look may decide, who leaves, and that outcomes alone say how one goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planted
from voxgap.errors import VoxgapError
from voxgap.experiment.asked import Verdict, designed, in_seconds
from voxgap.experiment.comparison import Comparison
from voxgap.experiment.plan import Experiment, Outcome, Run
from voxgap.experiment.racing import check_budget, race_of, rounds
from voxgap.experiment.store import Store, open_store
from voxgap.metrics.racing import look, looks, share

NAMES = ("best", "rival", "poor", "worst", "complete")
MEANS = {"best": 0.80, "rival": 0.76, "poor": 0.6, "worst": 0.5, "complete": 0.9}


def a_race(**fields: Any) -> Experiment:
    return planted.experiment(NAMES, racing=True, **{"folds": 5, "repeats": 3, **fields})


def outcomes_of(plan: Experiment, **options: Any) -> dict[Run, Outcome]:
    return dict(planted.outcomes(plan, MEANS, **{"noise": 0.012, **options}))


def raced(
    store: Store,
    plan: Experiment,
    known: dict[Run, Outcome],
    *,
    budget: float | None = None,
    most: int = 1000,
) -> list[str]:
    """Do the rounds of a race by what its runs are known to come to, at most so many; return their strategies."""
    more = rounds(plan, store, Verdict(), lambda race: None, -store.seconds(plan), budget)
    done: list[str] = []
    while store.statuses(plan).get("waiting") or more():
        run = store.claim(plan, "here:1:a")
        assert run is not None
        if len(done) == most:
            store.release("here:1:a")
            return done
        store.finish(known[run], "here:1:a")
        done.append(run.strategy)
    return done


def test_looks_are_few_and_their_shares_sum_to_the_level() -> None:
    assert looks(5, 3) == (5, 10, 15)
    assert looks(5, 10) == (5, 10, 20, 40, 50)
    assert (looks(5, 1), looks(2, 3), looks(3, 2)) == ((5,), (4, 6), (3, 6))
    assert len(looks(5, 3)) * share(looks(5, 3)) == 1


def test_who_cannot_win_leaves_and_a_race_ends_when_the_best_is_known(tmp_path: Path) -> None:
    plan = a_race()
    known = outcomes_of(plan, seed=4, noise=0.014)
    with open_store(tmp_path / "r.db", create=True) as store:
        done = raced(store, plan, known)
        found = Comparison.from_outcomes(plan, store.outcomes(plan))
    assert found.race is not None
    assert found.race.over
    assert set(found.race.left) >= {"poor", "worst"}
    assert done.count("best") == done.count("rival") == found.race.rounds > done.count("worst") == 5
    assert done.count("complete") == min(5, found.race.rounds)
    assert found.verdict.startswith("best is better than rival (P")
    assert found.planned == found.done == len(done) < len(plan.runs())
    assert "Left after 5 rounds: " in found.unfinished
    assert [place.strategy for place in found.overall.places][:2] == ["best", "rival"]


def test_killed_at_any_run_it_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    plan = a_race()
    known = outcomes_of(plan)
    with open_store(tmp_path / "whole.db", create=True) as store:
        whole = raced(store, plan, known)
        told = Comparison.from_outcomes(plan, store.outcomes(plan)).to_json()
    with open_store(tmp_path / "parts.db", create=True) as store:
        parts: list[str] = []
        while piece := raced(store, plan, known, most=7):
            parts += piece
            # A report in the middle rests on whole rounds.
            race = Comparison.from_outcomes(plan, store.outcomes(plan)).race
            assert race is not None
            assert race.rounds <= len(parts) / 2
        assert parts == whole
        assert Comparison.from_outcomes(plan, store.outcomes(plan)).to_json() == told


def test_time_bounds_the_rounds_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = a_race()
    known = outcomes_of(plan)
    clock = iter(range(0, 10_000, 60))  # a minute for each round
    monkeypatch.setattr("voxgap.experiment.racing.time.monotonic", lambda: next(clock))
    with open_store(tmp_path / "r.db", create=True) as store:
        short = raced(store, plan, known, budget=170.0)
        found = Comparison.from_outcomes(plan, store.outcomes(plan))
        assert len(short) == 2 * len(NAMES)
        assert found.race is not None
        assert (found.race.rounds, found.race.over) == (2, False)
        assert found.unfinished == "2 of at most 15 rounds were done; a larger budget goes on."
        rest = raced(store, plan, known)
    with open_store(tmp_path / "whole.db", create=True) as store:
        assert raced(store, plan, known) == short + rest


def test_a_strategy_that_always_fails_leaves(tmp_path: Path) -> None:
    plan = a_race()
    known = {
        run: Outcome(run.key, "failed", "out of memory") if run.strategy == "poor" else outcome
        for run, outcome in outcomes_of(plan).items()
    }
    with open_store(tmp_path / "r.db", create=True) as store:
        assert raced(store, plan, known).count("poor") == 5


def test_against_a_reference_all_leave_that_have_a_verdict() -> None:
    rng = np.random.default_rng(0)
    scores = np.array([0.5, 0.9, 0.2])[:, None, None] + 0.01 * rng.normal(size=(3, 5, 1))
    stays, over = look(scores, np.ones(3, bool), 1 / 4, level=0.4, rope=0.01, reference=0)
    assert stays.tolist() == [True, False, False]
    assert over


def test_an_experiment_without_a_race_is_known_by_what_it_was() -> None:
    plan = planted.experiment(NAMES)
    assert "racing" not in plan.to_json()
    assert Experiment.from_json(plan.to_json()) == plan
    race = a_race()
    assert Experiment.from_json(race.to_json()) == race
    assert race.key != planted.experiment(NAMES, folds=5, repeats=3).key


def test_a_budget_has_room_for_one_round() -> None:
    plan = a_race()
    race = race_of(plan, [], Verdict())
    least = 300.0 * len(plan.runs()) / len(race.due)  # 300 s for a round
    check_budget(plan, least, 300.1)
    with pytest.raises(
        VoxgapError, match=r"budget of 180 s: the first round trains 5 networks, .* 300 s .* give 6m"
    ):
        check_budget(plan, least, 180.0)
    check_budget(plan, least, 6 * 60)


def test_budgets_are_times() -> None:
    assert [in_seconds(text) for text in ("90s", "30m", "1.5h", " 2h ", 45)] == [90, 1800, 5400, 7200, 45]
    for text in ("30", "m", "-3m", "nan", "30 minutes", 0):
        with pytest.raises(VoxgapError, match="is no time: give 90s, 30m or 2h"):
            in_seconds(text)
    with pytest.raises(VoxgapError, match="one round"):
        designed(folds=1, racing=True)
    assert (designed(racing=True).repeats, designed(racing=True, repeats=5).repeats) == (3, 5)
    assert Verdict().metric is None
