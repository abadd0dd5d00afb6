"""Scores of what a network answers to data changed in several ways, read once, with paired intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxgap import metrics
from voxgap.decision import named
from voxgap.errors import VoxgapError
from voxgap.metrics.comparison import LOWER_IS_BETTER
from voxgap.metrics.intervals import Interval, intervals
from voxgap.metrics.metrics import counted, tables_scorer
from voxgap.progress import Progress, unseen
from voxgap.volume import Values

if TYPE_CHECKING:
    from voxgap.dataset import Dataset

Predict = Callable[[Any], Any]
"""Volumes with gaps, `(n, depth, height, width, channels)` -> answers as the network gives them."""

Change = Callable[[Values, NDArray[np.intp]], tuple[NDArray[np.bool_], Values]]
"""Changes volumes `(n, depth, height, width, channels)`, which stand at these places of the data; says which of them it
could change, `(n,)`, and returns these."""

DECIDES = {"classification": "accuracy", "regression": "mae", "segmentation": "dice"}
_AT_ONCE, _MAPS_AT_ONCE = 64, 16  # volumes: of a segmentation all answers together may not fit into memory


@dataclass(frozen=True)
class Measure:
    """A score with its interval.

    Args:
        value: of the metric, or a difference of it.
        interval: 95 %; None where the draws don't say.
    """

    value: float
    interval: Interval | None = None

    def words(self, signed: bool = False) -> str:
        """As text: `0.912 (0.880 to 0.944)`."""
        kind = "+.3f" if signed else ".3f"
        within = f" ({self.interval[0]:{kind}} to {self.interval[1]:{kind}})" if self.interval else ""
        return f"{self.value:{kind}}{within}"

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values."""
        return {"value": self.value, "interval": list(self.interval) if self.interval else None}


@dataclass(frozen=True)
class Answers:
    """What a network answered to some of the samples of a data set.

    Args:
        places: which samples, as indices of the data.
        values: probabilities or values `(n, outputs)`; of a segmentation the classes that are named
            `(n, depth, height, width)`.
    """

    places: NDArray[np.intp]
    values: NDArray[Any]


def check_metric(metric: str | None, task: str) -> str:
    """Return the metric that decides for a task, or the one that is asked for.

    Raises:
        VoxgapError: there is no such metric.
    """
    known = {
        "classification": ("accuracy", "balanced_accuracy", "auc", "macro_f1", "log_loss", "brier"),
        "regression": ("mae", "rmse", "r2"),
        "segmentation": ("dice", "iou", "accuracy"),
    }[task]
    if metric is not None and metric not in known:
        raise VoxgapError(f"metric {metric!r}: for {task} choose one of {', '.join(known)}")
    return metric or DECIDES[task]


def better(metric: str) -> int:
    """1 where a higher score is better, -1 where a lower one is."""
    return -1 if metric in LOWER_IS_BETTER else 1


def answered(
    data: Dataset,
    predict: Predict,
    changes: Mapping[str, Change],
    threshold: float | None = None,
    progress: Progress = unseen,
) -> dict[str, Answers]:
    """Let a network answer the data changed in several ways; the data is read once, whatever their number.

    Args:
        data: samples.
        predict: answers volumes.
        changes: by name.
        threshold: by which classes of voxels are named.
        progress: goes through parts of the data, and shows how far it is.
    """
    found: dict[str, list[NDArray[Any]]] = {name: [] for name in changes}
    places: dict[str, list[NDArray[np.intp]]] = {name: [] for name in changes}
    step = at_once(data)
    for start in progress(range(0, len(data), step), f"{len(changes)} answers to each scan"):
        volumes = np.asarray(data.volumes[start : start + step])
        chunk = np.arange(start, start + len(volumes))
        for name, change in changes.items():
            able, changed = change(volumes, chunk)
            if able.any():
                found[name].append(as_kept(data.task, predict(changed), threshold))
                places[name].append(chunk[able])
    return {
        name: Answers(np.concatenate(places[name]), np.concatenate(parts))
        for name, parts in found.items()
        if parts
    }


def as_kept(task: str, values: Any, threshold: float | None = None) -> NDArray[Any]:
    """Return answers as `Answers` has them: of label maps the classes that are named."""
    values = np.asarray(values)
    return named(values, threshold).astype(np.int16) if task == "segmentation" else values


def at_once(data: Dataset) -> int:
    """How many volumes are read and answered together."""
    return _MAPS_AT_ONCE if data.task == "segmentation" else _AT_ONCE


Score = Callable[[NDArray[np.intp]], float]
"""A score of some of the samples of the data, by index; each as often as it is named."""


def score_of(data: Dataset, answers: Answers, metric: str, threshold: float | None = None) -> Score:
    """Return what scores answers; indices of samples without an answer are passed over.

    Args:
        data: whose targets they are held against.
        answers: one for each of their places.
        metric: that decides.
        threshold: by which classes are named.
    """
    where = np.full(len(data), -1)
    where[answers.places] = np.arange(len(answers.places))
    one = of_metric(data, answers, metric, threshold)

    def score(some: NDArray[np.intp]) -> float:
        local = where[some]
        local = local[local >= 0]
        return one(local) if len(local) else float("nan")

    return remembered(score)


def remembered(score: Score) -> Score:
    """Return the same score, computed once for a draw that is asked for again, by a difference say."""
    last: list[Any] = [None, 0.0]

    def once(some: NDArray[np.intp]) -> float:
        if last[0] is not some:
            last[:] = some, score(some)
        return float(last[1])

    return once


def of_metric(data: Dataset, answers: Answers, metric: str, threshold: float | None = None) -> Score:
    """Return what scores answers by their own places; of one metric alone, since it is asked thousands of times."""
    truth, values = np.asarray(data.targets[answers.places]), answers.values
    if data.task == "segmentation":
        classes = len(data.classes)
        tables = np.stack([counted(t, v, classes) for t, v in zip(truth, values, strict=True)])
        of_tables = tables_scorer(tables)
        return lambda some: of_tables(some)[metric]
    if metric == "accuracy":
        right = (named(values, threshold) == truth).astype(np.float64)
        return lambda some: float(right[some].mean())
    if metric == "mae":
        errors = np.abs(truth.reshape(len(truth), -1) - values.reshape(len(truth), -1)).mean(axis=1)
        return lambda some: float(errors[some].mean())
    by_class = {"balanced_accuracy": metrics.balanced_accuracy, "macro_f1": metrics.macro_f1}
    if metric in by_class:
        return lambda some: by_class[metric](truth[some], values[some], threshold)
    by_values = {name: getattr(metrics, name) for name in ("auc", "log_loss", "brier", "rmse", "r2")}
    return lambda some: float(by_values[metric](truth[some], values[some]))


def members_of(data: Dataset) -> NDArray[np.intp]:
    """Return the group of each sample, from 0; without groups each is its own."""
    if data.groups is None:
        return np.arange(len(data))
    return np.unique(data.groups, return_inverse=True)[1]


def measured(
    wanted: Mapping[str, Score], members: NDArray[np.intp], seed: int = 0, only: Sequence[str] = ()
) -> dict[str, Measure]:
    """Measure scores and differences with intervals from the same draws, whole groups at a time.

    Args:
        wanted: by name.
        members: the group of each sample.
        seed: of the draws.
        only: names of what has no meaning for a draw, and gets no interval.
    """
    whole = np.arange(len(members))
    values = {name: score(whole) for name, score in wanted.items()}
    drawn = {name: score for name, score in wanted.items() if name not in only}
    lie = intervals(lambda some: {name: score(some) for name, score in drawn.items()}, members, seed)
    return {name: Measure(value, lie.get(name)) for name, value in values.items()}
