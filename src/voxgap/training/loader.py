"""Batches for training, made on the CPU beside the device's step, the same ones whatever the timing."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import keras
import numpy as np

from voxgap.arrays import as_real
from voxgap.errors import VoxgapError
from voxgap.patches import Patches, Size, random_corner, read_patch
from voxgap.ragged import shape_of

Batch = tuple[Any, ...]
Second = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Makes the second input of a network, which takes two, out of the volumes of the first."""

AHEAD = 2
# How often a patch is drawn before one without anything to learn from is taken.
TRIES = 8
# Of label maps a third of the patches lies about a voxel of a class drawn among those but the background, as in nnU-Net
# (Isensee et al. 2021), so that small structures are seen as often as large ones; of each class so many are known.
FOREGROUND = 1 / 3
PLACES = 1000


def owners(volumes: Array, size: Size | None, per_volume: int | None) -> np.ndarray:
    """Return the volume that each sample of an epoch is of: its own, or of so many patches, by default as tile it."""
    if size is not None and per_volume is None:
        return Patches(volumes, size).owners
    return np.repeat(np.arange(len(volumes)), per_volume or 1)


class Array(Protocol):
    """What can be trained on: it has a shape, and its items are volumes, read when they are asked for."""

    @property
    def shape(self) -> tuple[Any, ...]:
        """The shape, `(volumes, ...)`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


class Augment(Protocol):
    """What changes the volumes of a batch: a transform of `voxgap.augment`, or a function of the user's own.

    Where targets are label maps it is called with `labels=` too, and returns `(volumes, labels)`.
    """

    def __call__(
        self,
        volumes: np.ndarray,
        seed: Sequence[int],
        *,
        spacing: tuple[float, float, float] | None = None,
        threads: int = 1,
    ) -> Any:
        """Return the volumes of one batch, changed.

        Args:
            volumes: `(batch, depth, height, width, channels)`; NaN is missing.
            seed: what the change depends on: the same seed changes the same volumes alike.
            spacing: size of a voxel along each axis.
            threads: processors that it may use.
        """


class Loader(keras.utils.PyDataset):
    """Batches whose order and augmentation follow from (seed, epoch, index) and nothing else.

    The epoch is told with `begin`. Keras's own hooks can't say it: one is called before the first epoch too, the
    other after workers have started; and its workers hand batches of a stopped epoch to the next one. So
    Keras gets a single worker, and this class makes the next batches in a thread of its own (threads, never
    processes: compiled parallel code does not survive a fork). Give it to `fit` with `shuffle=False`.

    Args:
        volumes: `(n, depth, height, width, channels)`, NaN = missing; a `np.memmap` is read batch by batch.
        targets: `(n, ...)`; label maps `(n, depth, height, width)` move with their volumes.
        batch_size: volumes a batch; the last may be smaller.
        seed: of order and augmentation; None keeps the given order.
        weights: `(n,)`, of the samples in the loss.
        augment: called as `augment(volumes, (seed, epoch, index), spacing=..., threads=...)`.
        spacing: size of a voxel along depth, height and width, for `augment`.
        threads: that share a batch's augmentation; by default as many as there are processors.
        patch_size: `(depth, height, width)`: batches are of random patches, drawn by (seed, epoch, index); nothing
            else of the volumes is read. A patch in which nothing is observed, or nothing labelled, is drawn again; so
            is one that lies about foreground, all of which is in a gap.
        per_volume: patches of each volume in an epoch; by default as many as tile it.
        devices: that share a batch. A last batch that leaves one of them nothing joins the one before.
        second: makes what a batch has beside its volumes, `((volumes, second), targets)`, by (seed, epoch, index).

    Raises:
        VoxgapError: there are fewer samples than devices.
    """

    def __init__(
        self,
        volumes: Array,
        targets: Any,
        batch_size: int,
        seed: int | None = None,
        weights: np.ndarray | None = None,
        augment: Augment | None = None,
        spacing: tuple[float, float, float] | None = None,
        threads: int | None = None,
        patch_size: Size | None = None,
        per_volume: int | None = None,
        devices: int = 1,
        second: Second | None = None,
    ) -> None:
        super().__init__(workers=1, use_multiprocessing=False)
        self.volumes, self.targets, self.weights = volumes, targets, weights
        self.batch_size = batch_size
        self.seed = seed
        self.augment = augment
        self.spacing = spacing
        self.threads = threads or os.cpu_count() or 1
        self.patch_size = patch_size
        self._owners = owners(volumes, patch_size, per_volume)
        self._foreground: dict[int, list[np.ndarray]] = {}
        self.devices = devices
        self.second = second
        if 0 < self._count < devices:
            raise VoxgapError(
                f"{self._count} volumes can't be shared by {devices} devices: leave out distribute"
            )
        self._pool = ThreadPoolExecutor(1, "voxgap-loader")
        self.begin(0)

    def begin(self, epoch: int, logs: Any = None) -> None:
        """Go to the first batch of an epoch; `fit` does it with a callback's `on_epoch_begin`."""
        count = self._count
        order = (
            np.arange(count)
            if self.seed is None
            else np.random.default_rng((self.seed, epoch)).permutation(count)
        )
        # One assignment: a thread that still works for the last epoch keeps that epoch's order and number.
        self._epoch: tuple[int, np.ndarray, dict[int, Future[Batch]]] = epoch, order, {}

    @property
    def _count(self) -> int:
        """Samples an epoch: volumes, or their patches."""
        return len(self._owners)

    @property
    def per_volume(self) -> int:
        """Patches of a volume in an epoch, on average."""
        return self._count // max(1, len(self.volumes))

    def __len__(self) -> int:
        batches, rest = divmod(self._count, self.batch_size)
        return batches + (rest >= (self.devices if batches else 1))

    def __getitem__(self, index: int) -> Batch:
        epoch, order, ahead = self._epoch
        batch = ahead.pop(index, None) or self._pool.submit(self._batch, epoch, order, index)
        for following in range(index + 1, min(index + 1 + AHEAD, len(self))):
            if following not in ahead:
                ahead[following] = self._pool.submit(self._batch, epoch, order, following)
        return batch.result()

    def _batch(self, epoch: int, order: np.ndarray, index: int) -> Batch:
        stop = None if index == len(self) - 1 else (index + 1) * self.batch_size
        chosen = self._owners[order[index * self.batch_size : stop]]
        rng = np.random.default_rng((self.seed or 0, epoch, index, 1))
        # One by one: lazy arrays differ in what they allow between brackets, but all have single items.
        pairs = [self._sample(int(i), rng) for i in chosen]
        volumes = as_real([volume for volume, _ in pairs], "volumes").astype(np.float32, copy=False)
        targets = np.stack([target for _, target in pairs])
        if self.augment is not None:
            volumes, targets = self._augmented(self.augment, volumes, targets, (self.seed or 0, epoch, index))
        given: Any = volumes
        if self.second is not None:
            given = volumes, self.second(volumes, np.random.default_rng((self.seed or 0, epoch, index, 2)))
        return (given, targets) if self.weights is None else (given, targets, self.weights[chosen])

    def _sample(self, index: int, rng: np.random.Generator) -> tuple[Any, Any]:
        """Return one volume, or one patch of it, and its target."""
        if self.patch_size is None:
            return self.volumes[index], self.targets[index]
        maps = len(self.targets.shape) >= len(self.volumes.shape) - 1
        least = 1 if maps and rng.random() < FOREGROUND else 0
        for _ in range(TRIES):
            corner = self._corner(index, bool(least), rng)
            target = read_patch(self.targets, index, corner, self.patch_size) if maps else self.targets[index]
            if maps and (target < least).all():
                continue
            volume = read_patch(self.volumes, index, corner, self.patch_size)
            seen = ~np.isnan(volume).all(axis=-1)
            if (seen & (target >= least) if maps else seen).any():
                return volume, target
        return read_patch(self.volumes, index, corner, self.patch_size), target

    def _corner(self, index: int, aimed: bool, rng: np.random.Generator) -> Size:
        """Draw a patch of a volume, anywhere or about a voxel of its foreground."""
        size, shape = self.patch_size or (1, 1, 1), shape_of(self.volumes, index)[:3]
        anywhere = random_corner(shape, size, rng)
        if not aimed or all(length <= edge for length, edge in zip(shape, size, strict=True)):
            return anywhere
        if index not in self._foreground:
            self._foreground[index] = _places(np.asarray(self.targets[index]))
        if not self._foreground[index]:
            return anywhere
        places = self._foreground[index][int(rng.integers(len(self._foreground[index])))]
        voxel = places[int(rng.integers(len(places)))].tolist()
        depth, height, width = (
            start if length <= edge else min(max(0, at - edge // 2), length - edge)
            for at, edge, length, start in zip(voxel, size, shape, anywhere, strict=True)
        )
        return depth, height, width

    def _augmented(
        self, augment: Augment, volumes: np.ndarray, targets: np.ndarray, seed: tuple[int, int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        maps = {"labels": targets} if targets.ndim >= volumes.ndim - 1 else {}
        moved = augment(volumes, seed, spacing=self.spacing, threads=self.threads, **maps)
        moved, targets = moved if maps else (moved, targets)
        if np.shape(moved) != volumes.shape:
            raise VoxgapError(
                f"augment made a batch of shape {np.shape(moved)} out of {volumes.shape}: "
                "a network needs one shape; crop or pad the data set instead"
            )
        return np.asarray(moved, np.float32), targets


def _places(label_map: np.ndarray) -> list[np.ndarray]:
    """Return voxels of each class but the background, `(voxels, 3)` each, evenly thinned out where there are many."""
    found = []
    for kind in np.unique(label_map[label_map > 0]).tolist():
        places = np.argwhere(label_map == kind)
        found.append(places[:: -(-len(places) // PLACES)].astype(np.int32))
    return found
