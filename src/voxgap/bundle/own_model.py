"""Exporting a Keras model of one's own, which is no bundle: one that holds a fill layer, say."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxgap.bundle import golden
from voxgap.bundle.convert import parts, remove
from voxgap.bundle.exporting import Report, convert_and_prove
from voxgap.bundle.formats import FORMATS, Precision, check_formats
from voxgap.bundle.placing import workspace
from voxgap.errors import VoxgapError
from voxgap.volume import Values

if TYPE_CHECKING:
    from voxgap.backend import keras


def export_model(
    model: keras.Model,
    folder: str | os.PathLike[str],
    formats: Sequence[str],
    *,
    volumes: Values,
    precision: Precision = "float32",
    tolerance: float | None = None,
    report: Report | None = None,
) -> dict[str, dict[str, Any]]:
    """Export a Keras model that takes volumes with NaN to files, each proven through its own runtime.

    Keras's own `model.export` copies the donors of `voxgap.fill.KNN` once for each rank that it reads, which takes
    gigabytes; here they are in the file once.

    Args:
        model: one input `(batch, depth, height, width, channels)`, one output; its layers registered with Keras.
        folder: for `model.onnx` and so on; what is there under these names is replaced.
        formats: among `keras`, `h5`, `savedmodel`, `pt2`, `onnx`, `openvino`, `litert`.
        volumes: `(n, depth, height, width, channels)` of the model's input, such as validation data; of these, and of
            the same with every kind of gap, the answers are compared.
        precision: of the weights, as for `export`.
        tolerance: accept a larger difference from Keras.
        report: called at each step.

    Returns:
        By format, `path` and `parity`: `inputs`, `max_difference`, `class_agreement`, `tolerance`.

    Raises:
        VoxgapError: a format is unknown or needs a Python package, the model is another one, was not adapted or can't
            be converted, or the answers differ by more than the tolerance.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> volumes = np.random.default_rng(0).normal(size=(8, 4, 4, 4, 1)).astype("float32")
        >>> model = vg.models.keras.Sequential([vg.fill.Zero(), vg.models.keras.layers.Conv3D(2, 3)])
        >>> model.build((None, 4, 4, 4, 1))
        >>> entries = vg.export_model(model, "exported", ["onnx"], volumes=volumes)
        >>> entries["onnx"]["path"]
        'exported/model.onnx'
    """
    from voxgap.training.precision import with_policy

    kinds, deployed = check_formats(formats, precision)
    if deployed:
        raise VoxgapError(f"{deployed[0]} is made from a bundle: save_bundle, then export")
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.inputs[0].shape) != 5:
        raise VoxgapError(
            "the model must have one output and one input, (batch, depth, height, width, channels)"
        )
    proof = golden.make(model, None, volumes)
    target = Path(folder)
    with workspace(target) as temporary:
        file = temporary / "model.keras"
        with_policy(model, "float32").save(
            file
        )  # without loss and optimizer, whose names a file need not know
        made, proofs = convert_and_prove(temporary, file, proof, kinds, precision, tolerance, report)
        entries = {}
        for kind in kinds:
            place = target / f"model{FORMATS[kind].suffix}"
            remove(place)
            for part in [made[kind]] if made[kind].is_dir() else parts(made[kind]):
                part.replace(place.with_suffix(part.suffix))
            entries[kind] = {"path": str(place), "parity": proofs[kind].to_json()}
    return entries
