"""Experiments that are looked at as they go on: how much each look may decide, and who need not go on.

To look again and again and stop when it pleases would raise false alarms. So the looks are written down beforehand, in
splits, and the level is spent over them in equal shares: what time or outcomes there are decides which looks come
about, never where they are. Shares that sum to the level hold whatever looks have in common, and with the few degrees
of freedom of the first. They are equal, since the first look knows half of what there is to know where training sets
share much; those of O'Brien and Fleming leave next to nothing for it.

Spending was chosen over e-values since its verdicts are those of the one analysis, at another level. An e-value is won
from splits that bring news for ever; of these, what training sets share is left however many there are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.metrics.pairs import BETTER, SAME, UNKNOWN, WORSE, decided, judged, pairs_of

FIRST_LOOK = 3
"""Splits before anything is decided: of two, hardly anything is known of their spread."""
HOPELESS = 0.999
"""Probability of being worse than the best, by more than matters, from which on a strategy leaves."""


def looks(folds: int, repeats: int) -> tuple[int, ...]:
    """Return after how many splits a race is looked at: once all folds were dealt 1, 2, 4 ... times, and at its end."""
    passes = [2**n for n in range(repeats) if 2**n < repeats and folds * 2**n >= FIRST_LOOK]
    return tuple(folds * times for times in [*passes, repeats])


def share(at: tuple[int, ...]) -> float:
    """Return the share of the level that each of these looks has."""
    return 1 / len(at)


def look(
    scores: Any, racing: Any, ratio: float, *, level: float, rope: float, reference: int | None = None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Look at experiments after a round, and say who goes on.

    Who is shown to be worse than the best leaves, and so does who is almost surely worse by more than matters: that
    claims nothing, so it costs nothing of the level. Only the strongest rival stays until a verdict is found on it.
    With a reference, who has a verdict leaves.

    Args:
        scores: `(..., strategies, splits, seeds)`, higher is better, NaN where there is none.
        racing: `(..., strategies)`, who has been in the race.
        level: share of the level that a look has, see `share`.
        ratio, rope, reference: see `voxgap.metrics.pairs.judged`.

    Returns:
        `(..., strategies)`, who goes on, and `(...)`, whether the race is over: nothing is left to find out.
    """
    table, inside = np.asarray(scores, dtype=np.float64), np.asarray(racing, dtype=bool)
    count = table.shape[-3]
    found = judged(table, ratio, rope=rope, reference=reference, level=level)
    codes = decided(found, rope, level=level)
    turned = np.select([codes == BETTER, codes == WORSE], [WORSE, BETTER], codes)
    gain = _square(found.difference, -found.difference, count)
    others = inside[..., None, :] & inside[..., :, None] & ~np.isnan(gain)
    merit = np.where(inside, np.where(others, gain, 0).sum(axis=-1), -np.inf)
    order = np.argsort(-merit, axis=-1, kind="stable")
    best = order[..., :1] if reference is None else np.full((*inside.shape[:-1], 1), reference)
    rival = order[..., 1:2] if count > 1 else best

    def against_best(values: Any, mirrored: Any) -> Any:
        return np.take_along_axis(_square(values, mirrored, count), best[..., None], axis=-1)[..., 0]

    is_best, is_rival = (np.arange(count) == one for one in (best, rival))
    code = against_best(codes, turned)
    known = np.isin(code, (WORSE, SAME, BETTER)) if reference is not None else code == WORSE
    hopeless = (against_best(found.worse, found.better) >= HOPELESS) & ~is_rival & (reference is None)
    stays = inside & (is_best | ~(known | hopeless | (code == UNKNOWN)))
    return stays, ~(stays & ~is_best & (code != SAME)).any(axis=-1)


def _square(values: Any, mirrored: Any, count: int) -> Any:
    """Return `(..., strategies, strategies)`: of each pair what is found for its first, and for its second."""
    table = np.full((*values.shape[:-1], count, count), np.nan)
    first, second = np.array(pairs_of(count), dtype=int).reshape(-1, 2).T
    table[..., first, second], table[..., second, first] = values, mirrored
    return table
