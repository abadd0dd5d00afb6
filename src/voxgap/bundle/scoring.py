"""What the answers of a bundle are worth: scored as it would decide, on all that the data has of a part."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from voxgap.dataset import Dataset, load_data
from voxgap.dataset.targets import as_classes, class_places
from voxgap.decision import Decision
from voxgap.errors import VoxgapError
from voxgap.grid import Grid
from voxgap.metrics import Scored, scored
from voxgap.metrics.overlap import digests, overlap, read_cases
from voxgap.runtime import MANIFEST, Predictor, read_manifest, verified_entry
from voxgap.runtime.manifest import label_values

Split = str | None
SPLITS = ("train", "validation", "test", "all")


@dataclass(frozen=True)
class Worth:
    """What the answers of a bundle are worth on one data set.

    Attributes:
        split: the part that was scored: `train`, `validation`, `test` or `all`.
        scored: its scores, with intervals.
        decision: by which classes were named.
        known: how many of the volumes were among those that the network was trained on, and that it was chosen on
            (`train`, `validation`), by their content; None where the bundle does not know.
        classes: names of what the scores count: `dice_1` is of the second.
    """

    split: str
    scored: Scored
    decision: Decision
    known: dict[str, int] | None
    classes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The scores by split, and what they rest on under `about`."""
        about = self.scored.to_json() | {"decision": self.decision.to_json(), "known": self.known}
        about["classes"] = list(self.classes)
        return {self.split: self.scored.scores, "about": about}


@dataclass(frozen=True)
class Labelled:
    """Data that a bundle is to be scored on, read as its training data was.

    Attributes:
        split: the part that is to be scored.
        data: its samples, of the bundle's task; targets count among the bundle's classes.
        whole: whether that is all there is, because the data has no split.
        known: see `Worth`.
    """

    split: str
    data: Dataset
    whole: bool
    known: dict[str, int] | None


def labelled(
    bundle: str | os.PathLike[str],
    data: str | os.PathLike[str] | Dataset,
    split: Split = None,
    load: Callable[..., Dataset] = load_data,
    **reading: Any,
) -> Labelled:
    """Read data that a bundle is to be scored on.

    Args:
        bundle: its folder.
        data: see `voxgap.load_data`.
        split: the part to score, or `all`; by default `test`, and all where the data has no split.
        load: what reads it.
        reading: what is said of the axes of the files, `axes` and `at`, where they are called otherwise.

    Raises:
        VoxgapError: it can't be read, is for another task or other classes, or has no such part.
    """
    folder = Path(bundle)
    manifest = read_manifest(folder)
    grid = Grid.from_json(manifest["input"].get("grid"), f"{folder / MANIFEST}: field input.grid")
    on_grid = asdict(grid.told(reading.get("axes") or (), reading.get("at") or {}))
    task = "segmentation" if manifest["task"] == "segmentation" else None
    if split is not None and split not in SPLITS:
        raise VoxgapError(f"split must be {', '.join(SPLITS[:-1])} or {SPLITS[-1]}, got {split!r}")
    dataset = load(data, task=task, scoring=True, **on_grid)
    if dataset.task != manifest["task"]:
        raise VoxgapError(
            f"{dataset.name}: the data is for {dataset.task}, the bundle for {manifest['task']}"
        )
    whole = bool((dataset.split == "test").all())
    if split in (None, "test"):
        split = "all" if whole else "test"
    part = dataset if split == "all" else dataset.part(split)
    if not len(part):
        raise VoxgapError(f"{dataset.name}: no {split} volumes; choose another --split, or all")
    return Labelled(
        split,
        _with_classes(part, manifest["classes"], label_values(manifest)),
        whole,
        _known(folder, manifest, part),
    )


def score(predictor: Predictor, given: Labelled, volumes: Any = None, seed: int = 0) -> Worth:
    """Score a bundle's answers, by the classes that it names.

    Args:
        predictor: of the bundle.
        given: from `labelled`.
        volumes: the same volumes with other gaps, where some were simulated.
        seed: of the intervals.
    """
    data = given.data
    volumes = data.volumes if volumes is None else volumes
    answers, threshold = predictor.predict(volumes), predictor.decision.threshold
    found = scored(
        data.task,
        data.targets,
        answers,
        observed=~np.isnan(volumes) if data.task == "segmentation" else None,
        threshold=threshold,
        own_grids=data.on_own_grids if data.drawn else None,
        groups=data.groups,
        seed=seed,
    )
    return Worth(given.split, found, predictor.decision, given.known, data.classes)


def _with_classes(part: Dataset, classes: list[str], learnt: Sequence[int] | None = None) -> Dataset:
    """The same samples, their targets counted among the network's classes."""
    if part.task == "regression":
        return part
    targets = as_classes(part.targets, part.classes, classes, part.label_values, learnt)
    if targets is None:
        raise VoxgapError(
            f"{part.name}: classes {', '.join(part.classes)} are not the bundle's: {', '.join(classes)}"
        )
    maps = {"label_maps": targets} if part.task == "segmentation" else {}
    if part.drawn is not None:
        places = class_places(part.classes, classes, True, part.label_values, learnt) or []
        maps["drawn"] = part.drawn.renamed(part.classes, [classes[place] for place in places])
    return replace(part, targets=targets, classes=tuple(classes), label_values=None, **maps)


def _known(folder: Path, manifest: dict[str, Any], part: Dataset) -> dict[str, int] | None:
    entry = manifest.get("cases")
    if not isinstance(entry, dict) or not (folder / str(entry.get("path"))).is_file():
        return None
    return overlap(digests(part.volumes), read_cases(verified_entry(folder, entry, "cases")))
