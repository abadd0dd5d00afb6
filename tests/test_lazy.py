"""Arrays on disk: the same answers as in memory, and memory that stays flat."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxgap.dataset import Dataset
from voxgap.dataset.lazy import OnDisk, Writer
from voxgap.errors import VoxgapError
from voxgap.missingness.diagnosis import describe
from voxgap.missingness.mechanism import examine

SHAPE = (7, 4, 5, 6, 2)


def values(dtype: str = "f4") -> np.ndarray:
    rng = np.random.default_rng(0)
    array = rng.normal(size=SHAPE).astype(dtype)
    if array.dtype.kind == "f":
        array[rng.random(SHAPE) < 0.3] = np.nan
    return array


def same(a: Any, b: Any) -> None:
    np.testing.assert_array_equal(a, b)
    assert np.asarray(a).dtype == np.asarray(b).dtype.newbyteorder("=")


KEYS = [
    *(0, -1, np.int64(3), slice(None), slice(2, 5), slice(None, None, 2), slice(5, 2), [4, 0, 4]),
    *(
        np.arange(7) % 2 == 0,
        (2, slice(1, 3), slice(0, 5)),
        (2, slice(1, 3), slice(None, None, 2)),
        (1, 2, 3),
    ),
    *((slice(1, 4), 0), (..., 0), (3, ..., 1), (6, slice(3, 99)), (6, slice(3, 3)), (0, slice(-2, None))),
    *((slice(None), np.newaxis), np.newaxis),
]


@pytest.mark.parametrize("key", KEYS, ids=str)
@pytest.mark.parametrize("dtype", ["f4", ">f4", "i2"])
def test_access_is_that_of_numpy(key: Any, dtype: str, tmp_path: Path) -> None:
    array = values(dtype)
    np.save(tmp_path / "x.npy", array)
    lazy = OnDisk.npy(tmp_path / "x.npy")
    same(lazy[key], array[key])
    order = [5, 1, 1, 0, 6, 2, 3]
    same(lazy.take(order)[key], array[order][key])


def test_it_looks_like_an_array(tmp_path: Path) -> None:
    array = values()
    np.save(tmp_path / "x.npy", array)
    lazy = OnDisk.npy(tmp_path / "x.npy")
    for name in ("shape", "dtype", "ndim", "size", "nbytes"):
        assert getattr(lazy, name) == getattr(array, name)
    assert len(lazy) == 7
    same(lazy, array)
    same(np.stack(list(lazy)), array)
    same(np.isnan(lazy), np.isnan(array))
    with pytest.raises(IndexError):
        lazy[7]
    part = lazy.take(np.array([True, False, True, False, False, False, False])).take([1, 0])
    same(part, array[[2, 0]])
    (tmp_path / "x.npy").rename(tmp_path / "y.npy")  # open files go with it
    same(part, array[[2, 0]])


def test_it_can_be_sent_to_another_process(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", values())
    sent = pickle.dumps(OnDisk.npy(tmp_path / "x.npy").take([3, 1]))
    assert len(sent) < 2000
    same(pickle.loads(sent), values()[[3, 1]])


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.asfortranarray(values()))
    with pytest.raises(ValueError, match="C order"):
        OnDisk.npy(path)
    np.save(path, values())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="ends early"):
        OnDisk.npy(path)


@pytest.mark.parametrize("dtype", ["f4", "i2"])
def test_a_file_is_written_sample_by_sample(dtype: str, tmp_path: Path) -> None:
    array = values(dtype)
    with (tmp_path / "x.npy").open("wb") as stream:
        writer = Writer(stream, SHAPE, dtype)
        for index in (6, 0, 3):
            writer[index] = array[index]
        with pytest.raises(VoxgapError, match="a sample of 4×5 for an array of 4×5×6×2"):
            writer[1] = array[0, ..., 0, 0]
    found = np.load(tmp_path / "x.npy", allow_pickle=False)
    wanted = np.zeros_like(array)
    wanted[[0, 3, 6]] = array[[0, 3, 6]]
    same(found, wanted)


def test_a_mapped_array_stays_on_disk(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(12, 3, 4, 5, 1)).astype("f4")
    np.save(tmp_path / "x.npy", array)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    data = Dataset.from_arrays(mapped, np.arange(12) % 2)
    assert isinstance(data.volumes, OnDisk)
    plain = Dataset.from_arrays(array, np.arange(12) % 2)
    for part in ("train", "validation", "test"):
        same(data.part(part).volumes, plain.part(part).volumes)
    assert data.missing_rate == plain.missing_rate == 0
    # A part of a file, and what can change, are taken as they are in memory.
    for other in (mapped[2:], np.load(tmp_path / "x.npy", mmap_mode="c")):
        assert not isinstance(Dataset.from_arrays(other, np.arange(len(other)) % 2).volumes, OnDisk)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r+")
    mapped[0, 0, 0, 0] = np.inf
    mapped.flush()
    with pytest.raises(VoxgapError, match="1 infinite value"):
        Dataset.from_arrays(np.load(tmp_path / "x.npy", mmap_mode="r"), np.arange(12) % 2)


def test_what_is_said_of_data_on_disk_is_what_is_said_in_memory(tmp_path: Path) -> None:
    array = values()
    np.save(tmp_path / "x.npy", array)
    lazy, labels = OnDisk.npy(tmp_path / "x.npy"), np.arange(7) % 2
    assert describe(lazy, labels).to_json() == describe(array, labels).to_json()
    assert examine(lazy, labels).to_json() == examine(array, labels).to_json()


FLAT = """
import json, resource, sys
from pathlib import Path
import numpy as np
import voxgap as vg
from voxgap.dataset import load_data
from voxgap.missingness.diagnosis import describe
from voxgap.missingness.mechanism import examine

folder, limit = Path(sys.argv[1]), int(sys.argv[2])
examine(np.full((4, 2, 2, 2, 1), np.nan), [0, 1, 0, 1])  # what the libraries take, before the limit
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
data = load_data(folder / "data.csv", cache=folder / "cache", missing_values=[-1])
assert data.volumes.nbytes > 2 * limit, (data.volumes.nbytes, limit)
train = data.part("train")
rate = describe(train.volumes, train.targets).missing_rate
found = examine(data.volumes, data.targets)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"rate": rate, "grown": (after - before) * 1024, "size": data.volumes.nbytes}))
"""


@pytest.mark.full
def test_a_data_set_larger_than_memory_is_loaded_split_and_described(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(8):
        scan = rng.normal(size=(64, 128, 128)).astype("f4")
        scan[rng.random(64) < 0.25] = -1
        np.save(tmp_path / f"{index}.npy", scan)
    # Each file many times over: 1 GiB once decoded.
    rows = ["path,label", *(f"{index % 8}.npy,{index % 2}" for index in range(256))]
    (tmp_path / "data.csv").write_text("\n".join(rows))
    limit = 480 * 2**20
    done = subprocess.run(
        [sys.executable, "-c", FLAT, str(tmp_path), str(limit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["size"] == 2**30
    assert found["grown"] < 300 * 2**20, found
    assert 0.1 < found["rate"] < 0.4
