"""What a bundle can be exported to: files that a runtime opens, and folders that are deployed as they are."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from voxgap.errors import VoxgapError
from voxgap.registry import Registry
from voxgap.volume import Values

Precision = Literal["float32", "float16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8")
Convert = Callable[[Any, Path, str, Values], None]
"""Takes a Keras model, the file to write, the precision of the weights, and volumes to measure scales on."""


@dataclass(frozen=True)
class Format:
    """One kind of model file.

    Args:
        suffix: of the file, or of the folder where the format is one.
        backend: the Keras backend that it is converted under.
        packages: that converting and proving it import.
        extra: of voxgap, which installs them.
        precisions: that its weights can have.
        convert: writes it, for a format from outside: see `voxgap.bundle.convert`.
    """

    suffix: str
    backend: str = "tensorflow"
    packages: tuple[str, ...] = ("keras", "tensorflow")
    extra: str = "train"
    precisions: tuple[Precision, ...] = ("float32",)
    convert: Convert | None = None


_ONNX = ("keras", "tensorflow", "tf2onnx", "onnx", "onnxruntime")
FORMATS = Registry(
    "exports",
    {
        "keras": Format(".keras"),
        "h5": Format(".h5", packages=("keras", "tensorflow", "h5py")),
        "savedmodel": Format(".savedmodel"),
        "pt2": Format(".pt2", "torch", ("keras", "torch"), "torch"),
        "onnx": Format(".onnx", packages=_ONNX, extra="export", precisions=PRECISIONS),
        "openvino": Format(".xml", packages=(*_ONNX, "openvino"), extra="export", precisions=PRECISIONS),
        # LiteRT has no int8 kernel of Conv3D.
        "litert": Format(
            ".tflite",
            packages=("keras", "tensorflow", "ai_edge_litert"),
            extra="export",
            precisions=("float32", "float16"),
        ),
    },
)
"""What a model is exported to. An installed package adds its own, with an engine of that name: see docs/design.md."""
# A folder to deploy, and the format that it carries.
PACKAGES = {"web": "onnx", "container": "openvino", "edge": "litert"}


def check_formats(formats: Sequence[str], precision: str = "float32") -> tuple[list[str], list[str]]:
    """Refuse, before anything is converted, what can't be exported on this machine.

    Args:
        formats: names of `FORMATS` and `PACKAGES`.
        precision: of the weights: `float32`, `float16` or `int8`.

    Returns:
        The formats and the packages among them, each once, in the order given.

    Raises:
        VoxgapError: a name is unknown, a format lacks that precision, or a Python package is not installed.
    """
    if isinstance(formats, str):
        formats = [formats]
    names = [name.strip() for name in formats]
    unknown = next((name for name in names if name not in FORMATS and name not in PACKAGES), None)
    if unknown is not None or not names:
        raise VoxgapError(
            f"no format {unknown or ''!r}: choose among {', '.join(FORMATS)}, {', '.join(PACKAGES)}"
        )
    if precision not in PRECISIONS:
        raise VoxgapError(f"no precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    for name in names:
        kind = PACKAGES.get(name, name)
        able = FORMATS[kind].precisions
        if precision not in able:
            raise VoxgapError(f"{name} can't be exported as {precision}, only as {' or '.join(able)}")
        lacking = [package for package in FORMATS[kind].packages if importlib.util.find_spec(package) is None]
        if lacking:
            raise VoxgapError(
                f"{name} needs {', '.join(lacking)}: pip install 'voxgap[{FORMATS[kind].extra}]'"
            )
    once = dict.fromkeys(names)
    return [name for name in once if name in FORMATS], [name for name in once if name in PACKAGES]
