"""voxgap: 3D convolutional networks on volumes with missing data.

NaN is the one representation of missing. Heavy imports (Keras, SciPy) happen when a name is first touched,
so that `import voxgap` is instant.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

# TensorFlow, read when it is first imported, takes oneDNN by itself only where the processor has AVX-512: elsewhere
# its Conv3D is four times slower, and up to five hundred times in the gradient of one with strides.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

__version__ = "0.1.0"

_HOMES = {
    "Answer": "runtime",
    "Dataset": "dataset",
    "History": "history",
    "Predictor": "runtime",
    "Strategy": "recipe",
    "Volume": "volume",
    "VoxgapError": "errors",
    "build_model": "models",
    "certify": "bundle",
    "check_exportable": "bundle",
    "check_fills": "filling.check",
    "compare": "experiment",
    "describe": "missingness",
    "evaluate": "bundle",
    "export": "bundle",
    "export_model": "bundle",
    "fill_files": "filling.files",
    "guarantee": "bundle",
    "inspect": "inspection",
    "load": "runtime",
    "load_data": "dataset",
    "output_shape": "shapes",
    "plan": "experiment.proposal",
    "read": "io",
    "scan": "io",
    "save_bundle": "bundle",
    "simulate": "missingness",
    "start_from": "filling.filler",
    "train": "training",
    "train_filler": "filling.train",
    "write": "io",
}
_MODULES = ("augment", "fill", "io", "layers", "models", "resample", "samples", "shapes")

__all__ = [
    "Answer",
    "Dataset",
    "History",
    "Predictor",
    "Strategy",
    "Volume",
    "VoxgapError",
    "augment",
    "build_model",
    "certify",
    "check_exportable",
    "check_fills",
    "compare",
    "describe",
    "evaluate",
    "export",
    "export_model",
    "fill",
    "fill_files",
    "guarantee",
    "inspect",
    "io",
    "layers",
    "load",
    "load_data",
    "models",
    "output_shape",
    "plan",
    "read",
    "resample",
    "samples",
    "save_bundle",
    "scan",
    "shapes",
    "simulate",
    "start_from",
    "train",
    "train_filler",
    "write",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"voxgap.{_HOMES[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"voxgap.{name}")
    else:
        raise AttributeError(f"module 'voxgap' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
