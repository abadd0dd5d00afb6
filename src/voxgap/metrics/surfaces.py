"""How near the surface of an answer is to that of the truth, and how much they differ in volume, case by case."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]

TOLERANCE = 1.0
"""Within so many mm (voxels, where nobody knows how large those are) surfaces count as the same."""


def dice(truth: Mask, found: Mask) -> float:
    """Return the Dice score of two masks; NaN where both are empty."""
    both = int(truth.sum()) + int(found.sum())
    return 2 * int((truth & found).sum()) / both if both else math.nan


def surface_scores(
    truth: Mask, found: Mask, spacing: Spacing = (1, 1, 1), tolerance: float = TOLERANCE
) -> tuple[float, float]:
    """Return the Hausdorff distance 95 and the surface Dice of two masks.

    The surface is made of the voxels of a mask that have a neighbour outside of it, by their faces. Hausdorff 95 is the
    larger of the two 95th percentiles of the distances from each voxel of the one surface to the nearest of the other.
    Surface Dice is the share of both surfaces that lies within the tolerance of the other one.

    Args:
        truth, found: `(depth, height, width)`.
        spacing: size of a voxel.
        tolerance: in its unit.

    Returns:
        Both; NaN where a mask is empty, but surface Dice 0 where one alone is.

    Source: Huttenlocher et al., IEEE PAMI 15, 1993; Nikolov et al., J Med Internet Res 23, 2021.
    """
    if not truth.any() or not found.any():
        return math.nan, 0.0 if truth.any() or found.any() else math.nan
    box = _around(truth | found)
    surfaces = [_surface(mask[box]) for mask in (truth, found)]
    distances = [_to(other, spacing)[one] for one, other in (surfaces, surfaces[::-1])]
    within = sum(int((each <= tolerance).sum()) for each in distances)
    return max(float(np.percentile(each, 95)) for each in distances), within / sum(map(len, distances))


def lesion_f1(truth: Mask, found: Mask) -> float:
    """Return the F1 score of connected parts, whatever their size: a part is found if the other mask meets it.

    Args:
        truth, found: `(depth, height, width)`; voxels that share a face, an edge or a corner are connected.

    Returns:
        From 0 to 1; NaN where both are empty.

    Source: ATLAS R2.0, Liew et al., Scientific Data 9, 2022.
    """
    (true, met), (said, wanted) = _parts(truth, found), _parts(found, truth)
    missed, false = true - met, said - wanted
    return 2 * met / (2 * met + missed + false) if true or said else math.nan


def _parts(mask: Mask, other: Mask) -> tuple[int, int]:
    """Return of how many parts a mask is, and how many of those the other one meets."""
    from scipy.ndimage import label

    numbered, count = label(mask, np.ones((3, 3, 3)))
    return int(count), int(np.count_nonzero(np.unique(numbered[other])))


def case_scores(
    truth: NDArray[Any], found: NDArray[Any], classes: tuple[str, ...], spacing: Spacing | None
) -> dict[str, float]:
    """Return what people report of one case: of each class but the first, the background.

    Args:
        truth: Class indices, `(depth, height, width)`, -1 where nobody said: there nothing is counted.
        found: Those that were answered.
        classes: Their names.
        spacing: Size of a voxel in mm; None: distances and volumes are in voxels.

    Returns:
        `dice`, the mean over the classes; and of each `dice_NAME`, `hausdorff95_NAME`, `surface_dice_NAME`,
        `lesion_f1_NAME`, `volume_NAME` and `volume_difference_NAME` (answer minus truth), in mm and ml.
    """
    said = truth >= 0
    size = math.prod(spacing) / 1000 if spacing else 1.0
    found_of: dict[str, float] = {}
    for index, name in enumerate(classes[1:], 1):
        true, answered = truth == index, (found == index) & said
        far, near = surface_scores(true, answered, spacing or (1, 1, 1))
        found_of |= {
            f"dice_{name}": dice(true, answered),
            f"hausdorff95_{name}": far,
            f"surface_dice_{name}": near,
            f"lesion_f1_{name}": lesion_f1(true, answered),
            f"volume_{name}": int(true.sum()) * size,
            f"volume_difference_{name}": (int(answered.sum()) - int(true.sum())) * size,
        }
    known = [
        found_of[f"dice_{name}"]
        for name in classes[1:]
        if found_of[f"dice_{name}"] == found_of[f"dice_{name}"]
    ]
    return {"dice": sum(known) / len(known) if known else math.nan, **found_of}


def _around(mask: Mask) -> tuple[slice, ...]:
    """Return the box that holds a mask: distances between two surfaces in it need nothing from outside."""
    held = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return tuple(slice(int(along[0]), int(along[-1]) + 1) for along in held)


def _surface(mask: Mask) -> Mask:
    from scipy.ndimage import binary_erosion

    return np.asarray(mask & ~binary_erosion(mask))


def _to(surface: Mask, spacing: Spacing) -> NDArray[np.float64]:
    """Return how far each voxel is from a surface."""
    from scipy.ndimage import distance_transform_edt

    return np.asarray(distance_transform_edt(~surface, sampling=spacing))
