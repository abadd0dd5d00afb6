"""One run: the cached fill changes nothing, equal strategies score equal, planted truths are found, errors recorded."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import planted
import tiny
from voxgap import metrics
from voxgap.dataset import Dataset, load_data
from voxgap.dataset.names import case_names
from voxgap.experiment import cache as caching
from voxgap.experiment import compare
from voxgap.experiment.cache import cached
from voxgap.experiment.data import content_key, divide, missing_units, with_gaps
from voxgap.experiment.execute import execute
from voxgap.experiment.plan import Outcome, Run
from voxgap.experiment.prepared import Packed, adapt_prepare, network_alone, prepared
from voxgap.history import History
from voxgap.models import build_model
from voxgap.recipe import PRESETS, Architecture, Gaps, Recipe, Training, strategy_of
from voxgap.report import write_report
from voxgap.training import Compiled

execution = importlib.import_module("voxgap.experiment.execute")  # the package has a function of that name
DATA = tiny.dataset(count=60)
QUICK = {"epochs": 2, "batch_size": 8, "learning_rate": 0.02, "precision": "float32"}
ALL = [*PRESETS]


def a_run(strategy: str = "mean", data: Dataset = DATA, training: Any = QUICK, **changes: Any) -> Run:
    preset = strategy_of("mean" if strategy in ("complete", "drop") else strategy)
    recipe = Recipe("cnn3d", preset, Architecture((4,)), Training(**training))
    run = Run("tiny", content_key(data), strategy, recipe, Gaps(), (0.25, 0.5), 0, 0, 3, 0)
    return planted.changed(run, **changes)


@pytest.mark.full
@pytest.mark.parametrize(
    "strategy",
    [
        "mask_channel",
        *(pytest.param(n, marks=pytest.mark.full) for n in (*ALL, "complete") if n != "mask_channel"),
    ],
)
def test_a_cached_fill_changes_nothing(strategy: str, tmp_path: Path) -> None:
    run = a_run(strategy)
    if strategy == "complete":
        run = dataclasses.replace(run, gaps=None, test_rates=(0.0,))
    whole = execute(run, DATA)
    assert whole.status == "done", whole.reason
    for _ in range(2 if strategy == "knn" else 1):  # filling the cache, then reading from it
        alone = execute(run, DATA, cache=tmp_path)
        assert alone.status == "done", alone.reason
        for rate in run.test_rates:
            assert alone.scores[rate] == pytest.approx(whole.scores[rate], rel=1e-4, abs=1e-5)
            assert alone.reconstruction[rate] == (
                whole.reconstruction[rate] and pytest.approx(whole.reconstruction[rate], rel=1e-5)
            )
        for ours, theirs in zip(alone.history, whole.history, strict=True):
            for name in ("loss", "val_loss"):
                assert ours[name] == pytest.approx(theirs[name], rel=1e-4)


@pytest.mark.parametrize(
    ("task", "precision"),
    [
        pytest.param("classification", "float32", marks=pytest.mark.full),
        pytest.param("classification", "bfloat16", marks=pytest.mark.full),
        pytest.param("regression", "float32", marks=pytest.mark.full),
    ],
)
def test_a_network_compiled_by_another_run_begins_as_a_new_one(
    task: str, precision: str, tmp_path: Path
) -> None:
    data = tiny.dataset(task, 60)
    compiled = Compiled()
    architecture = Architecture((4,), dropout=0.3)
    training = QUICK | {"precision": precision}
    for strategy, seed, fold in (("mean", 0, 0), ("zero", 0, 1), ("mask_channel", 0, 0), ("mean", 7, 0)):
        run = a_run(strategy, data, training=training, seed=seed, fold=fold, architecture=architecture)
        shared = execute(run, data, cache=tmp_path, compiled=compiled)
        keras.utils.clear_session()  # as a worker does between runs
        alone = execute(run, data, cache=tmp_path)
        assert shared.status == "done", shared.reason
        assert shared.scores == alone.scores
        for ours, theirs in zip(shared.history, alone.history, strict=True):
            assert ours | {"seconds": 0} == theirs | {"seconds": 0}
    assert len(compiled) == 2, "mean and zero have the same network"


@pytest.mark.full
def test_strategies_with_one_fill_share_it(tmp_path: Path) -> None:
    execute(a_run("mean"), DATA, cache=tmp_path)
    files = {path: path.stat().st_ino for path in tmp_path.glob("*.npy")}
    execute(a_run("mask_channel", seed=3), DATA, cache=tmp_path)
    after = {path: path.stat().st_ino for path in tmp_path.glob("*.npy")}
    assert files.items() <= after.items()
    assert {path.name.rsplit("-", 1)[0] for path in after.keys() - files.keys()} == {
        "train-observed",
        "validation-observed",
    }


@pytest.mark.full
def test_the_network_alone_is_the_network(tmp_path: Path) -> None:
    model = build_model("cnn3d", tiny.SHAPE, 3, strategy="attention", filters=(4,))
    adapt_prepare(model, lambda: DATA.volumes, None, "")
    packed = Packed(prepared(model, DATA.volumes, False), ~np.isnan(DATA.volumes))
    assert packed.shape == (60, 8, 8, 8, 2)
    assert len(packed) == 60
    alone = network_alone(model).predict(np.stack([packed[i] for i in range(60)]), verbose=0)
    np.testing.assert_allclose(alone, model.predict(DATA.volumes, verbose=0), rtol=1e-5, atol=1e-6)


def test_fill_statistics_come_from_the_training_part_alone(tmp_path: Path) -> None:
    """What is tested or watched can be anything: what was learnt from the training part stays the same."""
    parts = divide(a_run(), DATA)
    volumes = DATA.volumes.copy()
    volumes[parts.test] *= 100
    volumes[parts.validation] -= 50
    for folder, data in (("a", DATA), ("b", DATA.with_volumes(volumes))):
        # Gaps that don't depend on the values, and one key for both sets.
        execute(a_run(training=QUICK | {"epochs": 1}), data, cache=tmp_path / folder)
    states = [np.load(next((tmp_path / folder).glob("state-*.npy"))) for folder in ("a", "b")]
    np.testing.assert_array_equal(*states)


@pytest.mark.full
def test_two_equal_strategies_under_two_names_score_the_same(tmp_path: Path) -> None:
    outcomes = [
        execute(dataclasses.replace(a_run("mask_channel"), strategy=name), DATA, cache=tmp_path)
        for name in ("one", "two")
    ]
    assert outcomes[0].key != outcomes[1].key
    assert outcomes[0].scores == outcomes[1].scores
    assert outcomes[0].reconstruction == outcomes[1].reconstruction


@pytest.mark.full
def test_another_seed_is_another_network_on_the_same_gaps(tmp_path: Path) -> None:
    one, other = (execute(a_run("mask_channel", seed=seed), DATA, cache=tmp_path) for seed in (0, 1))
    assert other.scores != one.scores
    assert other.reconstruction == one.reconstruction


@pytest.mark.full
def test_the_reconstruction_is_that_of_the_hidden_voxels(tmp_path: Path) -> None:
    """Against NumPy: the training mean of each voxel, in standard deviations, on what was taken away only."""
    run = a_run(training=QUICK | {"epochs": 1})
    parts = divide(run, DATA)
    train = with_gaps(run, DATA, parts.train, 0.5).volumes
    mean, deviation = np.nanmean(train, axis=0), np.nanstd(train)
    mean = np.where(np.isnan(mean), np.nanmean(train), mean)
    outcome = execute(run, DATA, cache=tmp_path)
    for rate in (0.25, 0.5):
        missing = missing_units(run, DATA, rate)
        assert missing is not None
        truth = DATA.volumes[parts.test]
        taken = np.broadcast_to(missing[parts.test], truth.shape) & ~np.isnan(truth)
        errors = ((mean - truth) / deviation)[taken]
        expected = {"mae": np.abs(errors).mean(), "rmse": np.sqrt((errors**2).mean())}
        assert outcome.reconstruction[rate] == pytest.approx(expected, rel=1e-4)


def test_an_outcome_says_what_was_done() -> None:
    seen = []
    run = a_run()
    outcome = execute(run, DATA, progress=seen.append)
    parts = divide(run, DATA)
    assert outcome.key == run.key
    assert (outcome.n_train, outcome.n_validation, outcome.n_test) == (
        len(parts.train),
        len(parts.validation),
        len(parts.test),
    )
    assert outcome.epochs == len(outcome.history) == 2
    losses = [record["val_loss"] for record in outcome.history]
    assert outcome.best_epoch == 1 + int(np.argmin(losses))
    assert outcome.precision == "float32"
    assert outcome.seconds_train >= sum(record["seconds"] for record in outcome.history) > 0
    assert 0 < outcome.seconds_inference < 10
    assert {"keras", "numpy", "voxgap", "python"} < set(outcome.versions)
    assert set(outcome.scores) == {0.25, 0.5}
    assert set(outcome.scores[0.5]) == set(metrics.scores("classification", [0, 1, 2], np.eye(3)))
    assert [p.epoch for p in seen if p.record] == [0, 1]
    for rate, rows in outcome.predictions.items():
        assert [row["case"] for row in rows] == case_names(DATA.take(parts.test))
        truth = [tiny.CLASSES.index(row["label"]) for row in rows]
        said = [[row[f"p_{name}"] for name in tiny.CLASSES] for row in rows]
        assert metrics.scores("classification", truth, said) == pytest.approx(outcome.scores[rate], rel=1e-6)
        assert np.mean([row["class"] == row["label"] for row in rows]) == pytest.approx(
            outcome.scores[rate]["accuracy"]
        )
    assert set(outcome.predictions) == {0.25, 0.5}
    assert set(outcome.audit) == {0.5}, "the rate of the training"
    recorded = [row["recorded"] for row in outcome.audit[0.5]]
    assert recorded == [row["class"] == row["label"] for row in outcome.predictions[0.5]]
    assert Outcome.from_json(json.loads(json.dumps(outcome.to_json()))).audit == outcome.audit


@pytest.mark.full
def test_a_regression_is_scored_as_one() -> None:
    data = tiny.dataset("regression", 60, outputs=2)
    outcome = execute(a_run(data=data), data)
    assert outcome.status == "done", outcome.reason
    assert set(outcome.scores[0.5]) == {"r2", "mae", "rmse"}
    errors = [abs(row[f"target_{i}"] - row[f"value_{i}"]) for row in outcome.predictions[0.5] for i in (0, 1)]
    assert np.mean(errors) == pytest.approx(outcome.scores[0.5]["mae"], rel=1e-5)


def test_what_is_impossible_is_a_finding() -> None:
    outcome = execute(a_run("drop"), DATA)
    assert outcome.status == "not possible"
    assert outcome.reason == "no volume is complete"


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({**QUICK, "loss": "nonsense"}, "no loss 'nonsense'"),
        ({**QUICK, "learning_rate": 1e30, "epochs": 1}, "NaN"),
    ],
)
def test_a_run_that_raises_is_failed_with_its_reason(training: dict[str, Any], said: str) -> None:
    outcome = execute(a_run(training=training), DATA)
    assert outcome.status == "failed"
    assert said in outcome.reason
    assert "\n" not in outcome.reason


def test_no_memory_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: Any, **__: Any) -> None:
        raise MemoryError("Unable to allocate 3 TiB")

    monkeypatch.setattr("voxgap.experiment.execute.built", no_memory)
    outcome = execute(a_run(), DATA)
    assert (outcome.status, outcome.reason) == ("failed", "out of memory: Unable to allocate 3 TiB")


@pytest.mark.full
def test_an_interrupted_training_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(now: Any) -> None:
        if now.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(a_run(), DATA, progress=stop)


def telling_gaps(count: int = 60) -> Dataset:
    """Volumes that are all alike where they are observed: only what is missing says the class."""
    rng = np.random.default_rng(0)
    pattern = rng.normal(size=tiny.SHAPE).astype("float32")
    x = np.repeat(pattern[None], count, axis=0)
    targets = np.arange(count) % 2
    for i, kind in enumerate(targets):
        x[i, rng.choice(4, 2, replace=False) + 4 * kind] = np.nan
    return Dataset.from_arrays(x, targets, name="telling gaps")


@pytest.mark.full
def test_planted_gaps_that_tell_the_class_are_found_by_who_sees_them(tmp_path: Path) -> None:
    data = telling_gaps()
    training = {"epochs": 25, "batch_size": 8, "learning_rate": 0.02, "patience": 25, "precision": "float32"}
    accuracy = {}
    for name in ("mean", "mask_channel"):
        run = a_run(name, data, training, train_rate=0.0, test_rates=(0.0,))
        outcome = execute(run, data, cache=tmp_path)
        assert outcome.status == "done", outcome.reason
        accuracy[name] = outcome.scores[0.0]["accuracy"]
    assert accuracy["mask_channel"] > 0.9
    assert accuracy["mean"] < 0.7


@pytest.mark.full
@pytest.mark.parametrize("where", ["gaps", "values"])
def test_a_planted_shortcut_is_named_by_compare(where: str, tmp_path: Path) -> None:
    """The label is carried by the gaps alone, or by the values alone; the network sees both."""
    data = DATA
    if where == "gaps":
        rng = np.random.default_rng(1)
        noise = rng.normal(size=(60, *tiny.SHAPE)).astype("float32")
        data = telling_gaps()
        data = data.with_volumes(np.where(np.isnan(data.volumes), np.float32(np.nan), noise))
    training = {"epochs": 20, "batch_size": 8, "learning_rate": 0.02, "patience": 20, "precision": "float32"}
    small: Any = {"models": "cnn3d", "folds": 2, "processes": 1, "architecture": {"filters": (4,)}}
    comparison = compare(data, ["mask_channel"], out=tmp_path / "r.db", **small, **training)
    audit = comparison.audits["mask_channel"]
    assert audit.share is not None
    if where == "gaps":
        # Blanks are nothing that a network has met, and it makes less of the gaps beside them: 0.78 to 1 are seen.
        assert 0.6 < audit.share.value < 1.1
    else:
        assert audit.share.value == pytest.approx(0, abs=0.1)
    assert audit.leans == (where == "gaps")
    assert "mask_channel: Of its accuracy above chance, " in comparison.summary()
    assert ("a network that would not do so elsewhere." in comparison.summary()) == (where == "gaps")
    write_report(comparison, tmp_path / "report.html")
    assert "Do they look at what is missing?" in (tmp_path / "report.html").read_text()


@pytest.mark.full
def test_planted_smooth_volumes_are_best_interpolated(tmp_path: Path) -> None:
    depth = np.linspace(0, np.pi, 8).reshape(1, 8, 1, 1, 1)
    phase = np.random.default_rng(0).uniform(0, 2 * np.pi, (60, 1, 8, 8, 1))
    data = DATA.with_volumes(np.sin(depth + phase).astype("float32"))
    error = {}
    for name in ("mean", "linear"):
        run = a_run(name, data, QUICK | {"epochs": 1}, test_rates=(0.25,))
        reconstruction = execute(run, data, cache=tmp_path).reconstruction[0.25]
        assert reconstruction is not None
        error[name] = reconstruction["rmse"]
    assert error["linear"] < 0.5 * error["mean"]


class TestKept:
    """Arrays that are made once."""

    def test_made_once_and_equal(self, tmp_path: Path) -> None:
        made = []

        def make() -> np.ndarray:
            made.append(1)
            return np.arange(12.0).reshape(3, 4)

        for _ in range(3):
            np.testing.assert_array_equal(cached(tmp_path / "deep", "name", make), make())
        assert len(made) == 4
        cached(None, "name", make)
        assert len(made) == 5

    def test_a_damaged_file_is_made_anew(self, tmp_path: Path) -> None:
        (tmp_path / "name.npy").write_bytes(b"\x93NUMPY nonsense")
        np.testing.assert_array_equal(cached(tmp_path, "name", lambda: np.ones(3)), np.ones(3))
        np.testing.assert_array_equal(np.load(tmp_path / "name.npy"), np.ones(3))

    def test_what_was_used_longest_ago_goes_first(self, tmp_path: Path) -> None:
        import os

        arrays = {name: np.full(1000, i) for i, name in enumerate("abcd")}
        held = {}
        for age, name in enumerate("abc"):
            held[name] = cached(tmp_path, name, lambda name=name: arrays[name], 28_000)
            os.utime(tmp_path / f"{name}.npy", (1000 + age, 1000 + age))
        cached(tmp_path, "a", lambda: arrays["a"], 28_000)  # used again just now
        cached(tmp_path, "d", lambda: arrays["d"], 28_000)
        assert sorted(path.stem for path in tmp_path.glob("*.npy")) == ["a", "c", "d"]
        np.testing.assert_array_equal(held["b"], arrays["b"])  # who holds it keeps it

    def test_a_full_disk_costs_time_only(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(caching.np, "save", full)
        np.testing.assert_array_equal(cached(tmp_path, "name", lambda: np.ones(3)), np.ones(3))
        assert not list(tmp_path.iterdir())


@pytest.mark.full
def test_scores_without_a_definition_are_nan() -> None:
    """A fold with one class has no AUC, and the run is done all the same."""
    split = np.array(["train", "train", "validation", "test"])[np.arange(60) // 3 % 4]
    one = (DATA.targets == 0) | (split != "test")
    data = dataclasses.replace(DATA, split=split).take(np.flatnonzero(one))
    outcome = execute(a_run(data=data, folds=1), data)
    assert outcome.status == "done", outcome.reason
    assert math.isnan(outcome.scores[0.5]["auc"])


@pytest.mark.full
def test_a_segmentation_is_scored_by_its_voxels(tmp_path: Path) -> None:
    """Label maps instead of classes: through the fill cache, the voxels of missing slices scored beside the rest."""
    label_maps = (np.nan_to_num(DATA.volumes[..., 0]) > 0.5).astype("int16")
    data = Dataset.from_arrays(DATA.volumes, label_maps=label_maps, classes=("low", "high"), name="voxels")
    run = a_run("mask_channel", data, model="unet3d", architecture=Architecture((4, 4)))
    outcome = execute(run, data, cache=tmp_path)
    assert outcome.status == "done", outcome.reason
    assert {"dice", "iou", "accuracy", "dice_missing"} <= set(outcome.scores[0.5])
    assert outcome.scores[0.25]["accuracy"] > 0.5
    assert {"dice", "dice_low", "dice_high"} < set(outcome.predictions[0.5][0])


def test_a_segmentation_is_scored_on_the_grids_of_its_label_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 3, (12, 8, 8, 8))
    x = rng.normal(size=maps.shape).astype("float32")
    fine = Dataset.from_arrays(x, label_maps=maps, spacing=(1.0, 1.0, 1.0), name="fine")
    data = load_data(fine, size=(4, 4, 4))
    answers = rng.dirichlet((1, 1, 1), (12, 4, 4, 4)).astype("float32")
    ran = History(({"val_loss": 1.0, "loss": 1.0, "seconds": 1.0},), "val_loss", 0, 1, "epochs")
    monkeypatch.setattr(execution, "_train_whole", lambda *_, **__: (ran, 1.0))
    monkeypatch.setattr(execution, "_predict", lambda model, volumes, size: (answers[: len(volumes)], 1.0))
    monkeypatch.setattr(execution, "_reconstruction", lambda *_: None)
    monkeypatch.setattr(execution, "audited_cases", lambda *_, **__: ())
    run = a_run(data=data, model="unet3d", test_rates=(0.5,))
    outcome = execute(run, data)
    assert outcome.status == "done", outcome.reason
    test = divide(run, data).test
    # Nearest, from half as many voxels: each is said eight times.
    said = answers.argmax(-1)[: len(test)].repeat(2, 1).repeat(2, 2).repeat(2, 3)
    for index in range(3):
        both = ((maps[test] == index) & (said == index)).sum()
        one = 2 * both / ((maps[test] == index).sum() + (said == index).sum())
        assert outcome.scores[0.5][f"dice_{index}"] == pytest.approx(one)
    first = outcome.predictions[0.5][0]
    both = ((maps[test[0]] == 1) & (said[0] == 1)).sum()
    assert first["dice_1"] == pytest.approx(2 * both / ((maps[test[0]] == 1).sum() + (said[0] == 1).sum()))


@pytest.mark.full
@pytest.mark.parametrize("rule", ["0.3", "sensitivity=1"])
def test_classes_are_named_by_the_threshold_that_was_asked_for(rule: str, tmp_path: Path) -> None:
    data = dataclasses.replace(DATA, targets=DATA.targets % 2, classes=("no", "yes"))
    training = QUICK | {"epochs": 1}
    outcome = execute(
        a_run(data=data, training=training, threshold=rule, test_rates=(0.5,)), data, cache=tmp_path
    )
    assert outcome.status == "done", outcome.reason
    assert outcome.threshold is not None
    if rule == "0.3":
        assert outcome.threshold == 0.3
    rows = outcome.predictions[0.5]
    for row in rows:
        assert row["class"] == ("yes" if row["p_yes"] >= outcome.threshold else "no")
    right = np.mean([row["class"] == row["label"] for row in rows])
    assert outcome.scores[0.5]["accuracy"] == pytest.approx(right)
