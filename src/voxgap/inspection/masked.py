"""What is missing of a volume where a land/sea mask of its file says that something could be observed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.io import Source
from voxgap.io.masks import by_mask, ever
from voxgap.missingness.diagnosis import Description, describe
from voxgap.volume import Values


class Masked(NamedTuple):
    """The gaps inside of a mask, their rates those of what is inside; and where that is, in the volume's shape.

    `said` holds what the mask says: `said`, the share of all values that is `outside`, and `of`, which says what a rate
    is of.
    """

    found: Description
    said: dict[str, Any]
    inside: NDArray[np.bool_]


def within_mask(source: Source, values: Values) -> tuple[Masked | None, list[str]]:
    """Describe the gaps inside the mask that `voxgap fill` finds in a file, None where it finds none.

    Args:
        source: The volume.
        values: All of it.

    Returns:
        That, and what is to be said of masks that are of no use.
    """
    observed = ~np.isnan(values)
    try:
        wanted, notes = by_mask(None, source, ever(observed, source.time))
    except VoxgapError as error:
        wanted, notes = None, [str(error)]
    notes = [f"mask: {note}" for note in notes]
    inside = np.zeros(1, bool) if wanted is None else np.broadcast_to(wanted.where, values.shape)
    if wanted is None or inside.all() or not inside.any():
        return None, notes
    # Outside counts as observed in each step in which anything is: land is no block, and a lost day one slice.
    apart = tuple(axis for axis in range(4) if axis != source.time)
    step = observed.any(axis=apart, keepdims=True) if source.time is not None else np.array(True)
    held = describe(np.where(~inside & step, np.float32(0), values)[None], channels=source.channels)
    rate = float(1 - observed[inside].mean())
    found = replace(
        held,
        missing_rate=rate,
        per_channel=dict(zip(held.per_channel, _rates(observed, inside, 3), strict=True)),
        per_axis={axis: _rates(observed, inside, i) for i, axis in enumerate(held.per_axis)},
        per_axis_channel={
            axis: [
                _rates(observed[..., c : c + 1], inside[..., c : c + 1], i) for c in range(values.shape[3])
            ]
            for i, axis in enumerate(held.per_axis)
        },
        intensity=describe(values[None]).intensity,
    )
    seen = int(observed[~inside].sum())
    never = f" ({seen} values of that observed)" if seen else ", never observed"
    outside = 1 - float(inside.mean())
    of = f"inside the mask; {outside:.1%} of all lies outside{never}"
    return Masked(
        found, {"said": wanted.said.removeprefix("mask "), "outside": outside, "of": of}, inside
    ), notes


def _rates(observed: NDArray[np.bool_], inside: NDArray[np.bool_], axis: int) -> list[float]:
    """Return the missing rate of what is inside at each position along an axis, 0 where nothing is."""
    others = tuple(other for other in range(4) if other != axis)
    lost, all_of_it = (~observed & inside).sum(axis=others), inside.sum(axis=others)
    return (lost / all_of_it.clip(1)).tolist()
