"""`execute`: one run, from its frozen value to its outcome; all that a process or a cluster needs to know."""

from __future__ import annotations

import functools
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import voxgap
from voxgap import decision, metrics
from voxgap.backend import keras
from voxgap.dataset import Dataset
from voxgap.errors import VoxgapError
from voxgap.experiment.cache import cached
from voxgap.experiment.cases import case_rows
from voxgap.experiment.data import NotPossibleError, Parts, divide, gaps_key, weights_seed, with_gaps
from voxgap.experiment.plan import BASELINES, Outcome, Row, Run, Scores, key_of
from voxgap.experiment.prepared import (
    Packed,
    adapt_prepare,
    fill_error,
    network_alone,
    prepared,
)
from voxgap.experiment.single import built, predictions_of
from voxgap.history import History
from voxgap.patches import Patches, Size
from voxgap.training import Compiled, Examples, Progress, fit
from voxgap.trust.audit import audited_cases
from voxgap.volume import Values

__all__ = ["Outcome", "execute"]


def execute(
    run: Run,
    dataset: Dataset,
    *,
    cache: Path | None = None,
    compiled: Compiled | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Train and score one network.

    Args:
        run: what to do.
        dataset: all of the data that `run.data_key` stands for, with the gaps of their own, which stay.
        cache: a folder in which gaps and filled volumes are kept for other runs of the experiment. Without one the
            whole model is trained, filling included; the result is the same.
        compiled: networks that other runs in this process have compiled, used where volumes are filled beforehand.
        progress: called after each step and epoch.

    Returns:
        What came of it. An error becomes an outcome too, `failed` with its reason.

    Raises:
        KeyboardInterrupt: Ctrl-C; an interrupted training is no result.
    """
    try:
        return _done(run, dataset, cache, compiled, progress)
    except NotPossibleError as finding:
        return Outcome(run.key, "not possible", str(finding), versions=versions())
    except Exception as error:
        return Outcome(run.key, "failed", reason(error), versions=versions())


def reason(error: BaseException) -> str:
    """Return why a run failed, in one line."""
    first = (str(error).strip().splitlines() or [""])[0][:300]
    if isinstance(error, VoxgapError):
        return first
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return f"out of memory: {first or 'an array could not be allocated'}"
    return f"{type(error).__name__}: {first}"


def versions() -> dict[str, str]:
    """Return what made a result."""
    backend = keras.backend.backend()
    return {
        "python": platform.python_version(),
        "voxgap": voxgap.__version__,
        "keras": keras.__version__,
        backend: __import__(backend).__version__,
        "numpy": np.__version__,
    }


def _done(
    run: Run,
    dataset: Dataset,
    cache: Path | None,
    compiled: Compiled | None,
    progress: Callable[[Progress], None] | None,
) -> Outcome:
    parts = divide(run, dataset, cache)
    recipe = run.recipe
    size = recipe.training.patch_size
    model = built(dataset, recipe, weights_seed(run))
    # Where something random precedes the fill, each epoch fills anew: patches are drawn.
    drawn = recipe.strategy.gap_dropout or recipe.training.consistency
    steady = not drawn and recipe.training.augment is None and size is None
    running: dict[str, Any] = {"seed": weights_seed(run), "verbose": False, "progress": progress}
    if cache is not None and steady:
        history, seconds = _train_network(run, dataset, parts, model, cache, compiled=compiled, **running)
    else:
        history, seconds = _train_whole(run, dataset, parts, model, cache, **running)
    if history.reason == "interrupted":
        raise KeyboardInterrupt
    threshold = _threshold(recipe.threshold, run, dataset, parts, model, cache)
    scores: dict[float, Scores] = {}
    reconstruction: dict[float, Scores | None] = {}
    cases: dict[float, tuple[Row, ...]] = {}
    audit: dict[float, tuple[Row, ...]] = {}
    inference = []
    for rate in run.test_rates:
        test = with_gaps(run, dataset, parts.test, rate, cache)
        predictions, seconds_each = _predict(model, test.volumes, size)
        scores[rate] = metrics.scores(predictions=predictions, threshold=threshold, **test.truth())
        cases[rate] = case_rows(dataset.take(parts.test), test.volumes, predictions, threshold)
        if rate == _audited_rate(run):
            audit[rate] = audited_cases(
                test,
                functools.partial(predictions_of, model, size=size),
                predictions,
                threshold=threshold,
                seed=run.split_seed,
            )
        inference.append(seconds_each)
        reconstruction[rate] = _reconstruction(run, dataset, parts, model, rate, test.volumes, cache)
    return Outcome(
        run.key,
        "done",
        history.reason,
        scores,
        reconstruction,
        seconds_train=seconds,
        seconds_inference=float(np.median(inference)),
        epochs=len(history.epochs),
        best_epoch=history.best_epoch + 1,
        history=history.epochs,
        n_train=len(parts.train),
        n_validation=len(parts.validation),
        n_test=len(parts.test),
        precision=history.policy,
        versions=versions(),
        threshold=threshold,
        predictions=cases,
        audit=audit,
    )


def _threshold(
    rule: str, run: Run, dataset: Dataset, parts: Parts, model: keras.Model, cache: Path | None
) -> float | None:
    """Return the threshold that a rule asks for: one to be chosen is chosen on the validation part, with its gaps."""
    found = decision.asked(rule, dataset.task, len(dataset.classes))
    if found is None:
        part = with_gaps(run, dataset, parts.validation, run.train_rate, cache)
        said = predictions_of(model, part.volumes, run.recipe.training.patch_size)
        found = decision.chosen(rule, said[:, 1], part.targets)
    return found.threshold


def _train_whole(
    run: Run, dataset: Dataset, parts: Parts, model: keras.Model, cache: Path | None, **running: Any
) -> tuple[History, float]:
    """Train a model as a user would, filling in each step; return the history and the seconds it took."""
    training, validation = (
        Examples.of(with_gaps(run, dataset, indices, run.train_rate, cache))
        for indices in (parts.train, parts.validation)
    )
    started = time.perf_counter()
    history = fit(model, training, validation, run.recipe.training, **running)
    return history, time.perf_counter() - started


def _train_network(
    run: Run, dataset: Dataset, parts: Parts, model: keras.Model, cache: Path | None, **running: Any
) -> tuple[History, float]:
    """Train the network of a model on volumes that are filled once; return the history and the seconds it took."""
    filled = _filled(run, dataset, parts, model, cache)
    started = time.perf_counter()
    history = fit(network_alone(model), *filled, run.recipe.training, **running)
    return history, time.perf_counter() - started


def _filled(
    run: Run, dataset: Dataset, parts: Parts, model: keras.Model, cache: Path | None
) -> tuple[Examples, Examples]:
    """Adapt a model, and return what its network is to be trained on: mapped from the cache, where it was made."""

    @functools.cache
    def gapped(name: str) -> Values:
        return with_gaps(run, dataset, getattr(parts, name), run.train_rate, cache).volumes

    key = _fill_key(run)
    adapt_prepare(model, lambda: gapped("train"), cache, key)

    def half(name: str) -> Examples:
        volumes: Any = cached(cache, f"{name}-{key}", lambda: prepared(model, gapped(name), name == "train"))
        if len(model.get_layer("network").inputs) > 1:
            observed = cached(cache, f"{name}-observed-{_part_key(run)}", lambda: ~np.isnan(gapped(name)))
            volumes = Packed(volumes, observed)
        indices = getattr(parts, name)
        return Examples(volumes, dataset.targets[indices], dataset.task, dataset.spacing)

    return half("train"), half("validation")


def _part_key(run: Run) -> str:
    """Return what the training part with its gaps is known by."""
    division = [run.folds, run.repeat, run.fold, run.strategy == "drop"]
    return key_of([gaps_key(run, run.train_rate), division])


def _fill_key(run: Run) -> str:
    """Return what the filled training part is known by: runs with other networks on it share the fill."""
    strategy = run.recipe.strategy
    return key_of(
        [_part_key(run), strategy.fill, dict(strategy.fill_options), run.recipe.architecture.normalize]
        + ([] if run.recipe.training.patch_size is None else [run.recipe.training.patch_size])
    )


def _predict(model: keras.Model, volumes: Values, size: Size | None) -> tuple[Values, float]:
    """Return the predictions of the whole model, and the seconds that one volume takes."""
    predictions_of(model, volumes[:1], size)  # compiles
    started = time.perf_counter()
    predictions = predictions_of(model, volumes, size)
    return predictions, (time.perf_counter() - started) / len(volumes)


def _audited_rate(run: Run) -> float | None:
    """Return at which test rate gaps are most like those that a network learnt with; None of baselines."""
    if run.strategy in BASELINES:
        return None
    return min(run.test_rates, key=lambda rate: abs(rate - run.train_rate))


def _reconstruction(
    run: Run,
    dataset: Dataset,
    parts: Parts,
    model: keras.Model,
    rate: float,
    gapped: Values,
    cache: Path | None,
) -> Scores | None:
    """Return the fill's error on the simulated gaps of the test part; None for baselines and where there are none."""
    if rate == 0 or run.strategy in BASELINES:
        return None
    name = f"error-{_fill_key(run)}-{key_of(rate)}"

    def error() -> NDArray[np.float64]:
        truth, size = dataset.take(parts.test).volumes, run.recipe.training.patch_size
        both = (truth, gapped) if size is None else (Patches(truth, size), Patches(gapped, size))
        return fill_error(model, *both)

    mae, rmse = cached(cache, name, error)
    return None if np.isnan(mae) else {"mae": float(mae), "rmse": float(rmse)}
