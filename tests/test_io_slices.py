"""Slices that hold nothing though they are there: found, told from what is honest, and missing only if asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from voxgap import io
from voxgap.bundle.packages import forewarn
from voxgap.dataset import load_data
from voxgap.errors import VoxgapError
from voxgap.grid import Grid
from voxgap.inspection import inspect
from voxgap.inspection.disguised import disguises
from voxgap.intensity import marks
from voxgap.io.slices import KINDS, lost_slices, without_slices
from voxgap.samples import load
from voxgap.volume import Volume


def scan(shape: tuple[int, ...] = (12, 14, 16, 1), seed: int = 0) -> np.ndarray:
    rough = np.random.default_rng(seed).normal(size=shape)
    return (100 + 40 * gaussian_filter(rough, (1, 1, 1, 0))).astype(np.float32)


def lost(values: np.ndarray, kind: str) -> list[list[int]]:
    return [np.flatnonzero(found.any(axis=1)).tolist() for found in lost_slices(values, kind)]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_found_along_any_axis_and_channel(axis: int) -> None:
    values = scan((12, 14, 16, 2))
    planes = np.moveaxis(values, axis, 0)
    planes[4, ..., 1], planes[8] = 7.0, planes[7]
    assert lost(values, "constant") == [[4] if other == axis else [] for other in range(3)]
    assert lost(values, "duplicated") == [[8] if other == axis else [] for other in range(3)]
    gapped = without_slices(values, KINDS)
    gaps = np.moveaxis(np.isnan(gapped), axis, 0)
    assert gaps[4, ..., 1].all()
    assert gaps[8].all()
    assert gaps.sum() == 3 * planes[0, ..., 0].size
    assert without_slices(scan(), KINDS).tobytes() == scan().tobytes()


def test_a_slice_with_gaps_of_its_own_is_told_by_what_is_observed() -> None:
    values = scan()
    values[5] = 0
    values[5, :3], values[9] = np.nan, np.nan
    assert lost(values, "constant")[0] == [5]
    values[7, 2] = values[8, 2] = np.nan
    values[8] = values[7]
    assert lost(values, "duplicated")[0] == [8]


def honest() -> dict[str, np.ndarray]:
    borders, faint, body = scan(), scan(), scan()
    borders[:3] = borders[-2:] = 0
    faint[5] = 0
    faint[[4, 6]] *= 0.01
    still = scan()
    still[3:] = still[3]
    labels = (scan() > 120).astype(np.float32)
    labels[6], labels[8] = 0, labels[7]
    half = scan((6, 14, 16, 1))
    body[:, :4] = body[:, :, -5:] = 0
    return {
        "background at the ends": borders,
        "the rim of a body": faint,
        "a scene that stands still": still,
        "upsampled": half.repeat(2, axis=0).repeat(2, axis=1),
        "label map": labels,
        "background at the sides": body,
        "constant": np.ones((6, 6, 6, 1), np.float32),
        "missing": np.full((6, 6, 6, 1), np.nan, np.float32),
        "one slice": scan((1, 14, 16, 1)),
    }


@pytest.mark.parametrize("name", honest())
def test_what_is_honest_is_left_alone(name: str) -> None:
    assert [lost(honest()[name], kind) for kind in KINDS] == [[[], [], []]] * 2
    assert disguises(honest()[name][None]) == []


@pytest.mark.full
def test_the_embedded_samples_hold_no_disguised_gap() -> None:
    for name in ("motion", "brain", "nodules"):
        volumes = load(name)["volumes"]
        some = volumes[:: len(volumes) // 40]
        assert disguises(some) == []
        assert marks(some) == []


def test_what_is_saturated_is_proposed_with_where_it_is() -> None:
    values = np.clip(scan((16, 20, 20, 1)), 0, 250).round()
    values[4:8, 4:8, 4:8] = 255
    (found,) = disguises([scan((16, 20, 20, 1)).round(), values], names=("a.nii", "b.nii"))
    assert (found.kind, found.size, found.volumes) == ("saturated", 64, 1)
    assert found.where == ("b.nii: 64 voxels together",)
    assert found.option == "--missing-values 255"
    scattered = np.clip(scan((16, 20, 20, 1)), 0, 250).round()
    scattered.reshape(-1)[::100] = 255
    assert disguises([scattered]) == []


def test_known_marks_are_few_and_may_hide_each_other() -> None:
    values = scan()
    values[0, 0, :5], values[1, 1, :4], values[2, 2, :3] = -999, 9999, -32768
    assert sorted(mark.value for mark in marks([values])) == [-32768, -999, 9999]
    said = {mark.value: mark.said for mark in marks([values])}
    assert "--missing-values -999" in said[-999]
    values = scan()
    values[0, 0, :2] = -999
    values[3, 3, :9] = 777.5
    assert marks([values]) == []
    assert marks([(scan() - 100) * 100]) == []


def test_it_is_proposed_and_nothing_is_done_and_the_option_does_it(tmp_path: Path) -> None:
    values = scan()
    values[4], values[8] = 0, values[7]
    io.write(tmp_path / "scan.nii.gz", Volume(values, spacing=(3, 1, 1)))
    found = inspect(tmp_path / "scan.nii.gz")
    assert found.found.missing_rate == 0
    constant, duplicated = found.disguises
    assert constant.where == ("scan.nii.gz: depth 4",)
    assert duplicated.where == ("scan.nii.gz: depth 8",)
    assert found.to_json()["disguised"][0]["option"] == "--missing-slices constant"
    assert "1 slice (1 along depth) in 1 of 1 volumes holds one value (0)" in str(found)
    assert found.command().endswith("--missing-slices=constant,duplicated")
    accepted = inspect(tmp_path / "scan.nii.gz", missing_slices=("constant", "duplicated"))
    assert accepted.found.missing_rate == pytest.approx(2 / 12)
    assert accepted.disguises == ()
    source = io.scan(tmp_path / "scan.nii.gz", missing_slices=["constant"])
    part = source.read([slice(3, 6), slice(2, 5)])
    np.testing.assert_array_equal(part.values, source.read().values[3:6, 2:5])
    np.testing.assert_allclose(part.affine, io.read(tmp_path / "scan.nii.gz", region=[(3, 6), (2, 5)]).affine)
    assert np.isnan(part.values[1]).all()


def test_it_is_part_of_the_grid_so_that_a_bundle_does_the_same(tmp_path: Path) -> None:
    volumes = np.stack([scan(seed=seed) for seed in range(6)])
    volumes[2, 5] = 0
    np.savez(tmp_path / "data.npz", volumes=volumes, labels=np.arange(6) % 2)
    data = load_data(tmp_path / "data.npz", missing_slices=("constant",))
    assert np.isnan(data.volumes).sum() == volumes[2, 5].size
    again = Grid.from_json(data.grid.to_json(), "grid")
    assert again == data.grid
    assert again.missing_slices == ("constant",)
    assert "missing_slices" not in Grid().to_json()
    with pytest.raises(
        VoxgapError, match="missing_slices 'zero' is unknown; use constant or duplicated, or both"
    ):
        Grid(missing_slices=("zero",))


def test_packages_that_do_not_look_for_such_slices_say_so() -> None:
    grid = Grid(missing_slices=("constant",))
    with pytest.warns(UserWarning, match="it does not look for slices that are constant") as said:
        forewarn(["web", "edge", "container"], (8, 8, 8, 1), grid)
    assert [str(one.message).partition(":")[0] for one in said] == ["web", "edge"]
