"""Volumes of several shapes in one data set: as an array, at one spacing, on disk, in patches, scored."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxgap import metrics
from voxgap.dataset import Dataset, lazy, load_data
from voxgap.dataset.gaps import with_simulated
from voxgap.errors import VoxgapError
from voxgap.experiment.dataset_files import open_dataset, write_dataset
from voxgap.grid import Grid
from voxgap.io import write
from voxgap.missingness import describe
from voxgap.patches import Patches, predict_patches, suggested
from voxgap.ragged import Ragged, differ, each, inside, spanned, together
from voxgap.resample import resample
from voxgap.runtime.profile import profile
from voxgap.volume import Volume

SHAPES = [(4, 5, 6), (8, 5, 6), (4, 9, 3), (5, 5, 7)]


def items(shapes: list[tuple[int, ...]] = SHAPES) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(*shape, 2)).astype(np.float32) for shape in shapes]


def on_disk(path: Path, held: list[np.ndarray]) -> lazy.OnDisk:
    return lazy.OnDisk.npy(path, lazy.save(path, Ragged(held)))


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_it_is_indexed_as_the_list_of_its_items(where: str, tmp_path: Path) -> None:
    held = items()
    ragged: Any = Ragged(held) if where == "memory" else on_disk(tmp_path / "x.npy", held)
    assert (ragged.shape, ragged.ndim, ragged.dtype) == ((4, None, None, None, 2), 5, np.float32)
    assert ragged.size == sum(one.size for one in held)
    assert ragged.shapes == [one.shape for one in held]
    for index in (0, 3, -1, np.int64(2)):
        np.testing.assert_array_equal(ragged[index], held[index])
        np.testing.assert_array_equal(ragged[index, 1:3, :, 2:5], held[index][1:3, :, 2:5])
    for key in (slice(1, 3), [3, 0], np.array([False, True, True, False])):
        chosen = np.arange(4)[key]
        for found in (ragged[key], ragged.take(chosen), pickle.loads(pickle.dumps(ragged.take(chosen)))):
            assert found.shapes == [held[i].shape for i in chosen]
            for one, i in zip(found, chosen, strict=True):
                np.testing.assert_array_equal(one, held[i])
    assert ragged.take([]).shape == (0, None, None, None, 2)
    assert ragged.take([0, 0]).shape == (2, 4, 5, 6, 2)
    np.testing.assert_array_equal(np.asarray(ragged.take([1, 1])), np.stack([held[1], held[1]]))
    with pytest.raises(VoxgapError, match=r"volumes of 4×5×3×2 to 8×9×7×2 differ in shape, .*--size"):
        np.isnan(ragged)


def test_what_has_one_shape_is_an_array() -> None:
    one = items([(2, 3, 4)] * 3)
    assert isinstance(together(one), np.ndarray)
    assert isinstance(together(items()), Ragged)
    assert not differ(together(one))
    np.testing.assert_array_equal(each(np.negative, np.stack(one)), -np.stack(one))
    for found, wanted in zip(each(np.negative, Ragged(items())), items(), strict=True):
        np.testing.assert_array_equal(found, -wanted)
    assert inside(Ragged(items()), (8, 9, 7))
    assert not inside(Ragged(items()), (8, 8, 7))
    assert spanned([(2, 3), (2, 3)]) == "2×3"


def test_patches_are_those_of_each_volume_by_itself() -> None:
    size = (4, 4, 4)
    found = Patches(Ragged(items()), size)
    alone = [Patches(one[np.newaxis], size) for one in items()]
    assert found.owners.tolist() == [index for index, one in enumerate(alone) for _ in range(len(one))]
    np.testing.assert_array_equal(found[0 : len(found)], np.concatenate([one[0 : len(one)] for one in alone]))

    def predict(patches: np.ndarray) -> np.ndarray:
        return np.nan_to_num(patches) * 2

    answers = predict_patches(predict, Ragged(items()), size)
    for answer, one in zip(answers, items(), strict=True):
        np.testing.assert_allclose(answer, one * 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("shapes", "whole", "wanted"),
    [
        ([(35, 51, 36), (43, 59, 47)], False, (48, 64, 48)),
        ([(1, 200, 300), (1, 210, 100)], False, (1, 216, 304)),
        ([(20, 512, 512), (40, 512, 512)], False, (40, 80, 80)),
        ([(90, 100, 110), (91, 109, 91)], True, (96, 112, 112)),
    ],
)
def test_a_patch_holds_each_volume_or_what_can_be_trained_on(
    shapes: list[tuple[int, ...]], whole: bool, wanted: tuple[int, int, int]
) -> None:
    assert suggested(shapes, whole, "data") == wanted


def test_a_class_of_a_large_volume_is_not_learnt_from_a_part_of_it_unasked() -> None:
    with pytest.raises(VoxgapError, match=r"up to 40×512×512, .*--spacing or --size, .*--patch-size"):
        suggested([(20, 512, 512), (40, 512, 512)], True, "data")


def test_scores_are_those_of_all_voxels() -> None:
    rng = np.random.default_rng(0)
    truth = [rng.integers(-1, 3, shape).astype(np.int16) for shape in SHAPES]
    said = [rng.dirichlet(np.ones(3), shape).astype(np.float32) for shape in SHAPES]
    shown = [rng.random((*shape, 1)) < 0.5 for shape in SHAPES]
    flat = [
        np.concatenate([one.reshape(-1, *one.shape[3:]) for one in many]) for many in (truth, said, shown)
    ]
    in_a_row = [one[np.newaxis, :, np.newaxis, np.newaxis] for one in flat]
    wanted = metrics.scores("segmentation", in_a_row[0], in_a_row[1], observed=in_a_row[2])
    found = metrics.scores("segmentation", Ragged(truth), Ragged(said), observed=Ragged(shown))
    assert found == pytest.approx(wanted, nan_ok=True)
    with pytest.raises(VoxgapError, match=r"label maps of shape"):
        metrics.scores("segmentation", Ragged(truth), Ragged(said[::-1]))


@pytest.mark.parametrize("mechanism", ["mcar", "mar", "mnar"])
@pytest.mark.parametrize("pattern", ["voxels", "slices", "blocks", "channels"])
def test_gaps_are_simulated_at_the_rate_over_all(pattern: str, mechanism: str) -> None:
    data = Dataset.from_arrays(items() * 3, targets=np.arange(12.0))
    gapped = with_simulated(data, pattern, 0.5, mechanism, seed=0)
    assert gapped.volumes.shapes == data.volumes.shapes
    units = {"voxels": 60, "slices": 12, "channels": 12}
    missing = sum(int(np.isnan(one).sum()) for one in gapped.volumes) / gapped.volumes.size
    assert missing == pytest.approx(0.5, abs=0.01 if pattern in ("voxels", "blocks") else 1 / units[pattern])
    for one, before in zip(gapped.volumes, data.volumes, strict=True):
        np.testing.assert_array_equal(one[~np.isnan(one)], before[~np.isnan(one)])


def test_what_is_missing_is_described_volume_by_volume() -> None:
    held = items()
    held[0][1:3] = np.nan
    held[2][..., 1] = np.nan
    found = describe(Ragged(held), channels=("a", "b"))
    gone = sum(int(np.isnan(one).sum()) for one in held)
    assert found.missing_rate == pytest.approx(gone / sum(one.size for one in held))
    assert (found.volumes, found.with_gaps, found.shape) == (4, 2, (None, None, None, 2))
    assert found.missing_slices["depth"] == 4
    assert found.missing_channels == {"a": 0, "b": 1}
    assert sum(found.shares.values()) == pytest.approx(1)
    assert len(found.per_axis["depth"]) == 8
    every = np.concatenate([one.ravel() for one in held])
    assert found.intensity["mean"] == pytest.approx(float(np.nanmean(every)), abs=1e-6)
    known = profile(Ragged(held), ("a", "b"))  # type: ignore[arg-type]
    assert known.channels["b"].missing_rate == (0.0, 1.0)


def scans(folder: Path, spacings: list[tuple[float, float, float]]) -> Path:
    """Balls of one radius in mm, in voxels of these sizes, with the label map of each."""
    rows = ["path,label_map"]
    for index, spacing in enumerate(spacings):
        shape = tuple(round(12 / size) + index % 2 for size in spacing)
        at = np.stack(np.meshgrid(*[np.arange(n) + 0.5 for n in shape], indexing="ij"), -1) * spacing
        ball = np.linalg.norm(at - 6, axis=-1) < 4
        values = ball + np.random.default_rng(index).normal(0, 0.1, shape)
        values[0] = np.nan
        write(folder / f"{index}.nii.gz", Volume(values, spacing=spacing))
        write(folder / f"{index}-map.nii.gz", Volume(ball, spacing=spacing))
        rows.append(f"{index}.nii.gz,{index}-map.nii.gz")
    (folder / "data.csv").write_text("\n".join(rows) + "\n")
    return folder / "data.csv"


SPACINGS = [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (2.0, 0.5, 1.0), (1.0, 1.0, 1.0), (1.0, 2.0, 1.0)]


def test_files_come_to_their_median_spacing_and_answers_go_back(tmp_path: Path) -> None:
    data = load_data(scans(tmp_path, SPACINGS))
    assert data.grid == Grid(spacing=(1, 1, 1))
    assert data.spacing == (1, 1, 1)
    assert data.patch_size == (16, 16, 16)
    assert data.input_shape == (16, 16, 16, 1)
    assert "12×12×12×1 to 14×13×13×1 at 1 × 1 × 1" in data.summary()
    for index, spacing in enumerate(SPACINGS):
        shape = tuple(round(12 / size) + index % 2 for size in spacing)
        alone, record = resample(Volume(np.zeros(shape), spacing=spacing), spacing=(1, 1, 1))
        assert data.volumes[index].shape == alone.shape
        assert data.records is not None
        assert data.records[index] == [record]
    # The answer that is the label map scores nearly 1 where it was drawn, whatever its voxels were.
    perfect = [np.eye(2, dtype=np.float32)[one] for one in data.targets]
    found = metrics.scores("segmentation", data.targets, Ragged(perfect), own_grids=data.on_own_grids)
    assert 0.9 < found["dice"] < 1
    first = next(iter(data.take([2]).on_own_grids([data.targets[2]])))
    assert first[0].shape == first[1].shape == (6, 24, 12)


def test_an_unknown_spacing_leaves_files_as_they_are(tmp_path: Path) -> None:
    path = scans(tmp_path, SPACINGS)
    np.save(tmp_path / "3.npy", np.random.default_rng(0).normal(size=(5, 6, 7)))
    np.save(tmp_path / "3-map.npy", np.ones((5, 6, 7)))
    path.write_text(path.read_text().replace("3.nii.gz,3-map.nii.gz", "3.npy,3-map.npy"))
    data = load_data(path)
    assert data.grid == Grid()
    assert data.volumes.shapes[2:4] == [(6, 24, 12, 1), (5, 6, 7, 1)]
    assert data.spacing is None


def test_scans_that_are_scored_keep_the_spacing_that_was_learnt(tmp_path: Path) -> None:
    """Not the median of their own."""
    data = load_data(scans(tmp_path, [(2.0, 2.0, 2.0), (1.0, 2.0, 2.0)]), spacing=(1, 1, 1), scoring=True)
    assert data.grid == Grid(spacing=(1, 1, 1))
    assert load_data(tmp_path / "data.csv", scoring=True).grid == Grid()


def test_the_cache_keeps_several_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = scans(tmp_path, SPACINGS)
    plain = load_data(path)
    first = load_data(path, cache=tmp_path / "cache")
    monkeypatch.setattr("voxgap.dataset.cache.read_samples", None)  # nothing is decoded again
    for cached in (first, load_data(path, cache=tmp_path / "cache")):
        assert isinstance(cached.volumes, lazy.OnDisk)
        assert isinstance(cached.part("train").label_maps, lazy.OnDisk)
        assert (cached.grid, cached.records, cached.spacing) == (plain.grid, plain.records, plain.spacing)
        for name in ("volumes", "targets"):
            for one, other in zip(getattr(cached, name), getattr(plain, name), strict=True):
                np.testing.assert_array_equal(one, other)


def test_memory_is_bounded(tmp_path: Path) -> None:
    path = scans(tmp_path, SPACINGS)
    with pytest.raises(VoxgapError, match=r"GiB or more; .*--cache"):
        load_data(path, max_bytes=30_000)
    assert len(load_data(path, max_bytes=30_000, cache=tmp_path / "cache")) == 5


def test_processes_share_it(tmp_path: Path) -> None:
    data = Dataset.from_arrays(items() * 3, targets=np.arange(12.0))
    write_dataset(data, tmp_path / "d")
    found = open_dataset(tmp_path / "d")
    assert isinstance(found.volumes, lazy.OnDisk)
    assert found.patch_size == data.patch_size
    for one, other in zip(found.volumes, data.volumes, strict=True):
        np.testing.assert_array_equal(one, other)


def test_lists_of_arrays_are_a_data_set() -> None:
    bare = [one[..., 0] for one in items()] * 3
    data = Dataset.from_arrays(bare, ["a", "b"] * 6)
    assert data.volumes.shape == (12, None, None, None, 1)
    assert data.part("train").volumes.shape[0] == (data.split == "train").sum()
    assert data.missing_rate == 0
    with pytest.raises(VoxgapError, match=r"label maps of .* for volumes of 12×\?×\?×\?"):
        Dataset.from_arrays(bare, label_maps=[one > 0 for one in bare[::-1]])
    with pytest.raises(VoxgapError, match=r"infinite"):
        Dataset.from_arrays([*bare[:-1], bare[-1] / np.zeros((), np.float32)], ["a", "b"] * 6)


def test_tiles_are_a_data_set_of_one_shape() -> None:
    data = Dataset.from_arrays(items() * 3, targets=np.arange(12.0))
    tiles = data.tiled((4, 4, 4), 7)
    assert tiles.volumes.shape == (7, 4, 4, 4, 2)
    assert tiles.patch_size is None
    assert tiles.targets.tolist() == Patches(data.volumes, (4, 4, 4)).owners[:7].tolist()
