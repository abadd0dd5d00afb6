"""Data for a bundle that is scored: its channels are found by name, whichever door it comes through."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stand_in
import voxgap
from voxgap.bundle.scoring import in_order
from voxgap.dataset import Dataset
from voxgap.errors import VoxgapError
from voxgap.ragged import Ragged
from voxgap.runtime import Predictor

CLASSES = ("no", "yes")


def data(channels: tuple[str, ...] = ("t1", "flair")) -> Dataset:
    """Scans whose t1 says the class, and whose flair is noise: in the order of these names."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    of = {"t1": labels - 0.5 + rng.normal(size=120) / 9, "flair": rng.normal(size=120), "T1": labels - 0.5}
    columns = [of.get(name, of["t1"] if index == 0 else of["flair"]) for index, name in enumerate(channels)]
    volumes = np.broadcast_to(np.stack(columns, -1)[:, None, None, None], (120, 1, 2, 2, len(channels)))
    split = np.full(120, "test")
    return Dataset(
        volumes.astype("f4"), labels, "classification", CLASSES, split, None, channels, name="wards"
    )


def answer(volumes: Any) -> Any:
    second = 1 / (1 + np.exp(-9 * np.nan_to_num(volumes[..., 0]).mean(axis=(1, 2, 3))))
    return np.stack([1 - second, second], axis=1).astype(np.float32)


def bundle(folder: Path, channels: tuple[str, ...] = ("t1", "flair")) -> Predictor:
    entry = {"shape": [1, 2, 2, len(channels)], "channels": list(channels)}
    manifest = stand_in.manifest(CLASSES, input=entry, schema_version=1)
    (folder / "manifest.json").write_text(json.dumps(manifest.written))
    return Predictor(manifest, answer, folder=folder)


def test_channels_in_another_order_are_found_by_name_through_every_door(tmp_path: Path) -> None:
    swapped = data(("flair", "t1"))
    assert voxgap.evaluate(bundle(tmp_path), swapped).scored.scores["accuracy"] == 1
    made = voxgap.guarantee(bundle(tmp_path), swapped, 0.8).guarantee
    assert made.channels == ("t1", "flair")
    assert made.to_json() == voxgap.guarantee(bundle(tmp_path), data(), 0.8).guarantee.to_json()
    rows = voxgap.certify(bundle(tmp_path), swapped, patterns=()).certificate.rows
    assert {row.name: row.score.value for row in rows}["t1"] == 1
    assert {row.name: row.score.value for row in rows}["flair"] < 0.7


def test_a_channel_that_is_lacking_is_missing_and_one_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    found = voxgap.evaluate(bundle(tmp_path), data(("t1",)))
    assert found.scored.scores["accuracy"] == 1
    assert found.notes[0] == "wards: no flair: missing in all volumes"
    assert np.isnan(in_order(data(("flair",)), ("t1", "flair")).volumes[..., 0]).all()
    for given in (data(("t1", "pet")), data(("t1", "flair", "pet"))):
        with pytest.raises(
            VoxgapError, match=r"are t1, .*pet, the bundle's t1, flair: rename or leave out pet"
        ):
            voxgap.evaluate(bundle(tmp_path), given)


def test_names_that_were_never_given_count_by_place_and_case_counts_as_in_a_table() -> None:
    plain = data(("channel_0", "channel_1"))
    np.testing.assert_array_equal(in_order(plain, ("t1", "flair")).volumes, plain.volumes)
    assert in_order(plain, ("t1", "flair")).channels == ("t1", "flair")
    assert in_order(data(), ("channel_0", "channel_1")).channels == ("channel_0", "channel_1")
    swapped = in_order(data(("flair", "T1")), ("t1", "flair"))
    np.testing.assert_array_equal(swapped.volumes[:, 0, 0, 0, 0] > 0, swapped.targets == 1)
    uneven: Any = Ragged([np.zeros((1, 2, 2, 2)), np.ones((1, 3, 2, 2))])
    found: Any = in_order(
        replace(data(("flair", "t1")).take([0, 1]), volumes=uneven), ("t1", "flair")
    ).volumes
    assert found.shapes == [(1, 2, 2, 2), (1, 3, 2, 2)]
