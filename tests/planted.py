"""Experiments whose truth is known: outcomes drawn around effects that a test plants."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from voxgap.experiment.plan import Experiment, Outcome, Run
from voxgap.recipe import Gaps, Strategy


def experiment(strategies: Sequence[str], **fields: Any) -> Experiment:
    rates = fields.pop("train_rates", (0.5,))
    fields["gaps"] = tuple(Gaps(missing_rate=rate) for rate in rates)
    return Experiment("planted", "0" * 16, tuple((name, Strategy()) for name in strategies), **fields)


def changed(run: Run, **changes: Any) -> Run:
    """A run with other gaps (`pattern`, `mechanism`, `train_rate`), another network or recipe, or other fields."""
    rename = {"train_rate": "missing_rate"}
    inner = {"pattern", "mechanism", "train_rate", "per_channel"} & set(changes)
    gaps = {rename.get(name, name): changes.pop(name) for name in inner}
    recipe = {
        name: changes.pop(name) for name in {"training", "architecture", "threshold", "model"} & set(changes)
    }
    if "model" in recipe:
        recipe["network"] = recipe.pop("model")
    if gaps and run.gaps is not None:
        changes["gaps"] = dataclasses.replace(run.gaps, **gaps)
    return dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, **recipe), **changes)


def outcome(run: Run, mean: float, rng: np.random.Generator, noise: float, metric: str) -> Outcome:
    """A run that is done: worse the more is missing in the test, with noise of its own."""
    scores = {
        rate: {metric: float(mean - 0.1 * rate + noise * rng.normal()), "other": 0.5}
        for rate in run.test_rates
    }
    errors = {"mae": 1 - mean, "rmse": float(1 - mean + noise * rng.normal())}
    history = tuple({"loss": 1 / i, "val_loss": 1.2 / i, "seconds": 1.0} for i in range(1, 5))
    return Outcome(
        run.key,
        "done",
        "epochs",
        scores,
        dict.fromkeys(run.test_rates, None if run.strategy in ("complete", "drop") else errors),
        seconds_train=10 * mean,
        seconds_inference=0.004,
        epochs=4,
        best_epoch=3,
        history=history,
        n_train=64,
        n_validation=16,
        n_test=20,
        precision="float32",
        versions={"voxgap": "0.1.0"},
    )


def outcomes(
    plan: Experiment,
    means: Mapping[str, float],
    *,
    noise: float = 0.01,
    between_folds: float = 0.03,
    metric: str = "accuracy",
    seed: int = 0,
) -> list[tuple[Run, Outcome]]:
    """Every run done; folds are harder or easier for all strategies alike."""
    rng = np.random.default_rng(seed)
    fold = between_folds * rng.normal(size=(plan.repeats, plan.folds))
    return [
        (run, outcome(run, means[run.strategy] + fold[run.repeat, run.fold], rng, noise, metric))
        for run in plan.runs()
    ]
