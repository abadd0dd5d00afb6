"""Scores of predictions against targets, in NumPy: of the classes that `voxgap.decision` names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.decision import named
from voxgap.errors import VoxgapError
from voxgap.ragged import as_items, shapes_of
from voxgap.volume import times

Floats = NDArray[np.float64]
Classes = NDArray[np.int64]
Scorer = Callable[[Any], dict[str, float]]
"""Scores of some of the samples, by index: all of them, or a sample of them."""

OwnGrids = Callable[[Sequence[NDArray[Any]]], Iterable[tuple[NDArray[Any], NDArray[Any]]]]
"""Brings numbers `(depth, height, width)` of each sample onto the grid that its label map was drawn on, by the nearest
voxel and 0 outside; gives that label map of class indices, -1 where nobody said, and the numbers there."""

CALIBRATION_BINS = 15


def scores(
    task: str,
    targets: Any,
    predictions: Any,
    *,
    observed: Any = None,
    threshold: float | None = None,
    own_grids: OwnGrids | None = None,
) -> dict[str, float]:
    """Score predictions by everything that is usual for the task.

    Args:
        task: `classification`, `regression` or `segmentation`.
        targets: Class indices `(samples,)`, numbers `(samples,)` or `(samples, outputs)`, or label maps
            `(samples, depth, height, width)`, -1 where nobody said.
        predictions: Probabilities `(samples, classes)`, of class 1 alone `(samples,)` or `(samples, 1)`;
            numbers, shaped like the targets; or probabilities `(samples, depth, height, width, classes)`.
        observed: For segmentation, which values the network was shown, boolean, shaped like the volumes: adds
            dice_missing, the Dice score of the voxels that no channel shows.
        threshold: By which a class is named; see `voxgap.decision.named`.
        own_grids: For segmentation, what brings answers onto the grids that label maps were drawn on, such as
            `Dataset.on_own_grids`: all scores are then counted there. What lies outside of the volumes is answered as
            background there, and is not missing.

    Returns:
        For classification accuracy, balanced_accuracy, auc, macro_f1, log_loss, brier and calibration_error;
        for regression r2, mae and rmse; for segmentation dice, iou, accuracy and the dice of each class:
        dice_0, dice_1, ... A score is NaN where it is not defined, such as the AUC of one class.

    Raises:
        VoxgapError: Targets and predictions don't match, or a prediction is NaN.
    """
    score, count = scorer(
        task, targets, predictions, observed=observed, threshold=threshold, own_grids=own_grids
    )
    return score(np.arange(count))


def scorer(
    task: str,
    targets: Any,
    predictions: Any,
    *,
    observed: Any = None,
    threshold: float | None = None,
    own_grids: OwnGrids | None = None,
) -> tuple[Scorer, int]:
    """Check once what is to be scored, for scores of many samples of it.

    Args:
        task, targets, predictions, observed, threshold, own_grids: As for `scores`.

    Returns:
        What scores the samples of some indices as `scores` does, and how many samples there are.

    Raises:
        VoxgapError: As for `scores`.
    """
    if task == "regression":
        truth, numbers = _numbers(targets, predictions)
        return lambda some: _regression_scores(truth[some], numbers[some]), len(truth)
    if task == "segmentation":
        tables, hidden = _tables_of(targets, predictions, observed, threshold, own_grids)
        return tables_scorer(tables, hidden), len(tables)
    if task != "classification":
        raise VoxgapError(f"task {task!r} is unknown; use classification, regression or segmentation")
    classes, probabilities = _probabilities(targets, predictions)
    found = named(probabilities, threshold)
    return lambda some: _class_scores(classes[some], probabilities[some], found[some]), len(classes)


def tables_scorer(tables: NDArray[np.int64], hidden: NDArray[np.int64] | None = None) -> Scorer:
    """Return what scores a segmentation from the confusion of each volume's voxels, see `counted`.

    Args:
        tables: `(samples, classes, classes)`.
        hidden: the same of the voxels that no channel shows.
    """
    return lambda some: _segmentation_scores(tables[some], None if hidden is None else hidden[some])


def _regression_scores(truth: Floats, numbers: Floats) -> dict[str, float]:
    return {"r2": r2(truth, numbers), "mae": mae(truth, numbers), "rmse": rmse(truth, numbers)}


def _class_scores(classes: Classes, probabilities: Floats, found: NDArray[np.intp]) -> dict[str, float]:
    table = counted(classes, found, probabilities.shape[1])
    return {
        "accuracy": float(np.trace(table) / table.sum()),
        "balanced_accuracy": _balanced_accuracy(table),
        "auc": auc(classes, probabilities),
        "macro_f1": _macro_f1(table),
        "log_loss": log_loss(classes, probabilities),
        "brier": brier(classes, probabilities),
        "calibration_error": calibration_error(classes, probabilities),
    }


def confusion_matrix(targets: Any, predictions: Any, threshold: float | None = None) -> NDArray[np.int64]:
    """Count samples by true class (rows) and by the class that is named (columns).

    Args:
        targets: Class indices, `(samples,)`.
        predictions: Probabilities, as for `scores`.
        threshold: See `voxgap.decision.named`.

    Returns:
        `(classes, classes)`.
    """
    classes, probabilities = _probabilities(targets, predictions)
    return counted(classes, named(probabilities, threshold), probabilities.shape[1])


def counted(truth: NDArray[Any], found: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Count samples or voxels by true class (rows) and class that is named (columns).

    Args:
        truth: Class indices of any shape, -1 where nobody said: these don't count.
        found: The classes that are named there.
        classes: How many there are.

    Returns:
        `(classes, classes)`.
    """
    said = truth >= 0
    cells = truth[said].astype(np.int64) * classes + found[said]
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def accuracy(targets: Any, predictions: Any, threshold: float | None = None) -> float:
    """Return the share of samples of which the true class is named."""
    table = confusion_matrix(targets, predictions, threshold)
    return float(np.trace(table) / table.sum())


def balanced_accuracy(targets: Any, predictions: Any, threshold: float | None = None) -> float:
    """Return the mean over the classes that occur of the share that is recognised."""
    return _balanced_accuracy(confusion_matrix(targets, predictions, threshold))


def macro_f1(targets: Any, predictions: Any, threshold: float | None = None) -> float:
    """Return the mean F1 score over the classes that occur or are named."""
    return _macro_f1(confusion_matrix(targets, predictions, threshold))


def auc(targets: Any, predictions: Any) -> float:
    """Return the area under the ROC curve; for several classes the mean of each against the rest.

    Classes without a sample, or without another class beside them, are left out; NaN if that leaves none.
    """
    classes, probabilities = _probabilities(targets, predictions)
    columns = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    areas = [area(classes == column, probabilities[:, column]) for column in columns]
    defined = [area for area in areas if not np.isnan(area)]
    return float(np.mean(defined)) if defined else float("nan")


def log_loss(targets: Any, predictions: Any) -> float:
    """Return the mean negative log-probability of the true class, in nats; probabilities are kept off 0."""
    classes, probabilities = _probabilities(targets, predictions)
    true = probabilities[np.arange(len(classes)), classes]
    # What float32 can't tell from 0, not what float64 can't: one sure mistake must not decide the mean.
    return float(-np.log(np.clip(true, np.finfo(np.float32).eps, 1)).mean())


def brier(targets: Any, predictions: Any) -> float:
    """Return the mean squared error of the probabilities, summed over classes; halved for two classes.

    Source: Brier, Monthly Weather Review 78, 1950, in today's scale for two classes.
    """
    classes, probabilities = _probabilities(targets, predictions)
    errors = ((probabilities - np.eye(probabilities.shape[1])[classes]) ** 2).sum(axis=1)
    return float(errors.mean() / (2 if probabilities.shape[1] == 2 else 1))


def calibration_error(targets: Any, predictions: Any, bins: int = CALIBRATION_BINS) -> float:
    """Return the expected calibration error: the mean gap between confidence and accuracy, over equal bins.

    Source: Guo, Pleiss, Sun and Weinberger, ICML 2017.
    """
    classes, probabilities = _probabilities(targets, predictions)
    confidence = probabilities.max(axis=1)
    surplus = confidence - (named(probabilities) == classes)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(place, surplus, minlength=bins)).sum() / len(classes))


def r2(targets: Any, predictions: Any) -> float:
    """Return the share of variance explained, averaged over outputs; NaN for a single sample.

    An output that is constant counts 1 where it is predicted exactly, else 0.
    """
    truth, numbers = _numbers(targets, predictions)
    if len(truth) < 2:
        return float("nan")
    residual = ((truth - numbers) ** 2).sum(axis=0)
    total = ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
    constant = total == 0
    explained = 1 - residual / np.where(constant, 1, total)
    return float(np.where(constant, residual == 0, explained).mean())


def mae(targets: Any, predictions: Any) -> float:
    """Return the mean absolute error, in the unit of the targets."""
    truth, numbers = _numbers(targets, predictions)
    return float(np.abs(truth - numbers).mean())


def rmse(targets: Any, predictions: Any) -> float:
    """Return the root of the mean squared error over samples, averaged over outputs."""
    truth, numbers = _numbers(targets, predictions)
    return float(np.sqrt(((truth - numbers) ** 2).mean(axis=0)).mean())


def voxel_confusion(targets: Any, predictions: Any, threshold: float | None = None) -> NDArray[np.int64]:
    """Count labelled voxels by true class (rows) and by the class that is named (columns), over all volumes.

    Args:
        targets: Label maps `(samples, depth, height, width)`, -1 where nobody said.
        predictions: Probabilities `(samples, depth, height, width, classes)`.
        threshold: See `voxgap.decision.named`.

    Returns:
        `(classes, classes)`.

    Raises:
        VoxgapError: The shapes don't match, a probability is NaN, or no voxel is labelled.
    """
    return np.asarray(_tables_of(targets, predictions, None, threshold)[0].sum(axis=0))


def _tables_of(
    targets: Any, predictions: Any, observed: Any, threshold: float | None, own_grids: OwnGrids | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """Count the confusion of each volume's labelled voxels; and of those that no channel shows, where that is known."""
    maps, answers = as_items(targets), as_items(predictions)
    if maps.ndim != 4 or not len(maps) or [shape[:-1] for shape in shapes_of(answers)] != shapes_of(maps):
        raise VoxgapError(
            f"label maps of shape {times(maps.shape)}, predictions of shape {times(answers.shape)}; "
            "give (samples, depth, height, width), and the same with the probabilities of the classes last"
        )
    classes = answers.shape[-1]
    if maps.dtype.kind not in "biu" or any(one.min() < -1 or one.max() >= classes for one in maps):
        raise VoxgapError(f"label maps don't hold class indices from 0 to {classes - 1}, or -1")
    # Beside the class whether it is hidden, in one number, so that both go through the same resampling.
    numbers = []
    for index, probabilities in enumerate(answers):  # one by one, for memory
        if not np.isfinite(probabilities).all():
            raise VoxgapError("predictions hold NaN or infinity; look at the training loss")
        numbers.append(named(probabilities, threshold).astype(np.int16))
        if observed is not None:
            shown = np.asarray(observed[index], bool)
            numbers[-1] += np.int16(classes) * ~(shown.any(axis=-1) if shown.ndim == 4 else shown)
    tables, hidden = [], []
    for truth, number in own_grids(numbers) if own_grids else zip(maps, numbers, strict=True):
        found, unseen = number % classes, number >= classes
        tables.append(counted(truth, found, classes))
        hidden.append(counted(truth[unseen], found[unseen], classes))
    return _some(tables), np.array(hidden) if observed is not None else None


def _some(tables: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    if not np.any(tables):
        raise VoxgapError("no voxel of the label maps is labelled; there is nothing to score")
    return np.array(tables)


def dice(targets: Any, predictions: Any, threshold: float | None = None) -> Floats:
    """Return the Dice score (F1 over voxels) of each class; NaN for one that neither side has.

    Args:
        targets, predictions, threshold: As for `voxel_confusion`.

    Source: Dice, Ecology 26, 1945.
    """
    return dice_of(voxel_confusion(targets, predictions, threshold))


def iou(targets: Any, predictions: Any, threshold: float | None = None) -> Floats:
    """Return the intersection over union (Jaccard index) of each class; NaN for one that neither side has."""
    each = dice(targets, predictions, threshold)
    return each / (2 - each)


def _segmentation_scores(tables: NDArray[np.int64], hidden: NDArray[np.int64] | None) -> dict[str, float]:
    table = tables.sum(axis=0)
    each = dice_of(table)
    found = {
        "dice": _of_foreground(each),
        "iou": _of_foreground(each / (2 - each)),
        "accuracy": float(np.trace(table) / table.sum()) if table.any() else float("nan"),
    }
    if hidden is not None:
        found["dice_missing"] = _of_foreground(dice_of(hidden.sum(axis=0)))
    return found | {f"dice_{index}": float(value) for index, value in enumerate(each)}


def dice_of(tables: NDArray[np.int64]) -> Floats:
    """Return the Dice score of each class from tables `(..., classes, classes)`; NaN where neither side has it."""
    both = (tables.sum(axis=-1) + tables.sum(axis=-2)).astype(np.float64)
    agreed = np.diagonal(tables, axis1=-2, axis2=-1)
    return np.asarray(2 * agreed / np.where(both > 0, both, np.nan), np.float64)


def _of_foreground(each: Floats) -> float:
    """Return the mean over all classes but the first, the background, that truth or prediction has."""
    defined = each[1:][~np.isnan(each[1:])]
    return float(defined.mean()) if defined.size else float("nan")


def _balanced_accuracy(table: NDArray[np.int64]) -> float:
    occurs = table.sum(axis=1) > 0
    return float((np.diag(table)[occurs] / table.sum(axis=1)[occurs]).mean())


def _macro_f1(table: NDArray[np.int64]) -> float:
    both = table.sum(axis=0) + table.sum(axis=1)
    return float((2 * np.diag(table)[both > 0] / both[both > 0]).mean())


def area(positive: NDArray[np.bool_], scores: Floats) -> float:
    """Return the probability that a positive scores above another, ties counting half; NaN without one of each."""
    hits, others = int(positive.sum()), int((~positive).sum())
    if not hits or not others:
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    return float((mean_rank[place][positive].sum() - hits * (hits + 1) / 2) / (hits * others))


def _probabilities(targets: Any, predictions: Any) -> tuple[Classes, Floats]:
    probabilities = np.asarray(predictions, dtype=np.float64)
    if probabilities.ndim == 2 and probabilities.shape[1] == 1:
        probabilities = probabilities[:, 0]
    if probabilities.ndim == 1:
        probabilities = np.stack([1 - probabilities, probabilities], axis=1)
    classes = np.asarray(targets)
    if probabilities.ndim != 2 or classes.shape != probabilities.shape[:1] or not len(classes):
        raise VoxgapError(
            f"targets of shape {times(classes.shape)}, predictions of shape {times(np.shape(predictions))}; "
            "give one class and one row of probabilities for each sample"
        )
    if not np.isfinite(probabilities).all() or probabilities.min() < -1e-6 or probabilities.max() > 1 + 1e-4:
        raise VoxgapError(
            "predictions are not probabilities from 0 to 1; apply softmax or sigmoid, look for NaN"
        )
    if classes.dtype.kind not in "biu" or classes.min() < 0 or classes.max() >= probabilities.shape[1]:
        raise VoxgapError(f"targets are not class indices from 0 to {probabilities.shape[1] - 1}")
    return classes.astype(np.int64), probabilities


def _numbers(targets: Any, predictions: Any) -> tuple[Floats, Floats]:
    truth, numbers = np.asarray(targets, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    if not truth.ndim or not len(truth) or truth.shape[:1] != numbers.shape[:1] or truth.size != numbers.size:
        raise VoxgapError(
            f"targets of shape {times(truth.shape)} and predictions of shape {times(numbers.shape)}; "
            "give one prediction for each target"
        )
    if not np.isfinite(truth).all() or not np.isfinite(numbers).all():
        raise VoxgapError("targets or predictions hold NaN or infinity; look at the training loss")
    return truth.reshape(len(truth), -1), numbers.reshape(len(truth), -1)
