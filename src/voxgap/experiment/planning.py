"""`compare`: the question "which strategy works best for these data?" in one call."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from voxgap import decision
from voxgap.dataset import Dataset, load_data
from voxgap.dataset.gaps import own_missing_rate
from voxgap.errors import VoxgapError
from voxgap.experiment.asked import DEFAULT_STRATEGIES, Design, Strategies, Verdict, designed, plain
from voxgap.experiment.data import content_key
from voxgap.experiment.local import Event, run_all
from voxgap.experiment.plan import BASELINES, Experiment
from voxgap.experiment.store import Store, open_store
from voxgap.recipe import COMPARED, Architecture, Gaps, Recipe, Strategy, Training, strategy_of

if TYPE_CHECKING:
    from voxgap.experiment.comparison import Comparison

# Networks of patches are scored in another way.
_NOT_COMPARED = ("patch_size", "patches_per_volume")


def compare(
    dataset: str | os.PathLike[str] | Dataset,
    strategies: Strategies | None = None,
    *,
    models: str | Sequence[str] = ("resnet3d",),
    pattern: str | Sequence[str] | None = None,
    mechanism: str | Sequence[str] = "mcar",
    train_rates: float | Sequence[float] | None = None,
    test_rates: float | Sequence[float] | None = None,
    folds: int = 5,
    repeats: int = 1,
    seeds: int | Sequence[int] = 1,
    split_seed: int = 0,
    metric: str | None = None,
    rope: float | None = None,
    reference: str | None = None,
    threshold: str | float = decision.DEFAULT,
    out: str | os.PathLike[str] = "compare.db",
    retry: bool = False,
    processes: int | None = None,
    memory_limit: int | None = None,
    progress: Callable[[Event], None] | None = None,
    command: str = "",
    architecture: Mapping[str, Any] | None = None,
    gap_options: Mapping[str, Any] | None = None,
    **training: Any,
) -> Comparison:
    """Train and score a network with each strategy, on the same splits with the same gaps, and say what is best.

    Called again with the same arguments, it goes on where it was stopped, or answers from the file.

    Args:
        dataset: see `load_data`. Gaps of its own stay; `train_rates` says what is taken away besides.
        strategies: names of presets and of the baselines `complete` and `drop`; or names of your own for
            `Strategy` values, as a mapping. By default mean, linear, mask_channel and masked_conv, and `complete`
            where only simulated gaps are missing.
        models: names of networks.
        pattern, mechanism: of the simulated gaps, one or several; see `simulate`. By default slices, mcar.
        train_rates: share of the units that is taken from training and validation volumes, in [0, 1]. By default
            half of them; where the data has gaps of its own and no pattern is named, none.
        test_rates: the same for test volumes; each trained network is scored at each. By default each is scored at
            the rate that it was trained at.
        folds: parts of the data, each of which is the test part once. 1 takes the data's own split.
        repeats: how often the data are divided into folds, and gaps drawn, anew.
        seeds: how many seeds of weights each run is done with, or which ones.
        split_seed: of splits and gaps.
        metric, rope, reference: how the verdict is found; see `Comparison.from_outcomes`.
        threshold: how classes are named, see `voxgap.decision.asked`; what is chosen is chosen on the validation part
            of each run.
        out: the file of results. It may hold other experiments; runs that they share are done once.
        retry: do those runs again that failed.
        processes: see `run_all`. By default one for each processor.
        memory_limit: bytes that one run may take.
        progress: called as runs start and end.
        command: what a person types to do this again; kept in the file.
        architecture: further arguments of `build_model`; `normalize` is `auto` by default.
        gap_options: further arguments of `simulate`: axis, block_size, per_channel, strength.
        **training: further arguments of `train`: epochs (by default 40), patience (8), batch_size (32), precision and
            others.

    Returns:
        The `Comparison`.

    Raises:
        VoxgapError: an argument is not possible, or the file can't be written to.
    """
    from voxgap.experiment.comparison import Comparison

    design = designed(
        strategies,
        models=models,
        pattern=pattern,
        mechanism=mechanism,
        train_rates=train_rates,
        test_rates=test_rates,
        folds=folds,
        repeats=repeats,
        seeds=seeds,
        split_seed=split_seed,
        gap_options=gap_options,
    )
    verdict = Verdict(metric, rope, reference)
    verdict.check(design.ranked)
    data = dataset if isinstance(dataset, Dataset) else load_data(dataset)
    verdict.check_metric(data.task, data.classes)
    experiment = planned(data, design, architecture or {}, training, threshold)
    with open_store(out, create=True) as store:
        experiment = begun(experiment, data, store, command, retry=retry)
        run_all(experiment, data, store, processes=processes, progress=progress, memory_limit=memory_limit)
        return Comparison.from_outcomes(experiment, store.outcomes(experiment), **dataclasses.asdict(verdict))


def plan_experiment(
    dataset: Dataset,
    strategies: Strategies | None = None,
    *,
    architecture: Mapping[str, Any] | None = None,
    threshold: str | float = decision.DEFAULT,
    **asked: Any,
) -> Experiment:
    """The experiment that the arguments of `compare` describe, checked; nothing is run yet.

    Args:
        dataset, strategies, architecture, threshold: see `compare`.
        **asked: those of its further arguments that say what is done: pattern, rates, folds, seeds, epochs and others.

    Raises:
        VoxgapError: an argument is not possible.
    """
    of_design = inspect.signature(designed).parameters
    design = designed(strategies, **{name: asked.pop(name) for name in [*asked] if name in of_design})
    return planned(dataset, design, architecture or {}, asked, threshold)


def planned(
    dataset: Dataset,
    design: Design,
    architecture: Mapping[str, Any],
    training: Mapping[str, Any],
    threshold: str | float = decision.DEFAULT,
) -> Experiment:
    """The experiment of a design on these data.

    Raises:
        VoxgapError: the data, or an argument of the network or its training, doesn't allow it.
    """
    own = own_missing_rate(dataset)
    as_it_is = bool(design.patterns is None and design.train_rates is None and own)
    rates = design.train_rates or (0.0 if as_it_is else Gaps.missing_rate,)
    crossed = itertools.product(design.patterns or (Gaps.pattern,), design.mechanisms, rates)
    rule = str(threshold).strip()
    if decision.asked(rule, dataset.task, len(dataset.classes)) == decision.Decision():
        rule = Recipe.threshold
    return Experiment(
        data=dataset.name,
        data_key=content_key(dataset),
        strategies=_strategies(design, dataset.name, own, simulated=any(rates)),
        models=design.models,
        gaps=tuple(
            dataclasses.replace(design.gaps, pattern=pattern, mechanism=mechanism, missing_rate=rate)
            for pattern, mechanism, rate in crossed
        ),
        test_rates=design.test_rates,
        folds=design.folds,
        repeats=design.repeats,
        seeds=design.seeds,
        split_seed=design.split_seed,
        architecture=_architecture(architecture, dataset),
        training=_training(training, dataset),
        threshold=rule,
    )


def begun(
    experiment: Experiment, dataset: Dataset, store: Store, command: str = "", *, retry: bool = False
) -> Experiment:
    """Write an experiment down, and return it as it is to be done: as it was begun before, or in the best precision."""
    from voxgap.experiment.cost import with_precision

    experiment = resumed(experiment, store) or with_precision(experiment, dataset)
    store.add(experiment, command)
    if retry:
        store.retry(experiment)
    return experiment


def resumed(experiment: Experiment, store: Store) -> Experiment | None:
    """The experiment of a file that asks the same, whatever precision was chosen for it then; None if there is none."""
    for known in reversed(store.experiments()):
        training = experiment.training
        if training.precision == "auto":
            training = dataclasses.replace(training, precision=known.training.precision)
        if dataclasses.replace(experiment, training=training) == known:
            return known
    return None


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
                f"strategies: complete is the data before simulated gaps, and {why}: it would be no yardstick. Leave "
                "it out; drop trains on those volumes that are complete"
            )
        warnings.warn(f"complete is left out: {why}, so there is no such yardstick", stacklevel=3)
        del chosen["complete"]
    # What fills the gaps that a baseline meets: those of the data itself, and those of test volumes.
    fills = {called: "mean" if called in BASELINES else strategy for called, strategy in chosen.items()}
    return tuple((called, strategy_of(strategy)) for called, strategy in fills.items())


def _architecture(arguments: Mapping[str, Any], dataset: Dataset) -> Architecture:
    asked = plain(Architecture.of({"normalize": "auto", **arguments}), "architecture", arguments)
    # By all volumes, without a label: each fold sees the same, and none its test classes.
    return Recipe(architecture=asked).resolved(dataset.volumes, dataset.channels).architecture


def _training(arguments: Mapping[str, Any], dataset: Dataset) -> Training:
    from voxgap.training import intended

    allowed = [field.name for field in dataclasses.fields(Training) if field.name not in _NOT_COMPARED]
    unknown = sorted(set(arguments) - set(allowed))
    if unknown:
        raise VoxgapError(f"no argument {unknown[0]!r}: for training, choose from {', '.join(allowed)}")
    training = plain(dataclasses.replace(COMPARED, **arguments), "training", arguments)
    intended(training, dataset.task)  # what every run would be refused for
    return training
