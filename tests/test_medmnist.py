"""MedMNIST by name: found in the cache, checked, and read from the file that it is published as."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from voxgap.dataset import load_data, medmnist
from voxgap.errors import VoxgapError

COUNTS = {"train": 6, "val": 4, "test": 2}


def published(path: Path, shape: tuple[int, ...] = (5, 5, 5)) -> dict[str, np.ndarray]:
    """Write a file as MedMNIST does: uint8 volumes without channels, labels of shape (samples, 1)."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in COUNTS.items():
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, *shape), np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % 2)[:, None].astype(np.uint8)
    np.savez_compressed(path, **arrays)
    return arrays


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(medmnist, "cache_folder", lambda: tmp_path)
    return tmp_path


def test_a_set_by_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = published(cache / "vesselmnist3d_64.npz")
    md5 = hashlib.md5((cache / "vesselmnist3d_64.npz").read_bytes()).hexdigest()
    known = medmnist.SETS["vesselmnist3d"]._replace(md5_64=md5)
    monkeypatch.setitem(medmnist.SETS, "vesselmnist3d", known)
    data = load_data("medmnist:vesselmnist3d_64")
    assert data.name == "medmnist:vesselmnist3d_64"
    assert data.classes == ("vessel", "aneurysm")
    assert data.volumes.dtype == np.float32
    for part, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        held = data.part(part)
        assert np.array_equal(held.volumes[..., 0], arrays[f"{name}_images"])
        assert np.array_equal(held.targets, arrays[f"{name}_labels"][:, 0])
    smaller = load_data("medmnist:vesselmnist3d_64", size=(3, 3, 3), missing_values=[0])
    assert smaller.volumes.shape == (12, 3, 3, 3, 1)
    with pytest.raises(VoxgapError, match="raise max_bytes"):
        load_data("medmnist:vesselmnist3d_64", max_bytes=5000)


def test_a_file_that_somebody_fetched(tmp_path: Path) -> None:
    arrays = published(tmp_path / "mine.npz")
    data = load_data(tmp_path / "mine.npz")
    assert data.classes == ("0", "1")
    assert np.array_equal(data.part("test").volumes[..., 0], arrays["test_images"])


def test_a_set_that_does_not_exist() -> None:
    with pytest.raises(
        VoxgapError, match=r"medmnist:pathmnist: no such set; there are organmnist3d, nodule.*_64"
    ):
        load_data("medmnist:pathmnist")


def test_another_file_in_its_place(cache: Path) -> None:
    published(cache / "organmnist3d.npz")
    with pytest.raises(
        VoxgapError, match=r"organmnist3d\.npz: not the published file.*fetch https://zenodo\.org/"
    ):
        load_data("medmnist:organmnist3d")


def test_without_the_internet(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(medmnist, "URL", "http://127.0.0.1:9/{}.npz")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(VoxgapError, match=r"127\.0\.0\.1:9/organmnist3d\.npz .*put it at ") as caught:
        load_data("medmnist:organmnist3d")
    assert str(cache / "organmnist3d.npz") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pictures_are_no_volumes(tmp_path: Path) -> None:
    published(tmp_path / "pathmnist.npz", (28, 28))
    with pytest.raises(VoxgapError, match="the 3D sets"):
        load_data(tmp_path / "pathmnist.npz")


def test_what_is_published_is_complete() -> None:
    assert len(medmnist.SETS) == 6
    sums = [md5 for known in medmnist.SETS.values() for md5 in (known.md5, known.md5_64)]
    assert len(set(sums)) == 12
    assert all(len(md5) == 32 and int(md5, 16) for md5 in sums)
