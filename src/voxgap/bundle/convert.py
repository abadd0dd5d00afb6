"""From a Keras model to a file of each format; run under the backend that the format is converted by."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from voxgap.bundle.formats import FORMATS, Convert
from voxgap.errors import VoxgapError
from voxgap.volume import Values


def convert(kind: str, model: Any, file: Path, precision: str, samples: Values) -> None:
    """Write a model in another format.

    Args:
        kind: one of `FORMATS`.
        model: a Keras model, loaded under the format's backend.
        file: to write, with the format's suffix; other files may appear beside it.
        precision: of the weights: `float32`, `float16` or `int8`.
        samples: `(n, depth, height, width, channels)`, which int8 scales are measured on.
    """
    write = _CONVERT.get(kind) or FORMATS[kind].convert
    if write is None:
        raise VoxgapError(f"nothing installed here converts to {kind}")
    file.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(model, file, precision, samples)


def _keras(model: Any, file: Path, _: str, __: Values) -> None:
    model.save(file)


def _savedmodel(model: Any, folder: Path, _: str, __: Values) -> None:
    model.export(str(folder), format="tf_saved_model", verbose=False)


def _pt2(model: Any, file: Path, _: str, samples: Values) -> None:
    import torch
    from torch.export import Dim

    model.eval()
    example = torch.from_numpy(np.repeat(samples[:1], 2, axis=0))  # of a batch of 1, PyTorch makes a constant
    # The model takes `*args`, so that its one argument is a tuple of its own.
    program = torch.export.export(model, (example,), dynamic_shapes=(({0: Dim.DYNAMIC},),))
    torch.export.save(program, file)


def _onnx(model: Any, file: Path, precision: str, samples: Values) -> None:
    from voxgap.bundle.graph import write_onnx
    from voxgap.bundle.quantize import float16_weights, int8_features

    model(samples[:1])  # Keras exports what has been called
    write_onnx(model, file)
    if precision == "float16":
        float16_weights(file)
    elif precision == "int8":
        int8_features(file, samples)


def _openvino(model: Any, file: Path, precision: str, samples: Values) -> None:
    import openvino

    # By way of ONNX: its channels-first graph is the faster one.
    between = file.with_suffix(".onnx")
    _onnx(model, between, "int8" if precision == "int8" else "float32", samples)
    openvino.save_model(openvino.convert_model(between), str(file), compress_to_fp16=precision == "float16")
    between.unlink()


def _litert(model: Any, file: Path, precision: str, _: Values) -> None:
    import tensorflow as tf

    from voxgap.bundle.pooling import without_pooling_3d

    options: dict[str, Any] = {}
    if precision == "float16":
        options = {
            "optimizations": [tf.lite.Optimize.DEFAULT],
            "target_spec": {"supported_types": [tf.float16]},
        }
    without_pooling_3d(model).export(str(file), format="litert", verbose=False, **options)


_CONVERT: dict[str, Convert] = {
    "keras": _keras,
    "h5": _keras,
    "savedmodel": _savedmodel,
    "pt2": _pt2,
    "onnx": _onnx,
    "openvino": _openvino,
    "litert": _litert,
}


def parts(file: Path) -> list[Path]:
    """Return the files that an export consists of, the main one first; those of a folder in order of their names."""
    if file.is_dir():
        return sorted(path for path in file.rglob("*") if path.is_file())
    return [file, file.with_suffix(".bin")] if file.suffix == ".xml" else [file]


def remove(file: Path) -> None:
    """Remove an export with all its parts, if it is there."""
    if file.is_dir():
        shutil.rmtree(file)
    elif file.exists():
        for part in parts(file):
            part.unlink()
