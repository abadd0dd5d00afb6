"""`inspect`: read what DATA names as it is, describe it, test what its gaps depend on, and advise."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from voxgap import intensity, patches
from voxgap.arrays import short
from voxgap.dataset import SPLITS, Dataset, load_data
from voxgap.dataset.door import is_one_volume
from voxgap.dataset.gaps import described
from voxgap.dataset.survey import Survey, as_they_are, at_one_size, listing_of, names_of, survey
from voxgap.errors import VoxgapError
from voxgap.grid import Grid
from voxgap.inspection.disguised import Disguise, disguises
from voxgap.inspection.found import ON_ONE_GRID, Inspection
from voxgap.inspection.masked import within_mask
from voxgap.missingness.advice import Advice, advise, of_fills
from voxgap.missingness.alone import told_by_gaps
from voxgap.missingness.diagnosis import describe
from voxgap.missingness.mechanism import examine
from voxgap.names import EMBEDDED, check_seed
from voxgap.ragged import differ, shapes_of
from voxgap.volume import Values

_OPTIONS = ("size", "spacing", "crop", "missing_values", "reference", "axes", "at", "missing_slices")


def inspect(
    data: str | os.PathLike[str] | Dataset,
    *,
    size: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    crop: str | None = None,
    missing_values: Sequence[float] = (),
    reference: str | None = None,
    axes: Sequence[str | int] = (),
    at: Mapping[str, int] | None = None,
    missing_slices: Sequence[str] = (),
    seed: int = 0,
) -> Inspection:
    """Find out what data hold, what is missing, what that depends on, and what to try.

    Args:
        data: as for `voxgap.load_data`, labelled or not; or one volume.
        size, spacing, crop, missing_values, reference, axes, at, missing_slices: see `voxgap.load_data`. Volumes of
            several sizes are described as they are; what needs one grid is measured on a common one, and says so.
        seed: of the permutation tests.

    Raises:
        VoxgapError: it isn't there, or can't be read.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> gapped = vg.simulate(np.arange(20 * 512.0).reshape(20, 8, 8, 8, 1), "slices", 0.25)
        >>> found = vg.inspect(vg.Dataset.from_arrays(gapped, labels=[0, 1] * 10))
        >>> found.found.pattern
        'slices along depth'
    """
    check_seed(seed)
    read = (size, spacing, crop, tuple(missing_values), reference, tuple(axes), dict(at or {}))
    given = (*read, tuple(missing_slices))
    grid: dict[str, Any] = dict(zip(_OPTIONS, given, strict=True))
    raw: Sequence[Values] = ()
    names: tuple[str, ...]
    if isinstance(data, Dataset):
        dataset = load_data(data, **grid)
        options = {key: asdict(dataset.grid)[key] for key in _OPTIONS}
        seen = _labelled(dataset, dataset.volumes, at_one_size(dataset).volumes, options, seed)
        names = dataset.names or ()
    elif is_one_volume(str(data)):
        seen, raw = _one_volume(Path(data), grid)
        names = (Path(data).name,)
    else:
        seen = _several(str(data), grid, seed)
        read_on = Grid(**seen.grid)
        raw, names = as_they_are(seen.name, read_on), names_of(seen.name, read_on)
    said, marks = _intensity(seen, raw or seen.own, names)
    hidden = disguises(raw or seen.own, seen.channels, names)
    advice = advise(seen.found, seen.evidence)
    if seen.filled:
        fills = [replace(one, strategies=of_fills(one.strategies)) for one in advice]
        advice = [now for one, now in zip(advice, fills, strict=True) if now.strategies or not one.strategies]
    if (marks or hidden) and not seen.found.missing_rate:
        advice = [_answer_first(marks, hidden)]
    said += [one.said for one in hidden]
    facts = seen.facts | _plan(seen) | {"intensity": said, "disguised": [one._asdict() for one in hidden]}
    return replace(seen, facts=facts, advice=advice, marks=marks, disguises=tuple(hidden))


def _one_volume(path: Path, options: dict[str, Any]) -> tuple[Inspection, list[Values]]:
    grid = Grid(**options)
    source = grid.scan(path)
    as_read = source.read()
    volume = grid.place(as_read)[0]
    volumes, channels = volume.values[None], volume.channels
    found, evidence = describe(volumes, channels=channels), examine(volumes, channels=channels)
    facts: dict[str, Any] = {"name": str(path), "spacing": volume.spacing, "axes": list(volume.axes)}
    masked, notes = (None, []) if grid.moves else within_mask(source, volume.values)
    inside = None
    if masked is not None:
        found, facts["mask"], inside = masked
    seen = Inspection(str(path), volumes, volumes, channels, facts, found, evidence, options)
    return replace(seen, rises=source.rises, inside=inside, notes=tuple(notes)), [as_read.values]


def _several(name: str, options: dict[str, Any], seed: int) -> Inspection:
    """Look at samples; files of several sizes as they are, and on the grid that they may be brought onto."""
    there = _survey(name, Grid(**options))
    on_one = options | ({"size": there.suggested["size"]} if there is not None and there.suggested else {})
    if there is None or not there.unlabelled:
        data = load_data(name, **on_one)
        # Not by load_data: that brings files of several sizes to one size of a voxel.
        own = there.read(Grid(**options))[1] if there is not None and on_one != options else data.volumes
        seen = replace(_labelled(data, own, data.volumes, options, seed), name=name)
    else:
        facts, own, channels = there.read(Grid(**options))
        volumes = there.read(Grid(**on_one))[1] if on_one != options else own
        found = describe(own, channels=channels)
        evidence = examine(volumes, channels=channels, seed=seed)
        facts |= _measured_on(own, volumes)
        seen = Inspection(name, volumes, own, channels, facts, found, evidence, options, rises=there.rises)
    return seen if there is None else replace(seen, facts=seen.facts | there.facts)


def _survey(name: str, grid: Grid) -> Survey | None:
    """Describe files as they are, where the grid would leave them so."""
    listing = None if grid.moves or name.startswith(EMBEDDED) else listing_of(name)
    return None if listing is None else survey(listing, name, grid)


def _measured_on(own: Any, volumes: Values) -> dict[str, Any]:
    """Say which grid was put in the place of several, and for what; nothing where the volumes are on one."""
    on_one = {"size": list(volumes.shape[1:4]), "what": [*ON_ONE_GRID]}
    return {"measured_on": on_one} if differ(own) else {}


def _counts(dataset: Dataset, as_drawn: bool) -> dict[str, int]:
    """Count each class: voxels of label maps, on the grids that they were drawn on or as they are, or volumes."""
    maps: Any = [dataset.targets]
    if dataset.task == "segmentation":
        maps = dataset.targets
        if as_drawn:
            maps = [truth for truth, _ in dataset.on_own_grids(maps)]
    return {name: sum(int((one == i).sum()) for one in maps) for i, name in enumerate(dataset.classes)}


def _labelled(dataset: Dataset, own: Any, volumes: Values, options: dict[str, Any], seed: int) -> Inspection:
    """Count and describe samples as they are, `own`, and test on one grid, in `volumes`, what needs one."""
    of_class = dataset.targets if dataset.task == "classification" else None
    facts = {
        "name": dataset.name,
        "spacing": dataset.spacing,
        "task": dataset.task,
        "splits": {name: int((dataset.split == name).sum()) for name in SPLITS},
        "classes": _counts(dataset, as_drawn=differ(own)),
        "groups": None if dataset.groups is None else len(set(dataset.groups.tolist())),
        **_measured_on(own, volumes),
    }
    channels = dataset.channels
    evidence = examine(
        volumes,
        # Of a label map no volume has a class of its own.
        None if dataset.task == "segmentation" else dataset.targets,
        classes=dataset.classes,
        groups=dataset.groups,
        channels=channels,
        seed=seed,
    )
    found = describe(own, of_class, channels=channels, classes=dataset.classes)
    if own is dataset.volumes:
        found = described(dataset, found)
    alone = None if of_class is None else told_by_gaps(volumes, of_class, dataset.groups, seed)
    seen = Inspection(dataset.name, volumes, own, channels, facts, found, evidence, options)
    return replace(seen, rises=dataset.rises, alone=alone, split=dataset.split)


def _answer_first(marks: Sequence[float], hidden: Sequence[Disguise]) -> Advice:
    if not marks:
        options = ", ".join(dict.fromkeys(one.option for one in hidden))
        return Advice(
            (), f"Look at what values says: if it is missing, {options}; if not, nothing is missing."
        )
    named = ", ".join(map(short, marks))
    return Advice(
        (),
        f"Say what {named} stands for: if for missing, name it by --missing-values; if not, nothing is missing.",
    )


def _patches(seen: Inspection, known: Any) -> dict[str, patches.Size | None]:
    """Return the patches that training takes where nobody says of which size, by the machine that trains."""
    shapes = shapes_of(known)
    if seen.facts.get("task") == "segmentation":
        return {machine.name: size for machine, (size, _) in _planned(shapes).items()}
    try:
        return {"": patches.suggested(shapes_of(seen.own), True, seen.name) if differ(seen.own) else None}
    except VoxgapError:  # A size has to be given: training says which.
        return {"": None}


def _planned(shapes: Sequence[tuple[int, ...]]) -> dict[patches.Machine, tuple[patches.Size, str]]:
    return {
        machine: patches.planned([shape[:3] for shape in shapes], machine, patches.memory())
        for machine in (patches.PROCESSORS, patches.GPU)
    }


def _plan(seen: Inspection) -> dict[str, list[str]]:
    """Say of which size patches of label maps are, in the words of the plan that training makes."""
    if seen.facts.get("task") != "segmentation":
        return {}
    known = seen.own if seen.split is None else seen.own[intensity.deciding(seen.split)]
    found = {
        machine.name: f"patches of {'×'.join(map(str, size))}: {why}"
        for machine, (size, why) in _planned(shapes_of(known)).items()
    }
    return {"plan": _by_machine(found)}


def _by_machine(said: Mapping[str, str]) -> list[str]:
    """Return what is said for each machine, once where it is the same for all."""
    if len(set(said.values())) == 1:
        return [next(iter(said.values()))]
    return [f"on {machine}: {words}" for machine, words in said.items()]


def _intensity(seen: Inspection, raw: Any, names: Sequence[str]) -> tuple[list[str], tuple[float, ...]]:
    """Say what is odd about the values themselves, units that differ, marks that were not named; and those marks.

    By the part of the data that training decides by.
    """
    channels = seen.channels
    known = seen.own if seen.split is None else seen.own[intensity.deciding(seen.split)]
    scales = intensity.choose(known, channels)
    taken = {
        where: intensity.of_patches(scales, known, size) for where, size in _patches(seen, known).items()
    }
    odd = []
    if scales.method != "dataset":
        words = _by_machine({where: chosen.why for where, chosen in taken.items()})
        odd = [f"{'; '.join(words)} in training, unless --normalize says otherwise"]
    if any(chosen.method == "dataset" for chosen in taken.values()):
        apart = "" if seen.split is None else intensity.strangers(seen.own, seen.split, names, channels)
        odd += [apart] if apart else []
    marks = intensity.marks(raw, channels)
    return odd + [mark.said for mark in marks], tuple(dict.fromkeys(mark.value for mark in marks))
