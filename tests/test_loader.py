"""The loader: which batches come, in which order, and that timing changes neither."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import tiny
from voxgap import augment as va
from voxgap.errors import VoxgapError
from voxgap.training.loader import Loader

VOLUMES, TARGETS = tiny.volumes(22), np.arange(22)


def epoch(loader: Loader, number: int | None = None) -> list[np.ndarray]:
    """One whole epoch: volumes, targets, perhaps weights."""
    if number is not None:
        loader.begin(number)
    return [np.concatenate(parts) for parts in zip(*(loader[i] for i in range(len(loader))), strict=True)]


def test_batches_are_permutations_that_follow_from_seed_and_epoch() -> None:
    volumes, targets, weights = np.arange(20.0).reshape(20, 1), np.arange(20), np.arange(20) / 7
    loader = Loader(volumes, targets, 6, seed=3, weights=weights)
    assert len(loader) == 4
    first = epoch(loader)
    assert sorted(first[1]) == list(range(20))
    np.testing.assert_array_equal(first[0][:, 0], first[1])
    np.testing.assert_array_equal(first[2] * 7, first[1])
    second = epoch(loader, 1)
    assert (first[1] != second[1]).any()
    np.testing.assert_array_equal(epoch(loader, 0)[1], first[1])
    np.testing.assert_array_equal(epoch(Loader(volumes, targets, 6, seed=3), 1)[1], second[1])
    assert (epoch(Loader(volumes, targets, 6, seed=4))[1] != first[1]).any()
    np.testing.assert_array_equal(epoch(Loader(volumes, targets, 6))[1], targets)


def test_augmentation_follows_from_seed_epoch_and_index() -> None:
    transform = va.preset("scan", "strong")
    loader = Loader(VOLUMES, TARGETS, 5, seed=7, augment=transform, spacing=(2, 1, 1), threads=2)
    loader.begin(3)
    order = np.random.default_rng((7, 3)).permutation(22)
    # Any order of asking: an epoch's batches are what they are.
    for index in (4, 0, 2, 2, 1, 3):
        volumes, targets = loader[index]
        chosen = order[index * 5 : index * 5 + 5]
        np.testing.assert_array_equal(targets, chosen)
        expected = transform(VOLUMES[chosen], (7, 3, index), spacing=(2, 1, 1), threads=1)
        np.testing.assert_array_equal(volumes, expected)


def test_label_maps_move_with_their_volumes() -> None:
    maps = (np.nan_to_num(VOLUMES[..., 0]) > 0.5).astype(np.int64)
    transform = va.Compose((va.Flip(("width", "depth")), va.Rotate90()))
    volumes, moved = epoch(Loader(np.nan_to_num(VOLUMES), maps, 5, seed=0, augment=transform))
    np.testing.assert_array_equal(moved, (volumes[..., 0] > 0.5).astype(np.int64))
    assert (moved != maps[np.concatenate([np.random.default_rng((0, 0)).permutation(22)])]).any()


def test_a_memory_map_is_read_batch_by_batch(tmp_path: Path) -> None:
    class Lazy:
        """Such as an HDF5 or Zarr array: one item at a time, nothing clever between the brackets."""

        shape = VOLUMES.shape

        def __init__(self) -> None:
            self.read: list[int] = []

        def __len__(self) -> int:
            return len(VOLUMES)

        def __getitem__(self, index: Any) -> np.ndarray:
            self.read.append(int(index))
            return VOLUMES[index].astype(np.float64)

    np.save(tmp_path / "v.npy", VOLUMES)
    expected = epoch(Loader(VOLUMES, TARGETS, 5, seed=1))
    lazy = Lazy()
    for volumes in (np.load(tmp_path / "v.npy", mmap_mode="r"), lazy):
        loader = Loader(volumes, TARGETS, 5, seed=1)
        for a, b in zip(epoch(loader), expected, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
    assert sorted(lazy.read) == list(range(22))
    lazy.read.clear()
    _ = Loader(lazy, TARGETS, 2, seed=1)[0]
    assert len(lazy.read) <= 2 * 3


def test_the_next_batches_are_made_while_this_one_is_used() -> None:
    def slow(volumes: np.ndarray, seed: Any, **_: Any) -> np.ndarray:
        time.sleep(0.05)
        return volumes

    loader = Loader(VOLUMES, TARGETS, 4, augment=slow)
    _ = loader[0]
    waits = []
    for index in range(1, len(loader)):
        time.sleep(0.08)  # the device's step
        started = time.perf_counter()
        _ = loader[index]
        waits.append(time.perf_counter() - started)
    assert np.median(waits) < 0.02


def test_what_a_transform_of_ones_own_raises_is_seen() -> None:
    def broken(volumes: np.ndarray, seed: Any, **_: Any) -> np.ndarray:
        raise ArithmeticError("mine")

    with pytest.raises(ArithmeticError, match="mine"):
        _ = Loader(VOLUMES, TARGETS, 4, augment=broken)[0]


@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
def test_keras_gets_the_right_epoch_whatever_the_timing() -> None:
    """The loss says which batch a step saw."""
    rng = np.random.default_rng(0)

    def stamp(volumes: np.ndarray, seed: Any, **_: Any) -> np.ndarray:
        time.sleep(rng.exponential(0.002))
        return np.full_like(volumes, seed[1] * 100 + seed[2])

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            seen.append(round(float(logs["loss"])))
            time.sleep(rng.exponential(0.002))

    seen: list[int] = []
    loader = Loader(VOLUMES, np.zeros(22, np.float32), 5, seed=1, augment=stamp)
    inputs = keras.Input(VOLUMES.shape[1:])
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling3D()(inputs))

    def mean_output(y: Any, prediction: Any) -> Any:
        return keras.ops.mean(prediction)

    model.compile("sgd", mean_output, jit_compile=False)

    class Reset(keras.callbacks.Callback):
        """The loss that Keras reports is a running mean: begin it again at each step."""

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.model.reset_metrics()

    follow = keras.callbacks.LambdaCallback(on_epoch_begin=loader.begin)
    callbacks = [follow, Reset(), Watch()]
    model.fit(loader, initial_epoch=2, epochs=6, callbacks=callbacks, shuffle=False, verbose=0)
    assert seen == [100 * e + i for e in range(2, 6) for i in range(5)]


def test_a_last_batch_is_never_too_small_for_the_devices() -> None:
    for count, devices, sizes in (
        (17, 1, [8, 8, 1]),
        (17, 2, [8, 9]),
        (18, 2, [8, 8, 2]),
        (5, 2, [5]),
        (16, 4, [8, 8]),
    ):
        loader = Loader(VOLUMES[:count], TARGETS[:count], 8, seed=0, devices=devices)
        batches = [loader[i][1] for i in range(len(loader))]
        assert [len(batch) for batch in batches] == sizes
        assert sorted(np.concatenate(batches)) == list(range(count))
    with pytest.raises(VoxgapError, match="can't be shared by 4 devices"):
        Loader(VOLUMES[:3], TARGETS[:3], 8, devices=4)
