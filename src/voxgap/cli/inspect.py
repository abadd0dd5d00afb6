"""`voxgap inspect`: what is there, what is missing, which pattern it looks like, and what it depends on."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxgap.cli.console import err, out
from voxgap.cli.data import At, Axes, Crop, MissingValues, Reference, Size, Spacing, grid_arguments, load

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from voxgap.dataset import Dataset
    from voxgap.dataset.survey import Survey
    from voxgap.missingness.advice import Advice
    from voxgap.missingness.diagnosis import Description
    from voxgap.missingness.mechanism import Dependence, Evidence
    from voxgap.volume import Values


MAX_TESTS = 8
MAX_CHANNELS = 12
EVEN = 0.002
TEST_HEADER = ("question", "what the data shows", "p", "p, corrected")
TESTED_HOW = (
    "Permutation and sign-flipping tests. Groups stay together, where there are some; values count as deviations "
    "from the mean of their position. The corrected p-value (Holm) takes into account how many tests there are: "
    "below 0.05 it is a finding."
)


@dataclass(frozen=True)
class Inspection:
    """All that the command found, for the three ways of showing it."""

    name: str
    volumes: Values
    channels: tuple[str, ...]
    facts: dict[str, Any]
    found: Description
    evidence: Evidence
    advice: list[Advice]
    grid: dict[str, Any]
    rises: bool = False
    marks: tuple[float, ...] = ()
    inside: NDArray[np.bool_] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain dictionaries, lists and numbers."""
        from dataclasses import asdict

        advice = [asdict(one) for one in self.advice]
        evidence = self.evidence.to_json()
        return {**self.facts, "description": self.found.to_json(), "evidence": evidence, "advice": advice}

    def command(self) -> str:
        """Return the command that tries what is advised, or that names marks first; empty where there is neither."""
        from voxgap.missingness.advice import to_compare

        known = tuple(self.grid.get("missing_values", ()))
        grid = {**self.grid, "missing_values": tuple(dict.fromkeys([*known, *self.marks]))}
        if self.marks and ("task" not in self.facts or not self.found.missing_rate):
            return shlex.join(["voxgap", "inspect", self.name, *_options(grid).split()])
        if "task" not in self.facts or not self.found.missing_rate:
            return ""
        words = ["voxgap", "compare", self.name, "--strategies", ",".join(to_compare(self.advice))]
        return shlex.join([*words, *_options(grid).split()])

    @property
    def _counted(self) -> str:
        return "voxels" if self.facts.get("task") == "segmentation" else "volumes"

    def rows(self) -> list[tuple[str, str]]:
        """Return what is there and what is missing, as pairs of name and text."""
        rows = [("task", self.facts["task"])] if "task" in self.facts else []
        rows += [
            (title, ", ".join(f"{name} {count}" for name, count in self.facts[key].items()))
            for key, title in (("classes", f"{self._counted} per class"), ("splits", "volumes per split"))
            if self.facts.get(key)
        ]
        if self.facts.get("groups") is not None:
            rows.append(("groups", f"{self.facts['groups']}, each in one part of the split"))
        rows += [tuple(pair) for pair in self.facts.get("files", ())]
        if self.facts.get("suggested"):
            rows.append(("for training", _options(self.facts["suggested"])))
        if self.facts["spacing"] is not None and not self.facts.get("suggested"):
            rows.append(("spacing", " × ".join(f"{size:.4g}" for size in self.facts["spacing"])))
        rows += [("values", said) for said in self.facts["intensity"]]
        described = dict(self.found.rows())
        if self.facts.get("suggested"):
            from voxgap.volume import times

            counted = f"{self.found.volumes}; patterns are measured on {times(self.found.shape)}"
            described["volumes"] = counted
        if self.facts.get("mask"):
            described["missing"] = f"{self.found.missing_rate:.1%} {self.facts['mask']['of']}"
            rows.append(("mask", self.facts["mask"]["said"]))
        if self.marks:
            marks = ", ".join(map(_number, self.marks))
            described["missing"] += f"; more, if {marks} stands for missing: see values"
        return rows + list(described.items())


def _options(grid: dict[str, Any]) -> str:
    """Return a grid as the options that say it."""
    words = []
    for name, given in grid.items():
        if given:
            pairs = [f"{key}={index}" for key, index in given.items()] if isinstance(given, dict) else given
            text = (
                given
                if isinstance(given, str)
                else ",".join(_number(v) if isinstance(v, float) else str(v) for v in pairs)
            )
            words.append(f"--{name.replace('_', '-')}={text}")  # with =, a number may begin with a minus
    return " ".join(words)


def _number(value: float) -> str:
    """Return a number as short as float32, in which values are compared, tells it from others."""
    import numpy as np

    short = f"{value:g}"
    return short if np.float32(short) == np.float32(value) else str(np.float32(value))


def inspect(
    data: Annotated[
        str,
        typer.Argument(
            help="Manifest (CSV, Parquet), .npz, folder per class, sample:NAME, medmnist:NAME, or one volume.",
            metavar="DATA",
        ),
    ],
    page: Annotated[
        Path | None,
        typer.Option("--out", help="Write a page with pictures: FILE.html, or a folder for inspect.html."),
    ] = None,
    size: Size = None,
    spacing: Spacing = None,
    crop: Crop = None,
    missing_values: MissingValues = None,
    reference: Reference = None,
    axes: Axes = None,
    at: At = None,
    seed: Annotated[int, typer.Option(help="Seed of the permutation tests.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
) -> None:
    """Show what a data set or one volume holds, what is missing, what that depends on, and what to do.

    Examples:

      voxgap inspect sample:nodules

      voxgap inspect patients.csv --out report.html

      voxgap inspect scan.nii.gz --json
    """
    inspection = _inspect(
        data, grid_arguments(size, spacing, crop, missing_values, reference, axes, at), seed
    )
    if as_json:
        typer.echo(json.dumps(inspection.to_json()))
    else:
        _print(inspection)
    if page is not None:
        target = page if page.suffix.lower() in (".html", ".htm") else page / "inspect.html"
        _write_page(target, inspection)
        err.print(f"page: {target}", soft_wrap=True)


def _inspect(data: str, grid: dict[str, Any], seed: int) -> Inspection:
    from voxgap.cli.masked import within_mask
    from voxgap.dataset.door import is_one_volume
    from voxgap.dataset.survey import as_they_are
    from voxgap.grid import Grid
    from voxgap.missingness.advice import advise
    from voxgap.missingness.diagnosis import describe
    from voxgap.missingness.mechanism import examine

    rises, inside = False, None
    if is_one_volume(data):
        wanted = Grid(**grid)
        source = wanted.scan(Path(data))
        as_read = source.read()
        rises, volume, raw = source.rises, wanted.place(as_read)[0], [as_read.values]
        facts: dict[str, Any] = {"name": data, "spacing": volume.spacing}
        volumes, channels = volume.values[None], volume.channels
        found, evidence = describe(volumes, channels=channels), examine(volumes, channels=channels)
        if not wanted.moves and (masked := within_mask(source, volume.values)) is not None:
            found, facts["mask"], inside = masked
    else:
        there = _survey(data, grid)
        one_size = {"size": there.suggested["size"]} if there is not None and there.suggested else {}
        dataset = None if there is not None and there.unlabelled else load(data, **grid | one_size)
        if dataset is None:
            assert there is not None
            facts, volumes, channels = there.read(Grid(**grid | one_size))
            rises = there.rises
            found, evidence = (
                describe(volumes, channels=channels),
                examine(volumes, channels=channels, seed=seed),
            )
        else:
            facts, volumes, channels = _facts(dataset), dataset.volumes, dataset.channels
            rises = dataset.rises
            of_class = dataset.targets if dataset.task == "classification" else None
            found = describe(volumes, of_class, channels=channels, classes=dataset.classes)
            evidence = examine(
                volumes,
                # Of a label map no volume has a class of its own.
                None if dataset.task == "segmentation" else dataset.targets,
                classes=dataset.classes,
                groups=dataset.groups,
                channels=channels,
                seed=seed,
            )
        if there is not None:
            facts |= there.facts
            if there.suggested:
                # A rate is that of the volumes as they are; what a common grid is for, patterns, it hardly changes.
                found = replace(found, missing_rate=there.missing_rate)
                grid = grid | there.suggested
        raw = as_they_are(data, Grid(**grid))
    facts["intensity"], marks = _intensity(volumes, channels, raw or volumes)
    advice = advise(found, evidence)
    if marks and not found.missing_rate:
        advice = [_answer_first(marks)]
    return Inspection(data, volumes, channels, facts, found, evidence, advice, grid, rises, marks, inside)


def _answer_first(marks: Sequence[float]) -> Advice:
    from voxgap.missingness.advice import Advice

    named = ", ".join(map(_number, marks))
    return Advice(
        (),
        f"Say what {named} stands for: if for missing, name it by --missing-values; if not, nothing is missing.",
    )


def _survey(data: str, grid: dict[str, Any]) -> Survey | None:
    """Describe files as they are, where the grid would leave them so."""
    from voxgap.dataset.survey import listing_of, survey
    from voxgap.grid import Grid

    if Grid(**grid).moves or data.startswith(("sample:", "medmnist:")):
        return None
    listing = listing_of(data)
    return None if listing is None else survey(listing, data, Grid(**grid))


def _intensity(volumes: Values, channels: tuple[str, ...], raw: Any) -> tuple[list[str], tuple[float, ...]]:
    """Say what is odd about the values themselves, units that differ, marks that were not named; and those marks."""
    from voxgap import intensity

    chosen = intensity.choose(volumes, channels)
    odd = (
        [] if chosen.method == "dataset" else [f"{chosen.why} in training, unless --normalize says otherwise"]
    )
    marks = intensity.marks(raw, channels)
    return odd + [mark.said for mark in marks], tuple(dict.fromkeys(mark.value for mark in marks))


def _facts(dataset: Dataset) -> dict[str, Any]:
    from voxgap.dataset import SPLITS

    return {
        "name": dataset.name,
        "spacing": dataset.spacing,
        "task": dataset.task,
        "splits": {name: int((dataset.split == name).sum()) for name in SPLITS},
        "classes": {name: int((dataset.targets == i).sum()) for i, name in enumerate(dataset.classes)},
        "groups": None if dataset.groups is None else len(set(dataset.groups.tolist())),
    }


def _print(inspection: Inspection) -> None:
    from rich.text import Text

    from voxgap.missingness.mechanism import NOBODY_KNOWS

    _section(inspection.name, inspection.rows())
    evidence = inspection.evidence
    if inspection.found.missing_rate:
        out.print(f"\n[bold]What does it depend on?[/]\n{evidence.conclusion}")
        if evidence.tests:
            _print_tests(evidence)
            out.print(f"[dim]{NOBODY_KNOWS}[/]")
    out.print()
    _section("What to try", [(", ".join(one.strategies) or "first", one.why) for one in inspection.advice])
    if command := inspection.command():
        out.print(Text(f"$ {command}", style="dim"), soft_wrap=True)


def _section(title: str, rows: Sequence[tuple[str, str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", title_style="bold", show_header=False, box=None)
    table.add_column(style="cyan", no_wrap=len(rows) > 0 and max(len(name) for name, _ in rows) < 30)
    table.add_column()
    for name, text in rows:
        table.add_row(Text(name), Text(text))
    out.print(table)


def _print_tests(evidence: Evidence) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold")
    for title in TEST_HEADER[:2]:
        table.add_column(title)
    for title in TEST_HEADER[2:]:
        table.add_column(title, justify="right", no_wrap=True)
    shown = evidence.tests[:MAX_TESTS]
    for test, cells in zip(shown, _test_cells(shown), strict=True):
        table.add_row(*map(Text, cells), style="bold" if test.found else None)
    out.print(table)
    if len(evidence.tests) > MAX_TESTS:
        out.print(
            f"and {len(evidence.tests) - MAX_TESTS} more tests with larger p; --json and --out show all"
        )


def _test_cells(tests: Sequence[Dependence]) -> list[tuple[str, str, str, str]]:
    return [(test.question, test.answer, _p(test.p_value), _p(test.adjusted)) for test in tests]


def _p(value: float) -> str:
    return f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def _write_page(path: Path, inspection: Inspection) -> None:
    from voxgap.missingness.mechanism import NOBODY_KNOWS
    from voxgap.report import Section, Table, write_page

    found, evidence = inspection.found, inspection.evidence
    bars = {f"along {axis}" for axis in found.per_axis}
    rows = [row for row in inspection.rows() if row[0] not in bars]
    sections = [
        Section(
            "What is there", table=Table(("what", "found"), rows, words=True), figures=_examples(inspection)
        )
    ]
    if found.missing_rate:
        sections.append(Section("Where it is missing", figures=_where(inspection)))
    if found.intensity:
        sections.append(Section("What is observed", figures=_observed(inspection)))
    if found.missing_rate:
        tests = Table(TEST_HEADER, _test_cells(evidence.tests), words=True) if evidence.tests else None
        words = [evidence.conclusion, TESTED_HOW, NOBODY_KNOWS] if tests else [evidence.conclusion]
        sections.append(Section("What it depends on", words, tests))
    advice = [(", ".join(one.strategies) or "first", one.why) for one in inspection.advice]
    code = inspection.command()
    sections.append(Section("What to try", table=Table(("strategy", "why"), advice, words=True), code=code))
    lead = f"{found.volumes} volumes, {found.missing_rate:.1%} missing."
    if inspection.marks:
        lead += (
            f" Whether {', '.join(map(_number, inspection.marks))} stands for missing, too, only you can say."
        )
    if found.missing_rate:
        lead += f" {evidence.conclusion}"
    write_page(path, f"What is missing in {inspection.name}", lead, sections)


def _examples(inspection: Inspection) -> list[tuple[Figure, str]]:
    """Draw volumes with little and much missing; of one volume, or with several channels, its channels."""
    import numpy as np

    from voxgap.pictures import slices
    from voxgap.volume import upright

    volumes = inspection.volumes
    rates = np.array([np.isnan(volume).mean() for volume in volumes])
    if inspection.inside is not None:
        rates[0] = inspection.found.missing_rate
    # Wholly missing volumes have nothing to show.
    order = [int(index) for index in np.argsort(rates, kind="stable") if rates[index] < 1]
    if not order:
        return []
    gapped = [index for index in order if rates[index] > 0] or order
    if volumes.shape[-1] > 1:
        middle = len(gapped) // 2
        near = gapped[max(0, middle - 25) : middle + 25]
        index = max(near, key=lambda i: float(np.nanstd(volumes[i])))
        rows = {name: volumes[index, ..., i : i + 1] for i, name in enumerate(inspection.channels)}
        rows = dict(list(rows.items())[:MAX_CHANNELS])
        caption = f"Volume {index}, {rates[index]:.0%} missing, a row a channel."
    else:
        picked = dict.fromkeys(gapped[round(share * (len(gapped) - 1))] for share in (0, 0.5, 1))
        rows = {f"volume {index}\n{rates[index]:.0%} missing": volumes[index] for index in picked}
        caption = (
            "Those with the least missing, with a typical share and with the most, of volumes with gaps."
        )
        if len(rows) == 1:
            caption = "The volume." if len(volumes) == 1 else "A volume."
    gaps = " Gaps are red." if inspection.found.missing_rate else ""
    shown = {name: upright(volume, inspection.rises) for name, volume in rows.items()}
    outside = None
    if inspection.inside is not None:
        outside = ~upright(inspection.inside[..., 0], inspection.rises)
        gaps += " What is outside of the mask is pale."
    return [(slices(shown, own_scale=True, outside=outside), caption + gaps)]


def _where(inspection: Inspection) -> list[tuple[Figure, str]]:
    import numpy as np

    from voxgap.pictures import bars, missing_rates

    found, figures = inspection.found, []
    names = list(found.per_channel)[:MAX_CHANNELS] if len(found.per_channel) > 1 else [""]
    profiles = {axis: lines[:MAX_CHANNELS] for axis, lines in found.per_axis_channel.items()}
    uneven = {axis: lines for axis, lines in profiles.items() if np.ptp(lines, axis=1).max() > EVEN}
    if uneven:
        caption = "Share of the values missing at each position, over all volumes."
        caption += " It is the same all along the other axes." * (len(uneven) < len(profiles))
        figures.append((missing_rates(uneven, names), caption))
    else:
        rates = bars(list(found.per_channel), list(found.per_channel.values()), "missing rate")
        figures.append((rates, "Share of the values missing in each channel, the same all along each axis."))
    if found.per_class:
        rates = bars(list(found.per_class), list(found.per_class.values()), "missing rate")
        figures.append((rates, "Share of the values missing in each class."))
    return figures


def _observed(inspection: Inspection) -> list[tuple[Figure, str]]:
    import numpy as np

    from voxgap.pictures import histogram

    # A prime number of values apart, so that no position of the volumes is preferred.
    values: dict[str, np.ndarray] = {}
    for index, name in enumerate(inspection.channels[:MAX_CHANNELS]):
        channel = inspection.volumes[..., index].reshape(-1)
        some = channel[:: len(channel) // 2**18 | 1]
        some = some[~np.isnan(some)]
        if some.size:
            values[name] = some
    return [(histogram(values), "How often each value is observed.")] if values else []
