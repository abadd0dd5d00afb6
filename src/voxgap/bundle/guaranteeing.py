"""Calibrating what a bundle guarantees, on data that its network has never met, and keeping it in the manifest."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from voxgap.bundle.placing import current_of, write_manifest, writing
from voxgap.bundle.scoring import Labelled, Split, known_to, labelled
from voxgap.dataset import Dataset
from voxgap.dataset.gaps import with_simulated
from voxgap.dataset.splits import make_split
from voxgap.errors import VoxgapError
from voxgap.metrics.overlap import GROUPS, digests, group_digests, in_part
from voxgap.names import COVERAGE, check_seed
from voxgap.promises import TOLERANCE, Guarantee, Pattern, pattern_of
from voxgap.runtime import Bundle, Predictor, load
from voxgap.trust.conformal import calibrated, check_coverage, least_for

SHARE = 0.2
"""Of the training part, what is set aside to calibrate on."""


@dataclass(frozen=True)
class Guaranteed:
    """What was calibrated, and on what.

    Attributes:
        guarantee: as it stands in the manifest.
        counts: scans of each pattern of gaps that was seen.
        notes: what to know before it is believed.
    """

    guarantee: Guarantee
    counts: Mapping[Pattern, int]
    notes: tuple[str, ...] = ()

    def rows(self) -> list[list[str]]:
        """Pattern, scans that have it, what is guaranteed for it, on how many that rests; the commonest first."""
        claims, channels = self.guarantee.claims, self.guarantee.channels
        rows = []
        for pattern in sorted({*self.counts, *claims}, key=lambda one: (-self.counts.get(one, 0), one)):
            claim = claims.get(pattern)
            rests = {"pattern": "guaranteed", "assumption": "if gaps depend on nothing"}
            said = rests[claim.rests] if claim else "nothing: too few"
            rows.append(
                [
                    pattern.words(channels),
                    str(self.counts.get(pattern, 0)),
                    said,
                    str(claim.samples) if claim else "",
                ]
            )
        return rows

    def __str__(self) -> str:
        rows = [("pattern of gaps", "scans", "claim", "rests on"), *self.rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        return "\n".join([*(line.rstrip() for line in lines), self.guarantee.words(), *self.notes])


def guarantee(
    bundle: str | os.PathLike[str] | Predictor,
    data: str | os.PathLike[str] | Dataset,
    coverage: float = COVERAGE,
    split: Split = None,
    *,
    pattern: str | None = None,
    missing_rate: float = 0.5,
    mechanism: str = "mcar",
    seed: int = 0,
    axes: Sequence[str | int] = (),
    at: Mapping[str, int] | None = None,
) -> Guaranteed:
    """Calibrate what a bundle guarantees for each pattern of gaps, and keep it in its manifest.

    From then on every answer says a set of classes, an interval or a region, which holds for the share of scans that
    was asked for, of each pattern of gaps by itself: see docs/trust.md.

    Args:
        bundle: its folder, or a `Predictor` of it that computes in float32.
        data: labelled, see `voxgap.load_data`. What the network was trained or chosen on is left out, by its content.
        coverage: share of scans for which the answer is to hold; of a segmentation, mean share of the volume of a
            class that is to lie within its region.
        split: the part to calibrate on, see `evaluate`.
        pattern, missing_rate, mechanism: of gaps that are simulated besides the data's own; see `voxgap.simulate`.
        seed: of the simulated gaps, and of the test whether gaps depend on anything.
        axes, at: what is said of the axes of the files, where they are called otherwise; see `voxgap.load_data`.

    Raises:
        VoxgapError: the data can't be read, or is for another task or other classes; nothing of it is new to the
            network; or no pattern of gaps has enough scans.

    Example:
        >>> import voxgap as vg
        >>> vg.guarantee("runs/patients", "new_patients.csv", 0.9)  # doctest: +SKIP
        >>> vg.load("runs/patients").answer("scan.nii.gz").promise  # doctest: +SKIP
    """
    check_coverage(coverage)
    check_seed(seed)
    predictor = bundle if isinstance(bundle, Predictor) else load(bundle)
    if predictor.folder is None:
        raise VoxgapError("a guarantee is kept in a bundle: give its folder, or a predictor from voxgap.load")
    if predictor.running.precision != "float32":
        raise VoxgapError(
            f"{predictor.folder}: a guarantee is calibrated in float32, not in {predictor.running.precision}"
        )
    given = labelled(predictor, data, split, axes=axes, at=at)
    part, told = unmet(Bundle(predictor.folder, predictor.manifest), given)
    if pattern is not None:
        gapped = with_simulated(given.source, pattern, missing_rate, mechanism, seed)
        part = replace(part, data=part.data.with_volumes(gapped.volumes[part.places]))
    made = calibrated(part.data, predictor.predict, coverage, seed)
    counts = Counter(pattern_of(volume) for volume in part.data.volumes)
    if not made.claims:
        raise VoxgapError(_too_few(part.data, coverage))
    made = replace(made, tolerance=TOLERANCE + _strays(predictor))
    _keep(predictor, made)
    notes = [given.lacks, *told] if given.lacks else told
    notes += _unseen(part.data)
    if made.informative:
        notes.append(f"nothing is borrowed between patterns: {made.informative}")
    return Guaranteed(made, counts, tuple(notes))


def unmet(bundle: Bundle, given: Labelled) -> tuple[Labelled, list[str]]:
    """Leave out copies, and what a network was trained or chosen on, and say what was left out, a line each.

    Raises:
        VoxgapError: nothing is left.
    """
    known, data = known_to(bundle), given.data
    found, said = digests(data.volumes), []
    new = np.ones(len(data), bool)

    def leave_out(which: NDArray[np.bool_], why: str) -> None:
        if count := np.count_nonzero(new & which):
            said.append(f"{count} of {len(data)} volumes left out: {why}")
            new[which] = False

    if known is None:
        said.append(
            "nothing is known of what the network was trained on: that this data is new to it is up to you"
        )
    else:
        met = ~np.array(in_part(found, known, "test"))
        leave_out(met, "the network was trained or chosen on them")
        if not new.any():
            raise VoxgapError(
                f"{data.name}: all {len(data)} volumes are known to this network from its training; a guarantee takes "
                "data that is new to it"
            )
        if data.groups is not None and GROUPS in known:
            same = np.isin(group_digests(data.groups), known[GROUPS])
            leave_out(same, "the network was trained or chosen on others of their groups")
            if not new.any():
                raise VoxgapError(
                    f"{data.name}: all volumes, or their groups by name, are known to this network from its training; "
                    "a guarantee takes data that is new to it; give groups that are others another name"
                )
    leave_out(_again(found), "they are copies of others, and a scan counts once")
    places = np.flatnonzero(new)
    return replace(given, data=data.take(places), places=given.places[places]), said


def _again(found: Sequence[str | None]) -> NDArray[np.bool_]:
    """Which volumes are copies of one before them; of which nothing was observed, nobody knows."""
    first: dict[str, int] = {}
    return np.array(
        [case is not None and first.setdefault(case, i) != i for i, case in enumerate(found)], bool
    )


def set_aside(data: Dataset, coverage: float, seed: int) -> NDArray[np.bool_]:
    """Choose samples out of the training part, whole groups, to calibrate on: nothing of a training ever sees them.

    Args:
        data: to be trained on.
        coverage: that is to be guaranteed.
        seed: of the choice.

    Returns:
        Which samples they are, boolean `(samples,)`.

    Raises:
        VoxgapError: they would be too few for any claim.
    """
    check_coverage(coverage)
    train = np.flatnonzero(data.split == "train")
    groups = None if data.groups is None else data.groups[train]
    parts = make_split(data.targets[train], groups, seed, (1 - SHARE, SHARE, 0.0), name=data.name)
    held = np.zeros(len(data), bool)
    held[train[parts == "validation"]] = True
    aside = data.take(np.flatnonzero(held))
    if max(_units(aside).values(), default=0) < least_for(coverage):
        raise VoxgapError(_too_few(aside, coverage))
    return held


def _units(data: Dataset) -> Counter[Pattern]:
    """Count the scans, or the groups of them, that have each pattern; of a segmentation, and a class: the commonest."""
    names = range(len(data)) if data.groups is None else data.groups.tolist()
    pairs = list(zip(map(pattern_of, data.volumes), names, strict=True))
    if data.task != "segmentation":
        return Counter(pattern for pattern, _ in set(pairs))
    held = [np.unique(truth).tolist() for truth in data.targets]
    by_class = (
        Counter(
            pattern
            for pattern, _ in {pair for pair, there in zip(pairs, held, strict=True) if label in there}
        )
        for label in range(1, len(data.classes))
    )
    return max(by_class, key=lambda units: max(units.values(), default=0), default=Counter())


def _unseen(data: Dataset) -> list[str]:
    """Say which classes of the network occur in no scan."""
    if data.task == "regression":
        return []
    there = {label for truth in data.targets for label in np.unique(truth).tolist()}
    first = 1 if data.task == "segmentation" else 0
    lacking = [name for label, name in enumerate(data.classes) if label >= first and label not in there]
    return [f"no scan with {', '.join(lacking)}: of these nothing was calibrated"] if lacking else []


def _too_few(data: Dataset, coverage: float) -> str:
    ((most, count),) = _units(data).most_common(1) or [(pattern_of(data.volumes[0]), 0)]
    unit = "scan" if data.groups is None else "group"
    of = " with one and the same class" if data.task == "segmentation" else ""
    held = f"{count} {unit}" + "s" * (count != 1)
    return (
        f"{data.name}: coverage {float(coverage)!r} takes {least_for(coverage)} {unit}s{of} with one pattern of gaps "
        f"to calibrate on, and the commonest of these {len(data)} scans ({most.words(data.channels)}) is in {held}; "
        "give more data, or ask for less"
    )


def _keep(predictor: Predictor, made: Guarantee) -> None:
    """Write a guarantee into the manifest of the network that it is of."""
    folder = Path(predictor.folder or "")
    with writing(folder):
        current = current_of(folder, predictor.manifest, "calibrated")
        write_manifest(folder, {**current.written, "guarantee": made.to_json()})


def _strays(predictor: Predictor) -> float:
    """How far what was calibrated on may lie from the trained network: each other runtime may lie on its other side."""
    files, engine = predictor.manifest.files, predictor.running.engine
    kind = engine if engine in files else "onnx"  # which OpenVINO reads, too
    return (predictor.manifest.strays(kind) or 0.0) if kind in files else 0.0
