"""Calibrating what a bundle guarantees: on what is new to its network only, kept in its manifest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import stand_in
import voxgap
from voxgap.bundle.guaranteeing import set_aside
from voxgap.bundle.scoring import known_to
from voxgap.cli import app
from voxgap.dataset import Dataset
from voxgap.errors import VoxgapError
from voxgap.files import sha256
from voxgap.metrics.overlap import digests, known_cases
from voxgap.promises import TOLERANCE, Pattern, pattern_of
from voxgap.runtime import Bundle, Predictor
from voxgap.runtime.predictor import Running

CLASSES = ("no", "yes")


def data(count: int = 120, groups: int | None = None) -> Dataset:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    volumes = (labels[:, None, None, None, None] + rng.normal(size=(count, 1, 2, 2, 1))).astype(np.float32)
    named = None if groups is None else np.array([f"p{i % groups}" for i in range(count)])
    split = np.full(count, "test")
    return Dataset(volumes, labels, "classification", CLASSES, split, named, ("t1",), name="wards")


def answer(volumes: Any) -> Any:
    second = 1 / (1 + np.exp(-2 * (np.nanmean(volumes, axis=(1, 2, 3, 4)) - 0.5)))
    return np.stack([1 - second, second], axis=1).astype(np.float32)


def bundle(folder: Path, met: Dataset | None = None) -> Predictor:
    """A bundle that knows these samples from its training, and computes by a formula."""
    fields: dict[str, Any] = {"schema_version": 1}
    if met is not None:
        cases = folder / "cases.json"
        cases.write_text(json.dumps(known_cases(digests(met.volumes), ["train"] * len(met), met.groups)))
        fields["cases"] = {"path": cases.name, "sha256": sha256(cases), "bytes": cases.stat().st_size}
    entry = {"shape": [1, 2, 2, 1], "channels": ["t1"]}
    manifest = stand_in.manifest(CLASSES, input=entry, **fields)
    (folder / "manifest.json").write_text(json.dumps(manifest.written))
    return Predictor(manifest, answer, folder=folder)


def test_a_guarantee_is_kept_in_the_manifest_and_rests_on_what_is_new_to_the_network(tmp_path: Path) -> None:
    given = data()
    predictor = bundle(tmp_path, given.take(np.arange(20)))
    found = voxgap.guarantee(predictor, given, coverage=0.8)
    assert found.notes == ("20 of 120 volumes left out: the network was trained or chosen on them",)
    kept = Bundle.open(tmp_path).manifest.guarantee
    assert kept is not None
    assert kept.to_json() == found.guarantee.to_json()
    claim = kept.claims[Pattern((), 0)]
    own = answer(given.volumes[20:])[np.arange(100), given.targets[20:]]
    assert claim.thresholds == (float(np.sort(own)[100 - 81]),), "the 81st of 100 from above"
    assert claim.samples == 100
    lines = str(found).splitlines()
    assert lines[1].split() == ["nothing", "missing", "100", "guaranteed", "100"]
    asked = voxgap.guarantee(reopened(predictor), given, coverage=0.8, pattern="voxels", missing_rate=0.25)
    assert list(asked.guarantee.claims) == [Pattern((), 1)]


def test_calibrated_through_an_export_it_is_widened_by_both_ways_from_the_trained_network(
    tmp_path: Path,
) -> None:
    entry = {"path": "m", "parts": [{"path": "m", "sha256": "0"}], "parity": {"tolerance": 2e-5}}
    predictor = bundle(tmp_path)
    manifest = stand_in.manifest(**{**predictor.manifest.written, "files": {"onnx": entry}})
    (tmp_path / "manifest.json").write_text(json.dumps(manifest.written))
    # OpenVINO reads the same file.
    exported = Predictor(manifest, answer, Running("openvino"), tmp_path)
    made = voxgap.guarantee(exported, data(), coverage=0.8).guarantee
    assert made.tolerance == pytest.approx(TOLERANCE + 2e-5)
    for strays, tolerance in ((0.0, 3e-5), (TOLERANCE, 3e-5), (2e-5, 4e-5)):
        within = made.within(strays)
        assert within is not None
        assert within.tolerance == pytest.approx(tolerance)


def reopened(predictor: Predictor) -> Predictor:
    """The same, opened anew."""
    assert predictor.folder is not None
    return Predictor(Bundle.open(predictor.folder).manifest, answer, folder=predictor.folder)


def test_copies_of_a_scan_count_once_and_groups_of_the_training_are_left_out(tmp_path: Path) -> None:
    given = data(120)
    copied = given.take(np.tile(np.arange(120), 3))
    found = voxgap.guarantee(bundle(tmp_path), copied, coverage=0.8)
    assert found.guarantee.samples == 120
    assert "240 of 360 volumes left out: they are copies of others, and a scan counts once" in found.notes
    with pytest.raises(VoxgapError, match="commonest of these 8 scans"):
        voxgap.guarantee(bundle(tmp_path), given.take(np.tile(np.arange(8), 100)), coverage=0.8)
    patients = replace(given, groups=np.array([f"p{i % 60}" for i in range(120)]))
    # Of 6 patients the network has met the first scan.
    found = voxgap.guarantee(bundle(tmp_path, patients.take(np.arange(6))), patients, coverage=0.6)
    assert found.notes == tuple(
        f"6 of 120 volumes left out: the network was trained or chosen on {what}"
        for what in ("them", "others of their groups")
    )
    assert found.guarantee.samples == 54


def test_what_can_not_be_guaranteed_is_refused(tmp_path: Path) -> None:
    given = data()
    with pytest.raises(VoxgapError, match="all 120 volumes are known to this network from its training"):
        voxgap.guarantee(bundle(tmp_path, given), given)
    with pytest.raises(
        VoxgapError, match=r"takes 50 scans .*commonest of these 49 scans \(nothing missing\) is in 49"
    ):
        voxgap.guarantee(bundle(tmp_path), given.take(np.arange(49)))
    with pytest.raises(VoxgapError, match=r"takes 50 groups .* is in 40 groups"):
        voxgap.guarantee(bundle(tmp_path), data(120, groups=40))
    with pytest.raises(VoxgapError, match="coverage must be a number between 0 and 1"):
        voxgap.guarantee(bundle(tmp_path), given, coverage=90)
    for coverage, said in (
        ("0.9", "got '0.9'"),
        (None, "got None"),
        (0.2, "coverage 0.2: what is wrong more often"),
    ):
        with pytest.raises(VoxgapError, match=said):
            voxgap.guarantee(bundle(tmp_path), given, coverage=coverage)
    with pytest.raises(VoxgapError, match=r"coverage 0\.9999999 takes \d+ scans"):
        voxgap.guarantee(bundle(tmp_path), given, coverage=0.9999999)
    for seed in (-1, 0.5, None):
        for door in (voxgap.evaluate, voxgap.guarantee, voxgap.certify):
            with pytest.raises(VoxgapError, match=f"seed must be a whole number from 0 on, got {seed}"):
                door(bundle(tmp_path), given, seed=seed)
    half = Predictor(bundle(tmp_path).manifest, answer, Running(precision="bf16"), tmp_path)
    with pytest.raises(VoxgapError, match="calibrated in float32, not in bf16"):
        voxgap.guarantee(half, given)


def test_a_class_that_no_scan_has_is_said(tmp_path: Path) -> None:
    given = data(240)
    found = voxgap.guarantee(bundle(tmp_path), given.take(np.flatnonzero(given.targets == 0)), coverage=0.8)
    assert "no scan with yes: of these nothing was calibrated" in found.notes


def test_regions_rest_on_the_scans_that_have_their_class(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    maps = np.zeros((120, 1, 2, 2), np.int16)
    maps[:70, 0, 0] = 1
    maps[70:, 0, 1] = 2
    volumes = (maps[..., None] + rng.normal(size=(*maps.shape, 1))).astype(np.float32)
    split, classes = np.full(120, "test"), ("none", "one", "two")
    given = Dataset(volumes, maps, "segmentation", classes, split, None, ("t1",), name="wards")

    def regions(shown: Any) -> Any:
        return np.repeat(1 / (1 + np.abs(np.asarray(shown))), 3, axis=-1) / 3

    entry = {"shape": [1, 2, 2, 1], "channels": ["t1"]}
    manifest = stand_in.manifest(classes, task="segmentation", input=entry, schema_version=1)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest.written))
    predictor = Predictor(manifest, regions, folder=tmp_path)
    (claim,) = voxgap.guarantee(predictor, given, coverage=0.6).guarantee.claims.values()
    assert claim.samples == 50
    (claim,) = voxgap.guarantee(predictor, given.take(np.arange(119)), coverage=0.6).guarantee.claims.values()
    assert claim.samples == 70, "49 scans of the other class claim nothing"
    assert claim.thresholds[1] is None
    with pytest.raises(VoxgapError, match=r"takes 50 scans with one and the same class .* is in 49 scans"):
        voxgap.guarantee(predictor, given.take(np.arange(21, 119)), coverage=0.6)


def test_whole_groups_of_the_training_part_are_set_aside() -> None:
    given = replace(data(800, groups=400), split=np.array(["train"] * 600 + ["test"] * 200))
    assert given.groups is not None
    aside = set_aside(given, 0.9, seed=0)
    assert set(given.split[aside]) == {"train"}
    assert 100 < aside.sum() < 140
    train = given.split == "train"
    assert not set(given.groups[aside]) & set(given.groups[train & ~aside])
    with pytest.raises(VoxgapError, match=r"takes 99 groups .* is in \d\d groups"):
        set_aside(given, 0.99, seed=0)


@pytest.mark.full
def test_a_training_sets_aside_what_it_calibrates_on_and_every_engine_gives_the_same_sets(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 2
    volumes = (labels[:, None, None, None, None] + rng.normal(size=(600, 4, 4, 4, 2)) * 2).astype(np.float32)
    volumes[rng.random(600) < 0.2, ..., 1] = np.nan
    np.savez(tmp_path / "wards.npz", volumes=volumes, labels=labels)
    out = tmp_path / "bundle"
    options = ["--model", "cnn3d", "--filters", "4", "--epochs", "1", "--coverage", "0.8", "--export", "onnx"]
    done = CliRunner().invoke(app, ["train", str(tmp_path / "wards.npz"), *options, "--out", str(out)])
    assert done.exit_code == 0, done.output
    opened = Bundle.open(out)
    made = opened.manifest.guarantee
    assert made is not None
    assert made.samples == 72, "a fifth of 360"
    known = known_to(opened)
    assert known is not None
    assert len(known["train"]) == 288
    held = {case for case in digests(volumes) if case} - {*known["train"], *known["validation"]}
    assert len(held) == 600 - 288 - 120
    first, second = (voxgap.load(out, engine=engine) for engine in ("keras", "onnx"))
    for volume, one, other in zip(volumes, first.answers(volumes), second.answers(volumes), strict=True):
        assert one.promise is not None
        assert other.promise is not None
        if one.promise.classes != other.promise.classes:
            edge = made.claims[pattern_of(volume)].thresholds[0]
            assert edge is not None
            assert np.abs(one.values - edge).min() <= 2 * TOLERANCE
    # Calibrated anew on what the training never met: its test part, and what it had set aside.
    again = voxgap.guarantee(out, str(tmp_path / "wards.npz"), coverage=0.9)
    assert again.guarantee.samples == 192
