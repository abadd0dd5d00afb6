"""Label maps drawn part by part: the same as at once, whatever format, wherever the work was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stand_in
import voxgap as vg
from voxgap.runtime import job, streaming
from voxgap.runtime.inputs import list_items
from voxgap.runtime.predictor import Predictor
from voxgap.volume import Values

CLASSES = ("back", "left", "right")
AFFINE = np.array([[0, 0, -2.0, 30], [0, 1.5, 0, -9], [3.0, 0, 0, 7], [0, 0, 0, 1]])


def answer(batch: Values) -> Values:
    """Name one of three classes by the value and its place in the patch, so that how patches are blended matters."""
    place = np.linspace(0, 1, batch[0].size, dtype=np.float32).reshape(batch.shape[1:])
    known = np.nan_to_num(batch[..., :1])
    scores = np.concatenate(
        [np.full_like(known, 0.9), known + place[..., :1], place[..., :1] - known], axis=-1
    )
    return np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)


def predictor(channels: tuple[str, ...] = ("ct",), grid: dict[str, Any] | None = None) -> Predictor:
    about = {"shape": [8, 8, 8, len(channels)], "channels": list(channels), "grid": grid}
    about |= {"patches": {"size": [8, 8, 8], "overlap": 0.5}}
    manifest = stand_in.manifest(CLASSES, task="segmentation", outputs=3, label_values=[0, 2, 5], input=about)
    return Predictor(manifest, answer)


def scan(seed: int = 0, shape: tuple[int, ...] = (30, 13, 11)) -> vg.Volume:
    values = np.random.default_rng(seed).normal(size=shape).astype("float32")
    values[3:9] = np.nan
    return vg.Volume(values, AFFINE)


def at_once(found: Predictor, file: Path, wanted: job.Wanted) -> tuple[vg.Volume, dict[str, Any]]:
    """Return label map and row of the way of volumes that are held as a whole."""
    volume, records = found.read(file)
    said = found.answer(volume, records=records)
    labels = found.label_map(said.values, volume, records)
    return labels, job.row_of(found, str(file), said, wanted)


@pytest.mark.parametrize(
    "suffix", [".zarr", ".nii", ".tif", ".h5", ".nii.gz", ".npy", ".npz", ".nrrd", ".mha", ".nc"]
)
def test_each_format_gives_the_map_that_is_made_at_once(suffix: str, tmp_path: Path) -> None:
    found, file = predictor(), tmp_path / f"in/ct{suffix}"
    file.parent.mkdir()
    vg.write(file, scan())
    wanted = job.Wanted(maps=str(tmp_path / "maps"))
    told: list[tuple[int, int]] = []
    (item,) = list_items([file], ["ct"])
    assert streaming.streams(found, found.scan(item.source))
    (row,) = job.local(found, wanted, lambda _, done, planes: told.append((done, planes)))([item])
    assert not row.get("error")
    labels, expected = at_once(found, file, wanted)
    there = vg.read(row["label_map"])
    np.testing.assert_array_equal(there.values, labels.values)
    assert set(np.unique(there.values)) == {0, 2, 5}
    assert there.affine is None or np.allclose(there.affine, labels.affine)
    assert {name: row[name] for name in expected} == expected
    assert [row[f"voxels_{name}"] for name in CLASSES] == list(found.count_voxels(labels).values())
    millilitres = None if suffix == ".npy" else row["voxels_left"] * 9 / 1000
    assert row["ml_left"] == (None if millilitres is None else pytest.approx(millilitres))
    assert told[0] == (0, 30)
    assert told[-1] == (30, 30)
    assert [path.name for path in (tmp_path / "maps").iterdir()] == [Path(row["label_map"]).name]


def test_files_of_each_channel_are_read_by_part_where_they_lie_on_one_grid(tmp_path: Path) -> None:
    found = predictor(("t1", "t2"))
    vg.write(tmp_path / "t1.nii", scan(0))
    vg.write(tmp_path / "t2.nii", scan(1))
    moved = AFFINE.copy()
    moved[0, 3] += 3
    vg.write(tmp_path / "moved.nii", vg.Volume(scan(1).values, moved))
    files = (tmp_path / "t1.nii", tmp_path / "t2.nii")
    for some in (files, (files[0], None)):
        sample = found.scan(some)
        assert streaming.streams(found, sample)
        labels = found.label_map(found.answer(found.read(some)[0]).values, *found.read(some))
        with streaming.drawn(found, sample, tmp_path / "map.nii") as drawn:
            np.testing.assert_array_equal(drawn.labels.values, labels.values)
    # What is brought onto a grid, or judged as a whole, is held as a whole.
    assert not streaming.streams(found, found.scan((files[0], tmp_path / "moved.nii")))
    for grid in (
        {"size": [30, 13, 11]},
        {"crop": "observed"},
        {"spacing": [3, 1.5, 1]},
        {"missing_slices": ["constant"]},
    ):
        other = predictor(grid=grid)
        assert not streaming.streams(other, other.scan(files[0]))
    same = predictor(grid={"spacing": [3, 1.5, 2.0]})
    assert streaming.streams(same, same.scan(files[0]))


class KilledError(Exception):
    """Stands for the end of a process."""


def test_a_killed_map_goes_on_and_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    file, target = tmp_path / "ct.zarr", tmp_path / "maps" / "ct.zarr"
    vg.write(file, scan())
    rows = 0
    left = 0

    def counted(batch: Values) -> Values:
        nonlocal rows, left
        rows, left = rows + 1, left - 1
        if left == 0:
            raise KilledError
        return answer(batch)

    found = predictor()
    sample = found.scan(file)
    with streaming.drawn(found, sample, target) as drawn:
        whole = np.array(drawn.labels.values)
        said = drawn.counts, drawn.missing_rate
    counting = Predictor(found.manifest, counted)
    for batches in (2, 4, 5):  # before anything is finished, and in the midst
        left = batches
        with pytest.raises(KilledError), streaming.drawn(counting, sample, target):
            pass
        if target.with_name(".ct.zarr.planes").exists():
            with target.with_name(".ct.zarr.planes").open("ab") as stream:
                stream.write(b"half a plane")
    rows = 0
    with streaming.drawn(counting, sample, target) as drawn:
        np.testing.assert_array_equal(drawn.labels.values, whole)
        assert (drawn.counts, drawn.missing_rate) == said
        # Killed while it is written into its own format, nothing is computed again.
    assert 0 < rows < len(list(_batches(found, sample)))
    assert not list(target.parent.iterdir())


def _batches(found: Predictor, sample: Any) -> Iterator[int]:
    """Yield once for each batch that a whole volume takes."""
    seen = []

    def noted(batch: Values) -> Values:
        seen.append(len(batch))
        return answer(batch)

    for _ in Predictor(found.manifest, noted).bands(streaming.Planes(sample)):
        pass
    yield from seen


def test_planes_of_another_input_or_bundle_are_not_gone_on_with(tmp_path: Path) -> None:
    found, target = predictor(), tmp_path / "map.nii"
    vg.write(tmp_path / "ct.nii", scan(0))
    before = streaming.key_of(found, found.scan(tmp_path / "ct.nii"))
    growing = streaming.Growing(target, (30, 13, 11), before)
    assert not growing.data.exists()  # nothing is left where nothing was done
    growing.add(iter(np.ones((4, 13, 11))), {"missing": 3})
    assert streaming.Growing(target, (30, 13, 11), before).done == 4
    vg.write(tmp_path / "ct.nii", scan(1))
    os.utime(tmp_path / "ct.nii", ns=(1, 1))
    after = streaming.key_of(found, found.scan(tmp_path / "ct.nii"))
    assert streaming.Growing(target, (30, 13, 11), after).done == 0
    growing.add(iter(np.ones((4, 13, 11))), {})
    mirroring = Predictor(found.manifest, answer, mirrored=True)
    other = streaming.key_of(mirroring, mirroring.scan(tmp_path / "ct.nii"))
    assert other != streaming.key_of(found, found.scan(tmp_path / "ct.nii"))
    growing.note.write_text('{"done": 4')
    assert streaming.Growing(target, (30, 13, 11), before).done == 0


def test_an_answer_that_is_not_finite_is_a_row_that_says_so(tmp_path: Path) -> None:
    found = Predictor(predictor().manifest, lambda batch: answer(batch) * np.float32(np.nan))
    vg.write(tmp_path / "ct.nii", scan())
    (row,) = job.local(found, job.Wanted(maps=str(tmp_path / "maps")))(
        list_items([tmp_path / "ct.nii"], ["ct"])
    )
    assert row["error"].startswith("the network's answer is not finite for values from")


LARGE = """
    import sys
    from pathlib import Path
    import numpy as np, zarr
    from test_runtime_streaming import predictor
    from voxgap.runtime import job
    from voxgap.runtime.inputs import list_items
    from mutations import peak
    found = predictor()
    found._engine(np.zeros((2, 8, 8, 8, 1), "f4"))
    before = peak(field="VmRSS")
    (row,) = job.local(found, job.Wanted(maps=sys.argv[2], overwrite=True))(list_items([Path(sys.argv[1])], ["ct"]))
    assert not row.get("error"), row
    print(peak(field="VmHWM") - before)
"""


def _zarr(folder: Path, depth: int) -> Path:
    import zarr

    array = zarr.create_array(str(folder), shape=(depth, 256, 256), chunks=(16, 64, 64), dtype="f4")
    for start in range(0, depth, 64):
        array[start : start + 64] = np.random.default_rng(start).normal(size=(64, 256, 256))
    return folder


@pytest.mark.full
def test_memory_is_that_of_a_row_of_patches_and_not_of_the_volume(tmp_path: Path) -> None:
    """A volume four times as deep takes no more, in a process of its own."""
    pytest.importorskip("zarr")
    used = []
    for depth in (64, 256):
        file = _zarr(tmp_path / f"{depth}.zarr", depth)
        command = [sys.executable, "-c", textwrap.dedent(LARGE), str(file), str(tmp_path / "maps")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, timeout=600
        )
        assert done.returncode == 0, done.stderr[-2000:]
        used.append(int(done.stdout))
    whole = 256**3 * 4
    assert used[1] < used[0] + whole / 8, used
    assert used[1] < whole / 2 * len(CLASSES), used
