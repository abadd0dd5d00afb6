"""Where data, training and evaluation meet: train one strategy and score it."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from voxgap import metrics
from voxgap.backend import answers, keras
from voxgap.dataset import Dataset
from voxgap.decision import Decision, asked, chosen, named
from voxgap.fill.base import filling
from voxgap.history import History
from voxgap.models import build_model
from voxgap.models.beginning import Taken
from voxgap.patches import Size, predict_patches
from voxgap.recipe import Recipe
from voxgap.training import Examples, train
from voxgap.training import refit as train_on_all
from voxgap.training.progress import reporting


@dataclasses.dataclass(frozen=True)
class Result:
    """One trained network and what it is worth.

    Attributes:
        recipe: what it was built and trained by, `auto` resolved.
        model: trained, float32, the weights of its best epoch.
        history: of its training.
        scored: metrics by split, `validation` and `test` where the data has one, with their intervals.
        decision: by which its classes are named.
        seconds: for adapting, training and scoring.
        refitted: a network like `model`, trained on all data afterwards, where that was asked for; nothing of `scored`
            is of it.
        taken: what it began with, where that was asked for.
    """

    recipe: Recipe
    model: keras.Model
    history: History
    scored: dict[str, metrics.Scored]
    decision: Decision
    seconds: float
    refitted: keras.Model | None = None
    taken: Taken | None = None

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """Metrics by split."""
        return {split: found.scores for split, found in self.scored.items()}


def train_and_score(
    dataset: Dataset,
    recipe: Recipe | None = None,
    *,
    refit: bool = False,
    seed: int = 0,
    verbose: bool | None = None,
    filler: Any = None,
    begin: Callable[[keras.Model], Taken] | None = None,
    **running: Any,
) -> Result:
    """Build, train and score one network on a data set.

    Args:
        dataset: with its gaps; complete or not.
        recipe: what is trained, and how; its `normalize` may be `auto`, its `threshold` a rule by which one is chosen
            on the validation part.
        refit: train one more network, on all data, for as many epochs as were best.
        seed: of weights, dropout and the order of batches.
        verbose: see `train`.
        filler: a trained `voxgap.fill.Learned`, where the strategy's fill is one that takes over what it has learnt.
        begin: called with the network before it is trained, which is to begin otherwise than at random; see
            `voxgap.start_from`.
        **running: what `train` is told beside the recipe: `progress`, `checkpoint`, `keep_checkpoint`, `callbacks`.

    Raises:
        VoxgapError: the threshold does not suit the data, or as for `build_model` and `train`.
    """
    started = time.perf_counter()
    recipe = recipe or Recipe()
    if recipe.training.patch_size is None:
        recipe = dataclasses.replace(
            recipe, training=dataclasses.replace(recipe.training, patch_size=dataset.patch_size)
        )
    threshold, size = recipe.threshold, recipe.training.patch_size
    decision = asked(threshold, dataset.task, len(dataset.classes))
    if decision is None:
        held_out = dataset.part("validation").targets
        chosen(threshold, np.full(len(held_out), 0.5), held_out)  # refused now, not after the training
    recipe = recipe.resolved(dataset.part("train").volumes, dataset.channels)
    model = _taking(built(dataset, recipe, seed), filler)
    taken = None if begin is None else begin(model)
    training = recipe.training.arguments() | running
    with reporting(verbose, training.pop("progress", None), model.name) as report:
        history = train(model, dataset, seed=seed, **training | {"verbose": False, "progress": report})
    scored = {}
    for split in ("validation", "test"):
        if split in dataset.split:
            part = dataset.part(split)
            predictions = predictions_of(model, part.volumes, size)
            decision = decision or chosen(threshold, predictions[:, 1], part.targets)
            if split == "validation" and dataset.task != "regression":
                history = dataclasses.replace(
                    history, never=never_named(part.targets, predictions, decision.threshold)
                )
            scored[split] = metrics.scored(
                predictions=predictions, threshold=decision.threshold, groups=part.groups, **part.truth()
            )
    if verbose is not False:
        for remark in history.remarks(dataset.classes):
            warnings.warn(remark, stacklevel=2)
    refitted = None
    if refit and history.reason != "interrupted":
        refitted = _taking(built(dataset, recipe, seed), filler)
        if begin is not None:
            begin(refitted)
        rates = [epoch["learning_rate"] for epoch in history.epochs[: history.best_epoch + 1]]
        train_on_all(
            refitted,
            Examples.of(dataset),
            recipe.training,
            rates,
            seed=seed,
            verbose=verbose,
            progress=running.get("progress"),
        )
    seconds = time.perf_counter() - started
    return Result(recipe, model, history, scored, decision or Decision(), seconds, refitted, taken)


def built(dataset: Dataset, recipe: Recipe, seed: int = 0) -> keras.Model:
    """Build the network of a recipe for a data set: for its volumes, or for patches of them."""
    size = recipe.training.patch_size
    return build_model(
        recipe.network,
        input_shape=(*(size or dataset.volumes.shape[1:4]), dataset.volumes.shape[4]),
        outputs=dataset.outputs,
        task=dataset.task,
        strategy=recipe.strategy,
        seed=seed,
        **recipe.architecture.arguments(),
    )


def _taking(model: keras.Model, filler: Any) -> keras.Model:
    """Return the model, whose fill begins with what a filler has learnt, where there is one."""
    if filler is not None:
        model.get_layer("prepare").get_layer("fill").take(filler)
    return model


def never_named(targets: Any, predictions: Any, threshold: float | None) -> tuple[int, ...]:
    """Return the classes that are in the data and that no answer names, by the rule that names them everywhere.

    Args:
        targets: class indices of any shape, -1 where nobody said.
        predictions: probabilities, with the classes last.
        threshold: see `voxgap.decision.named`.
    """
    there = {one for some in targets for one in np.unique(some).tolist()} - {-1}
    for answer in predictions:
        there -= set(np.unique(named(answer, threshold)).tolist())
    return tuple(sorted(there))


def predictions_of(model: keras.Model, volumes: Any, size: Size | None) -> Any:
    """Return what a model answers for whole volumes, of patches of this size where it is one of patches."""
    if size:
        return predict_patches(partial(answers, model), volumes, size)
    return answers(model, volumes)


def fill_volumes(model: keras.Model, volumes: np.ndarray, batch_size: int = 16) -> np.ndarray:
    """Return what a model's fill layer makes of volumes, in raw units, same shape, finite."""
    fill = filling(model)
    batches = range(0, len(volumes), batch_size)
    filled = np.concatenate(
        [keras.ops.convert_to_numpy(fill(volumes[i : i + batch_size], training=False)) for i in batches]
    )
    return np.where(np.isnan(volumes), filled, volumes)
