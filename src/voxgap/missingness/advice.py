"""Which strategies make sense for gaps like these, and why: one table of rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from voxgap.missingness.diagnosis import Description
from voxgap.missingness.mechanism import Evidence

SMOOTH = 0.5
"""Correlation of neighbouring voxels above which interpolation is expected to beat a mean."""
DONORS = 50
"""Volumes from which on similar ones are likely to be among them."""
MUCH = 0.5
RARELY = 0.02


@dataclass(frozen=True)
class Advice:
    """Strategies to try, best guess first, and the reason; without strategies, something to do to the data."""

    strategies: tuple[str, ...]
    why: str


def advise(found: Description, evidence: Evidence) -> list[Advice]:
    """Return what to try, from what is missing and what that depends on.

    Args:
        found: What is missing.
        evidence: What it depends on.

    Returns:
        The rules that apply, the most important first; never empty.
    """
    if not found.missing_rate:
        return [Advice(("zero",), "Nothing is missing: all strategies are the same, and this costs nothing.")]
    axis = found.pattern.removeprefix("slices along ")
    along = evidence.smoothness.get(axis, max(evidence.smoothness.values(), default=0.0))
    smooth, several = along >= SMOOTH, found.volumes >= DONORS
    slices, channels = axis != found.pattern, found.shares.get("channels", 0) > 1 / 3
    scattered = found.pattern in ("voxels", "blocks")
    label, values = evidence.depends_on("label"), evidence.depends_on("values")
    rules: Sequence[tuple[bool, tuple[str, ...], str]] = (
        (found.wholly_missing > 0, (), f"{_volumes(found.wholly_missing)} wholly missing: leave them out."),
        (
            label,
            ("mask_channel", "masked_conv"),
            "What is missing tells about the label, and a network that sees what is observed can use that. Make "
            "sure that it will be so in practice too: if not, the network learns a habit of this data set.",
        ),
        (
            values and not label,
            ("mask_channel",),
            "What is missing depends on values: a mean of what is observed is off, and where the gaps are is news.",
        ),
        (
            slices and smooth,
            ("linear",),
            f"Slices are missing and neighbours are alike (correlation {along:.2f} along {axis}): interpolate.",
        ),
        (
            scattered and smooth,
            ("linear", "masked_conv"),
            f"Gaps lie between observed voxels that are alike (correlation {along:.2f}): interpolate.",
        ),
        (
            channels,
            ("mask_channel", "masked_conv"),
            "Whole channels are missing, so that nothing in them can be interpolated: let the network know.",
        ),
        (
            (channels or not smooth) and several and found.missing_rate < MUCH,
            ("knn", "matrix_factorization"),
            f"Among {found.volumes} volumes some resemble each other: fill from those, if the volumes are aligned.",
        ),
        (
            found.missing_rate >= MUCH,
            ("masked_conv", "gap_dropout"),
            f"{found.missing_rate:.0%} is missing: a fill is mostly guesses, which these don't take for data.",
        ),
        (
            found.missing_rate < RARELY and not label,
            ("mean",),
            f"Only {found.missing_rate:.1%} is missing: the simplest fill may be as good as any.",
        ),
        (
            found.never_observed > 0 and found.volumes > 1,
            (),
            f"{found.never_observed} voxels are missing in every volume: crop, or no fill can know them.",
        ),
    )
    given = [Advice(strategies, why) for applies, strategies, why in rules if applies]
    return given or [Advice(("mean", "mask_channel"), "Nothing speaks for more than the simplest: compare.")]


def of_fills(strategies: Sequence[str]) -> tuple[str, ...]:
    """Return those that fill, without those that only a network has a use for."""
    return tuple(name for name in strategies if name not in ("mask_channel", "masked_conv", "gap_dropout"))


def to_compare(advice: Sequence[Advice]) -> tuple[str, ...]:
    """Return the strategies that are worth a run, the plain mean among them as the baseline."""
    names = [name for one in advice for name in one.strategies]
    return tuple(dict.fromkeys([*names, "mean"]))


def _volumes(count: int) -> str:
    return "1 volume is" if count == 1 else f"{count} volumes are"
