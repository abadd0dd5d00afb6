"""What the header of an OME-Zarr image says of its axes (NGFF 0.1 to 0.5): names, steps, units, and where it lies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.io import rules
from voxgap.io.rules import Axis
from voxgap.io.source import Source


class Level(NamedTuple):
    """An array of a store, and what the OME header of the group that it is in says of it."""

    item: str
    axes: tuple[Axis, ...] = ()
    channels: tuple[str, ...] = ()
    group: str = ""
    origin: tuple[float, ...] = ()


def level_of(scales: Any, ome: Any, wanted: str, version: int = rules.RULES) -> Level:
    """Return what a header says of one level of an image, the finest where none is named."""
    levels = {str(level["path"]): level for level in scales["datasets"]}
    wanted = wanted or next(iter(levels))
    if wanted not in levels:
        return Level(wanted)
    # Version 0.3 has names for axes only, later ones their type as well.
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in scales.get("axes", ())]
    steps, origin = np.ones(len(axes)), np.zeros(len(axes))
    for holder in (levels[wanted], scales):
        for transform in holder.get("coordinateTransformations", ()):
            by = transform.get(transform.get("type"), ())
            if transform.get("type") == "scale" and len(by) == len(axes):
                steps, origin = steps * np.asarray(by, float), origin * np.asarray(by, float)
            elif transform.get("type") == "translation" and len(by) == len(axes):
                origin = origin + np.asarray(by, float)
    kinds = _kinds(axes, version)
    found = tuple(
        Axis(str(axis["name"]), kind if all(kinds) else "", step, str(axis.get("unit", "")))
        for axis, kind, step in zip(axes, kinds, steps.tolist(), strict=True)
    )
    labels = tuple(str(c.get("label", "")) for c in ome.get("omero", {}).get("channels", ()))
    named = labels if all(labels) and len(set(labels)) == len(labels) else ()
    return Level(wanted, found, named, origin=tuple(origin.tolist()))


def _kinds(axes: Sequence[Any], version: int) -> list[str]:
    """Return which axis is which: those of space by their names, else by their order, which is then z, y, x."""
    names = [str(axis["name"]).lower() for axis in axes if axis.get("type") == "space"]
    by_name = version > 2 and len(set(names)) == len(names) and set(names) <= set("zyx")
    space = iter(names if by_name else "zyx"[-len(names) :])
    known = {"space": lambda: next(space, ""), "time": lambda: "z", "channel": lambda: "c"}
    return [known.get(str(axis.get("type")), lambda: "")() for axis in axes]


def affine_of(source: Source, level: Level) -> NDArray[np.float64] | None:
    """Return where the voxels of an image lie, in mm, upright; None where its header moves it nowhere.

    Bundles from before rules 3 were trained without.
    """
    at = dict(zip((axis.name for axis in level.axes), level.origin, strict=False))
    said = [(axis, rules.step(axis)) for axis in source.said]
    if source.options.rules < 3 or not any(at.get(axis.name) for axis, _ in said):
        return None
    if any(rules.is_time(axis) or not size or not axis.step for axis, size in said):
        return None
    affine = np.eye(4)[[2, 1, 0, 3]]
    for place, (axis, size) in enumerate(said):
        affine[2 - place, place] = size
        affine[2 - place, 3] = at[axis.name] * float(size or 1) / float(axis.step or 1)
    return affine


def labels_header(names: Sequence[str], level: Level, label: str, image: str, form: int) -> dict[str, Any]:
    """Return the attributes of a label map along some axes of an image, in its version, with its steps and units.

    Args:
        names: Of the axes of space or time, as stored.
        level: Of the image.
        label: What the map is called.
        image: Path from the label map to the image.
        form: Of Zarr.
    """
    known = {axis.name: (axis, start) for axis, start in zip(level.axes, level.origin, strict=True)}
    found = [known.get(name, (Axis(name), 0.0)) for name in names]
    axes: list[dict[str, str]] = [{"name": "c", "type": "channel"}]
    for axis, _ in found:
        unit = {"unit": axis.unit} if axis.unit else {}
        axes.append({"name": axis.name, "type": "time" if rules.is_time(axis) else "space", **unit})
    moves: list[dict[str, Any]] = [
        {"type": "scale", "scale": [1.0, *(axis.step or 1.0 for axis, _ in found)]}
    ]
    if any(start for _, start in found):
        moves.append({"type": "translation", "translation": [0.0, *(start for _, start in found)]})
    version = {"version": "0.4" if form == 2 else "0.5"}
    scales = {"name": "values", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": moves}]}
    about = {
        "multiscales": [{**(version if form == 2 else {}), **scales}],
        "omero": {"channels": [{"label": label, "active": True}]},
        "image-label": {**version, "source": {"image": image}},
    }
    return about if form == 2 else {"ome": {**version, **about}}


def one_level(attributes: dict[str, Any], item: str) -> dict[str, Any]:
    """Return the attributes of an image of which one level is left."""
    attributes = json.loads(json.dumps(attributes))
    for scale in attributes.get("ome", attributes).get("multiscales", ()):
        scale["datasets"] = [level for level in scale["datasets"] if str(level.get("path")) == item]
    return attributes
