"""What was found by looking at data: a value that can be printed, drawn, and written as JSON or as a page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from voxgap.arrays import short
from voxgap.errors import VoxgapError
from voxgap.grid import as_options
from voxgap.inspection.disguised import Disguise
from voxgap.io.slices import KINDS
from voxgap.missingness.advice import Advice, to_compare
from voxgap.missingness.alone import Alone
from voxgap.missingness.diagnosis import Description
from voxgap.missingness.mechanism import Evidence
from voxgap.names import EMBEDDED
from voxgap.ragged import shapes_of, spanned
from voxgap.volume import AXES, Values, times

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pairs = list[tuple[str, str]]
_READ_BY_FILL = ("missing_values", "missing_slices", "axes", "at")  # a fill keeps a file's own grid
ON_ONE_GRID = ("tests", "pictures")
"""What can't be had of volumes of several sizes, and is measured on one grid."""


@dataclass(frozen=True, eq=False, repr=False)
class Inspection:
    """What a data set or one volume holds, what is missing, what that depends on, and what to try.

    Attributes:
        name: of the data.
        volumes: `(n, depth, height, width, channels)`, NaN where missing: for tests and pictures, on one grid.
        own: the same as they are in their files, a `Ragged` where they differ in shape.
        channels: their names.
        facts: what else there is, as plain values: task, classes, splits, spacing and others.
        found: what is missing.
        evidence: what that depends on.
        grid: how the files were read: `size`, `missing_values` and others, as for `voxgap.load_data`.
        advice: what to try, the best guess first.
        rises: as in a `Dataset`.
        marks: values that may stand for missing, and were not named.
        disguises: slices and blocks that may be missing, likewise.
        inside: where a mask of the file says that something could be observed, in the shape of a volume.
        notes: what else is to be said of the file.
        split: the part that each volume is in; None where nothing is to be learnt.
        alone: how well the gaps alone tell the classes apart; None where that can't be said.
    """

    test_header: ClassVar = ("question", "what the data shows", "p", "p, corrected")
    name: str
    volumes: Values
    own: Any
    channels: tuple[str, ...]
    facts: dict[str, Any]
    found: Description
    evidence: Evidence
    grid: dict[str, Any]
    advice: Sequence[Advice] = ()
    rises: bool = False
    marks: tuple[float, ...] = ()
    disguises: tuple[Disguise, ...] = ()
    inside: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()
    alone: Alone | None = None
    split: NDArray[np.str_] | None = None

    def __repr__(self) -> str:
        parts = [_in_columns(self.name, self.rows())]
        if self.found.missing_rate:
            parts.append("\n".join(["What does it depend on?", *self.depends()]))
        parts.append(_in_columns("What to try", self.to_try()))
        return "\n\n".join([*parts, f"$ {self.command()}"] if self.command() else parts)

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain dictionaries, lists and numbers."""
        advice = [asdict(one) for one in self.advice]
        evidence = self.evidence.to_json() | {"gaps_alone": self.alone and self.alone.to_json()}
        return {**self.facts, "description": self.found.to_json(), "evidence": evidence, "advice": advice}

    def plot(self) -> Figure:
        """Draw slices of volumes with little and with much missing, or of the channels of one; gaps are red.

        Raises:
            VoxgapError: nothing is observed.
        """
        from voxgap.report.inspection import examples

        drawn = examples(self)
        if not drawn:
            raise VoxgapError(f"{self.name}: nothing is observed, so that there is nothing to draw")
        return drawn[0][0]

    def write_page(self, path: str | Path) -> None:
        """Write all of it as one self-contained HTML page with pictures; it appears whole."""
        from voxgap.report.inspection import write_inspection

        write_inspection(self, path)

    def depends(self) -> list[str]:
        """Say what the gaps depend on, a sentence or two each."""
        return [self.evidence.conclusion, *([self.alone.conclusion] if self.alone else [])]

    def command(self) -> str:
        """Return the command that tries what is advised, or that names marks first; empty where there is neither."""
        if not (self.name.startswith(EMBEDDED) or Path(self.name.partition("::")[0]).exists()):
            return ""  # arrays have no name that could be typed
        known = tuple(self.grid.get("missing_values", ()))
        grid = {**self.grid, "missing_values": tuple(dict.fromkeys([*known, *self.marks]))}
        slices = [one.kind for one in self.disguises if one.kind in KINDS]
        grid["missing_slices"] = tuple(dict.fromkeys([*self.grid.get("missing_slices", ()), *slices]))
        options = as_options(grid)
        if self.filled and not (self.marks or slices):
            said = {name: grid[name] for name in _READ_BY_FILL if name in grid}
            return shlex.join(["voxgap", "fill", self.name, "--check", *as_options(said)])
        if "task" in self.facts and self.found.missing_rate:
            strategies = ",".join(to_compare(self.advice))
            return shlex.join(["voxgap", "compare", self.name, "--strategies", strategies, *options])
        return shlex.join(["voxgap", "inspect", self.name, *options]) if self.marks or slices else ""

    @property
    def marked(self) -> str:
        """The `marks`, in words."""
        return ", ".join(map(short, self.marks))

    def to_try(self) -> Pairs:
        """Return the advice as pairs of strategies and why."""
        pairs = [(", ".join(one.strategies) or "first", one.why) for one in self.advice]
        if not self.filled:
            return pairs
        of_file = shlex.quote(self.name)
        return [
            *pairs,
            ("fill", f"voxgap fill {of_file} --check: how good each fill is where values are hidden."),
            ("learn a fill", f"voxgap train {of_file} --task fill: a network that fills this file."),
        ]

    @property
    def filled(self) -> bool:
        """Whether it is one file with gaps and nothing to predict: what can be done is to fill them."""
        return "task" not in self.facts and "files" not in self.facts and self.found.missing_rate > 0

    def tests(self) -> list[tuple[str, str, str, str]]:
        """Return the tests as text, with the columns of `test_header`."""
        return [
            (test.question, test.answer, _p(test.p_value), _p(test.adjusted)) for test in self.evidence.tests
        ]

    def rows(self) -> Pairs:
        """Return what is there and what is missing, as pairs of name and text."""
        rows = [("task", self.facts["task"])] if "task" in self.facts else []
        counted = "voxels" if self.facts.get("task") == "segmentation" else "volumes"
        rows += [
            (title, ", ".join(f"{name} {count}" for name, count in self.facts[key].items()))
            for key, title in (("classes", f"{counted} per class"), ("splits", "volumes per split"))
            if self.facts.get(key)
        ]
        if self.facts.get("groups") is not None:
            rows.append(("groups", f"{self.facts['groups']}, each in one part of the split"))
        rows += [tuple(pair) for pair in self.facts.get("files", ())]
        suggested = self.facts.get("suggested")
        if suggested:
            one_size = " ".join(as_options(suggested))
            rows.append(("for training", f"{one_size}; without, in patches of the volumes as they are"))
        elif self.facts["spacing"] is not None:
            rows.append(("spacing", " × ".join(f"{size:.4g}" for size in self.facts["spacing"])))
        rows += [("plan", said) for said in self.facts.get("plan", ())]
        rows += [("values", said) for said in self.facts["intensity"]]
        described = dict(self.found.rows())
        if "measured_on" in self.facts:
            size = times(tuple(self.facts["measured_on"]["size"]))
            described["volumes"] = (
                f"{self.found.volumes} of {spanned(shapes_of(self.own))}, each counted as it is; tests and pictures: "
                f"resampled to {size}"
            )
            for axis in self.found.per_axis:
                if (name := f"along {axis}") in described:
                    described[name] += " (each volume stretched to the largest)"
        if self.facts.get("mask"):
            described["missing"] = f"{self.found.missing_rate:.1%} {self.facts['mask']['of']}"
            rows.append(("mask", self.facts["mask"]["said"]))
        if self.marks:
            described["missing"] += f"; more, if {self.marked} stands for missing: see values"
        called = {f"along {axis}": f"along {name}" for axis, name in self.axes.items()}
        return rows + [(called.get(name, name), text) for name, text in described.items()]

    @property
    def axes(self) -> dict[str, str]:
        """What each axis is called: by the file's own names, where one volume has them."""
        return dict(zip(AXES, self.facts.get("axes", AXES), strict=True))


def _in_columns(title: str, rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join([title, *(f"{name:<{width}}  {text}" for name, text in rows)])


def _p(value: float) -> str:
    return f"{value:.2g}" if value < 0.1 else f"{value:.2f}"
