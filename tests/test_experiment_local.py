"""Experiments in processes: killed and resumed, shared by two, out of memory, and the whole question in one call."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from voxgap.dataset import Dataset, load_data
from voxgap.errors import VoxgapError
from voxgap.experiment import compare, open_store, plan_experiment, run_all
from voxgap.experiment.cost import Networks, estimate, with_precision
from voxgap.experiment.dataset_files import open_dataset, write_dataset
from voxgap.experiment.local import Event
from voxgap.experiment.plan import Experiment
from voxgap.recipe import Strategy

DATA = tiny.dataset(count=48)
WHOLE = DATA.with_volumes(np.nan_to_num(DATA.volumes))
QUICK: dict[str, Any] = {
    "models": "cnn3d",
    "architecture": {"filters": (4,)},
    "folds": 2,
    "epochs": 2,
    "batch_size": 8,
    "precision": "float32",
}


def work_folders(path: Path) -> list[Path]:
    return [p for p in path.iterdir() if p.is_dir()]


@pytest.mark.full
def test_a_question_is_answered_and_answered_again_from_the_file(tmp_path: Path) -> None:
    out = tmp_path / "results.db"
    events: list[Event] = []
    found = compare(
        WHOLE,
        ["mean", "mask_channel", "complete", "drop"],
        out=out,
        progress=events.append,
        processes=2,
        **QUICK,
    )
    assert type(found).__name__ == "Comparison"
    with open_store(out) as store:
        (experiment,) = store.experiments()
        outcomes = store.outcomes(experiment)
    assert [run for run, _ in outcomes] == list(experiment.runs())
    assert {run.strategy: outcome.status for run, outcome in outcomes} == {
        **dict.fromkeys(("mean", "mask_channel", "complete"), "done"),
        "drop": "not possible",
    }
    ended = [event for event in events if event.state == "ended"]
    assert [event.done for event in ended] == list(range(1, 9))
    assert ended[-1].eta_seconds == 0
    assert all(event.total == 8 for event in events)
    assert {event.run.key for event in ended} == {run.key for run in experiment.runs()}
    assert {event.epoch for event in events if event.state == "epoch"} == {1, 2}
    assert not work_folders(tmp_path)
    events.clear()
    compare(WHOLE, ["mean", "mask_channel", "complete", "drop"], out=out, progress=events.append, **QUICK)
    assert not events


@pytest.mark.full
def test_processes_and_this_one_score_the_same(tmp_path: Path) -> None:
    from voxgap.experiment.execute import execute

    experiment = plan_experiment(DATA, ["mean", "linear"], **QUICK)
    with open_store(tmp_path / "r.db", create=True) as store:
        run_all(experiment, DATA, store, processes=1)
        for run, outcome in store.outcomes(experiment):
            # As many threads may add up in another order.
            (rate,) = run.test_rates
            assert execute(run, DATA).scores[rate] == pytest.approx(outcome.scores[rate], rel=1e-3)


@pytest.mark.full
def test_a_process_that_is_killed_fails_its_run_and_the_others_go_on(tmp_path: Path) -> None:
    experiment = plan_experiment(DATA, ["mean", "linear"], **QUICK)
    killed = []

    with open_store(tmp_path / "r.db", create=True) as store:

        def kill(event: Event) -> None:
            if event.state == "started" and not killed:
                rows = store._read("SELECT worker FROM runs WHERE key = ?", event.run.key)
                killed.append(event.run.key)
                os.kill(int(rows[0][0].split(":")[-2]), signal.SIGKILL)

        run_all(experiment, DATA, store, processes=1, progress=kill)
        outcomes = {run.key: outcome for run, outcome in store.outcomes(experiment)}
        assert len(outcomes) == 4
        failed = outcomes.pop(killed[0])
        assert failed.status == "failed"
        assert "ended by SIGKILL; the usual cause is too little memory" in failed.reason
        assert all(outcome.status == "done" for outcome in outcomes.values())
        # Tried again when asked to.
        assert store.retry(experiment) == 1
        run_all(experiment, DATA, store, processes=1)
        assert store.statuses(experiment) == {"done": 4}
    assert not work_folders(tmp_path)


@pytest.mark.full
def test_a_run_that_takes_too_much_memory_is_ended(tmp_path: Path) -> None:
    experiment = plan_experiment(DATA, ["mean"], **QUICK)
    with open_store(tmp_path / "r.db", create=True) as store:
        run_all(experiment, DATA, store, processes=1, memory_limit=100_000_000)
        for _, outcome in store.outcomes(experiment):
            assert outcome.status == "failed"
            assert outcome.reason == "out of memory: it took more than the limit of 100 MB"


@pytest.mark.full
def test_a_run_that_raises_is_failed_and_the_others_go_on(tmp_path: Path) -> None:
    volumes = np.nan_to_num(DATA.volumes)
    data = DATA.with_volumes(volumes)
    good = plan_experiment(data, ["mean", "linear"], **QUICK)
    (name, _), linear = good.strategies
    # What no check can foresee.
    bad = dataclasses.replace(good, strategies=((name, Strategy(fill_options={"nothing": 1})), linear))
    with open_store(tmp_path / "r.db", create=True) as store:
        run_all(bad, data, store, processes=2)
        statuses = {(run.strategy, outcome.status) for run, outcome in store.outcomes(bad)}
        assert statuses == {("mean", "failed"), ("linear", "done")}


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
import tiny
from voxgap.experiment import open_store, plan_experiment, run_all
data = tiny.dataset(count=48)
options = dict(models="cnn3d", architecture={{"filters": (4,)}}, folds=3, epochs=2, batch_size=8)
experiment = plan_experiment(data, ["mean", "linear", "zero"], precision="float32", **options)
def tell(event):
    if event.state == "ended":
        print(event.run.key, flush=True)
with open_store({out!r}, create=True) as store:
    run_all(experiment, data, store, processes={processes}, progress=tell)
"""


def start(out: Path, processes: int) -> subprocess.Popen[str]:
    code = PROGRAM.format(tests=str(Path(__file__).parent), out=str(out), processes=processes)
    # In no `if __name__` guard, on purpose: a script may be one line.
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def outcomes_of(out: Path) -> tuple[Experiment, dict[str, Any]]:
    with open_store(out) as store:
        (experiment,) = store.experiments()
        return experiment, {run.key: outcome for run, outcome in store.outcomes(experiment)}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.full
@pytest.mark.parametrize("seed", range(2))
def test_kill_9_at_random_moments_and_resume(tmp_path: Path, seed: int) -> None:
    """Every run is done, what had ended before a kill is untouched, and no process outlives its parent."""
    rng = random.Random(seed)
    out = tmp_path / "results.db"
    before: dict[str, Any] = {}
    for attempt in range(40):
        process = start(out, 2)
        if attempt % 2:  # at any moment from the start on
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=rng.uniform(1, 15))
        else:  # soon after a run has ended, so that there is progress on a slow machine too
            assert process.stdout is not None
            process.stdout.readline()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=rng.uniform(0, 4))
        process.send_signal(signal.SIGKILL)
        code = process.wait()
        process.communicate()
        if not out.exists():
            continue
        with open_store(out) as store:
            rows = store._read("SELECT worker FROM runs WHERE worker IS NOT NULL AND status = 'running'")
        deadline = time.monotonic() + 20
        while any(alive(int(row[0].split(":")[-2])) for row in rows) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert time.monotonic() < deadline, "a worker outlived its parent"
        experiment, now = outcomes_of(out)
        assert before.items() <= now.items()
        before = now
        if code == 0:
            break
    assert code == 0
    assert set(before) == {run.key for run in experiment.runs()}
    assert all(outcome.status == "done" for outcome in before.values())
    assert not work_folders(tmp_path)


@pytest.mark.full
def test_two_programs_on_one_file_never_do_a_run_twice(tmp_path: Path) -> None:
    out = tmp_path / "results.db"
    programs = [start(out, 1) for _ in range(2)]
    said = [program.communicate(timeout=300)[0].split() for program in programs]
    assert [program.returncode for program in programs] == [0, 0]
    experiment, outcomes = outcomes_of(out)
    assert sorted(said[0] + said[1]) == sorted(run.key for run in experiment.runs())
    assert all(said)
    assert len(outcomes) == 9
    assert not work_folders(tmp_path)


@pytest.mark.full
def test_ctrl_c_leaves_the_runs_to_be_done(tmp_path: Path) -> None:
    experiment = plan_experiment(DATA, ["mean", "linear"], **QUICK)

    def stop(event: Event) -> None:
        if event.state == "ended":
            raise KeyboardInterrupt

    with open_store(tmp_path / "r.db", create=True) as store:
        with pytest.raises(KeyboardInterrupt):
            run_all(experiment, DATA, store, processes=2, progress=stop)
        statuses = store.statuses(experiment)
        assert statuses["done"] >= 1
        assert "running" not in statuses
        assert not work_folders(tmp_path)
        run_all(experiment, DATA, store, processes=2)
        assert store.statuses(experiment) == {"done": 4}


@pytest.mark.full
def test_a_store_that_fills_the_disk_stops_the_experiment_in_one_line(tmp_path: Path) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    options = ["-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mounted)]
    if subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("a file system can't be mounted here")
    try:
        experiment = plan_experiment(DATA, ["mean", "linear"], **QUICK)
        with open_store(mounted / "r.db", create=True) as store:
            store.add(experiment)
            (mounted / "filler").write_bytes(bytes(700_000))
            with pytest.raises(VoxgapError, match=r"full|room"):
                run_all(experiment, DATA, store, processes=1)
            (mounted / "filler").unlink()
            run_all(experiment, DATA, store, processes=1)
            assert store.statuses(experiment) == {"done": 4}
    finally:
        subprocess.run(["umount", str(mounted)], check=False)


def test_a_process_that_can_not_start_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = plan_experiment(DATA, ["mean"], **QUICK)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    threads = threading.active_count()
    with open_store(tmp_path / "r.db", create=True) as store:
        with pytest.raises(VoxgapError, match="no process for the runs could be started"):
            run_all(experiment, DATA, store, processes=1)
        assert store.statuses(experiment) == {"waiting": 2}
    assert threading.active_count() <= threads + 1  # the one that listened may be about to end


def test_a_data_set_is_handed_over_whole(tmp_path: Path) -> None:
    data = dataclasses.replace(
        DATA, groups=np.arange(48).astype(str), label_maps=np.zeros((48, 8, 8, 8), np.int16)
    )
    write_dataset(data, tmp_path)
    found = open_dataset(tmp_path)
    for field in dataclasses.fields(Dataset):
        given, got = getattr(data, field.name), getattr(found, field.name)
        if hasattr(given, "__array__"):
            np.testing.assert_array_equal(np.asarray(got), given)
        else:
            assert got == given


def test_label_maps_on_their_own_grids_are_handed_over(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 3, (12, 6, 8, 10))
    fine = Dataset.from_arrays(
        rng.normal(size=maps.shape).astype("float32"), label_maps=maps, spacing=(1.0, 1.0, 1.0), name="fine"
    )
    data = load_data(fine, size=(3, 4, 5))
    write_dataset(data, tmp_path)
    found = [np.full((3, 4, 5), index % 3) for index in range(12)]
    assert data.drawn is not None
    inner = dataclasses.replace(data, drawn=data.drawn.in_memory())
    for held in (open_dataset(tmp_path), open_dataset(tmp_path).take(np.arange(12)), inner):
        for (truth, answer), drawn, said in zip(held.on_own_grids(found), maps, found, strict=True):
            np.testing.assert_array_equal(truth, drawn)
            np.testing.assert_array_equal(answer, np.full(drawn.shape, said.flat[0]))


def test_the_precision_is_settled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from voxgap.experiment.cost import same_experiment
    from voxgap.training import precision

    asked = plan_experiment(DATA, ["mean", "knn", "masked_conv"], **QUICK | {"precision": "auto"})
    tried = []
    answers = {"cnn3d": "mixed_bfloat16"}

    def choose(model: Any, wanted: str, batch_size: int) -> str:
        tried.append(model.name)
        return answers[model.name]

    monkeypatch.setattr(precision, "choose", choose)
    fast = with_precision(asked, Networks(asked, DATA))
    assert fast.training.precision == "bfloat16"
    assert len(tried) == 2  # mean and knn have the same network
    answers["cnn3d"] = "float32"
    plain = with_precision(asked, Networks(asked, DATA))
    assert plain.training.precision == "float32"
    # Resumed elsewhere, it goes on in the precision that it began in.
    with open_store(tmp_path / "r.db", create=True) as store:
        assert same_experiment(asked, store.experiments()) is None
        store.add(fast)
        assert same_experiment(asked, store.experiments()) == fast
        assert same_experiment(plain, store.experiments()) is None
        assert same_experiment(dataclasses.replace(asked, folds=3), store.experiments()) is None


def test_networks_are_built_once_and_what_cannot_be_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from voxgap.experiment import cost

    tried: list[set[str]] = []

    def network(runs: list[Any], dataset: Dataset) -> cost.Network:
        tried.append({run.strategy for run in runs})
        if "masked_conv" in tried[-1]:
            raise ValueError("too wide")
        return cost.Network(runs, None, 0.0)

    monkeypatch.setattr(cost, "_network", network)
    networks = Networks(plan_experiment(DATA, ["mean", "knn", "masked_conv"], **QUICK), DATA)
    for _ in range(2):
        assert [{run.strategy for run in one.runs} for one in networks.built] == [{"mean", "knn"}]
    assert tried == [{"mean", "knn"}, {"masked_conv"}]
    with pytest.raises(VoxgapError, match="ValueError: too wide"):
        _ = Networks(plan_experiment(DATA, ["masked_conv"], **QUICK), DATA).built


def test_an_estimate_is_a_range(tmp_path: Path) -> None:
    many = plan_experiment(WHOLE, ["mean", "linear", "complete"], **QUICK | {"epochs": 500, "patience": 4})
    least, most = estimate(many, Networks(many, WHOLE))
    assert 0 < least < most < np.inf
    # 5 epochs at least, 500 at most, and what each run takes besides.
    assert 5 < most / least < 100


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"strategies": ["meen"]}, "no strategy 'meen': choose from zero, mean"),
        ({"strategies": ["mean", "mean"]}, "'mean' is there twice"),
        ({"strategies": "mean"}, "give a list"),
        ({"strategies": []}, "give at least one"),
        ({"models": "resnet"}, "models 'resnet' is unknown: choose from"),
        ({"pattern": "stripes"}, "pattern 'stripes' is unknown"),
        ({"mechanism": "mcat"}, "mechanism 'mcat' is unknown"),
        ({"train_rates": 1.5}, "train_rates 1.5 is out of range"),
        ({"test_rates": ()}, "test_rates is empty"),
        ({"folds": 0}, "folds must be a whole number of at least 1"),
        ({"folds": 1, "repeats": 2}, "the data's own split"),
        ({"seeds": []}, "seeds is empty"),
        ({"epochz": 3}, "no argument 'epochz': for training, choose from loss"),
        ({"seed": 3}, "no argument 'seed'"),
        ({"architecture": {"filter": 3}}, "architecture: got an unexpected keyword argument 'filter'"),
        ({"gap_options": {"size": 3}}, "gap_options 'size' is unknown"),
        ({"loss": len}, "only names, numbers and lists"),
    ],
)
def test_what_is_not_possible_is_said_before_anything_runs(arguments: dict[str, Any], said: str) -> None:
    strategies = arguments.pop("strategies", ["mean"])
    with pytest.raises(VoxgapError, match=said):
        plan_experiment(DATA, strategies, **arguments)


def test_own_strategies_have_names_of_their_own() -> None:
    own = {"near": Strategy(fill="knn", fill_options={"n_neighbors": 1}), "mean": "mean"}
    experiment = plan_experiment(DATA, own, **QUICK)
    assert [name for name, _ in experiment.strategies] == ["near", "mean"]
    run = experiment.runs()[0]
    assert run.recipe.strategy == own["near"]
