"""From what is asked of a comparison, and its data, to the experiment that is to be done."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from voxgap import decision, intensity
from voxgap.dataset import Dataset
from voxgap.errors import VoxgapError
from voxgap.experiment.asked import DEFAULT_STRATEGIES, Asked, Design, Strategies, designed
from voxgap.experiment.data import content_key, dealt
from voxgap.experiment.plan import BASELINES, Experiment
from voxgap.intensity import Choice
from voxgap.recipe import Gaps, Recipe, Strategy, network_of, strategy_of


def plan_experiment(
    dataset: Dataset,
    strategies: Strategies | None = None,
    *,
    architecture: Mapping[str, Any] | None = None,
    threshold: str | float = decision.DEFAULT,
    **asked: Any,
) -> Experiment:
    """Return the experiment that the arguments of `compare` describe, checked; nothing is run yet.

    Args:
        dataset, strategies, architecture, threshold: see `compare`.
        **asked: those of its further arguments that say what is done: pattern, rates, folds, seeds, epochs and others.

    Raises:
        VoxgapError: an argument is not possible.
    """
    of_design = inspect.signature(designed).parameters
    design = designed(strategies, **{name: asked.pop(name) for name in [*asked] if name in of_design})
    return planned(dataset, Asked.of(design, architecture or {}, asked, threshold))[0]


def planned(dataset: Dataset, asked: Asked) -> tuple[Experiment, Choice]:
    """Return the experiment that is asked for on these data, and why its volumes are normalised as they are.

    Raises:
        VoxgapError: the data doesn't allow what is asked of the strategies, the networks or their training.
    """
    from voxgap.training import intended

    design, training = asked.design, asked.training
    if training.patch_size is None:
        training = dataclasses.replace(training, patch_size=dataset.patch_size)
    # What every run would be refused for.
    _, augment = intended(training, dataset.task)
    if augment is not None:
        shape = (*(training.patch_size or np.shape(dataset.volumes[0])[:3]), dataset.volumes.shape[-1])
        augment(np.zeros((1, *shape), np.float32), (0, 0, 0), spacing=dataset.spacing)
    own = dataset.missing_rate
    as_it_is = bool(design.patterns is None and design.train_rates is None and own)
    rates = design.train_rates or (0.0 if as_it_is else Gaps.missing_rate,)
    crossed = itertools.product(design.patterns or (Gaps.pattern,), design.mechanisms, rates)
    strategies = _strategies(design, dataset.name, own, simulated=any(rates))
    key = content_key(dataset)
    dealt(dataset, design.folds, design.split_seed)  # what every run would be refused for, too
    strategies = tuple((name, strategy.of_channels(dataset.channels)) for name, strategy in strategies)
    # By all volumes, without a label: each fold sees the same, and none its test classes.
    chosen = intensity.resolve(
        asked.architecture.normalize, dataset.volumes, dataset.channels, training.patch_size
    )
    rule = str(asked.threshold).strip()
    if decision.asked(rule, dataset.task, len(dataset.classes)) == decision.Decision():
        rule = Recipe.threshold
    experiment = Experiment(
        data=dataset.name,
        data_key=key,
        strategies=strategies,
        models=design.models or (network_of(dataset.task),),
        gaps=tuple(
            dataclasses.replace(design.gaps, pattern=pattern, mechanism=mechanism, missing_rate=rate)
            for pattern, mechanism, rate in crossed
        ),
        test_rates=design.test_rates,
        folds=design.folds,
        repeats=design.repeats,
        seeds=design.seeds,
        split_seed=design.split_seed,
        racing=design.racing,
        architecture=dataclasses.replace(asked.architecture, normalize=chosen.method),
        training=training,
        threshold=rule,
    )
    return experiment, chosen


def _strategies(
    design: Design, name: str, own: float, *, simulated: bool
) -> tuple[tuple[str, Strategy], ...]:
    """Return `(name, Strategy)` of each strategy; `complete` only where nothing but simulated gaps is missing.

    Args:
        design: what is asked for.
        name: of the data.
        own: share of its values that is missing in the data itself.
        simulated: whether gaps are simulated besides.

    Raises:
        VoxgapError: `complete` is asked for, and the data has gaps of its own.
    """
    usual = (*DEFAULT_STRATEGIES, "complete") if simulated or own else DEFAULT_STRATEGIES
    chosen = dict(design.strategies or zip(usual, usual, strict=True))
    if own and "complete" in chosen:
        share = f"{own:.1%}" if own >= 0.001 else "less than 0.1%"
        why = f"{share} of the values of {name} are missing in the data itself, which nothing can undo"
        if design.strategies:
            raise VoxgapError(
                f"strategies: complete is the data before simulated gaps, and {why}: it would be no baseline. Leave "
                "it out; drop trains on those volumes that are complete"
            )
        warnings.warn(f"complete is left out: {why}, so there is no such baseline", stacklevel=3)
        del chosen["complete"]
    # What fills the gaps that a baseline meets: those of the data itself, and those of test volumes.
    fills = {called: "mean" if called in BASELINES else strategy for called, strategy in chosen.items()}
    return tuple((called, strategy_of(strategy)) for called, strategy in fills.items())
