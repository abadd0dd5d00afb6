"""What a network said of each case that it was tested on: the out-of-fold predictions of an experiment."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap import metrics
from voxgap.dataset import Dataset
from voxgap.dataset.gaps import own_values
from voxgap.dataset.names import case_names
from voxgap.decision import named
from voxgap.experiment.plan import Row


def case_rows(
    part: Dataset, gapped: NDArray[np.float32], predictions: NDArray[Any], threshold: float | None = None
) -> tuple[Row, ...]:
    """Return a row for each test case, with the names that `predictions.csv` of a bundle has.

    Args:
        part: test cases as they were read.
        gapped: their volumes as the network was shown them, `(n, depth, height, width, channels)`.
        predictions: what it said: probabilities `(n, classes)`, numbers `(n, outputs)`, or probabilities of each voxel.
        threshold: by which classes are named; see `voxgap.decision.named`.

    Returns:
        `case`, `group` where the data has some, and `missing_rate`; `label`, `class` and the probability `p_NAME` of
        each class; for a regression `target` and `value`, numbered where there are several; for a segmentation `dice`
        and `dice_NAME` of each class, NaN where neither side has it.
    """
    names = case_names(part)
    rows = []
    own = own_values(part.with_volumes(gapped))
    for index, (name, values) in enumerate(zip(names, own, strict=True)):
        row: Row = {"case": name}
        if part.groups is not None:
            row["group"] = str(part.groups[index])
        row |= _SAID[part.task](part, index, predictions[index], threshold)
        rows.append(row | {"missing_rate": float(np.isnan(values).mean())})
    return tuple(rows)


def _classified(part: Dataset, index: int, said: NDArray[Any], threshold: float | None) -> Row:
    row: Row = {"label": part.classes[part.targets[index]], "class": part.classes[named(said, threshold)]}
    return row | {f"p_{name}": _short(p) for name, p in zip(part.classes, said, strict=True)}


def _regressed(part: Dataset, index: int, said: NDArray[Any], _: float | None) -> Row:
    row: Row = {}
    for name, values in (("target", part.targets[index]), ("value", said)):
        numbers = np.ravel(values)
        names = [name] if len(numbers) == 1 else [f"{name}_{i}" for i in range(len(numbers))]
        row |= dict(zip(names, map(_short, numbers), strict=True))
    return row


def _segmented(part: Dataset, index: int, said: NDArray[Any], threshold: float | None) -> Row:
    case, found = part.take([index]), {}
    if (part.targets[index] >= 0).any():
        found = metrics.scores(
            "segmentation", case.targets, said[np.newaxis], threshold=threshold, own_grids=case.on_own_grids
        )
    each = {f"dice_{name}": found.get(f"dice_{i}", np.nan) for i, name in enumerate(part.classes)}
    return {"dice": found.get("dice", np.nan), **each}


_SAID = {"classification": _classified, "regression": _regressed, "segmentation": _segmented}


def _short(value: Any) -> float:
    """Return a float32 as the shortest decimal that is it."""
    return float(str(np.float32(value)))
