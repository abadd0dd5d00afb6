"""Samples that are the same volume: in two parts of a split, a network is tested on what it was trained on."""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from voxgap.ragged import shape_of

if TYPE_CHECKING:
    from voxgap.dataset.dataset import Dataset


def say_twins(data: Dataset, is_split: bool, wheres: Sequence[str] = ()) -> None:
    """Warn of volumes that hold the same values, to the last bit, and may come into different parts.

    The values are compared, not the files: a copy of another name or format is found, too.

    Args:
        data: In memory or on disk; wholly missing volumes are no twins.
        is_split: Whether its split was given; else others may be made of it, which keep groups together.
        wheres: What the message calls each sample; by default its number, from 0.

    Warns:
        UserWarning: There are some.
    """
    volumes: Any = data.volumes
    units: Any = data.split if is_split else range(len(data)) if data.groups is None else data.groups

    def slice_of(index: int) -> Any:
        middle = shape_of(volumes, index)[0] // 2
        return volumes[index, middle : middle + 1]

    # One slice tells nearly all volumes apart, so that few are read as a whole.
    alike = _equal(range(len(volumes)), slice_of)
    found = [
        (one, other)
        for some in alike
        for same in _equal(some, lambda index: volumes[index])
        for one, other in itertools.pairwise(same)
        if units[one] != units[other] and not np.isnan(volumes[one]).all()
    ]
    if found:
        one, other = (wheres[index] if wheres else f"volume {index}" for index in found[0])
        parts = "{} and {}".format(*data.split[list(found[0])])
        apart = f", in {parts}" if is_split else ", and nothing keeps them in one part of a split"
        more = f", and {len(found) - 1} more such pairs" if len(found) > 1 else ""
        warnings.warn(
            f"{data.name}: {one} and {other} hold the same volume{apart}{more}; leave one out, or give both the "
            "same group",
            stacklevel=3,
        )


def _equal(indices: Iterable[int], values: Callable[[int], Any]) -> list[list[int]]:
    """Return those of which the values are the same, two or more each."""
    by_digest: dict[bytes, list[int]] = defaultdict(list)
    for index in indices:
        held = np.ascontiguousarray(values(index))
        by_digest[hashlib.sha256(held.data).digest() + repr(held.shape).encode()].append(index)
    return [same for same in by_digest.values() if len(same) > 1]
