"""What is asked of `compare`: refused before data or Keras are touched, one set of defaults, no false baseline."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planted
import tiny
from voxgap.dataset import Dataset, load_data
from voxgap.errors import VoxgapError
from voxgap.experiment import compare, plan_experiment
from voxgap.experiment.asked import DEFAULT_STRATEGIES, Verdict, designed
from voxgap.experiment.data import divide
from voxgap.experiment.dataset_files import open_dataset, write_dataset
from voxgap.io import write
from voxgap.recipe import Gaps
from voxgap.volume import Volume

WHOLE = Dataset.from_arrays(
    np.random.default_rng(0).normal(size=(24, *tiny.SHAPE)).astype("float32"), np.arange(24) % 2, name="whole"
)


def with_holes(voxels: int) -> Dataset:
    volumes = WHOLE.volumes.copy()
    volumes.reshape(-1)[:voxels] = np.nan
    return WHOLE.with_volumes(volumes)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"strategies": ["magic"]}, "no strategy 'magic'"),
        ({"models": "resnet"}, "models 'resnet' is unknown"),
        ({"pattern": "stripes"}, "pattern 'stripes' is unknown"),
        ({"train_rates": 2}, "train_rates 2 is out of range"),
        ({"folds": 0}, "folds must be"),
        ({"gap_options": {"size": 3}}, "gap_options 'size' is unknown"),
        (
            {"strategies": ["mean", "drop"], "reference": "drop"},
            "reference drop is not compared: choose one of mean",
        ),
        ({"rope": -1.0}, "rope -1 is no width"),
    ],
)
def test_what_no_data_can_make_possible_is_said_before_any_is_read(
    arguments: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(VoxgapError, match=said):
        compare(tmp_path / "nowhere.npz", out=tmp_path / "r.db", **arguments)
    assert not list(tmp_path.iterdir())


def test_names_are_known_without_keras() -> None:
    code = """
        import sys, voxgap as vg
        from voxgap.cli import main
        try:
            vg.compare("nowhere.npz", ["magic"])
        except vg.VoxgapError as error:
            print(error)
        sys.argv = ["voxgap", "compare", "nowhere.npz", "--model", "resnet"]
        try:
            main()
        except SystemExit as stop:
            print(stop.code, "keras" in sys.modules)
    """
    lines = tiny.run_alone(code).splitlines()
    assert lines[0].startswith("no strategy 'magic': choose from zero, mean")
    assert lines[1] == "2 False"


def test_a_metric_of_another_task_is_refused_before_any_training(tmp_path: Path) -> None:
    with pytest.raises(
        VoxgapError, match="metric dice is unknown for classification: choose one of accuracy"
    ):
        compare(WHOLE, ["mean"], metric="dice", out=tmp_path / "r.db")
    with pytest.raises(VoxgapError, match="metric auc is unknown for regression"):
        Verdict("auc").check_metric("regression", ())
    for known in ("dice_1", "dice_tumour", "iou"):
        Verdict(known).check_metric("segmentation", ("rest", "tumour"))
    with pytest.raises(VoxgapError, match=r"dice_missing, dice_rest, dice_tumour$"):
        Verdict("dice_tumor").check_metric("segmentation", ("rest", "tumour"))


@pytest.mark.parametrize("voxels", [1, 5000])
@pytest.mark.parametrize("rates", [None, 0.5])
def test_complete_is_no_baseline_of_data_with_gaps_of_its_own(voxels: int, rates: float | None) -> None:
    data = with_holes(voxels)
    share = "40.7%" if voxels > 1 else "less than 0.1%"
    with pytest.raises(
        VoxgapError, match=f"complete is .* {share} of the values of whole .* Leave it out; drop"
    ):
        plan_experiment(data, ["mean", "complete"], train_rates=rates)
    with pytest.warns(UserWarning, match=f"complete is left out: {share}"):
        plan = plan_experiment(data, train_rates=rates)
    assert tuple(name for name, _ in plan.strategies) == DEFAULT_STRATEGIES
    assert plan.gaps == (Gaps(missing_rate=rates or 0.0),)


def test_complete_is_compared_where_only_simulated_gaps_are_missing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = plan_experiment(WHOLE)
        nothing = plan_experiment(WHOLE, train_rates=0)
    assert tuple(name for name, _ in plan.strategies) == (*DEFAULT_STRATEGIES, "complete")
    assert plan.gaps == (Gaps("slices", 0.5),)
    assert tuple(name for name, _ in nothing.strategies) == DEFAULT_STRATEGIES
    asked = plan_experiment(WHOLE, ["complete", "mean"])
    assert [name for name, _ in asked.strategies] == ["complete", "mean"]


def test_what_a_grid_adds_around_scans_is_no_gap_of_theirs(tmp_path: Path) -> None:
    lines = ["path,label"]
    for index in range(12):
        values = np.random.default_rng(index).normal(size=(6 + index % 3, 6, 6)).astype("float32")
        if index == 3:
            hole = values
        write(tmp_path / f"{index}.nii", Volume(values, affine=np.eye(4)))
        lines.append(f"{index}.nii,{'ab'[index % 2]}")
    (tmp_path / "scans.csv").write_text("\n".join(lines))
    padded = load_data(tmp_path / "scans.csv", size=(10, 8, 8), spacing=(1, 1, 1))
    assert padded.outside_rate > 0.4
    assert padded.missing_rate == 0
    assert f"0.0% missing, {padded.outside_rate:.1%} outside of the scans" in padded.summary()
    plan = plan_experiment(padded, ["mean", "complete"])
    assert plan.gaps == (Gaps(missing_rate=0.5),)
    # drop keeps them, too; also where another process has been handed the data.
    run = plan_experiment(padded, ["drop"], train_rates=0.1, folds=2).runs()[0]
    run = planted.changed(run, train_rate=0.0)
    write_dataset(padded, tmp_path / "handed")
    for held in (padded, open_dataset(tmp_path / "handed")):
        parts = divide(run, held)
        assert len(parts.train) + len(parts.validation) == 6
    hole[2, 3, 3] = np.nan
    write(tmp_path / "3.nii", Volume(hole, affine=np.eye(4)))
    gapped = load_data(tmp_path / "scans.csv", size=(10, 8, 8), spacing=(1, 1, 1))
    assert gapped.missing_rate == pytest.approx(1 / (12 * 7 * 6 * 6))
    with pytest.raises(VoxgapError, match="complete is the data before simulated gaps"):
        plan_experiment(gapped, ["mean", "complete"])


def test_a_pattern_that_is_named_is_simulated_also_where_the_data_has_gaps() -> None:
    plan = plan_experiment(with_holes(9), ["mean"], pattern="blocks")
    assert plan.gaps == (Gaps("blocks", 0.5),)


@pytest.mark.parametrize("voxels", [0, 5000])
def test_the_command_line_and_python_ask_the_same(
    voxels: int, tmp_path: Path, voxgap, monkeypatch: pytest.MonkeyPatch
) -> None:
    from voxgap import experiment

    plans: list[Any] = []
    monkeypatch.setattr(experiment, "run_all", lambda plan, *_, **__: plans.append(plan))
    monkeypatch.setattr("voxgap.experiment.cost.estimate", lambda *_: (1.0, 2.0))
    monkeypatch.setattr("voxgap.experiment.examples.fill_examples", lambda *_: ())
    data = with_holes(voxels)
    path = tmp_path / "data.npz"
    np.savez(path, volumes=data.volumes, labels=data.targets)
    done = voxgap("compare", path, "--precision", "float32", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert ("Warning: complete is left out" in done.err) == bool(voxels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = plan_experiment(data, precision="float32")
    (theirs,) = plans
    for field in (
        "strategies",
        "models",
        "gaps",
        "test_rates",
        "folds",
        "seeds",
    ):
        assert getattr(theirs, field) == getattr(ours, field), field
    assert (ours.training, ours.architecture) == (theirs.training, theirs.architecture)
    assert ours.architecture.normalize == "dataset"


def test_units_of_their_own_are_seen_by_both_doors_and_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from voxgap import intensity

    measured = []
    spreads = intensity.spreads
    monkeypatch.setattr(intensity, "spreads", lambda *a: measured.append(1) or spreads(*a))
    scales = 10.0 ** np.linspace(-2, 2, len(WHOLE)).reshape(-1, 1, 1, 1, 1)
    plan = plan_experiment(WHOLE.with_volumes(WHOLE.volumes * scales.astype("float32")), ["mean"])
    assert plan.architecture.normalize == "volume"
    assert len(measured) == 1


def test_a_threshold_is_part_of_the_experiment_where_it_is_not_the_usual_one(tmp_path: Path) -> None:
    assert plan_experiment(WHOLE, ["mean"], threshold="0.5") == plan_experiment(WHOLE, ["mean"])
    asked = plan_experiment(WHOLE, ["mean"], threshold="youden")
    assert asked.threshold == "youden"
    with pytest.raises(VoxgapError, match="threshold must be"):
        compare(WHOLE, ["mean"], threshold="best", out=tmp_path / "r.db")
    three = Dataset.from_arrays(WHOLE.volumes, np.arange(24) % 3)
    with pytest.raises(VoxgapError, match="two classes, and this data has 3"):
        compare(three, ["mean"], threshold=0.3, out=tmp_path / "r.db")


def test_a_design_says_who_takes_part() -> None:
    assert designed(["complete", "mean", "drop", "knn"]).ranked == ("mean", "knn")
    assert designed().ranked == DEFAULT_STRATEGIES


def test_questions_and_answers_load_no_keras() -> None:
    modules = ", ".join(
        f"voxgap.experiment.{name}" for name in ("asked", "planning", "conduct", "comparison", "local")
    )
    assert tiny.run_alone(f"import sys, {modules}; print('keras' in sys.modules)").strip() == "False"
