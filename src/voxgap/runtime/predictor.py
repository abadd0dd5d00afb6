"""Answers for raw volumes with gaps, whatever engine computes them."""

from __future__ import annotations

import itertools
import os
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from voxgap.decision import Decision, named
from voxgap.errors import VoxgapError
from voxgap.grid import Grid, LabelMap, Sample, back_on_file, read_sample, scan_sample
from voxgap.patches import OVERLAP, Band, bands, each_volume, patch_size, predict_patches
from voxgap.ragged import is_by_item, shapes_of, together
from voxgap.resample import Record, own_missing_rate
from voxgap.runtime import answer as answers
from voxgap.runtime.answer import Answer
from voxgap.runtime.bundle import Bundle
from voxgap.runtime.calibration import tempered
from voxgap.runtime.draws import Drawing, Pooled, check_draws, pooled
from voxgap.runtime.engines import Engine
from voxgap.runtime.manifest import Manifest
from voxgap.runtime.profile import drift, far_outside, watched
from voxgap.runtime.summary import in_lines
from voxgap.volume import Values, Volume, as_batch, as_real, times

BATCH_VOXELS = 2**19
MAX_BATCH = 64
OUTSIDE = 0
"""In label maps that are written: what the network did not see, as programs that show them expect it."""


@dataclass(frozen=True)
class Running:
    """How a predictor computes.

    Args:
        engine: its name.
        precision: `float32`, `bf16`, `f16`, or that of the exported weights.
        difference: largest difference from float32 on the golden inputs; 0 in float32, None if it has none.
        version: SHA-256 of the trained model's file, its first 12 digits.
    """

    engine: str = ""
    precision: str = "float32"
    difference: float | None = 0.0
    version: str = ""


class Predictor:
    """Answers for raw volumes with gaps, as the bundle's network was trained to; safe to use from many threads.

    Attributes:
        manifest: what the bundle says of itself.
        running: how it computes.
        folder: of the bundle, where it has one.
        mirrored: whether its engine answers mirror images along with volumes.

    Example:
        >>> import voxgap as vg
        >>> predictor = vg.load("bundle")
        >>> volumes = vg.load_data("sample:brain").part("test").volumes[:4]
        >>> predictor.predict(volumes).shape
        (4, 3)
    """

    def __init__(
        self,
        manifest: Manifest,
        engine: Engine,
        running: Running | None = None,
        folder: Path | None = None,
        *,
        mirrored: bool = False,
    ) -> None:
        self.manifest = manifest
        self.folder = folder
        self.mirrored = mirrored
        self.running = running or Running()
        self._engine = engine
        self._drawing: Drawing | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return in_lines(self)

    @property
    def task(self) -> str:
        """`classification`, `regression`, `segmentation` or `fill`."""
        return self.manifest.task

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the probabilities; empty for a regression."""
        return self.manifest.classes

    @property
    def input_shape(self) -> tuple[int, ...]:
        """`(depth, height, width, channels)` of a volume, or of the patches into which volumes are cut."""
        return self.manifest.input.shape

    @property
    def grid(self) -> Grid:
        """How files become volumes for this network: the same way as those that it was trained on."""
        return self.manifest.input.grid

    @property
    def decision(self) -> Decision:
        """How it names classes."""
        return self.manifest.decision

    @property
    def batch_size(self) -> int:
        """How many volumes go through the network at once: enough to keep it busy, few enough to fit in memory."""
        return max(1, min(MAX_BATCH, BATCH_VOXELS // int(np.prod(self.input_shape))))

    @overload
    def predict(self, volumes: Any, batch_size: int | None = None) -> Values: ...

    @overload
    def predict(
        self, volumes: Any, batch_size: int | None = None, *, draws: int, seed: int = 0
    ) -> Pooled: ...

    def predict(
        self, volumes: Any, batch_size: int | None = None, *, draws: int | None = None, seed: int = 0
    ) -> Values | Pooled:
        """Predict raw volumes.

        Args:
            volumes: `(batch, depth, height, width, channels)`, one volume without the batch axis, or a sequence
                of `Volume`s; NaN = missing, values in the units of the training data. Deeper ones than the
                network's input go through it in overlapping windows along depth, and the answer is their mean.
            batch_size: how many go through the network at once; by default `Predictor.batch_size`.
            draws: how many draws of what the gaps may hide are answered, where the bundle's fill says how sure it is
                (`kriging`); None for the fill as it is.
            seed: of the draws; a volume's are the same whatever it is predicted with.

        Returns:
            float32 `(batch, outputs)`: probabilities of the classes, or values; for a segmentation
            `(batch, depth, height, width, classes)`, a `Ragged` for volumes of several shapes; for a fill of that shape
            the filled values of all channels, and behind them their standard deviations, 0 where observed. They are
            the network's own, the same in every engine: what calibration and thresholds make of them is in `answer`.
            With `draws`, a pair: their mean, and the standard deviation that the fill leaves in each.

        Raises:
            VoxgapError: the shape is not the network's, values are infinite, or so large that the answer is not
                finite.

        Warns:
            UserWarning: a volume has no observed voxel, and its answer says nothing of it; or values lie far
                outside of the training data's.
        """
        batch = self._batch(volumes)
        empty = np.flatnonzero([np.isnan(volume).all() for volume in batch])
        if empty.size:
            which = ", ".join(map(str, empty[:5])) + (", ..." if empty.size > 5 else "")
            warnings.warn(
                f"no observed voxel in volume {which}: the answer is what the network says of nothing",
                stacklevel=2,
            )
        for said in far_outside(batch, self.manifest.profile):
            warnings.warn(said, stacklevel=2)
        if draws is None:
            return self._run(batch, batch_size)
        found = [self._over_draws(volume, draws, seed, index) for index, volume in enumerate(batch)]
        return Pooled(*(np.stack(parts) for parts in zip(*found, strict=True)))

    def answer(
        self,
        volume: Any,
        top_k: int = 5,
        records: Sequence[Record] | None = None,
        draws: int | None = None,
        seed: int = 0,
    ) -> Answer:
        """Predict one volume and say what a person needs to judge the answer.

        Args:
            volume: a `Volume`, or `(depth, height, width, channels)`; NaN = missing.
            top_k: how many of the most probable classes to name.
            records: that `read` gave with it, by which what it misses itself is told from what lies outside of it.
            draws, seed: of the fill, see `predict`.

        Raises:
            VoxgapError: as for `predict`.
        """
        return next(self.answers([volume], top_k, [records], draws, seed))

    def answers(
        self,
        volumes: Iterable[Any],
        top_k: int = 5,
        records: Iterable[Sequence[Record] | None] | None = None,
        draws: int | None = None,
        seed: int = 0,
    ) -> Iterator[Answer]:
        """Predict volumes, a batch at a time as they come, and say what a person needs to judge each answer.

        Args:
            volumes: as for `answer`; a generator is read no further than the batch at hand.
            top_k: how many of the most probable classes to name.
            records: as for `answer`, those of each volume.
            draws, seed: as for `answer`.

        Raises:
            VoxgapError: as for `predict`.
        """
        waiting: list[tuple[Values, Sequence[Record] | None]] = []
        done = 0
        steps = itertools.repeat(None) if records is None else records
        for volume, moved in zip(volumes, steps, strict=False):
            (one,) = self._batch(volume)
            if waiting and (len(waiting) == self.batch_size or one.shape != waiting[0][0].shape):
                yield from self._answer_all(waiting, top_k, done, draws, seed)
                done += len(waiting)
                waiting = []
            waiting.append((one, moved))
        if waiting:
            yield from self._answer_all(waiting, top_k, done, draws, seed)

    def bands(self, volumes: Any, start: int = 0) -> Iterator[Band]:
        """Predict the voxels of one volume that is read by part, from a plane on; see `voxgap.patches.bands`."""
        assert self.manifest.input.patches is not None
        size, overlap = self.manifest.input.patches
        for band in bands(self._engine, volumes, 0, size, overlap, batch_size=self.batch_size, start=start):
            if not np.isfinite(band.values).all():
                seen = volumes[0, band.start : band.start + len(band.values)]
                raise VoxgapError(f"volume 0: {self._why_not_finite(seen)}")
            yield band

    @property
    def label_values(self) -> tuple[int, ...]:
        """What stands for each class in a label map: the value it was learnt from, such as 255."""
        return self.manifest.label_values

    def drawn(self, values: Values) -> LabelMap:
        """Turn answers for each voxel, `(..., classes)`, into the `label_values` of the classes that are named."""
        return np.array(self.label_values, np.int16)[named(values, self.decision.threshold)]

    def label_map(
        self, values: Values, volume: Volume, records: Sequence[Record], outside: int = OUTSIDE
    ) -> Volume:
        """Turn an answer for each voxel into a label map on the grid of the file that it is for.

        Args:
            values: `(depth, height, width, classes)`, one answer of a segmentation.
            volume: that was predicted, from `read`.
            records: that `read` gave with it.
            outside: what stands outside of what the network saw.

        Returns:
            The `label_values` of the classes, with the geometry of the file.

        Raises:
            VoxgapError: `outside` is beyond 16 bits, or the value of a class that is no background.
        """
        self.check_outside(outside)
        return back_on_file(self.drawn(values), volume, records, outside)

    def count_voxels(self, labels: Volume) -> dict[str, int]:
        """Count the voxels of each class in a `label_map`; what is outside of what the network saw by its value."""
        values = zip(self.classes, self.label_values, strict=True)
        return {name: int(np.count_nonzero(labels.values == value)) for name, value in values}

    def check_outside(self, outside: int) -> None:
        """Raise a `VoxgapError` if a number can't stand for what the network did not see."""
        if outside in self.label_values[1:]:
            name = self.classes[self.label_values.index(outside)]
            raise VoxgapError(
                f"outside {outside}: is the value of class {name}; choose another, such as 0 or -1"
            )
        if not -(2**15) <= outside < 2**15:
            raise VoxgapError(f"outside {outside}: label maps hold 16 bits; choose another, such as 0 or -1")

    def read(
        self,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str] | None],
        *,
        axes: Sequence[str | int] = (),
        at: Mapping[str, int] | None = None,
    ) -> tuple[Volume, list[Record]]:
        """Read a volume from its file, as the training data was read: missing values, crop, resampling.

        Args:
            path: one file, or one per channel of the network, None where that channel is missing.
            axes: which axes of this file are depth, height, width, and perhaps channels, where they are called
                otherwise than in the training data.
            at: one index of each axis that a volume has no place for, likewise.

        Returns:
            The volume for `predict`, and the records with which `voxgap.resample.inverse` maps an answer for
            each voxel back to the file's own grid; none where nothing was moved.

        Raises:
            VoxgapError: the file can't be read, or its shape is not the network's.
        """
        return self.place(self.scan(path, axes=axes, at=at))

    def scan(
        self,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str] | None],
        *,
        axes: Sequence[str | int] = (),
        at: Mapping[str, int] | None = None,
    ) -> Sample:
        """Read the headers of a volume's files; see `read`."""
        files: list[Path | None]
        channels: tuple[str, ...] = ()
        if isinstance(path, str | os.PathLike):
            files = [Path(path)]
        else:
            files = [None if file is None else Path(file) for file in path]
            channels = self.manifest.input.channels
            if len(files) != len(channels):
                raise VoxgapError(f"{len(files)} files for {len(channels)} channels; give one each, or None")
        return scan_sample(files, channels, grid=self.grid.told(axes, at))

    def place(self, sample: Sample) -> tuple[Volume, list[Record]]:
        """Read the volume of files that were scanned; see `read`."""
        volume, records, *_ = read_sample(sample, self.grid, step=self.manifest.input.step)
        self._check(volume.shape, str(volume.source), self._by_channel(volume.shape))
        return volume, records

    def _by_channel(self, shape: tuple[int, ...]) -> str:
        """Return how to give the channels that a file lacks; nothing where it is not they that are wrong."""
        channels = self.manifest.input.channels
        if len(channels) < 2 or shape[-1] == len(channels):
            return ""
        files = ",".join(f"{name}.nii.gz" for name in channels)
        return (
            f"; give a file for each channel: --channels {files} with the folder that holds them, or a table with the "
            f"columns {', '.join(channels)}; in Python read([FILE, ...]), None for a channel that is missing"
        )

    def _run(self, batch: Values, batch_size: int | None = None, first: int = 0) -> Values:
        outputs = self._outputs(batch, batch_size)
        for index, (volume, output) in enumerate(zip(batch, outputs, strict=True), first):
            if not np.isfinite(output).all():
                raise VoxgapError(f"volume {index}: {self._why_not_finite(volume)}")
        return outputs

    def _why_not_finite(self, volume: Values) -> str:
        said = "the network's answer is not finite"
        if np.isnan(volume).all():
            return f"{said}; the network is damaged: train or export it again"
        profile = self.manifest.profile
        known = [c.values for c in profile.channels.values() if c.values] if profile else []
        trained = (
            f", in the training data {min(known)[0]:.4g} to {max(v[1] for v in known):.4g}" if known else ""
        )
        return (
            f"{said} for values from {np.nanmin(volume):.4g} to {np.nanmax(volume):.4g}{trained}; give them in the "
            "units of the training data"
        )

    def _outputs(self, batch: Values, batch_size: int | None = None) -> Values:
        size = batch_size or self.batch_size
        if size < 1:
            raise VoxgapError(f"batch_size must be at least 1, got {batch_size}")
        patches = self.manifest.input.patches
        if patches is not None or batch.shape[1:] != self.input_shape:
            edges, overlap = patches or (patch_size(self.input_shape[:3]), OVERLAP)
            found = predict_patches(self._engine, batch, edges, overlap, batch_size=size)
            if self.task == "fill":  # a mean over patches that overlap is off by its rounding
                for one, known in zip(found, batch, strict=True):
                    np.copyto(one[..., : batch.shape[-1]], known, where=~np.isnan(known))
            return found
        return np.concatenate([self._engine(batch[i : i + size]) for i in range(0, len(batch), size)])

    def check_draws(self, draws: int) -> Drawing:
        """Return what draws for this bundle, loaded once, when it is first asked for.

        Raises:
            VoxgapError: so many draws say nothing, or the bundle's fill says no deviation.
        """
        check_draws(draws)
        if self.mirrored:
            raise VoxgapError("draws are not answered along with mirror images: leave out one of the two")
        with self._lock:
            if self._drawing is None:
                if self.folder is None:
                    raise VoxgapError("draws need the folder of a bundle: load it with vg.load")
                self._drawing = Drawing(Bundle(self.folder, self.manifest))
            return self._drawing

    def _over_draws(self, volume: Values, draws: int, seed: int, first: int = 0) -> Pooled:
        """Pool the answers for one volume, a batch of draws at a time."""
        drawing, patches = self.check_draws(draws), self.manifest.input.patches
        if not np.isnan(volume).any():
            outputs = self._run(volume[None], first=first)[0]
            return Pooled(outputs, np.zeros_like(outputs))
        edges, overlap = patches or (patch_size(self.input_shape[:3]), OVERLAP)
        size, channels = self.batch_size, volume.shape[-1]
        whole = patches is None and volume.shape == self.input_shape

        def answers() -> Iterator[Values]:
            completed = drawing.completed(volume, draws, seed)
            while some := list(itertools.islice(completed, size if whole else 1)):
                both = np.stack(some)
                if whole:
                    yield from drawing.run(both)
                else:
                    yield from each_volume(
                        drawing.run, both, edges, overlap, batch_size=size, channels=channels
                    )

        found = pooled(answers())
        if not np.isfinite(found.values).all():
            raise VoxgapError(f"volume {first}: {self._why_not_finite(volume)}")
        return found

    def _answer_all(
        self,
        waiting: list[tuple[Values, Sequence[Record] | None]],
        top_k: int,
        first: int,
        draws: int | None,
        seed: int,
    ) -> list[Answer]:
        started = time.perf_counter()
        found: list[Pooled | tuple[Values, None]]
        if draws is None:
            outputs = self._run(np.stack([volume for volume, _ in waiting]), first=first)
            found = [(values, None) for values in outputs]
        else:
            found = [
                self._over_draws(volume, draws, seed, index)
                for index, (volume, _) in enumerate(waiting, first)
            ]
        seconds = (time.perf_counter() - started) / len(waiting)
        return [
            # What is guaranteed, is of the answer and not of a mean over draws.
            answer if deviation is None else replace(answer, promise=None, fill_deviation=deviation)
            for answer, deviation in (
                (self.judged(volume, values, top_k, seconds, records), deviation)
                for (volume, records), (values, deviation) in zip(waiting, found, strict=True)
            )
        ]

    def judged(
        self,
        volume: Values,
        values: Values,
        top_k: int = 5,
        seconds: float = 0.0,
        records: Sequence[Record] | None = None,
    ) -> Answer:
        """Say what a person needs to judge what the network said of a volume.

        Args:
            volume: `(depth, height, width, channels)`, NaN = missing.
            values: its answer, one of `predict`.
            top_k: how many of the most probable classes to name.
            seconds: that it took.
            records: how it came onto the network's grid: what lies outside of it there is no gap. None where nobody
                said.
        """
        one_class, calibration = self.task == "classification", self.manifest.calibration
        guarantee, worths = self.manifest.guarantee, self.manifest.worths
        return Answer(
            values=values,
            label=self.classes[int(named(values, self.decision.threshold))] if one_class else None,
            top=answers.top(values, self.classes, top_k) if one_class else (),
            calibrated=tempered(values, calibration.of_input(volume)) if calibration and one_class else None,
            missing_rate=own_missing_rate(volume, records or ()),
            drift=drift(volume, self.manifest.profile, records),
            windows=self.manifest.input.windows(volume.shape),
            promise=guarantee.of_answer(volume, values, self.task, self.classes) if guarantee else None,
            advice=None if worths is None else worths.of_volume(volume),
            seconds=seconds,
            looks=watched(volume, self.manifest, records),
            **vars(self.running),
        )

    def _batch(self, volumes: Any) -> Values:
        if isinstance(volumes, Volume):
            volumes = [volumes]
        if isinstance(volumes, Sequence) and volumes and all(isinstance(v, Volume) for v in volumes):
            for i, volume in enumerate(volumes):
                self._check(volume.shape, f"volume {i}")
            volumes = together(v.values for v in volumes)
        array = volumes if is_by_item(volumes) else as_real(volumes, "volumes")
        batch = as_batch(array[np.newaxis] if array.ndim == 4 else array)
        for shape in dict.fromkeys(shapes_of(batch)):
            self._check(shape, "volumes")
        return batch

    def _check(self, shape: tuple[int, ...], where: str, remedy: str = "") -> None:
        if not self.manifest.input.fits(shape):
            raise VoxgapError(
                f"{where}: shape {times(shape)}, but this network takes {self.manifest.input.takes}{remedy}"
            )
