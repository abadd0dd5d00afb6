"""`voxgap compare` and `voxgap report` as a user meets them."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import planted
import tiny
from voxgap.cli import board
from voxgap.dataset import Dataset, load_data
from voxgap.experiment import Event, Experiment, Outcome, Store, open_store
from voxgap.experiment.data import content_key
from voxgap.experiment.migration import _reading
from voxgap.io import write
from voxgap.missingness import simulate
from voxgap.recipe import Architecture
from voxgap.volume import Volume

QUICK = ("--models", "cnn3d", "--filters", "4", "--epochs", "1", "--folds", "2", "--processes", "1")
STRATEGIES = ("--strategies", "mean,linear", "--precision", "float32")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Complete smooth volumes of two classes."""
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 2
    volumes = rng.normal(size=(24, *tiny.SHAPE)).cumsum(axis=1) + labels.reshape(-1, 1, 1, 1, 1)
    path = tmp_path_factory.mktemp("data") / "smooth data.npz"
    np.savez(path, volumes=volumes.astype("float32"), labels=labels)
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Experiment]:
    """Nothing is run: the experiments that would have been."""
    from voxgap import experiment

    plans: list[Experiment] = []
    monkeypatch.setattr(experiment, "run_all", lambda plan, *_, **__: plans.append(plan))
    monkeypatch.setattr("voxgap.experiment.cost.estimate", lambda *_: (100.0, 1000.0))
    monkeypatch.setattr("voxgap.experiment.examples.fill_examples", lambda *_: ())
    return plans


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder as `voxgap compare` leaves it, with planted outcomes; its data is gone."""
    means = {"mean": 0.7, "linear": 0.9, "complete": 0.95}
    plan = planted.experiment(list(means), folds=8)
    fill(tmp_path / "compare.db", planted.outcomes(plan, means), plan)
    return tmp_path


def fill(path: Path, pairs: list, plan: planted.Experiment) -> None:
    with open_store(path, create=True) as store:
        store.add(plan, "voxgap compare gone.npz --size 4,4,4", {"data": "gone.npz", "size": [4, 4, 4]})
        for _ in pairs:
            run = store.claim(plan, "here:1:a")
            outcome = next(o for r, o in pairs if r == run)
            assert store.finish(outcome, "here:1:a")


def in_this_process(
    plan: Experiment, dataset: Dataset, store: Store, *, progress: Callable[[Event], None], **_: object
) -> None:
    """What `run_all` does, without processes that import Keras each."""
    from voxgap.experiment.execute import execute

    runs = plan.runs()
    while (run := store.claim(plan, "here:1:a")) is not None:
        outcome = execute(run, dataset)
        assert store.finish(outcome, "here:1:a")
        progress(Event(run, "ended", len(store.outcomes(plan)), len(runs), outcome, 60.0))


@pytest.mark.parametrize("processes", ["this one", pytest.param("their own", marks=pytest.mark.full)])
def test_the_whole_way(
    processes: str, data: Path, tmp_path: Path, voxgap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One experiment is run, told, written and done again without being run again."""
    if processes == "this one":
        monkeypatch.setattr("voxgap.experiment.run_all", in_this_process)
    out = tmp_path / "found"
    command = (
        "compare",
        data,
        *STRATEGIES,
        *QUICK,
        "--rates",
        "0.4",
        "--test-rates",
        "0.2,0.6",
        "--out",
        out,
    )
    done = voxgap(*command)
    assert done.code == 0, done.err
    assert "4 networks to train." in done.err
    assert "on this machine" in done.err
    assert "4/4" in done.err
    assert "Simulated gaps: 40% of the slices" in done.err
    assert "accuracy (higher is better)" in done.out
    # linear is nearer to smooth data than the mean, whatever one epoch has made of the networks.
    reconstruction = json.loads((out / "results.json").read_text())["reconstruction"]
    assert [place["strategy"] for place in reconstruction["places"]] == ["linear", "mean"]
    assert {path.name for path in out.iterdir()} == {
        "compare.db",
        "predictions.csv",
        "report.html",
        "results.csv",
        "recipe.toml",
        "results.json",
    }
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    accuracies = [row for row in rows if row["metric"] == "accuracy"]
    assert len(accuracies) == 2 * 2 * 2
    with (out / "predictions.csv").open() as file:
        cases = list(csv.DictReader(file))
    for row in accuracies:
        own = [case for case in cases if (case["run"], case["test_rate"]) == (row["run"], row["test_rate"])]
        right = np.mean([case["class"] == case["label"] for case in own])
        assert right == pytest.approx(float(row["value"]))
    assert len({case["case"] for case in cases}) == 24
    page = (out / "report.html").read_text()
    assert "What the fills make of the same gap" in page
    assert f"voxgap compare &#39;{data}&#39; --strategies mean,linear" in page

    again = voxgap(*command)
    assert again.code == 0, again.err
    assert "4 networks to train, 4 of them done before." in again.err
    assert "1/4" not in again.err
    assert again.out == done.out

    # The page is written again from the file alone, by another metric; the data is read as the command did.
    told = voxgap("report", out, "--metric", "log_loss", "--out", tmp_path / "other" / "page.html")
    assert told.code == 0, told.err
    assert "log loss (lower is better)" in told.out
    assert "No pictures" not in told.err
    assert "What the fills make" in (tmp_path / "other" / "page.html").read_text()
    assert json.loads((tmp_path / "other" / "results.json").read_text())["overall"]["metric"] == "log_loss"


def test_ctrl_c_says_how_to_go_on(
    data: Path, tmp_path: Path, voxgap, asked: list[Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    from voxgap import experiment

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "run_all", interrupted)
    arguments = (data, *STRATEGIES, *QUICK, "--rates", "0.4", "--out", tmp_path)
    done = voxgap("compare", *arguments, "--fresh")
    assert done.code == 130
    assert "Interrupted. 0 of 4 runs are kept. Go on with:" in done.err
    assert f"voxgap compare '{data}' --strategies mean,linear" in done.err
    assert "--fresh" not in done.err


def test_fresh_begins_anew(data: Path, kept: Path, voxgap, asked: list[Experiment]) -> None:
    arguments = ("compare", data, *STRATEGIES, *QUICK, "--rates", "0.4", "--out", kept)
    assert voxgap(*arguments).code == 0
    with open_store(kept / "compare.db") as store:
        assert len(store.experiments()) == 2
    assert voxgap(*arguments, "--fresh").code == 0
    with open_store(kept / "compare.db") as store:
        assert [one.data for one in store.experiments()] == [str(data)]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--precision", "float16"), "precision must be auto, float32 or bfloat16, got 'float16'"),
        (("--augment", "channel_dropout:0.1/0.2/0.3"), "ChannelDropout: 3 rates for 1 channels"),
        (("--folds", "25"), "25"),
        (("--processes", "0"), "processes must be a whole number of at least 1, got 0"),
        (("--processes", "-3"), "processes must be a whole number of at least 1, got -3"),
        (("--learning-rate", "nan"), "learning_rate: only names, numbers and lists"),
        (("--kernel-size", "0", "--precision", "float32"), "kernel_size"),
    ],
)
def test_fresh_deletes_nothing_for_what_can_never_run(
    wrong: tuple[str, ...], said: str, data: Path, kept: Path, voxgap, asked: list[Experiment]
) -> None:
    before = (kept / "compare.db").read_bytes()
    done = voxgap("compare", data, "--strategies", "mean", *QUICK, *wrong, "--out", kept, "--fresh")
    assert done.code == 2, done.err
    (line,) = (line for line in done.err.splitlines() if line.startswith("Error: "))
    assert said in line
    assert len(line) < 200
    assert (kept / "compare.db").read_bytes() == before


def test_fresh_deletes_no_file_of_somebody_else(
    data: Path, tmp_path: Path, voxgap, asked: list[Experiment]
) -> None:
    (tmp_path / "compare.db").write_text("my thesis")
    done = voxgap("compare", data, *STRATEGIES, *QUICK, "--out", tmp_path, "--fresh")
    assert done.code == 2
    assert "compare.db: not a file of voxgap's results; give another name" in done.err
    assert (tmp_path / "compare.db").read_text() == "my thesis"


def test_a_comparison_of_which_every_run_failed_has_failed(
    data: Path, tmp_path: Path, voxgap, asked: list[Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    from voxgap import experiment

    def failing(plan: Experiment, dataset: Dataset, store: Store, **_: object) -> None:
        for _ in plan.runs():
            run = store.claim(plan, "here:1:a")
            assert run is not None
            store.finish(Outcome(run.key, "failed", "the moon is full"), "here:1:a")

    monkeypatch.setattr(experiment, "run_all", failing)
    done = voxgap("compare", data, *STRATEGIES, *QUICK, "--out", tmp_path)
    assert done.code == 1
    assert "Error: all 4 runs failed; that of mean: the moon is full" in done.err
    assert (tmp_path / "report.html").exists()


def test_gaps_of_its_own_are_compared_as_they_are(tmp_path: Path, voxgap, asked: list[Experiment]) -> None:
    volumes = simulate(np.random.default_rng(0).normal(size=(24, *tiny.SHAPE)), "voxels", 0.25)
    labels = np.array(["often", "often", "rare"])[np.arange(24) % 3]
    np.savez(tmp_path / "gaps.npz", volumes=volumes, labels=labels)
    done = voxgap("compare", tmp_path / "gaps.npz", *QUICK, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "25% of the data is missing; it is compared as it is" in done.err
    assert "classes are uneven: guessing the commonest is right for 67%" in done.err
    assert [gaps.missing_rate for gaps in asked[0].gaps] == [0.0]
    assert [name for name, _ in asked[0].strategies] == ["mean", "linear", "mask_channel", "masked_conv"]
    assert "Warning: complete is left out: 25.0% of the values" in done.err
    refused = voxgap(
        *("compare", tmp_path / "gaps.npz", "--strategies", "mean,complete", "--out", tmp_path / "new")
    )
    assert refused.code == 2
    assert (
        "Error: strategies: complete is the data before simulated gaps, and 25.0% of the values"
        in refused.err
    )
    assert not (tmp_path / "new").exists()


def test_what_is_asked_reaches_the_plan(data: Path, tmp_path: Path, voxgap, asked: list[Experiment]) -> None:
    done = voxgap(
        *(
            "compare",
            data,
            "--strategies",
            "mean, knn",
            "--models",
            "cnn3d,resnet2d",
            "--pattern",
            "blocks,voxels",
        ),
        *(
            "--mechanism",
            "mcar,mnar",
            "--rates",
            "0.1,0.5",
            "--test-rates",
            "0.3",
            "--folds",
            "3",
            "--repeats",
            "2",
        ),
        *("--seeds", "2", "--seed", "7", "--epochs", "5", "--patience", "2", "--filters", "4,8"),
        *("--precision", "float32", "--batch-size", "8", "--size", "6,6,6", "--out", tmp_path),
    )
    assert done.code == 0, done.err
    plan = asked[0]
    assert plan.models == ("cnn3d", "resnet2d")
    crossed = itertools.product(("blocks", "voxels"), ("mcar", "mnar"), (0.1, 0.5))
    assert [(one.pattern, one.mechanism, one.missing_rate) for one in plan.gaps] == [*crossed]
    assert plan.test_rates == (0.3,)
    assert (plan.folds, plan.repeats, plan.seeds, plan.split_seed) == (3, 2, (0, 1), 7)
    assert plan.architecture == Architecture((4, 8))
    assert (plan.training.epochs, plan.training.patience, plan.training.batch_size) == (5, 2, 8)
    with open_store(tmp_path / "compare.db") as store:
        assert content_key(load_data(**store.reading(plan))) == plan.data_key
    assert "384 networks to train" in done.err
    assert "About 2 min to 17 min, by how early they stop, on this machine." in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--strategies", "mean,magic"), "no strategy 'magic'"),
        (("--metric", "dice"), "--metric dice is unknown for classification: choose one of accuracy"),
        (("--against", "knn"), "--against knn is not compared: choose one of mean, linear"),
        (("--against", "complete"), "--against complete is not compared"),
        (("--rope", "-1"), "--rope -1 is no width"),
        (("--rates", "lots"), "--rates takes numbers"),
        (("--rates", "1.5"), "1.5 is out of range"),
        (("--threshold", "best"), "threshold must be"),
        (("--pattern", "stripes"), "'stripes' is unknown"),
        (("--folds", "0"), "folds must be"),
        (("--class-weight", "heavy"), "--class-weight must be none or balanced"),
    ],
)
def test_what_can_be_mended_is_one_line_before_anything_runs(
    arguments: tuple[str, ...], said: str, data: Path, tmp_path: Path, voxgap
) -> None:
    done = voxgap("compare", data, "--out", tmp_path / "out", *arguments)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("Error:") == 1
    assert not (tmp_path / "out").exists()


def test_a_budget_makes_it_a_race(data: Path, tmp_path: Path, voxgap, asked: list[Experiment]) -> None:
    done = voxgap("compare", data, "--budget", "30m", "--precision", "float32", "--out", tmp_path / "race")
    assert done.code == 0, done.err
    assert asked[0].racing
    assert (asked[0].folds, asked[0].repeats) == (5, 3)
    assert "A race of at most 15 rounds, " in done.err
    assert "0 of at most 15 rounds were done; a larger budget goes on." in done.out
    short = voxgap("compare", data, "--budget", "3s", "--precision", "float32", "--out", tmp_path / "short")
    assert short.code == 2
    assert "the first round trains" in short.err
    assert not (tmp_path / "short" / "recipe.toml").exists()
    assert not (tmp_path / "short").exists(), "refused: nothing is written"
    kept = {path: path.read_bytes() for path in (tmp_path / "race").iterdir()}
    again = (
        "compare",
        data,
        "--budget",
        "3s",
        "--precision",
        "float32",
        "--out",
        tmp_path / "race",
        "--fresh",
    )
    assert voxgap(*again, "--pattern", "voxels").code == 2
    assert {path: path.read_bytes() for path in (tmp_path / "race").iterdir()} == kept, (
        "refused: nothing is gone"
    )
    for budget in ("30", "soon"):
        refused = voxgap("compare", data, "--budget", budget, "--out", tmp_path / "none")
        assert refused.code == 2
        assert f"budget {budget} is no time: give 90s, 30m or 2h" in refused.err


def test_ray_that_is_missing_is_one_line(
    data: Path, tmp_path: Path, voxgap, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("voxgap.distributed")
    for name in [name for name in sys.modules if name.split(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "voxgap.distributed")
    monkeypatch.setitem(sys.modules, "ray", None)
    done = voxgap("compare", data, *STRATEGIES, *QUICK, "--out", tmp_path, "--ray", "auto")
    assert done.code == 2
    assert "pip install 'voxgap[ray]'" in done.err
    (tmp_path / "compare.db").write_bytes(b"as it was")
    again = voxgap("compare", data, *STRATEGIES, *QUICK, "--out", tmp_path, "--ray", "auto", "--fresh")
    assert "pip install 'voxgap[ray]'" in again.err
    assert (tmp_path / "compare.db").read_bytes() == b"as it was"


def test_a_report_needs_no_data(kept: Path, voxgap) -> None:
    done = voxgap("report", kept / "compare.db")
    assert done.code == 0, done.err
    assert done.out.startswith("linear is better than mean")
    assert "No pictures of fills: gone.npz: no such file" in done.err
    page = (kept / "report.html").read_text()
    assert "linear is better than mean" in page
    assert "voxgap compare gone.npz --size 4,4,4" in page


def test_a_report_draws_no_fills_of_data_that_has_changed(
    data: Path, tmp_path: Path, voxgap, asked: list[Experiment]
) -> None:
    with np.load(data) as held:
        arrays = dict(held)
    np.savez(tmp_path / "scans.npz", **arrays)
    arguments = (*STRATEGIES, *QUICK, "--out", tmp_path / "out")
    assert voxgap("compare", tmp_path / "scans.npz", *arguments).code == 0
    assert "No pictures" not in voxgap("report", tmp_path / "out").err
    np.savez(tmp_path / "scans.npz", **arrays | {"volumes": arrays["volumes"] + 1})
    said = voxgap("report", tmp_path / "out").err
    assert "No pictures of fills: " in said
    assert "scans.npz is not what it was" in said


def test_a_report_of_what_still_runs(kept: Path, voxgap) -> None:
    with sqlite3.connect(kept / "compare.db") as connection:
        connection.execute("UPDATE runs SET outcome = NULL, status = 'waiting' WHERE rowid > 4")
    connection.close()
    done = voxgap("report", kept)
    assert done.code == 0, done.err
    assert "Unfinished: 4 of 24 runs have ended." in done.out


def test_one_of_several_experiments(kept: Path, voxgap) -> None:
    first = planted.experiment(["mean", "linear", "complete"], folds=8)
    second = dataclasses.replace(first, data="later")
    with open_store(kept / "compare.db", create=True) as store:
        store.add(second)
    latest = voxgap("report", kept)
    assert "2 experiments; this is the latest" in latest.err
    assert "No run has a score yet." in latest.out
    assert "linear is better" in voxgap("report", kept, "--experiment", first.key[:6]).out
    wrong = voxgap("report", kept, "--experiment", "zzz")
    assert wrong.code == 2
    assert first.key in wrong.err


@pytest.mark.parametrize("content", [None, b"no database at all"])
def test_no_file_of_results(content: bytes | None, tmp_path: Path, voxgap) -> None:
    path = tmp_path / "compare.db"
    if content is not None:
        path.write_bytes(content)
    done = voxgap("report", path)
    assert done.code == 2
    assert "compare.db" in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_a_metric_that_the_runs_lack(kept: Path, voxgap) -> None:
    done = voxgap("report", kept, "--metric", "f2")
    assert done.code == 2
    assert "choose one of accuracy, other" in done.err


def shown(table: board.Board) -> str:
    text = io.StringIO()
    Console(file=text, width=120).print(table)
    return text.getvalue()


def test_the_board_counts_what_happens() -> None:
    plan = planted.experiment(["mean", "[b]odd[/b]", "complete"], folds=2)
    means = {"mean": 0.75, "[b]odd[/b]": 0.5, "complete": 0.9}
    pairs = planted.outcomes(plan, means, noise=0, between_folds=0)
    table = board.Board(plan, pairs[:1], "accuracy")
    assert "1 of 6 runs. Ctrl-C" in shown(table)
    run, outcome = pairs[1]
    table.tell(Event(run, "started", 1, 6))
    table.tell(Event(run, "epoch", 1, 6, epoch=3))
    assert "fold 1 seed 0, epoch 4" in shown(table)
    table.tell(Event(run, "ended", 2, 6, outcome, eta_seconds=300))
    lines = shown(table).splitlines()
    assert "epoch" not in lines[2]
    assert lines[1].split()[:3] == ["mean", "1/2", "0.7"]
    assert lines[2].split()[:3] == ["[b]odd[/b]", "1/2", "0.45"]
    assert "2 of 6 runs, about 5 min left" in lines[-1]
    table.tell(Event(pairs[2][0], "ended", 3, 6, Outcome(pairs[2][0].key, "failed", "broken"), eta_seconds=9))
    assert shown(table).splitlines()[3].split()[:3] == ["complete", "1/2", "1"]


@pytest.mark.parametrize(("seconds", "text"), [(40.4, "40 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations(seconds: float, text: str) -> None:
    assert board.duration(seconds) == text


@pytest.mark.parametrize(("option", "depth"), [("", 8), (" --reference flair", 4)])
def test_patients_on_two_grids_are_read_again_as_they_were(option: str, depth: int, tmp_path: Path) -> None:
    lines = ["t1,flair,label"]
    for patient in range(6):
        names = []
        for channel, slices in (("t1", 8), ("flair", 4)):
            values = np.random.default_rng(patient).normal(size=(slices, 6, 6, 1))
            affine = np.diag([1.0, 1.0, 8 / slices, 1.0])
            names.append(f"{channel}{patient}.nii")
            write(tmp_path / names[-1], Volume(values, affine=affine, channels=(channel,)))
        lines.append(",".join([*names, "ab"[patient % 2]]))
    (tmp_path / "patients.csv").write_text("\n".join(lines) + "\n")
    found = load_data(**_reading(f"voxgap compare {tmp_path / 'patients.csv'} --folds 2{option}", ""))
    assert sorted(found.volumes.shape[1:4]) == sorted((depth, 6, 6))
