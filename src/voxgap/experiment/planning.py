"""From what is asked of a comparison, and its data, to the experiment that is to be done."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import warnings
from collections.abc import Mapping
from typing import Any

from voxgap import decision, intensity
from voxgap.dataset import Dataset
from voxgap.errors import VoxgapError
from voxgap.experiment.asked import DEFAULT_STRATEGIES, Asked, Design, Strategies, designed, plain
from voxgap.experiment.data import content_key
from voxgap.experiment.plan import BASELINES, Experiment
from voxgap.intensity import Choice
from voxgap.ragged import inside
from voxgap.recipe import COMPARED, Architecture, Gaps, Recipe, Strategy, Training, network_of, strategy_of


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
    return planned(dataset, Asked(design, architecture or {}, asked, threshold))[0]


def planned(dataset: Dataset, asked: Asked) -> tuple[Experiment, Choice]:
    """Return the experiment that is asked for on these data, and why its volumes are normalised as they are.

    Raises:
        VoxgapError: the data, or an argument of the network or its training, doesn't allow it.
    """
    design = asked.design
    own = dataset.missing_rate
    as_it_is = bool(design.patterns is None and design.train_rates is None and own)
    rates = design.train_rates or (0.0 if as_it_is else Gaps.missing_rate,)
    crossed = itertools.product(design.patterns or (Gaps.pattern,), design.mechanisms, rates)
    rule = str(asked.threshold).strip()
    if decision.asked(rule, dataset.task, len(dataset.classes)) == decision.Decision():
        rule = Recipe.threshold
    training = _training(asked.training, dataset)
    architecture, chosen = _architecture(asked.architecture, dataset, training)
    experiment = Experiment(
        data=dataset.name,
        data_key=content_key(dataset),
        strategies=tuple(
            (name, strategy.of_channels(dataset.channels))
            for name, strategy in _strategies(design, dataset.name, own, simulated=any(rates))
        ),
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
        architecture=architecture,
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


def _architecture(
    arguments: Mapping[str, Any], dataset: Dataset, training: Training
) -> tuple[Architecture, Choice]:
    asked = plain(Architecture.of({"normalize": "auto", **arguments}), "architecture", arguments)
    # By all volumes, without a label: each fold sees the same, and none its test classes.
    parts = training.patch_size is not None and not inside(dataset.volumes, training.patch_size)
    chosen = intensity.resolve(asked.normalize, dataset.volumes, dataset.channels, parts)
    return dataclasses.replace(asked, normalize=chosen.method), chosen


def _training(arguments: Mapping[str, Any], dataset: Dataset) -> Training:
    from voxgap.training import intended

    allowed = [field.name for field in dataclasses.fields(Training)]
    unknown = sorted(set(arguments) - set(allowed))
    if unknown:
        raise VoxgapError(f"no argument {unknown[0]!r}: for training, choose from {', '.join(allowed)}")
    own = {"patch_size": dataset.patch_size} if dataset.patch_size else {}
    training = plain(dataclasses.replace(COMPARED, **own | dict(arguments)), "training", arguments)
    intended(training, dataset.task)  # what every run would be refused for
    return training
