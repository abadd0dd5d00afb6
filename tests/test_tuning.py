"""A search of settings: chosen on validation alone, the same when it was killed, kept in the file of results."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny
from voxgap.errors import VoxgapError
from voxgap.experiment import open_store
from voxgap.experiment.asked import Asked, designed
from voxgap.experiment.conduct import Results
from voxgap.experiment.plan import Experiment, Outcome, Run
from voxgap.experiment.store import worker_name
from voxgap.experiment.tuning import Tuned, check_tunable, tune

pytest.importorskip("optuna")

DATA = tiny.dataset()
ASKED = Asked.of(
    designed(["mean", "linear"], models=["cnn3d"], folds=1, seeds=2),
    {"filters": (4, 8)},
    {"precision": "float32", "learning_rate": 0.02},
)


def loss(run: Run) -> float:
    """What a network is worth in validation: best without decay, with a rate near 0.003 and twice the filters."""
    recipe = run.recipe
    rate = abs(recipe.training.learning_rate - 0.003) * 50
    wide = {(4, 8): 0.3, (2, 4): 0.5, (8, 16): 0.0}[recipe.architecture.filters]
    more = 0.1 * run.seed + recipe.strategy.gap_dropout + (run.strategy == "mean")
    return rate + wide + more + 10 * recipe.training.weight_decay


class Runner:
    """Does runs without training: the test score says the opposite of the validation."""

    def __init__(self, fail: Callable[[Run], bool] = lambda run: False, stop_after: int = 1000) -> None:
        self.fail, self.stop_after = fail, stop_after
        self.done: list[Run] = []

    def __call__(self, experiment: Experiment, dataset: Any, store: Any, **_: Any) -> None:
        worker = worker_name()
        try:
            while run := store.claim(experiment, worker):
                if len(self.done) == self.stop_after:
                    raise KeyboardInterrupt
                self.done.append(run)
                store.finish(self.outcome(run), worker)
        finally:
            store.release(worker)

    def outcome(self, run: Run) -> Outcome:
        if self.fail(run):
            return Outcome(run.key, "failed", "out of memory")
        epochs = [{"val_loss": value} for value in (loss(run) + 1, loss(run), loss(run) + 2)]
        scores = {run.test_rates[0]: {"accuracy": min(1.0, loss(run) / 10)}}
        extra: Any = {"history": tuple(epochs), "best_epoch": 2, "epochs": 3, "n_train": 24, "n_test": 8}
        return Outcome(run.key, "done", "epochs", scores, **extra)


def search(path: Path, trials: int = 14, runner: Any = None, asked: Asked = ASKED) -> Tuned:
    return tune(DATA, asked, trials, Results(path), runner or Runner())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return search(tmp_path_factory.mktemp("whole") / "compare.db")


def test_the_best_in_validation_is_chosen_whatever_the_test_says(whole: Tuned) -> None:
    assert [one.number for one in whole.tried] == list(range(1, 15))
    values = [one.value for one in whole.tried]
    assert whole.best.value == min(v for v in values if v is not None)
    # Means over both seeds, of the best epoch.
    runs = [run for run, _ in whole.found.outcomes]
    assert whole.best.value == pytest.approx(sum(map(loss, runs)) / 2)
    assert {run.seed for run in runs} == {0, 1}
    recipe, setting = runs[0].recipe, whole.best.setting
    assert recipe.training.learning_rate == setting["learning_rate"]
    assert ",".join(map(str, recipe.architecture.filters)) == setting["filters"]
    assert (runs[0].strategy, recipe.strategy.gap_dropout) == (setting["strategy"], setting["gap_dropout"])


def test_what_was_asked_for_is_tried_first_and_the_space_is_about_it(whole: Tuned) -> None:
    expected = {"strategy": "mean", "model": "cnn3d", "learning_rate": 0.02, "filters": "4,8"}
    assert dict(whole.tried[0].setting) == {**expected, "weight_decay": 0.0, "gap_dropout": 0.0}
    assert {one.setting["filters"] for one in whole.tried} == {"4,8", "2,4", "8,16"}
    assert all(1e-4 <= one.setting["learning_rate"] <= 0.02 for one in whole.tried)


def test_a_search_that_was_killed_goes_on_as_if_nothing_had_happened(whole: Tuned, tmp_path: Path) -> None:
    path, runner = tmp_path / "compare.db", Runner(stop_after=7)  # in the middle of the fourth setting
    with pytest.raises(KeyboardInterrupt):
        search(path, runner=runner)
    again = Runner()
    assert search(path, trials=6, runner=again).tried == whole.tried[:6]
    assert again.done[0].seed == 1  # of the fourth setting, whose first seed was done
    more = Runner()
    found = search(path, runner=more)
    assert (found.tried, found.best) == (whole.tried, whole.best)
    done = [run.key for one in (runner, again, more) for run in one.done]
    assert len(done) == len(set(done))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["compare.db"]
    with open_store(path) as store:  # the file is still one of results
        assert whole.found.experiment in store.experiments()


def test_a_setting_that_fails_is_not_chosen(tmp_path: Path) -> None:
    def large(run: Run) -> bool:
        return run.recipe.architecture.filters == (8, 16)

    tuned = search(tmp_path / "one.db", trials=6, runner=Runner(large))
    assert {one.setting["filters"] for one in tuned.tried if one.value is None} == {"8,16"}
    assert tuned.best.value is not None
    with pytest.raises(VoxgapError, match="none of 2 settings could be trained: out of memory"):
        search(tmp_path / "all.db", trials=2, runner=Runner(lambda run: True))


def test_another_question_in_the_same_file_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "compare.db"
    other = dataclasses.replace(ASKED, training=dataclasses.replace(ASKED.training, epochs=7))
    search(path, trials=2)
    runner = Runner()
    search(path, trials=2, runner=runner, asked=other)
    assert len({run.key for run in runner.done}) == 4


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"folds": 5}, "leave out folds and budget"),
        ({"train_rates": [0.1, 0.5]}, "one kind of gaps; give one rate"),
        ({"strategies": ["mean", "complete"]}, "complete is a baseline, which nobody can choose"),
    ],
)
def test_what_no_setting_can_be_chosen_for_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(VoxgapError, match=said):
        check_tunable(designed(**{"folds": 1} | changed), 5)
    with pytest.raises(VoxgapError, match="tune must be a whole number of at least 1, got 0"):
        check_tunable(designed(folds=1), 0)


def test_without_optuna_one_line_says_what_to_install(
    tmp_path: Path, voxgap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    done = voxgap("compare", tmp_path / "nowhere.npz", "--tune", "3")
    assert done.code == 2
    assert done.err.strip() == "Error: this needs optuna: pip install 'voxgap[tune]'"


def test_a_search_is_no_race(tmp_path: Path, voxgap) -> None:
    done = voxgap("compare", tmp_path / "nowhere.npz", "--tune", "3", "--budget", "5m")
    assert done.code == 2
    assert done.err.strip().endswith("--budget races strategies: leave out one of them")


@pytest.mark.full
def test_the_command_searches_says_what_it_chose_and_goes_on(tmp_path: Path, voxgap) -> None:
    words = ["compare", "sample:brain", "--size", "8,8,8", "--strategies", "mean", "--models", "cnn3d"]
    words += ["--filters", "2", "--epochs", "1", "--out", tmp_path / "out"]
    done = voxgap(*words, "--tune", "1")
    assert done.code == 0, done.err
    assert (
        "1/1  mean, cnn3d, filters 2, learning rate 0.001, weight decay 0, gap dropout 0: val_loss"
        in done.err
    )
    assert "Best of 1 settings in validation: number 1." in done.out
    assert "They don't say that it is better than another" in " ".join(done.out.split())
    assert "voxgap train sample:brain --strategy mean --model cnn3d" in " ".join(done.out.split())
    assert "--size 8,8,8 --pattern slices --missing-rate 0.5" in " ".join(done.out.split())
    again = voxgap(*words, "--tune", "1")
    assert again.out == done.out
    assert (tmp_path / "out" / "tune.csv").read_text().splitlines()[0].startswith("number,strategy,model")
