"""Certificates of subsets and audits of shortcuts, on data whose truth is known, with networks that are formulas."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stand_in
import voxgap
from voxgap.dataset import Dataset
from voxgap.errors import VoxgapError
from voxgap.metrics import scores
from voxgap.runtime import Predictor
from voxgap.trust.audit import SWAPS, Audit, audited, audited_cases, pooled
from voxgap.trust.certificate import certified, check_gaps, check_subsets
from voxgap.trust.scoring import Answers, Measure, check_metric, of_metric

CHANNELS = ("t1", "t2", "flair", "dwi")


def data(count: int = 200, seed: int = 0, lacking: float = 0.0) -> Dataset:
    """Scans of four channels, of which the second says most of the class and the fourth nothing."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    signal = (2 * labels - 1)[:, None] * np.array([0.4, 1.2, 0.3, 0.0]) + rng.normal(size=(count, 4))
    volumes = np.broadcast_to(signal[:, None, None, None], (count, 2, 2, 2, 4)).astype(np.float32)
    volumes[rng.random(count) < lacking, ..., 0] = np.nan
    split = np.full(count, "test")
    return Dataset(volumes, labels, "classification", ("no", "yes"), split, channels=CHANNELS, name="wards")


class Network:
    """Answers from the weighted means of what is observed, and counts how often each scan is predicted."""

    def __init__(self) -> None:
        self.volumes = 0

    def __call__(self, volumes: Any) -> Any:
        self.volumes += len(volumes)
        there = ~np.isnan(volumes)
        means = np.where(there, volumes, 0).sum(axis=(1, 2, 3)) / np.maximum(there.sum(axis=(1, 2, 3)), 1)
        second = 1 / (1 + np.exp(-means @ [1.0, 3.0, 0.7, 0.0]))
        return np.stack([1 - second, second], axis=1)


class Once:
    """Volumes on disk that say how often each was read."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.read = values, np.zeros(len(values), int)
        self.shape = values.shape

    def __getitem__(self, key: Any) -> np.ndarray:
        self.read[key] += 1
        return self.values[key]

    def __len__(self) -> int:
        return len(self.values)


def test_every_subset_of_four_channels_costs_one_prediction_and_all_one_pass_of_reading() -> None:
    given, network = data(40), Network()
    volumes = Once(np.asarray(given.volumes))
    object.__setattr__(given, "volumes", volumes)
    found = certified(given, network, patterns=())
    assert found.predictions == 15
    assert network.volumes == 15 * len(given)
    assert (volumes.read == 1).all()
    assert len({row.kept for row in found.rows}) == 15
    assert len(found.steps) == 28, "each of 14 subsets, and each channel that it lacks"


def test_given_subsets_cost_a_prediction_each_and_nothing_is_advised_that_they_do_not_tell() -> None:
    given, network = data(60, lacking=0.3), Network()
    found = certified(given, network, subsets=[("flair", "t1"), ("t2",), ("t2", "t1")], patterns=())
    assert [row.name for row in found.rows] == ["as recorded", "t1 + flair", "t2", "t1 + t2"]
    assert found.predictions == 4
    assert [(step.had, step.channel) for step in found.steps] == [(("t2",), "t1")]
    seen = certified(given, Network(), subsets="seen", patterns=())
    assert [row.name for row in seen.rows] == ["as recorded", "t2 + flair + dwi"]
    assert seen.steps == (), "which scans have every channel, these two do not tell"
    many = tuple(f"c{i}" for i in range(9))
    for subsets, channels, said in (
        ([("t1", "pet")], CHANNELS, "no channel 'pet'"),
        ([("t1", "t1")], CHANNELS, "subset t1.t1: name channels that are there, each once"),
        ([()], CHANNELS, "subset of nothing"),
        ("every", CHANNELS, "no subsets 'every': choose one of all, seen"),
        ("all", many, "subsets all: 9 channels have 511; name those that matter, as in c0.c1,c0"),
    ):
        with pytest.raises(VoxgapError, match=said):
            check_subsets(subsets, channels)


def test_where_some_scans_lack_channels_the_complete_set_has_a_row_of_those_that_have_all() -> None:
    whole, network = data(60, lacking=0.3), Network()
    two = CHANNELS[:2]

    def predict(batch: Any) -> Any:
        return network(np.pad(batch, [(0, 0)] * 4 + [(0, 2)]))

    given = replace(whole, volumes=np.asarray(whole.volumes)[..., :2], channels=two)
    full = np.flatnonzero(~np.isnan(given.volumes).any(axis=(1, 2, 3, 4)))
    right = np.asarray(predict(given.volumes).argmax(axis=1) == given.targets)
    for subsets, predictions in ((None, 3), ([two, ("t2",)], 3)):
        found = certified(given, predict, subsets=subsets, patterns=())
        assert [row.name for row in found.rows[:2]] == ["as recorded", "t1 + t2"]
        row = found.rows[1]
        assert (row.kept, row.scans) == (two, len(full))
        assert row.score.value == pytest.approx(right[full].mean())
        assert row.loss.value == 0
        assert found.predictions == predictions
        complete = certified(given.take(full[:12]), predict, subsets=subsets, patterns=())
        assert "t1 + t2" not in [row.name for row in complete.rows]


def test_a_metric_that_one_class_alone_does_not_say_is_refused() -> None:
    given = data(60)
    only = given.take(np.flatnonzero(given.targets == 0))
    with pytest.raises(
        VoxgapError, match=r"wards: its auc can't be said: all \d+ volumes are no; choose another"
    ):
        certified(only, Network(), "auc", patterns=())


def test_a_certificate_of_asked_subsets_leaves_the_bundles_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voxgap.bundle.certifying._write", lambda folder, *_: None)
    entry = {"shape": [2, 2, 2, 4], "channels": list(CHANNELS)}
    manifest = stand_in.manifest(("no", "yes"), schema_version=1, input=entry)
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest.written, "certificate": {}}))
    predictor = Predictor(manifest, Network(), folder=tmp_path)
    found = voxgap.certify(predictor, data(12), patterns=(), subsets=[("t1",)])
    assert found.page == tmp_path / "evidence" / "subsets" / "certificate.html"
    assert stand_in.written(tmp_path)["certificate"] == {}


@pytest.mark.full
def test_a_certificate_elsewhere_leaves_the_bundles_own(tmp_path: Path) -> None:
    entry = {"shape": [2, 2, 2, 4], "channels": list(CHANNELS)}
    manifest = stand_in.manifest(("no", "yes"), schema_version=1, input=entry)
    evidence = tmp_path / "evidence"
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest.written, "certificate": {}}))
    predictor = Predictor(manifest, Network(), folder=tmp_path)
    voxgap.certify(predictor, data(12), patterns=(), out=tmp_path / "elsewhere")
    assert stand_in.written(tmp_path)["certificate"] == {}
    voxgap.certify(predictor, data(12), patterns=(), out=evidence)
    kept = stand_in.written(tmp_path)["certificate"]
    assert kept == json.loads((evidence / "certificate.json").read_text())


def test_a_network_that_was_replaced_meanwhile_gets_no_certificate_of_another(tmp_path: Path) -> None:
    entry = {"shape": [2, 2, 2, 4], "channels": list(CHANNELS)}
    manifest = stand_in.manifest(("no", "yes"), schema_version=1, input=entry)
    newer = {"keras": {"path": "m", "parts": [{"path": "m", "sha256": "0"}]}}
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest.written, "files": newer}))
    with pytest.raises(VoxgapError, match="the model was replaced while it was certified; do it again"):
        voxgap.certify(
            Predictor(manifest, Network(), folder=tmp_path), data(12), patterns=(), subsets=[("t1",)]
        )
    assert "certificate" not in stand_in.written(tmp_path)
    assert not (tmp_path / "evidence").exists()


def test_all_subsets_of_more_than_four_channels_can_be_asked_for() -> None:
    given = data(20)
    volumes = np.concatenate([np.asarray(given.volumes), np.asarray(given.volumes[..., :1])], axis=-1)
    more = Dataset(
        volumes, given.targets, "classification", given.classes, given.split, channels=(*CHANNELS, "pet")
    )

    def predict(batch: Any) -> Any:
        return Network()(batch[..., :4])

    assert len(certified(more, predict, subsets="all", patterns=()).rows) == 31
    assert len(certified(more, predict, patterns=()).rows) == 6, "as recorded, and each channel missing alone"


def test_scores_and_losses_are_those_of_the_scans_that_have_the_channels() -> None:
    given, network = data(lacking=0.3), Network()
    found = certified(given, network, patterns=("blocks",), rates=(0.5,))
    rows = {row.name: row for row in found.rows}
    there = ~np.isnan(given.volumes[..., 0]).all(axis=(1, 2, 3))
    assert rows["as recorded"].scans == rows["t2 + dwi"].scans == len(given)
    assert rows["t1 + dwi"].scans == there.sum() < len(given)
    left = np.array(given.volumes[there])
    left[..., [1, 2]] = np.nan
    less, full = (
        scores("classification", given.targets[there], network(volumes))["accuracy"]
        for volumes in (left, given.volumes[there])
    )
    assert rows["t1 + dwi"].score.value == pytest.approx(less)
    assert rows["t1 + dwi"].loss.value == pytest.approx(full - less)
    low, high = rows["t1 + dwi"].loss.interval or (0, 0)
    assert 0 < low < rows["t1 + dwi"].loss.value < high
    assert found.worst.name == "dwi"
    step = found.next_of(["t1"])
    assert step is not None
    assert step.channel == "t2"
    assert step.worth.value == pytest.approx(rows["t1 + t2"].score.value - rows["t1"].score.value)
    last = found.next_of(["t2", "flair", "dwi"])
    assert last is not None
    assert last.scans == there.sum(), "where all are there, though others are scored as recorded, too"
    assert "Of single channels t2 is missed most" in found.conclusion
    assert rows["50% of blocks missing"].kept is None
    with pytest.raises(VoxgapError, match="pattern"):
        check_gaps(["slice"], [0.5])
    with pytest.raises(VoxgapError, match="rate 1 is out of range"):
        check_gaps(["slices"], [0.5, 1])
    with pytest.raises(VoxgapError, match="for classification choose one of accuracy"):
        certified(given, network, "mae")
    with pytest.raises(VoxgapError, match="5 volumes are too few for a certificate; it takes 10"):
        certified(given.take(np.arange(5)), network)


@pytest.mark.parametrize(
    ("task", "metric"),
    [("classification", m) for m in ("accuracy", "balanced_accuracy", "auc", "macro_f1", "log_loss", "brier")]
    + [("regression", m) for m in ("mae", "rmse", "r2")],
)
def test_one_metric_alone_is_what_all_of_them_say(task: Any, metric: str) -> None:
    given = data(60)
    places = np.arange(10, 60)
    values = Network()(np.asarray(given.volumes[places]))
    if task == "regression":
        given = Dataset(given.volumes, given.targets + 0.5, task, (), given.split, channels=CHANNELS)
        values = values[:, :1]
    some = np.random.default_rng(1).integers(0, 50, 70)
    found = of_metric(given, Answers(places, values), metric)(some)
    targets = given.targets[places][some]
    assert found == pytest.approx(scores(task, targets, values[some])[metric])
    assert check_metric(metric, task) == metric


@pytest.mark.parametrize("task", ["regression", "segmentation"])
def test_other_tasks_are_scored_by_their_own_metrics(task: Any) -> None:
    rng = np.random.default_rng(3)
    volumes = rng.normal(size=(16, 2, 4, 4, 2)).astype(np.float32)
    targets = (
        volumes[..., 0].mean(axis=(1, 2, 3))
        if task == "regression"
        else (volumes[..., 0] > 0).astype(np.int16)
    )

    def predict(batch: Any) -> Any:
        filled = np.nan_to_num(batch[..., 0])
        if task == "regression":
            return filled.mean(axis=(1, 2, 3))[:, None]
        return np.stack([0.5 - filled, 0.5 + filled], axis=-1)

    classes = () if task == "regression" else ("none", "there")
    given = Dataset(volumes, targets, task, classes, np.full(16, "test"), channels=("a", "b"))
    found = certified(given, predict, patterns=("frames",), rates=(0.5,))
    rows = {row.name: row for row in found.rows}
    assert rows["as recorded"].score.value == pytest.approx(0 if task == "regression" else 1, abs=1e-6)
    assert rows["a"].loss.value == pytest.approx(0, abs=1e-6)
    assert rows["b"].loss.value > 0.1
    assert found.worst.name == "b"


def planted(gap: float, value: float, count: int = 400, seed: int = 0) -> tuple[Dataset, Any]:
    """Scans whose gaps, and whose values, say the label so often; and a network that goes by both alike."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % 2)
    many = np.where(rng.random(count) < gap, labels, 1 - labels) == 1
    level = 2 * np.where(rng.random(count) < value, labels, 1 - labels) - 1
    volumes = (level[:, None, None, None, None] + 0.1 * rng.normal(size=(count, 4, 4, 4, 1))).astype(
        np.float32
    )
    volumes[rng.random(volumes.shape) < np.where(many, 0.3, 0.1)[:, None, None, None, None]] = np.nan

    def predict(batch: Any) -> Any:
        rate = np.isnan(batch).mean(axis=(1, 2, 3, 4))
        logit = np.where(rate > 0.2, 2.0, -2.0) * (gap != 0.5)
        logit = logit + 4.2 * np.sign(np.nanmean(batch, axis=(1, 2, 3, 4)).round(1)) * (value != 0.5)
        second = 1 / (1 + np.exp(-logit))
        return np.stack([1 - second, second], axis=1)

    split = np.full(count, "test")
    return Dataset(volumes, labels, "classification", ("no", "yes"), split, channels=("t1",)), predict


@pytest.mark.full
def test_an_audit_tells_gaps_from_values() -> None:
    shares = {}
    for name, (gap, value) in {"gaps": (0.9, 0.5), "values": (0.5, 0.9)}.items():
        found = audited(*planted(gap, value))
        assert found is not None
        assert found.share is not None
        shares[name] = found.share.value
        assert found.neither.value == pytest.approx(0.5, abs=0.05)
    assert shares["gaps"] == pytest.approx(1, abs=0.05)
    assert shares["values"] == pytest.approx(0, abs=0.05)
    both = audited(*planted(0.8, 0.9))
    assert both is not None
    assert both.share is not None
    # Alone the gaps give 0.8; the values decide whatever the gaps say, so that they give 0.9 with any gaps.
    assert both.share.value == pytest.approx(0.5 * (0.3 + 0.0) / 0.4, abs=0.05)
    assert both.changed < 0.05
    assert "comes from what is missing alone: a network" in both.conclusion


def test_an_audit_finds_a_label_that_the_gaps_carry() -> None:
    found = audited(*planted(0.9, 0.5, 60))
    assert found is not None
    assert found.share is not None
    assert found.share.value == pytest.approx(1, abs=0.05)
    assert found.gaps_alone.value == found.recorded.value
    assert "comes from what is missing alone: a network" in found.conclusion


@pytest.mark.parametrize(
    ("share", "metric", "words"),
    [
        (
            (-0.413, -1.868, 0.083),
            "accuracy",
            "The network's accuracy is too close to chance to tell how much of it ",
        ),
        (
            (2.1, 0.9, 3.4),
            "mae",
            "The network's mae is too close to chance to tell how much of it comes from what is ",
        ),
        (
            (0.08, -0.02, 0.17),
            "accuracy",
            "It is not shown that any of its accuracy above chance comes from what is missing alone: its share is "
            "0.080 (0.000 to 0.170).",
        ),
        (
            (-0.3, -0.4, -0.2),
            "mae",
            "It is not shown that any of what its mae gains over chance comes from what is ",
        ),
        (
            (1.1, 0.9, 1.3),
            "mae",
            "Of what its mae gains over chance, 1.000 (0.900 to 1.000) comes from what is missing alone: a network "
            "that would not do so elsewhere.",
        ),
        (
            (0.05, 0.01, 0.09),
            "dice",
            "Of its dice above chance, 0.050 (0.010 to 0.090) comes from what is missing alone.",
        ),
        (None, "mae", "The network's mae is not shown to be better than chance here: "),
        (None, "dice", "The network's dice is not shown to be above chance here: "),
    ],
)
def test_an_audit_says_no_more_than_is_known(
    share: tuple[float, float, float] | None, metric: str, words: str
) -> None:
    scores = dict.fromkeys(("recorded", "gaps_alone", "both_show", "values_alone", "neither"), Measure(0.5))
    of_gaps = share and Measure(share[0], share[1:])
    found = Audit(metric, **scores, share=of_gaps, changed=0.0)
    assert found.conclusion.startswith(words)
    assert "-" not in found.share_words
    assert found.leans == (words.endswith("elsewhere."))


@pytest.mark.parametrize("task", ["classification", "regression", "segmentation"])
def test_an_audit_of_cases_is_that_of_the_data_and_pools_with_others(task: str) -> None:
    given, classes = planted(0.8, 0.95, 60)

    def predict(volumes: Any) -> Any:
        return classes(volumes) if task == "classification" else classes(volumes)[:, 1:]

    if task == "regression":
        given = replace(given, task=task, targets=given.targets.astype(np.float32)[:, None], classes=())
    if task == "segmentation":
        shown = np.arange(given.volumes[..., 0].size).reshape(given.volumes.shape[:-1]) % 3 > 0
        given = replace(
            given, task=task, targets=(given.targets[:, None, None, None] * shown).astype(np.int16)
        )

        def predict(volumes: Any) -> Any:
            second = np.broadcast_to(classes(volumes)[:, 1, None, None, None], volumes.shape[:-1])
            return np.stack([1 - second, second], axis=-1)

    whole = audited(given, predict)
    rows = audited_cases(given, predict, predict(given.volumes))
    assert whole is not None
    members = [str(index) for index in range(len(given))]
    assert whole.share is not None
    found = pooled(whole.metric, rows, members)
    assert found is not None
    assert found.share is not None
    # Of several donors Dice is counted over all of them, and not averaged.
    near = {"rel": 0.1} if task == "segmentation" else {"rel": 1e-5}
    for name in ("recorded", "gaps_alone", "both_show", "values_alone", "neither", "share"):
        assert getattr(found, name).value == pytest.approx(getattr(whole, name).value, **near), name
    assert found.changed == pytest.approx(whole.changed)
    # Another network's answers to the same cases are no further cases: the interval stays as wide.
    twice = pooled(whole.metric, rows * 2, members * 2)
    assert twice is not None
    assert twice.share == found.share
    assert pooled(whole.metric, rows[:9], members[:9]) is None
    assert (
        audited_cases(given.with_volumes(np.nan_to_num(given.volumes)), predict, predict(given.volumes)) == ()
    )


def lesions(count: int, seed: int = 0) -> tuple[Dataset, Any]:
    """Scans of which one slice says the class, and half of all slices are missing, whatever else is the case."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    volumes = rng.normal(size=(count, 8, 2, 2, 1)).astype(np.float32)
    volumes[:, 3] += 2 * (2 * labels - 1)[:, None, None, None]
    volumes[rng.random((count, 8)) < 0.5] = np.nan

    def predict(batch: Any) -> Any:
        second = 1 / (1 + np.exp(-4 * np.nan_to_num(batch[:, 3]).mean(axis=(1, 2, 3))))
        return np.stack([1 - second, second], axis=1)

    return Dataset(volumes, labels, "classification", ("no", "yes"), np.full(count, "test")), predict


def test_gaps_that_say_nothing_have_no_share_though_those_of_another_hide_more() -> None:
    found = audited(*lesions(600))
    assert found is not None
    assert found.share is not None
    assert found.share.interval is not None
    low, high = found.share.interval
    assert low < 0 < high
    assert not found.leans
    assert found.recorded.value - found.values_alone.value > 0.08, (
        "less is shown, and that is no fault of the gaps"
    )


@pytest.mark.full
def test_an_audit_accuses_no_network_whose_gaps_say_nothing() -> None:
    """Over many data sets: the mean share is none, and 5 % of the intervals at most do not hold it."""
    found = [audited(*lesions(120, seed)) for seed in range(60)]
    shares = [one.share for one in found if one is not None and one.share is not None]
    assert len(shares) > 50
    values = np.array([share.value for share in shares])
    assert abs(values.mean()) < 3 * values.std() / len(values) ** 0.5
    assert sum(one.leans for one in found if one is not None) <= 4


@pytest.mark.full
def test_an_audit_says_where_there_is_nothing_to_share_out() -> None:
    given, predict = planted(0.5, 0.5)
    found = audited(given, lambda x: np.full((len(x), 2), 0.5))
    assert found is not None
    assert found.share is None
    assert "not shown to be above chance" in found.conclusion
    assert audited(given.with_volumes(np.nan_to_num(given.volumes)), predict) is None


@pytest.mark.full
def test_a_bundle_keeps_its_certificate_and_a_page_beside_it(tmp_path: Path) -> None:
    entry = {"shape": [2, 2, 2, 4], "channels": list(CHANNELS)}
    manifest = stand_in.manifest(("no", "yes"), schema_version=1, network="formula", input=entry)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest.written))
    given, network = data(60, lacking=0.3), Network()
    found = voxgap.certify(
        Predictor(manifest, network, folder=tmp_path), given, patterns=(), metric="accuracy"
    )
    assert network.volumes <= (15 + 2 + SWAPS) * len(given), "15 subsets; recorded, blanked and swapped"
    kept = stand_in.written(tmp_path)["certificate"]
    assert kept == json.loads((tmp_path / "evidence" / "certificate.json").read_text())
    assert kept["data"] == "wards"
    assert kept["split"] == "test"
    assert kept["audit"]["share"]["value"] == pytest.approx(0, abs=0.1)
    with (tmp_path / "evidence" / "certificate.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["what"] for row in rows] == [row.name for row in found.certificate.rows]
    assert float(rows[-1]["score"]) == found.certificate.rows[-1].score.value
    page = found.page.read_text() if found.page else ""
    for said in (
        "Which channels it takes",
        "What to acquire next",
        "t2 + flair",
        "perhaps dwi",
        found.certificate.conclusion,
    ):
        assert said in page
    assert "How much may be missing" not in page
    assert str(found).splitlines()[1].startswith("as recorded")
