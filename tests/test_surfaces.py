"""Surface scores against loops over all pairs of voxels."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from voxgap.metrics.surfaces import case_scores, dice, lesion_f1, surface_scores

SPACING = (2.0, 0.5, 1.0)


def surface(mask: np.ndarray) -> np.ndarray:
    """Voxels with a face on the outside, by a loop, in voxels."""
    padded = np.pad(mask, 1)
    steps = [step for step in itertools.product((-1, 0, 1), repeat=3) if sum(map(abs, step)) == 1]
    return np.array(
        [at for at in np.argwhere(mask) if any(not padded[tuple(at + 1 + np.array(step))] for step in steps)]
    )


@pytest.mark.parametrize("seed", range(3))
def test_distances_are_those_of_all_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, found = np.zeros((2, 9, 10, 8), bool)
    truth[2:6, 2:8, 1:6] = rng.random((4, 6, 5)) < 0.9
    found[3:8, 1:7, 2:7] = rng.random((5, 6, 5)) < 0.9
    one, other = (surface(mask) * SPACING for mask in (truth, found))
    apart = np.linalg.norm(one[:, None] - other[None], axis=-1)
    there, back = apart.min(axis=1), apart.min(axis=0)
    far, near = surface_scores(truth, found, SPACING, 1.0)
    assert far == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert near == pytest.approx(((there <= 1).sum() + (back <= 1).sum()) / (len(there) + len(back)))


def test_what_is_empty() -> None:
    nothing, box = np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)
    assert math.isnan(dice(nothing, nothing))
    assert all(map(math.isnan, surface_scores(nothing, nothing)))
    for pair in ((nothing, box), (box, nothing)):
        far, near = surface_scores(*pair)
        assert math.isnan(far)
        assert near == dice(*pair) == 0
    assert surface_scores(box, box) == (0, 1)


def test_lesions_count_whatever_their_size() -> None:
    truth, found = np.zeros((2, 3, 9, 9), bool)
    truth[0, 0, 0] = truth[1, 1, 1] = True  # one lesion: they share a corner
    truth[1, 5:8, 5:8] = truth[1, 0, 8] = True
    found[1, 7, 7:9] = found[2, 3, 0] = True
    assert lesion_f1(truth, found) == pytest.approx(2 * 1 / (2 * 1 + 2 + 1))
    assert lesion_f1(found, truth) == pytest.approx(2 * 1 / (2 * 1 + 1 + 2))
    found[1, 5, 5] = True  # two parts that meet one lesion: it is found once, and none is false
    assert lesion_f1(truth, found) == pytest.approx(2 * 1 / (2 * 1 + 2 + 1))
    nothing = np.zeros_like(truth)
    assert math.isnan(lesion_f1(nothing, nothing))
    assert lesion_f1(truth, nothing) == lesion_f1(nothing, truth) == 0


def test_a_case_in_mm_and_ml() -> None:
    truth, found = np.zeros((2, 10, 10, 10), np.int16)
    truth[2:6, 2:6, 2:6] = 1
    found[3:7, 2:6, 2:6] = 1
    truth[9] = -1
    found[9] = 2  # where nobody said, nothing is wrong
    row = case_scores(truth, found, ("rest", "liver", "tumour"), (10.0, 10.0, 10.0))
    assert row["dice_liver"] == row["dice"] == pytest.approx(0.75)
    assert row["hausdorff95_liver"] == 10
    assert row["volume_liver"] == pytest.approx(64)
    assert row["volume_difference_liver"] == 0
    assert math.isnan(row["dice_tumour"])
    assert row["volume_tumour"] == 0
    assert case_scores(truth, found, ("rest", "liver", "tumour"), None)["hausdorff95_liver"] == 1
