"""The page of a certificate: scores for every subset of channels, what the next one is worth, and the audit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from voxgap.pictures import Figure
from voxgap.report.audit import audit_section
from voxgap.report.figures import LEADING, WIDTH
from voxgap.report.page import Section, Table, write_page
from voxgap.trust.audit import Audit
from voxgap.trust.certificate import Certificate, Row, Step


def write_certificate(
    path: str | Path,
    network: str,
    data: str,
    certificate: Certificate,
    audit: Audit | None,
    notes: Sequence[str] = (),
) -> None:
    """Write the page; it needs no other file and appears whole.

    Args:
        path: of the page.
        network, data: their names.
        certificate: scores.
        audit: what of them comes from the gaps; None where all scans miss the same.
        notes: what to know before they are believed.
    """
    first, *others = certificate.rows
    subsets = [row for row in others if row.kept is not None]
    gaps = [row for row in others if row.kept is None]
    sections = []
    if subsets:
        rows = [first, *sorted(subsets, key=lambda row: (-len(row.kept or ()), row.loss.value))]
        words = [
            "Each line is of the scans that have these channels; the loss is against the same scans as recorded."
        ]
        figures = [
            (_dots(rows), f"{_unit(certificate)} and its 95 % interval, a line a subset of the channels.")
        ]
        sections.append(Section("Which channels it takes", words, _table(certificate, rows), figures))
        sections += _next(certificate)
    if gaps:
        words = ["Made in the scans besides the gaps that they have, completely at random."]
        sections.append(Section("How much may be missing", words, _table(certificate, [first, *gaps])))
    sections += audit_section(audit)
    sections.append(Section("How", [*notes, _how(certificate)]))
    write_page(
        path, f"What {network} is worth for each pattern of gaps, on {data}", certificate.conclusion, sections
    )


def _unit(certificate: Certificate) -> str:
    return certificate.metric.replace("_", " ")


def _table(certificate: Certificate, rows: Sequence[Row]) -> Table:
    header = ["what is there", "scans", _unit(certificate), "worse than as recorded by"]
    # As recorded is what the others are held against: it loses nothing by itself.
    losses = ["" if row is certificate.rows[0] else row.loss.words(signed=True) for row in rows]
    cells = [
        [row.name, str(row.scans), row.score.words(), loss] for row, loss in zip(rows, losses, strict=True)
    ]
    return Table(header, cells)


def _next(certificate: Certificate) -> list[Section]:
    """For each subset the channel that is worth most beside it."""
    best = [
        step
        for row in certificate.rows
        if row.kept is not None and (step := certificate.next_of(row.kept)) is not None
    ]
    if not best:
        return []
    rows = [[" + ".join(s.had), _channel(s), str(s.scans), s.worth.words(signed=True)] for s in best]
    header = ["where there is", "acquire next", "scans", f"{_unit(certificate)} better by"]
    words = [
        "The channel that is worth most beside those that are there; perhaps: its interval does not exclude 0. "
        "Counted on the scans that have that channel too, which are fewer than those of the lines above."
    ]
    return [Section("What to acquire next", words, Table(header, rows))]


def _channel(step: Step) -> str:
    """Return the channel, with a doubt where it may be worth nothing."""
    sure = step.worth.interval is not None and step.worth.interval[0] > 0
    return step.channel if sure else f"perhaps {step.channel}"


def _dots(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(WIDTH, 0.28 * len(rows) + 0.6), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        if row.score.interval:
            axes.plot(row.score.interval, (place, place), color=LEADING, linewidth=1.5)
        axes.plot(row.score.value, place, "o", color=LEADING, markersize=4)
    axes.set_yticks(range(len(rows)), [row.name for row in reversed(rows)], fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _how(certificate: Certificate) -> str:
    drawn = "scans" if certificate.groups is None else f"{certificate.groups} groups"
    return (
        f"{certificate.predictions} predictions of {certificate.scans} scans at most, read once. Intervals are 95 %, "
        f"by a bootstrap over {drawn}; differences are paired: of the same scans in the same draws."
    )
