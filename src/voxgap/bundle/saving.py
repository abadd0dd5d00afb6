"""Writing a trained model as a bundle."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voxgap import __version__
from voxgap.bundle import golden
from voxgap.bundle.evidence import remove_evidence, write_evidence
from voxgap.bundle.placing import place, workspace, write_manifest, writing
from voxgap.dataset import Dataset
from voxgap.decision import Decision
from voxgap.errors import VoxgapError
from voxgap.evaluate.overlap import digests, known_cases
from voxgap.evidence import Cases, Predict, collect
from voxgap.history import History
from voxgap.missingness.diagnosis import describe
from voxgap.patches import OVERLAP, Size, predict_patches
from voxgap.runtime.calibration import calibrate
from voxgap.runtime.manifest import MANIFEST, SCHEMA_VERSION
from voxgap.runtime.profile import profile
from voxgap.volume import Values

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
    units: Mapping[str, str] | None = None,
    golden_volumes: Values | None = None,
    patch_size: Size | None = None,
    decision: Decision | None = None,
    intervals: Mapping[str, Any] | None = None,
    known: Mapping[str, list[str]] | None = None,
    command: str = "",
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write a trained model, everything that using it takes, and what shows how good it is.

    Files are named after their content and manifest.json is replaced last, so that at every moment the folder
    holds one whole bundle: the old one or the new. The folder `evidence` comes last: what the model answers for each
    validation and test case.

    Args:
        folder: made if it is not there.
        model: trained, float32.
        dataset: what it was trained on, with gaps as in training.
        strategy: that the model was built with.
        arguments: further ones that the model was built and trained with, for the record.
        history: of its training: its curves, and a page about the cases, come into the bundle.
        scores: metrics by split.
        units: unit and meaning of a channel, by its name, as in `{"ct": "Hounsfield units"}`.
        golden_volumes: `(n, depth, height, width, channels)` to prove exports with; they stay in the bundle.
            Without them, two volumes of the data's validation part do.
        patch_size: that the model was trained with: the bundle cuts volumes of any size into such patches.
        decision: by which classes are named; by default the most probable one is.
        intervals: what `scores` rest on, by split: `Scored.to_json` of `voxgap.evaluate.scored`.
        known: `known_cases` of `voxgap.evaluate.overlap`, where the data had no simulated gaps yet; by default they
            are found in `dataset`.
        command, settings: what was typed to make it, and all options by name, for the page.

    Returns:
        The folder.

    Raises:
        VoxgapError: a file is in the way, or `units` names a channel that is not there.
    """
    folder = Path(folder)
    check_free(folder, overwrite=True)
    foreign = sorted(set(units or {}) - set(dataset.channels))
    if foreign:
        raise VoxgapError(f"units: no channel {foreign[0]!r}; there are {', '.join(dataset.channels)}")
    answered = golden.make(model, dataset, golden_volumes)
    predict = _predictor(model, patch_size)
    cases = collect(dataset, predict, decision.threshold if decision else None)
    manifest: dict[str, Any] = {
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
            "patches": None if patch_size is None else {"size": list(patch_size), "overlap": OVERLAP},
        },
        "units": dict(units or {}),
        "outputs": model.output_shape[-1],
        "network": model.name,
        "strategy": strategy.to_json(),
        "arguments": arguments or {},
        "data": _data(dataset, _own_units(model)),
        "calibration": _calibration(cases.part("validation")),
        "training": history.to_json() if history else {},
        "scores": scores or {},
        "intervals": dict(intervals or {}),
        "decision": {} if dataset.task == "regression" else (decision or Decision()).to_json(),
    }
    if dataset.task == "segmentation":
        manifest["label_values"] = list(dataset.label_values or range(len(dataset.classes)))
    with workspace(folder) as temporary, writing(folder):
        model.save(temporary / "model.keras")
        (temporary / "golden.npz").write_bytes(golden.to_bytes(answered))
        (temporary / "cases.json").write_text(json.dumps(known or _known(dataset)))
        manifest["cases"] = place(folder, temporary / "cases.json", "cases")["parts"][0]
        proof = place(folder, temporary / "golden.npz", "golden")
        manifest["golden"] = proof["parts"][0]
        file = place(folder, temporary / "model.keras")
        # The digest stands beside the path too, where earlier versions of voxgap look for it.
        manifest["files"] = {"keras": file | file["parts"][0] | {"precision": "float32"}}
        remove_evidence(folder)
        write_manifest(folder, manifest)
    if history is not None:
        history.to_csv(folder / "history.csv")
        history.plot(folder / "history.png")
    write_evidence(
        folder, manifest, dataset, cases, predict, history, command=command, settings=settings or {}
    )
    return folder


def _known(dataset: Dataset) -> dict[str, list[str]]:
    return known_cases(digests(dataset.volumes), dataset.split)


def _own_units(model: Any) -> bool:
    """Whether a model normalises each volume by itself."""
    from voxgap.layers.intensity import INTENSITY

    layers = model._flatten_layers(include_self=False)
    return any(layer.name == INTENSITY and layer.method != "window" for layer in layers)


def _data(dataset: Dataset, own_units: bool) -> dict[str, Any]:
    volumes = dataset.part("train").volumes
    known = profile(volumes, dataset.channels, own_units)
    return {"name": dataset.name, "missingness": describe(volumes).to_json(), "profile": known.to_json()}


def _predictor(model: Any, patch_size: Size | None) -> Predict:
    def predict(volumes: Values) -> Values:
        return np.asarray(model.predict(volumes, batch_size=16, verbose=0))

    return predict if patch_size is None else lambda volumes: predict_patches(predict, volumes, patch_size)


def _calibration(held_out: Cases) -> dict[str, Any]:
    """How confident a classifier should be, by data that it was not trained on; empty where there is none."""
    return (
        calibrate(held_out.answers, held_out.targets)
        if held_out.task == "classification" and len(held_out)
        else {}
    )


def _versions() -> dict[str, str]:
    from voxgap.backend import keras

    packages = ("keras", keras.backend.backend(), "numpy")
    return {"voxgap": __version__, "python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages
    }
