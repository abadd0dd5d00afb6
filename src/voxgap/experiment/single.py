"""Where data, training and evaluation meet: train one strategy and score it."""

from __future__ import annotations

import dataclasses
import time
import warnings
from typing import Any

import numpy as np

from voxgap import evaluate, intensity
from voxgap.backend import keras
from voxgap.dataset import Dataset
from voxgap.decision import DEFAULT, Decision, asked, chosen, named
from voxgap.fill.base import filling
from voxgap.history import History
from voxgap.models import build_model
from voxgap.patches import patch_size, predict_patches
from voxgap.strategies import Strategy
from voxgap.strategies import get as get_strategy
from voxgap.training import train
from voxgap.training.progress import reporting


@dataclasses.dataclass(frozen=True)
class Result:
    """One trained network and what it is worth.

    Attributes:
        network, strategy_name, strategy: what was trained; a strategy of the user's own is called `custom`.
        model: trained, float32, the weights of its best epoch.
        history: of its training.
        scored: metrics by split, `validation` and `test` where the data has one, with their intervals.
        decision: by which its classes are named.
        seconds: for adapting, training and scoring.
    """

    network: str
    strategy_name: str
    strategy: Strategy
    model: keras.Model
    history: History
    scored: dict[str, evaluate.Scored]
    decision: Decision
    seconds: float

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """Metrics by split."""
        return {split: found.scores for split, found in self.scored.items()}


def train_and_score(
    dataset: Dataset,
    network: Any = "resnet3d",
    strategy: str | Strategy = "mean",
    *,
    architecture: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    seed: int = 0,
    threshold: str | float = DEFAULT,
) -> Result:
    """Build, train and score one network on a data set.

    Args:
        dataset: with its gaps; complete or not.
        network, strategy: see `build_model`.
        architecture: further arguments of `build_model`; `normalize` may be `auto`.
        training: further arguments of `train`.
        seed: of weights, dropout and the order of batches.
        threshold: by which the second of two classes is named: a number, or `youden`, `sensitivity=0.95` or
            `specificity=0.9`, for which it is chosen on the validation part.

    Raises:
        VoxgapError: the threshold does not suit the data, or as for `build_model` and `train`.
    """
    started = time.perf_counter()
    decision = asked(threshold, dataset.task, len(dataset.classes))
    if decision is None:
        held_out = dataset.part("validation").targets
        chosen(str(threshold), np.full(len(held_out), 0.5), held_out)  # refused now, not after the training
    name = strategy if isinstance(strategy, str) else "custom"
    strategy = get_strategy(strategy)
    size = (training or {}).get("patch_size")
    architecture = dict(architecture or {})
    if "normalize" in architecture:
        train_part = dataset.part("train").volumes
        units = intensity.resolve(architecture["normalize"], train_part, dataset.channels, bool(size))
        architecture["normalize"] = units.method
    model = build_model(
        network,
        input_shape=(*(patch_size(size) if size else dataset.volumes.shape[1:4]), dataset.volumes.shape[4]),
        outputs=outputs(dataset),
        task=dataset.task,
        strategy=strategy,
        seed=seed,
        **architecture,
    )
    asked_for = dict(training or {})
    verbose = asked_for.pop("verbose", None)
    with reporting(verbose, asked_for.pop("progress", None), model.name) as report:
        history = train(model, dataset, seed=seed, **asked_for | {"verbose": False, "progress": report})
    scored = {}
    for split in ("validation", "test"):
        if split in dataset.split:
            part = dataset.part(split)
            predictions = _predictions(model, part.volumes, size)
            decision = decision or chosen(str(threshold), predictions[:, 1], part.targets)
            if split == "validation" and dataset.task != "regression":
                history = dataclasses.replace(
                    history, never=never_named(part.targets, predictions, decision.threshold)
                )
            shown = ~np.isnan(part.volumes) if dataset.task == "segmentation" else None
            scored[split] = evaluate.scored(
                dataset.task,
                part.targets,
                predictions,
                observed=shown,
                threshold=decision.threshold,
                own_grids=part.on_own_grids if part.drawn else None,
                groups=part.groups,
            )
    if verbose is not False:
        for remark in history.remarks(dataset.classes):
            warnings.warn(remark, stacklevel=2)
    seconds = time.perf_counter() - started
    return Result(model.name, name, strategy, model, history, scored, decision or Decision(), seconds)


def never_named(targets: Any, predictions: Any, threshold: float | None) -> tuple[int, ...]:
    """The classes that are in the data and that no answer names, by the rule that names them everywhere.

    Args:
        targets: class indices of any shape, -1 where nobody said.
        predictions: probabilities, with the classes last.
        threshold: see `voxgap.decision.named`.
    """
    there = set(np.unique(targets).tolist()) - {-1}
    for answer in predictions:
        there -= set(np.unique(named(answer, threshold)).tolist())
    return tuple(sorted(there))


def _predictions(model: keras.Model, volumes: np.ndarray, size: Any) -> np.ndarray:
    def predict(batch: np.ndarray) -> np.ndarray:
        return np.asarray(model.predict(batch, batch_size=16, verbose=0))

    if size:
        return predict_patches(predict, volumes, patch_size(size))
    return predict(np.asarray(volumes))


def outputs(dataset: Dataset) -> int:
    """How many outputs a network for this data set has: its classes, or values a sample."""
    if dataset.task != "regression":
        return len(dataset.classes)
    return int(np.prod(dataset.targets.shape[1:]))


def fill_volumes(model: keras.Model, volumes: np.ndarray, batch_size: int = 16) -> np.ndarray:
    """What a model's fill layer makes of volumes, in raw units, same shape, finite."""
    fill = filling(model)
    batches = range(0, len(volumes), batch_size)
    filled = np.concatenate(
        [keras.ops.convert_to_numpy(fill(volumes[i : i + batch_size], training=False)) for i in batches]
    )
    return np.where(np.isnan(volumes), filled, volumes)
