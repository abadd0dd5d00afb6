"""The page of what was found by looking at data, and its pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from voxgap.missingness.mechanism import NOBODY_KNOWS
from voxgap.observed import blocks
from voxgap.pictures import Figure, bars, histogram, missing_rates, slices
from voxgap.ragged import shapes_of
from voxgap.report.page import Section, Table, write_page
from voxgap.volume import times, upright

if TYPE_CHECKING:
    from voxgap.inspection import Inspection

MAX_CHANNELS = 12
EVEN = 0.002
TESTED_HOW = (
    "Permutation and sign-flipping tests. Groups stay together, where there are some; values count as deviations "
    "from the mean of their position. The corrected p-value (Holm) takes into account how many tests there are: "
    "below 0.05 it is a finding."
)


def write_inspection(inspection: Inspection, path: str | Path) -> None:
    """Write the page; it needs no other file and no network, and appears whole.

    Args:
        inspection: from `voxgap.inspect`.
        path: of the page.
    """
    found, evidence = inspection.found, inspection.evidence
    bars = {f"along {axis}" for axis in inspection.axes.values()}
    rows = [row for row in inspection.rows() if row[0] not in bars]
    sections = [
        Section(
            "What is there", table=Table(("what", "found"), rows, words=True), figures=examples(inspection)
        )
    ]
    if found.missing_rate:
        sections.append(Section("Where it is missing", figures=_where(inspection)))
    if found.intensity:
        sections.append(Section("What is observed", figures=_observed(inspection)))
    if found.missing_rate:
        tests = Table(inspection.test_header, inspection.tests(), words=True) if evidence.tests else None
        words = inspection.depends() + ([TESTED_HOW, NOBODY_KNOWS] if tests else [])
        if "measured_on" in inspection.facts:
            words.append(f"Tested on volumes that were all resampled to {_one_size(inspection)}.")
        sections.append(Section("What it depends on", words, tests))
    advice = Table(("strategy", "why"), inspection.to_try(), words=True)
    sections.append(Section("What to try", table=advice, code=inspection.command()))
    lead = f"{found.volumes} volume{'s' * (found.volumes != 1)}, {found.missing_rate:.1%} missing."
    if inspection.marks:
        lead += f" Whether {inspection.marked} stands for missing, too, only you can say."
    if found.missing_rate:
        lead += f" {evidence.conclusion}"
    write_page(path, f"What is missing in {inspection.name}", lead, sections)


def _one_size(inspection: Inspection) -> str:
    return times(tuple(inspection.facts["measured_on"]["size"]))


def examples(inspection: Inspection) -> list[tuple[Figure, str]]:
    """Draw volumes with little and much missing; of one volume, or with several channels, its channels."""
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
        if not rates[gapped].any():
            caption = "Some of the volumes."
        if len(rows) == 1:
            caption = "The volume." if len(volumes) == 1 else "A volume."
    gaps = " Gaps are red." if inspection.found.missing_rate else ""
    if "measured_on" in inspection.facts:
        gaps += f" All volumes are resampled to {_one_size(inspection)} here."
    shown = {name: upright(volume, inspection.rises) for name, volume in rows.items()}
    outside = None
    if inspection.inside is not None:
        outside = ~upright(inspection.inside[..., 0], inspection.rises)
        gaps += " What is outside of the mask is pale."
    return [(slices(shown, own_scale=True, outside=outside), caption + gaps)]


def _profiles(inspection: Inspection) -> dict[str, np.ndarray]:
    """Return the rates along each axis by channel, NaN where all lies outside of a mask, by the file's own names."""
    inside = inspection.inside
    rates = {}
    for index, (axis, lines) in enumerate(inspection.found.per_axis_channel.items()):
        rates[axis] = np.array(lines, np.float64)[:MAX_CHANNELS]
        if inside is not None:
            apart = tuple(other for other in range(3) if other != index)
            seen = np.asarray(inside.any(axis=apart)).T[:MAX_CHANNELS]
            rates[axis][~seen] = np.nan
    return {inspection.axes[axis]: lines for axis, lines in rates.items()}


def _unevenness(lines: np.ndarray) -> float:
    spans = [float(np.ptp(seen)) for line in lines if (seen := line[~np.isnan(line)]).size]
    return max(spans, default=0.0)


def _where(inspection: Inspection) -> list[tuple[Figure, str]]:
    found, figures = inspection.found, []
    names = list(found.per_channel)[:MAX_CHANNELS] if len(found.per_channel) > 1 else [""]
    profiles = _profiles(inspection)
    uneven = {axis: lines for axis, lines in profiles.items() if _unevenness(lines) > EVEN}
    if uneven:
        caption = "Share of the values missing at each position, over all volumes."
        caption += " Each is stretched to the largest." * ("measured_on" in inspection.facts)
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
    # A prime number of values apart, so that no position of the volumes is preferred.
    names = inspection.channels[:MAX_CHANNELS]
    voxels = sum(math.prod(shape[:3]) for shape in shapes_of(inspection.own))
    step, before, pieces = voxels // 2**18 | 1, 0, []
    for chunk in blocks(inspection.own):
        flat = chunk.reshape(-1, chunk.shape[-1])
        pieces.append(flat[-before % step :: step, : len(names)].copy())  # A view would hold the chunk.
        before += len(flat)
    some = np.concatenate(pieces)
    channels = zip(names, some.T, strict=True)
    values = {name: seen for name, channel in channels if (seen := channel[~np.isnan(channel)]).size}
    return [(histogram(values), "How often each value is observed.")] if values else []
