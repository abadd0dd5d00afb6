"""A volume on the grid of another: SimpleITK on complete data, loops where there are gaps, files end to end."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from voxgap.errors import VoxgapError
from voxgap.grid import UNLABELLED, Grid, read_sample, scan_sample
from voxgap.io import scan, write
from voxgap.resample import inverse, onto, replay
from voxgap.volume import Volume

REVERSED = [2, 1, 0, 3]


def turned(*degrees: float) -> np.ndarray:
    """Columns of depth, height, width in the world, after turns about its three axes."""
    matrix = np.eye(3)[:, [2, 1, 0]]
    for axis, angle in enumerate(np.deg2rad(degrees)):
        turn, (i, j) = np.eye(3), [other for other in range(3) if other != axis]
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def placed(spacing: tuple[float, ...], origin: tuple[float, ...], turn: tuple[float, ...]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = turned(*turn) * spacing
    affine[:3, 3] = origin
    return affine


GRIDS = {
    "shifted": (placed((2, 1, 1.5), (0.3, -1.2, 2), (0, 0, 0)), (6, 8, 7)),
    "finer": (placed((0.7, 0.4, 0.9), (2, 1, 1), (0, 0, 0)), (9, 12, 8)),
    "turned": (placed((1.1, 0.9, 0.8), (1, -1, 3), (12, -20, 35)), (7, 9, 8)),
    "flipped": (placed((2, -1, 1), (9, 0, 0), (0, 0, 180)), (6, 9, 8)),
    "coarser": (placed((5, 2.5, 3), (1, 0.5, 1), (0, 0, 0)), (3, 5, 4)),
    "coarser and turned": (placed((4, 2, 3), (1, 0.5, 1), (10, 20, -5)), (3, 5, 4)),
}
OLD = placed((2, 1, 1.5), (-1, 0.5, 0.25), (4, 0, -7))


def image(values: np.ndarray, affine: np.ndarray) -> sitk.Image:
    found = sitk.GetImageFromArray(values.astype(np.float64))
    columns = (np.diag([-1.0, -1, 1, 1]) @ affine)[:3, REVERSED]
    lengths = np.linalg.norm(columns[:, :3], axis=0)
    found.SetOrigin(columns[:, 3].tolist())
    found.SetSpacing(lengths.tolist())
    found.SetDirection((columns[:, :3] / lengths).ravel().tolist())
    return found


def simpleitk(values: np.ndarray, affine: np.ndarray, size: tuple[int, ...], method: int) -> np.ndarray:
    like = image(np.zeros(size), affine)
    moved = sitk.Resample(image(values, OLD), like, sitk.Transform(), method, float("nan"), sitk.sitkFloat64)
    return sitk.GetArrayFromImage(moved)


def points(affine: np.ndarray) -> list[int]:
    steps = np.abs(np.linalg.solve(OLD, affine)[:3, :3]).max(axis=0)
    return [max(1, int(np.ceil(step - 1e-3))) for step in steps]


@pytest.mark.parametrize("name", GRIDS)
def test_complete_data_is_that_of_simpleitk(name: str) -> None:
    affine, size = GRIDS[name]
    values = np.random.default_rng(0).normal(size=(7, 9, 8))
    found, _ = onto(Volume(values, OLD), affine, size)
    assert np.allclose(found.affine, affine)
    # Where the new grid is coarser: SimpleITK on a lattice in each voxel, and the mean of it.
    counts = points(affine)
    finer = affine.copy()
    finer[:3, :3] /= counts
    finer[:3, 3] -= affine[:3, :3] @ ((np.array(counts) - 1) / np.array(counts) / 2)
    lattice = simpleitk(values, finer, tuple(np.multiply(size, counts)), sitk.sitkLinear)
    blocks = lattice.reshape([each for pair in zip(size, counts, strict=True) for each in pair])
    held = (~np.isnan(blocks)).sum(axis=(1, 3, 5))
    wanted = np.nansum(blocks, axis=(1, 3, 5)) / np.maximum(held, 1)
    assert held.any()
    assert np.allclose(found.values[held > 0, 0], wanted[held > 0], atol=1e-5)


@pytest.mark.parametrize("name", ["shifted", "finer", "turned", "flipped"])
def test_labels_are_those_of_simpleitk(name: str) -> None:
    affine, size = GRIDS[name]
    labels = np.random.default_rng(1).integers(0, 5, (7, 9, 8)).astype(float)
    found, _ = onto(Volume(labels, OLD), affine, size, method="nearest")
    wanted = simpleitk(labels, affine, size, sitk.sitkNearestNeighbor)
    both = ~np.isnan(wanted)
    assert np.array_equal(found.values[both, 0], wanted[both])


def loops(values: np.ndarray, matrix: np.ndarray, size: tuple[int, ...], counts: list[int]) -> np.ndarray:
    """By definition: a voxel, a point, an old voxel at a time."""
    result = np.full(size, np.nan)
    back = np.linalg.inv(matrix)
    lattice = [(np.arange(count) + 0.5) / count - 0.5 for count in counts]
    for place in np.ndindex(*size):
        total = share = 0.0
        present = False
        for point in itertools.product(*lattice):
            where = (matrix @ [*np.add(place, point), 1])[:3]
            if (where < -0.5).any() or (where > np.array(values.shape) - 0.5).any():
                continue
            where = where.clip(0, np.array(values.shape) - 1)
            nearest = tuple(np.minimum(np.floor(where + 0.5).astype(int), np.array(values.shape) - 1))
            present |= not np.isnan(values[nearest])
            for other in np.ndindex(*values.shape):
                weight = np.prod(np.clip(1 - np.abs(where - other), 0, None))
                if weight and not np.isnan(values[other]):
                    total, share = total + weight * values[other], share + weight
        if present:
            result[place] = total / share
    for other in np.ndindex(*values.shape):
        place = tuple(np.floor((back @ [*other, 1])[:3] + 0.5).astype(int))
        if not np.isnan(values[other]) and all(0 <= i < n for i, n in zip(place, size, strict=True)):
            result[place] = values[other] if np.isnan(result[place]) else result[place]
    return result


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("missing_rate", [0.3, 0.9])
def test_gaps_are_those_of_the_definition(name: str, missing_rate: float) -> None:
    affine, size = GRIDS[name]
    rng = np.random.default_rng(2)
    values = rng.normal(size=(4, 5, 6)).astype(np.float32)
    values[rng.random(values.shape) < missing_rate] = np.nan
    found, _ = onto(Volume(values, OLD), affine, size)
    wanted = loops(values.astype(float), np.linalg.solve(OLD, affine), size, points(affine))
    assert np.array_equal(np.isnan(found.values[..., 0]), np.isnan(wanted))
    assert np.allclose(found.values[..., 0], wanted, atol=1e-5, equal_nan=True)


def test_a_gap_neither_bleeds_nor_grows() -> None:
    values = np.full((8, 6, 6), 7, np.float32)
    values[3] = np.nan
    old = placed((2, 1, 1), (0, 0, 0), (0, 0, 0))
    found, _ = onto(Volume(values, old), placed((0.5, 1, 1), (0, 0, -0.75), (0, 0, 0)), (32, 6, 6))
    lost = np.isnan(found.values).all(axis=(1, 2, 3))
    # Four fine slices to a thick one, from its lower face to its upper one.
    assert np.flatnonzero(lost).tolist() == [12, 13, 14, 15]
    assert (found.values[~lost] == 7).all()


@pytest.mark.parametrize("method", ["linear", "nearest"])
def test_a_record_is_json_and_maps_back(method: str) -> None:
    volume = Volume(np.random.default_rng(0).integers(0, 3, (6, 7, 8)), OLD)
    affine = placed((1, 0.5, 0.75), (-1.1, 0.3, -0.2), (4, 0, -7))
    moved, record = onto(volume, affine, (12, 14, 16), method=method)  # type: ignore[arg-type]
    record = json.loads(json.dumps(record))
    assert np.array_equal(replay(volume, record).values, moved.values, equal_nan=True)
    back = inverse(Volume(moved.values), record, method="nearest")
    observed = back.observed
    assert observed.mean() > 0.9
    if method == "nearest":
        assert np.array_equal(back.values[observed], volume.values[observed])
    assert np.allclose(inverse(moved, record).affine, OLD)


def test_what_has_no_place() -> None:
    with pytest.raises(VoxgapError, match="has no affine that says where it lies"):
        onto(Volume(np.zeros((2, 3, 4))), np.eye(4), (2, 3, 4))
    with pytest.raises(VoxgapError, match="would take"):
        onto(Volume(np.zeros((2, 3, 4)), OLD), OLD, (10_000, 10_000, 10_000))
    with pytest.raises(VoxgapError, match=r"is no record of voxgap\.resample"):
        inverse(Volume(np.zeros((2, 3, 4))), {"step": "onto", "from": [2, 3, 4], "to": [2, 3, 4]})


def sphere(affine: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """A smooth bump about a point of the world, on any grid."""
    index = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1)
    place = index @ affine[:3, :3].T + affine[:3, 3]
    return np.exp(-((place - (9, 9, 9)) ** 2).sum(axis=-1) / 60)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_channels_of_one_patient_meet_in_the_world(suffix: str, tmp_path: Path) -> None:
    grids = {
        "t1": (placed((1, 1, 1), (0, 0, 0), (0, 0, 0)), (18, 18, 18)),
        "flair": (placed((3, 0.8, 0.8), (-1, -1, 0.4), (3, 0, 8)), (6, 25, 25)),
        "t2": (placed((1, 1, 1), (2, 0, 0), (0, 0, 0)), (18, 18, 18)),  # the same shape, elsewhere
    }
    files = {}
    for name, (affine, size) in grids.items():
        files[name] = tmp_path / f"{name}{suffix}"
        write(files[name], Volume(sphere(affine, size), affine))
    drawn = tmp_path / f"drawn{suffix}"
    write(drawn, Volume(sphere(*grids["flair"]) > 0.5, grids["flair"][0]))
    channels = ("t1", "flair", "t2")
    sample = scan_sample([files[name] for name in channels], channels, drawn, grid=Grid())
    placed_sample = read_sample(sample, Grid())
    volume, label_map = placed_sample.volume, placed_sample.label_map
    assert label_map is not None
    truth = sphere(*grids["t1"])
    for index in (1, 2):
        observed = volume.observed[..., index]
        assert observed.mean() > 0.7
        # At the border of a thick slice its value holds for half a slice more.
        assert np.percentile(np.abs(volume.values[observed, index] - truth[observed]), 95) < 0.05
    assert np.isnan(volume.values[:, :, 0, 2]).all()  # what t2 doesn't reach
    labelled = label_map != UNLABELLED
    assert ((label_map == 1) == (truth > 0.5))[labelled].mean() > 0.95
    assert [record is None for record in placed_sample.onto] == [True, False, False]
    # A prediction on the reference's grid goes back to that of the flair file.
    record = placed_sample.onto[1]
    assert record is not None
    back = inverse(Volume(truth), record)
    observed = back.observed[..., 0]
    assert np.percentile(np.abs(back.values[observed, 0] - sphere(*grids["flair"])[observed]), 95) < 0.05
    assert np.allclose(scan(files["flair"]).affine, grids["flair"][0], atol=1e-5)


def test_the_reference_is_the_one_named_or_the_first_there(tmp_path: Path) -> None:
    for name, depth in (("a", 4), ("b", 8)):
        affine = placed((8 / depth, 1, 1), (0, 0, 4 / depth), (0, 0, 0))
        write(tmp_path / f"{name}.nii", Volume(np.ones((depth, 5, 6)), affine))
    a, b = tmp_path / "a.nii", tmp_path / "b.nii"
    for files, reference, depth in (
        ([a, b], None, 4),
        ([a, b], "y", 8),
        ([a, None], "y", 4),
        ([None, b], None, 8),
        ([None, b], "x", 8),
    ):
        grid = Grid(reference=reference)
        sample = scan_sample(files, ("x", "y"), grid=grid)
        volume = read_sample(sample, grid).volume
        assert sample.shape == volume.shape == (depth, 5, 6, 2)
        for index, file in enumerate(files):
            assert volume.observed[..., index].all() == (file is not None)


def test_files_of_two_patients_are_noticed(tmp_path: Path) -> None:
    for name, shift in (("a", 0), ("b", 500)):
        write(
            tmp_path / f"{name}.nii", Volume(np.ones((4, 5, 6)), placed((1, 1, 1), (shift, 0, 0), (0, 0, 0)))
        )
    sample = scan_sample([tmp_path / "a.nii", tmp_path / "b.nii"], ("x", "y"), grid=Grid())
    with pytest.raises(VoxgapError, match=r"b\.nii: lies wholly outside .*a\.nii; check"):
        read_sample(sample, Grid())
