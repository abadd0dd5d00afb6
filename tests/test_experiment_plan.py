"""Runs and experiments as values: equal keys for equal runs, in any process and after JSON; the order of the runs."""

from __future__ import annotations

import collections
import json
import math
import os
import subprocess
import sys

import pytest

from voxgap.experiment.plan import BASELINES, Experiment, Outcome, Run
from voxgap.recipe import Architecture, Gaps, Strategy, Training

STRATEGIES = (("mean", Strategy()), ("knn", Strategy("knn")), ("complete", Strategy()), ("drop", Strategy()))
EXPERIMENT = Experiment(
    "tiny",
    "0123456789abcdef",
    STRATEGIES,
    models=("resnet3d", "cnn3d"),
    gaps=tuple(Gaps(pattern, rate) for pattern in ("slices", "voxels") for rate in (0.1, 0.5)),
    test_rates=(0.1, 0.5, 0.9),
    folds=3,
    repeats=2,
    seeds=(4, 7),
    architecture=Architecture((4,)),
    training=Training(epochs=2),
)


def test_json_gives_the_same_value_and_key_back() -> None:
    text = json.dumps(EXPERIMENT.to_json())
    again = Experiment.from_json(json.loads(text))
    assert again == EXPERIMENT
    assert again.key == EXPERIMENT.key
    for run in EXPERIMENT.runs():
        twin = Run.from_json(json.loads(json.dumps(run.to_json())))
        assert twin == run
        assert twin.key == run.key
        assert hash(twin) == hash(run)


def test_keys_are_the_same_in_every_process() -> None:
    code = (
        "import json, sys; from voxgap.experiment.plan import Experiment;"
        "e = Experiment.from_json(json.load(sys.stdin)); print(e.key, *[r.key for r in e.runs()])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(EXPERIMENT.to_json()),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "77"},
    )
    assert done.stdout.split() == [EXPERIMENT.key, *(run.key for run in EXPERIMENT.runs())]


def test_every_combination_is_there_once_and_complete_once_a_fold() -> None:
    runs = EXPERIMENT.runs()
    assert len({run.key for run in runs}) == len(runs)
    counts = collections.Counter(run.strategy for run in runs)
    divisions = 3 * 2 * 2  # folds, repeats, seeds
    with_gaps = divisions * 2 * 2 * 2  # models, patterns, train rates
    assert counts == {"mean": with_gaps, "knn": with_gaps, "drop": with_gaps, "complete": divisions * 2}
    for run in runs:
        if run.strategy == "complete":
            assert (run.pattern, run.train_rate, run.test_rates) == ("", 0.0, (0.0,))
        else:
            assert run.test_rates == (0.1, 0.5, 0.9)


def test_without_test_rates_a_network_is_scored_at_the_rate_it_was_trained_at() -> None:
    runs = Experiment("d", "k", STRATEGIES[:1], gaps=(Gaps(missing_rate=0.1), Gaps(missing_rate=1))).runs()
    assert {(run.train_rate, run.test_rates) for run in runs} == {(0.1, (0.1,)), (1.0, (1.0,))}


def test_the_order_keeps_an_interrupted_experiment_balanced() -> None:
    """After any number of runs, all strategies have been through the same folds but the one under way."""
    seen: dict[str, list[tuple[object, ...]]] = collections.defaultdict(list)
    for run in EXPERIMENT.runs():
        if run.strategy not in BASELINES:
            where = (run.seed, run.repeat, run.fold, run.pattern, run.train_rate, run.model)
            seen[run.strategy].append(where)
        folds = [{place[:5] for place in places} for places in seen.values()]
        assert all(len(a ^ b) <= 1 for a in folds for b in folds)


def test_equal_strategies_under_two_names_are_two_runs() -> None:
    runs = Experiment("d", "k", (("a", Strategy()), ("b", Strategy())), folds=1).runs()
    assert len({run.key for run in runs}) == 2


def test_whole_numbers_and_lists_make_no_other_experiment() -> None:
    one = Experiment(
        "d", "k", STRATEGIES, gaps=(Gaps(missing_rate=1.0), Gaps(block_size=(2, 1, 1))), models=("cnn3d",)
    )
    assert (
        Experiment(
            "d",
            "k",
            list(STRATEGIES),
            gaps=[Gaps(missing_rate=1), Gaps(block_size=[2, 1, 1])],
            models=["cnn3d"],
        ).key
        == one.key
    )  # type: ignore[arg-type]


def test_an_outcome_survives_json_nan_and_all() -> None:
    outcome = Outcome(
        "key",
        "done",
        scores={0.5: {"auc": math.nan, "accuracy": 0.75}},
        reconstruction={0.5: {"mae": 0.1, "rmse": 0.2}, 0.0: None},
        history=({"loss": 1.0, "val_loss": math.nan},),
    )
    text = json.dumps(outcome.to_json(), allow_nan=False)
    again = Outcome.from_json(json.loads(text))
    assert math.isnan(again.scores[0.5].pop("auc"))
    assert again.scores == {0.5: {"accuracy": 0.75}}
    assert again.reconstruction == outcome.reconstruction
    assert math.isnan(again.history[0]["val_loss"])


@pytest.mark.parametrize("module", ["plan", "store", "data", "cache", "dataset_files"])
def test_these_parts_load_no_keras(module: str) -> None:
    code = f"import sys, voxgap.experiment.{module}; print('keras' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
