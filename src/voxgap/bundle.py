"""The bundle: a folder with manifest.json, the model and its report, which is what gets deployed."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxgap import __version__
from voxgap.dataset import Dataset
from voxgap.errors import VoxgapError
from voxgap.files import sha256, write_bytes
from voxgap.history import History
from voxgap.missingness.diagnosis import describe
from voxgap.runtime import MANIFEST, SCHEMA_VERSION

if TYPE_CHECKING:
    from voxgap.strategies import Strategy


def check_free(folder: str | Path, overwrite: bool = False) -> None:
    """Refuse, before hours of training, a folder that could not take a bundle afterwards.

    Raises:
        VoxgapError: a file is in the way, or a bundle is there and `overwrite` is not set.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise VoxgapError(f"{folder} is a file: choose a folder for the bundle")
    if (folder / MANIFEST).exists() and not overwrite:
        raise VoxgapError(f"{folder} holds a bundle already: choose another folder, or pass --overwrite")


def save_bundle(
    folder: str | Path,
    model: Any,
    dataset: Dataset,
    *,
    strategy: Strategy,
    arguments: dict[str, Any] | None = None,
    history: History | None = None,
    scores: dict[str, dict[str, float]] | None = None,
) -> Path:
    """Write a trained model and everything that using it takes.

    The model's file is named after its content and manifest.json is replaced last, so that at every moment the
    folder holds one whole bundle: the old one or the new.

    Args:
        folder: made if it is not there.
        model: trained, float32.
        dataset: what it was trained on, with gaps as in training.
        strategy: that the model was built with.
        arguments: further ones that the model was built and trained with, for the record.
        history: of its training.
        scores: metrics by split.

    Returns:
        The folder.
    """
    folder = Path(folder)
    check_free(folder, overwrite=True)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=folder) as temporary:
        file = Path(temporary) / "model.keras"
        model.save(file)
        digest = sha256(file)
        target = folder / f"model-{digest[:12]}.keras"
        file.replace(target)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
        "task": dataset.task,
        "classes": list(dataset.classes),
        "input": {
            "shape": list(model.input_shape[1:]),
            "channels": list(dataset.channels),
            "spacing": list(dataset.spacing) if dataset.spacing else None,
            "missing": "NaN",
            "grid": dataset.grid.to_json(),
        },
        "outputs": model.output_shape[-1],
        "network": model.name,
        "strategy": strategy.to_json(),
        "arguments": arguments or {},
        "data": {"name": dataset.name, "missingness": describe(dataset.part("train").volumes).to_json()},
        "training": history.to_json() if history else {},
        "scores": scores or {},
        "files": {
            "keras": {"path": target.name, "sha256": digest, "bytes": target.stat().st_size},
        },
    }
    text = json.dumps(_finite(manifest), indent=2, allow_nan=False)
    write_bytes(folder / MANIFEST, f"{text}\n".encode())
    for stale in folder.glob("model-*.keras"):
        if stale != target:
            stale.unlink()
    if history is not None:
        history.to_csv(folder / "history.csv")
        history.plot(folder / "history.png")
    return folder


def _finite(value: Any) -> Any:
    """The same data with null for NaN and infinity, which JSON lacks: a score that is not defined."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _versions() -> dict[str, str]:
    packages = ("keras", "tensorflow", "numpy")
    return {"voxgap": __version__, "python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages
    }
