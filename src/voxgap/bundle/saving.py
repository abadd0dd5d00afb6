"""Writing a trained model as a bundle."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from voxgap import __version__
from voxgap.bundle import golden
from voxgap.bundle.evidence import remove_evidence, write_evidence
from voxgap.bundle.placing import place, workspace, write_manifest, writing
from voxgap.dataset import Dataset
from voxgap.dataset.gaps import described, own_box, own_values
from voxgap.decision import Decision
from voxgap.drift import looks, reference_of
from voxgap.errors import VoxgapError
from voxgap.evidence import NO_TEST, Cases, Predict, collect
from voxgap.history import History
from voxgap.metrics import Scored
from voxgap.metrics.overlap import digests, known_cases
from voxgap.missingness.diagnosis import describe
from voxgap.patches import OVERLAP, Size
from voxgap.promises import pattern_of
from voxgap.recipe import Gaps, Recipe, Strategy, strategy_of
from voxgap.runtime import MANIFEST, SCHEMA_VERSION
from voxgap.runtime.calibration import calibrate
from voxgap.runtime.profile import profile
from voxgap.volume import Values


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


@dataclass(frozen=True)
class Origin:
    """What a model came from, beside its data and its recipe.

    Attributes:
        seed: of its weights and batches.
        gaps: that were simulated in its data.
        command, options: what was typed to make it, and all options by name; for the page that stays in the house.
        plan: that its numbers are of, as `voxgap.experiment.Plan` has it, where there was one.
        began: what its network began with, see `voxgap.models.beginning.Taken`, where not at random.
        judged: the model that history and scores are of, where the one that is saved was trained on all data
            afterwards. What it answers is the evidence; calibration by it would be of another, and is left out.
    """

    seed: int | None = None
    gaps: Gaps | None = None
    command: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)
    began: Mapping[str, Any] = field(default_factory=dict)
    judged: Any = field(default=None, compare=False)

    def record(self) -> dict[str, Any]:
        """Return what is kept in the manifest."""
        if self == Origin():
            return {}
        gaps = self.gaps and {
            name: self.gaps.to_json()[name] for name in ("pattern", "missing_rate", "mechanism")
        }
        more = {"plan": dict(self.plan), "started_from": dict(self.began)}
        return {"simulated_gaps": gaps, "seed": self.seed} | {name: one for name, one in more.items() if one}


def save_bundle(
    folder: str | Path,
    model: Any,
    dataset: Dataset,
    *,
    strategy: str | Strategy | None = None,
    recipe: Recipe | None = None,
    origin: Origin | None = None,
    history: History | None = None,
    scored: Mapping[str, Scored] | None = None,
    decision: Decision | None = None,
    units: Mapping[str, str] | None = None,
    golden_volumes: Values | None = None,
    known: Mapping[str, list[str]] | None = None,
) -> Path:
    """Write a trained model, everything that using it takes, and what shows how good it is.

    Files are named after their content and manifest.json is replaced last, so that at every moment the folder
    holds one whole bundle: the old one or the new. The folder `evidence` comes last: what the model answers for each
    validation and test case.

    Args:
        folder: made if it is not there.
        model: trained, float32.
        dataset: what it was trained on, with gaps as in training.
        strategy: a preset's name or a `Strategy`, that the model was built with.
        recipe: all that the model was built and trained by, in place of its strategy alone.
        origin: what else the model came from, for the record.
        history: of its training: its curves, and a page about the cases, come into the bundle. With the patch size of
            that, or of the recipe where there is none, the bundle cuts volumes of any size into such patches.
        scored: metrics by split, with what they rest on; see `voxgap.metrics.scored`.
        decision: by which classes are named; by default the most probable one is.
        units: unit and meaning of a channel, by its name, as in `{"ct": "Hounsfield units"}`.
        golden_volumes: `(n, depth, height, width, channels)` to prove exports with; they stay in the bundle.
            Without them, two volumes of the data's validation part do.
        known: `known_cases` of `voxgap.metrics.overlap`, where the data had no simulated gaps yet; by default they
            are found in `dataset`.

    Returns:
        The folder.

    Raises:
        VoxgapError: a file is in the way, or `units` names a channel that is not there.

    Example:
        >>> import voxgap as vg
        >>> data = vg.load_data("sample:brain")
        >>> data = data.take(range(0, len(data), 12))  # a few will do here
        >>> model = vg.build_model("cnn3d", data.volumes.shape[1:], len(data.classes), filters=(4,))
        >>> history = vg.train(model, data, epochs=1, verbose=False)
        >>> vg.save_bundle("bundle", model, data, strategy="mean", history=history).name
        'bundle'
    """
    if (strategy is None) == (recipe is None):
        raise VoxgapError("save_bundle takes a strategy, or the recipe that holds it")
    origin = origin or Origin()
    made = recipe or Recipe(strategy=strategy_of(strategy or ""))
    patch_size = (history.patch_size if history else None) or made.training.patch_size
    folder = Path(folder)
    check_free(folder, overwrite=True)
    foreign = sorted(set(units or {}) - set(dataset.channels))
    if foreign:
        raise VoxgapError(f"units: no channel {foreign[0]!r}; there are {', '.join(dataset.channels)}")
    answered = golden.make(model, dataset, golden_volumes)
    judged = origin.judged
    predict = _predictor(model if judged is None else judged, patch_size)
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
            "mirrors": list(history.mirrors) if history else [],
        },
        "units": dict(units or {}),
        "outputs": model.output_shape[-1],
        "network": model.name,
        "strategy": made.strategy.to_json(),
        "arguments": _record(recipe)
        | origin.record()
        | ({} if judged is None else {"refitted_on": len(dataset)}),
        "data": _data(dataset, _own_units(model)),
        "calibration": _calibration(cases.part("validation"), dataset) if judged is None else {},
        "training": history.to_json() if history else {},
        "scores": {split: found.scores for split, found in (scored or {}).items()},
        "intervals": {split: found.to_json() for split, found in (scored or {}).items()},
        "decision": {} if dataset.task == "regression" else (decision or Decision()).to_json(),
    }
    if "test" not in dataset.split:
        manifest["unseen"] = NO_TEST
    if dataset.task == "segmentation":
        manifest["label_values"] = list(dataset.label_values or range(len(dataset.classes)))
    with workspace(folder) as temporary, writing(folder):
        model.save(temporary / "model.keras")
        (temporary / "golden.npz").write_bytes(golden.to_bytes(answered))
        (temporary / "cases.json").write_text(json.dumps(known or _known(dataset)))
        manifest["cases"] = place(folder, temporary / "cases.json", "cases")["parts"][0]
        if (reference := _reference(dataset, _own_units(model))) is not None:
            (temporary / "reference.json").write_text(json.dumps(reference))
            manifest["reference"] = place(folder, temporary / "reference.json", "reference")["parts"][0]
        proof = place(folder, temporary / "golden.npz", "golden")
        manifest["golden"] = proof["parts"][0]
        file = place(folder, temporary / "model.keras")
        # The digest stands beside the path too, where earlier versions of voxgap look for it.
        manifest["files"] = {"keras": file | file["parts"][0] | {"precision": "float32"}}
        remove_evidence(folder)
        bundle = write_manifest(folder, manifest)
    if history is not None:
        history.to_csv(folder / "history.csv")
        history.plot(folder / "history.png")
    write_evidence(bundle, dataset, cases, predict, history, command=origin.command, settings=origin.options)
    return folder


def _record(recipe: Recipe | None) -> dict[str, Any]:
    """Return the arguments that a model was built and trained with, as people read them; none where nobody said."""
    if recipe is None:
        return {}
    values = {name: getattr(recipe, name).to_json() for name in ("architecture", "training")}
    # A loss or an augmentation may be a function: it goes by its name.
    told: dict[str, Any] = json.loads(
        json.dumps(values, default=lambda one: getattr(one, "__name__", repr(one)))
    )
    return told


def _known(dataset: Dataset) -> dict[str, list[str]]:
    return known_cases(digests(dataset.volumes), dataset.split, dataset.groups)


def _own_units(model: Any) -> bool:
    """Return whether a model normalises each volume by itself."""
    from voxgap.layers.intensity import INTENSITY

    layers = model._flatten_layers(include_self=False)
    return any(layer.name == INTENSITY and layer.method != "window" for layer in layers)


def _data(dataset: Dataset, own_units: bool) -> dict[str, Any]:
    train = dataset.part("train")
    boxes = [own_box(train, index) for index in range(len(train))] if train.records else None
    known = profile(train.volumes, dataset.channels, own_units, boxes)
    missing = described(train, describe(train.volumes)).to_json()
    return {"name": dataset.name, "missingness": missing, "profile": known.to_json()}


def _reference(dataset: Dataset, own_units: bool) -> dict[str, Any] | None:
    """Return what a drift test goes by: the training scans, one of each group, since those of one are much alike."""
    train = dataset.part("train")
    if train.groups is not None:
        train = train.take(np.sort(np.unique(train.groups, return_index=True)[1]))
    return reference_of(looks(volume, dataset.channels, values=not own_units) for volume in own_values(train))


def _predictor(model: Any, patch_size: Size | None) -> Predict:
    from voxgap.experiment.single import predictions_of

    return partial(predictions_of, model, size=patch_size)


def _calibration(held_out: Cases, dataset: Dataset) -> dict[str, Any]:
    """Return how confident a classifier should be, by data that it was not trained on; empty where there is none."""
    if held_out.task != "classification" or not len(held_out):
        return {}
    patterns = [pattern_of(dataset.volumes[int(index)]) for index in held_out.index]
    return calibrate(held_out.answers, held_out.targets, patterns, held_out.groups)


def _versions() -> dict[str, str]:
    from voxgap.backend import keras

    packages = ("keras", keras.backend.backend(), "numpy")
    return {"voxgap": __version__, "python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages
    }
