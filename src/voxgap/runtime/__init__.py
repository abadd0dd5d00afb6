"""Loading a bundle and predicting with it; nothing here knows how networks are trained."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from voxgap.errors import VoxgapError
from voxgap.files import sha256
from voxgap.grid import Grid, read_sample, scan_sample
from voxgap.resample import Record
from voxgap.volume import Volume, as_batch, times

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
_MAX_MANIFEST_BYTES = 16 * 2**20

_FIELDS = {
    "task": str,
    "classes": list,
    "input": dict,
    "outputs": int,
    "network": str,
    "strategy": dict,
    "files": dict,
}


class Predictor:
    """Answers for raw volumes with gaps, as the bundle's network was trained to.

    Attributes:
        manifest: what the bundle says of itself.
    """

    def __init__(self, manifest: dict[str, Any], model: Any) -> None:
        self.manifest = manifest
        self._model = model

    @property
    def task(self) -> str:
        """`classification` or `regression`."""
        return str(self.manifest["task"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the probabilities; empty for a regression."""
        return tuple(self.manifest["classes"])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """`(depth, height, width, channels)` of a volume."""
        return tuple(self.manifest["input"]["shape"])

    @property
    def grid(self) -> Grid:
        """How files become volumes for this network: the same way as those that it was trained on."""
        return Grid.from_json(self.manifest["input"].get("grid"), f"{MANIFEST}: field input.grid")

    def predict(self, volumes: Any, batch_size: int = 16) -> np.ndarray:
        """Predict raw volumes.

        Args:
            volumes: `(batch, depth, height, width, channels)`, one volume without the batch axis, or a sequence
                of `Volume`s; NaN = missing, values in the units of the training data.
            batch_size: how many go through the network at once.

        Returns:
            float32 `(batch, outputs)`: probabilities of the classes, or values.

        Raises:
            VoxgapError: the shape is not the network's, or values are infinite.

        Warns:
            UserWarning: a volume has no observed voxel; its answer says nothing of it.
        """
        batch = self._batch(volumes)
        empty = np.flatnonzero(np.isnan(batch).all(axis=(1, 2, 3, 4)))
        if empty.size:
            which = ", ".join(map(str, empty[:5])) + (", ..." if empty.size > 5 else "")
            warnings.warn(
                f"no observed voxel in volume {which}: the answer is what the network says of nothing",
                stacklevel=2,
            )
        return np.asarray(self._model.predict(batch, batch_size=batch_size, verbose=0), np.float32)

    def read(
        self, path: str | os.PathLike[str] | Sequence[str | os.PathLike[str] | None]
    ) -> tuple[Volume, list[Record]]:
        """Read a volume from its file, as the training data was read: missing values, crop, resampling.

        Args:
            path: one file, or one per channel of the network, None where that channel is missing.

        Returns:
            The volume for `predict`, and the records with which `voxgap.resample.inverse` maps an answer for
            each voxel back to the file's own grid; none where nothing was moved.

        Raises:
            VoxgapError: the file can't be read, or its shape is not the network's.
        """
        files: list[Path | None]
        if isinstance(path, str | os.PathLike):
            files, channels = [Path(path)], []
        else:
            files = [None if file is None else Path(file) for file in path]
            channels = self.manifest["input"]["channels"]
            if len(files) != len(channels):
                raise VoxgapError(f"{len(files)} files for {len(channels)} channels; give one each, or None")
        volume, records, _ = read_sample(scan_sample(files, channels, grid=self.grid), self.grid)
        self._check(volume.shape, str(volume.source))
        return volume, records

    def _batch(self, volumes: Any) -> np.ndarray:
        if isinstance(volumes, Volume):
            volumes = [volumes]
        if isinstance(volumes, Sequence) and volumes and all(isinstance(v, Volume) for v in volumes):
            for i, volume in enumerate(volumes):
                self._check(volume.shape, f"volume {i}")
            volumes = np.stack([v.values for v in volumes])
        array = np.asarray(volumes)
        batch = as_batch(array[np.newaxis] if array.ndim == 4 else array)
        self._check(batch.shape[1:], "volumes")
        return batch

    def _check(self, shape: tuple[int, ...], where: str) -> None:
        if shape != self.input_shape:
            channels = ", ".join(self.manifest["input"]["channels"])
            raise VoxgapError(
                f"{where}: shape {times(shape)}, but this network takes {times(self.input_shape)} "
                f"(depth, height, width, channels: {channels})"
            )


def load(bundle: str | os.PathLike[str]) -> Predictor:
    """Load a bundle for prediction.

    Nothing in it is executed: no pickle, no Lambda layer, every file checked against its SHA-256.

    Args:
        bundle: the folder that `save_bundle` or `voxgap train` made.

    Raises:
        VoxgapError: it is not a bundle, is damaged, or was made by a newer voxgap.
    """
    folder = Path(bundle)
    manifest = read_manifest(folder)
    file = _verified(folder, manifest, "keras")
    import keras

    import voxgap.fill
    import voxgap.layers  # noqa: F401  (both register the layers that the file names)

    try:
        model = keras.saving.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # whatever a damaged or hostile archive makes Keras raise
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise VoxgapError(f"{file}: can't be loaded ({reason}); train or export it again") from None
    if tuple(model.input_shape[1:]) != tuple(manifest["input"]["shape"]):
        raise VoxgapError(
            f"{folder / MANIFEST}: input.shape is not the model's {times(model.input_shape[1:])}"
        )
    if tuple(model.output_shape[1:]) != (manifest["outputs"],):
        raise VoxgapError(f"{folder / MANIFEST}: outputs is not the model's {times(model.output_shape[1:])}")
    return Predictor(manifest, model)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check manifest.json of a bundle.

    Raises:
        VoxgapError: it is missing, too large, not JSON, of another schema, or lacks a field.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise VoxgapError(
            f"{folder}: no bundle here ({MANIFEST} is missing); make one with voxgap train --out {folder}"
        )
    if file.stat().st_size > _MAX_MANIFEST_BYTES:
        raise VoxgapError(f"{file}: larger than {_MAX_MANIFEST_BYTES // 2**20} MiB, which no manifest is")
    try:
        manifest = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise VoxgapError(f"{file}: not valid JSON; train or export the bundle again") from None
    if not isinstance(manifest, dict):
        raise VoxgapError(f"{file}: not a manifest; train or export the bundle again")
    version = manifest.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise VoxgapError(
            f"{file}: schema_version is {version!r}, this voxgap reads {SCHEMA_VERSION}; update voxgap"
        )
    for name, kind in _FIELDS.items():
        if not isinstance(manifest.get(name), kind):
            raise VoxgapError(f"{file}: field {name} is missing or not of type {kind.__name__}")
    shape = manifest["input"].get("shape")
    if not isinstance(shape, list) or len(shape) != 4 or not all(type(n) is int and n > 0 for n in shape):
        raise VoxgapError(f"{file}: field input.shape must be four positive integers")
    if manifest["task"] not in ("classification", "regression"):
        raise VoxgapError(f"{file}: field task must be classification or regression")
    _check_names(manifest["input"].get("channels"), shape[-1], f"{file}: field input.channels")
    grid = Grid.from_json(manifest["input"].get("grid"), f"{file}: field input.grid")
    if grid.size is not None and list(grid.size) != shape[:3]:
        raise VoxgapError(f"{file}: field input.grid: size {times(grid.size)} is not that of input.shape")
    classes = manifest["outputs"] if manifest["task"] == "classification" else 0
    _check_names(manifest["classes"], classes, f"{file}: field classes")
    return manifest


def _check_names(names: Any, count: int, field: str) -> None:
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        raise VoxgapError(f"{field} must be {count} names; train or export the bundle again")


def _verified(folder: Path, manifest: dict[str, Any], kind: str) -> Path:
    """The path of one of the bundle's files, once its content is what the manifest says."""
    entry = manifest["files"].get(kind)
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        raise VoxgapError(f"{folder / MANIFEST}: field files.{kind} is missing")
    name = entry["path"]
    file = folder / name
    if Path(name).name != name or file.is_symlink():
        raise VoxgapError(
            f"{folder / MANIFEST}: files.{kind} must name a file inside the bundle, got {name!r}"
        )
    if not file.is_file():
        raise VoxgapError(f"{file}: the manifest names this file, but it is missing")
    if sha256(file) != entry.get("sha256"):
        raise VoxgapError(
            f"{file}: not the file that the manifest describes (SHA-256 differs); it was changed or damaged"
        )
    return file
