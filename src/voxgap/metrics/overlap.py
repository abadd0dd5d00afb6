"""Cases that a network knows from its training, found by their content: whatever their files are called now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from voxgap.errors import VoxgapError

PARTS = ("train", "validation")
GROUPS = "groups"
_DIGITS = 12  # of a thousand million pairs of cases, one in a quarter of a million sets agrees by chance


def digests(volumes: Iterable[Any]) -> list[str | None]:
    """Return what each volume is known by: 12 hexadecimal digits of the SHA-256 of its shape and its float32 values.

    A name has no part in them. NaN is missing whatever its bits are, and -0 is 0.

    Args:
        volumes: `(depth, height, width, channels)` each, read one by one; before gaps are simulated in them.

    Returns:
        One for each; None for a volume of which nothing was observed, which is no case.
    """
    return [_digest(np.asarray(volume, np.float32)) for volume in volumes]


def _digest(volume: np.ndarray) -> str | None:
    missing = np.isnan(volume)
    if missing.all():
        return None
    values = np.where(missing, np.float32(np.nan), volume + np.float32(0)).astype("<f4")
    content = hashlib.sha256(str(volume.shape).encode())
    content.update(np.ascontiguousarray(values).data)
    return content.hexdigest()[:_DIGITS]


def group_digests(groups: Iterable[str]) -> list[str]:
    """Return what each group is known by: 12 hexadecimal digits of the SHA-256 of its name."""
    return [hashlib.sha256(str(name).encode()).hexdigest()[:_DIGITS] for name in groups]


def known_cases(
    found: Iterable[str | None], split: Iterable[str], groups: Iterable[str] | None = None
) -> dict[str, list[str]]:
    """Return what a bundle keeps of the cases that its network was trained and chosen on.

    Args:
        found: their `digests`.
        split: the part that each is in.
        groups: the name of the group of each.

    Returns:
        Digests by part, sorted, so that they say nothing of an order either; those of the groups under `groups`.
    """
    pairs = list(zip(found, split, strict=True))
    known = {part: sorted({case for case, held in pairs if case and held == part}) for part in PARTS}
    if groups is None:
        return known
    of = zip(group_digests(groups), pairs, strict=True)
    return known | {GROUPS: sorted({group for group, (_, held) in of if held in PARTS})}


def overlap(found: Iterable[str | None], known: Mapping[str, list[str]]) -> dict[str, int]:
    """Count the cases that a network has met, by the part of its data that they were in."""
    cases = [case for case in found if case]
    met = {part: set(known.get(part, ())) for part in PARTS}
    return {part: sum(case in held for case in cases) for part, held in met.items()}


FEW = 0.02
"""Up to this share of known volumes a score is hardly better for it: volumes that hold next to nothing may be alike."""


def too_good(met: Mapping[str, int] | None, count: int, split: str = "all") -> list[str]:
    """Return the warning that scores are too good, where a network has met what they are of; else nothing.

    Args:
        met: what `overlap` counted; None where nobody knows.
        count: of all cases that are scored.
        split: the part that they are meant to be: what was trained on is no surprise in `train`.
    """
    called = [
        f"{known} of {count} volumes were in {words}"
        for part, words in (("train", "training"), ("validation", "validation"))
        if split != "train" and part != split and (known := (met or {}).get(part))
    ]
    if not called:
        return []
    met_in_all = sum(known for part, known in (met or {}).items() if part != split)
    how = "too good" if met_in_all > FEW * count else "hardly better for it"
    return [f"Warning: {' and '.join(called)} of this bundle: these scores are {how}"]


def in_part(found: Iterable[str | None], known: Mapping[str, list[str]], part: str) -> list[bool]:
    """Say of each case whether it was in that part of the data of a training: `test` is what is in no other."""
    if part == "test":
        met = {case for one in PARTS for case in known.get(one, ())}
        return [case not in met for case in found]
    met = set(known.get(part, ()))
    return [case in met for case in found]


def told_apart(found: Iterable[str | None], known: Mapping[str, list[str]]) -> list[str]:
    """Say of each case what it was in the training: `train`, `validation`, or `new` to the network."""
    case_of = {case: part for part in reversed(PARTS) for case in known.get(part, ())}
    return [case_of.get(case or "", "new") for case in found]


def read_cases(file: Path) -> dict[str, list[str]]:
    """Read what `known_cases` made, from a bundle.

    Raises:
        VoxgapError: it is something else.
    """
    try:
        held = json.loads(file.read_bytes())
        # Earlier versions of voxgap kept no groups.
        return {
            part: [str(case) for case in held[part]]
            for part in (*PARTS, *([GROUPS] if GROUPS in held else []))
        }
    except (ValueError, KeyError, TypeError, RecursionError):
        raise VoxgapError(f"{file}: not the cases of a training; train the bundle again") from None
