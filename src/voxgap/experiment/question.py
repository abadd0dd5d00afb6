"""`compare`: the question "which strategy works best for these data?" in one call."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from voxgap import intensity
from voxgap import strategies as presets
from voxgap.dataset import Dataset, load_data
from voxgap.errors import VoxgapError
from voxgap.experiment.cost import settled
from voxgap.experiment.data import content_key
from voxgap.experiment.local import Event, run_all
from voxgap.experiment.plan import YARDSTICKS, Experiment, canonical
from voxgap.experiment.store import Store, open_store
from voxgap.missingness.simulation import MECHANISMS, PATTERNS
from voxgap.models import NETWORKS, Architecture
from voxgap.training import intended, train

if TYPE_CHECKING:
    from voxgap.experiment.comparison import Comparison

Strategies = Sequence[str] | Mapping[str, str | presets.Strategy]

# What `train` is given by the run itself, what it keeps on disk or on the screen, and networks of patches, which are
# scored in another way.
_NOT_TRAINING = ("model", "dataset", "seed", "checkpoint", "progress", "patch_size", "patches_per_volume")


def compare(
    dataset: str | os.PathLike[str] | Dataset,
    strategies: Strategies = ("mean", "linear", "knn", "mask_channel", "complete", "drop"),
    *,
    models: str | Sequence[str] = ("resnet3d",),
    pattern: str | Sequence[str] = "slices",
    mechanism: str | Sequence[str] = "mcar",
    train_rates: float | Sequence[float] = (0.5,),
    test_rates: float | Sequence[float] | None = None,
    folds: int = 5,
    repeats: int = 1,
    seeds: int | Sequence[int] = 1,
    split_seed: int = 0,
    metric: str | None = None,
    rope: float | None = None,
    reference: str | None = None,
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
        strategies: names of presets and of the yardsticks `complete` and `drop`; or names of your own for
            `Strategy` values, as a mapping.
        models: names of networks.
        pattern, mechanism: of the simulated gaps, one or several; see `simulate`.
        train_rates: share of the units that is taken from training and validation volumes, in [0, 1].
        test_rates: the same for test volumes; each trained network is scored at each. By default each is scored at
            the rate that it was trained at.
        folds: parts of the data, each of which is the test part once. 1 takes the data's own split.
        repeats: how often the data are divided into folds, and gaps drawn, anew.
        seeds: how many seeds of weights each run is done with, or which ones.
        split_seed: of splits and gaps.
        metric, rope, reference: how the verdict is found; see `Comparison.from_outcomes`.
        out: the file of results. It may hold other experiments; runs that they share are done once.
        retry: do those runs again that failed.
        processes: see `run_all`. By default one for each processor.
        memory_limit: bytes that one run may take.
        progress: called as runs start and end.
        command: what a person types to do this again; kept in the file.
        architecture: further arguments of `build_model`; `normalize` may be `auto`.
        gap_options: further arguments of `simulate`: axis, block_size, per_channel, strength.
        **training: further arguments of `train`: epochs, patience, batch_size, precision and others.

    Returns:
        The `Comparison`.

    Raises:
        VoxgapError: an argument is not possible, or the file can't be written to.
    """
    from voxgap.experiment.comparison import Comparison

    data = dataset if isinstance(dataset, Dataset) else load_data(dataset)
    experiment = plan_experiment(
        data,
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
        architecture=architecture,
        gap_options=gap_options,
        **training,
    )
    with open_store(out, create=True) as store:
        experiment = begun(experiment, data, store, command, retry=retry)
        run_all(experiment, data, store, processes=processes, progress=progress, memory_limit=memory_limit)
        return Comparison.from_outcomes(
            experiment, store.outcomes(experiment), metric=metric, rope=rope, reference=reference
        )


def plan_experiment(
    dataset: Dataset,
    strategies: Strategies,
    *,
    models: str | Sequence[str] = ("resnet3d",),
    pattern: str | Sequence[str] = "slices",
    mechanism: str | Sequence[str] = "mcar",
    train_rates: float | Sequence[float] = (0.5,),
    test_rates: float | Sequence[float] | None = None,
    folds: int = 5,
    repeats: int = 1,
    seeds: int | Sequence[int] = 1,
    split_seed: int = 0,
    architecture: Mapping[str, Any] | None = None,
    gap_options: Mapping[str, Any] | None = None,
    **training: Any,
) -> Experiment:
    """The experiment that the arguments of `compare` describe, checked; nothing is run yet.

    Raises:
        VoxgapError: an argument is not possible.
    """
    _check_count("folds", folds)
    _check_count("repeats", repeats)
    if folds == 1 and repeats > 1:
        raise VoxgapError(f"repeats {repeats}: the data's own split (folds=1) is always the same; give folds")
    named = _known("models", models, NETWORKS)
    return Experiment(
        data=dataset.name,
        data_key=content_key(dataset),
        strategies=_strategies(strategies),
        models=named,
        patterns=_known("pattern", pattern, PATTERNS),
        mechanisms=_known("mechanism", mechanism, MECHANISMS),
        gap_options=_gap_options(gap_options or {}),
        train_rates=_rates("train_rates", train_rates),
        test_rates=() if test_rates is None else _rates("test_rates", test_rates),
        folds=folds,
        repeats=repeats,
        seeds=_seeds(seeds),
        split_seed=split_seed,
        architecture=_architecture(architecture or {}, dataset),
        training=_training(training, dataset.task),
    )


def begun(
    experiment: Experiment, dataset: Dataset, store: Store, command: str = "", *, retry: bool = False
) -> Experiment:
    """Write an experiment down, and return it as it is to be done: as it was begun before, or in the best precision."""
    experiment = resumed(experiment, store) or settled(experiment, dataset)
    store.add(experiment, command)
    if retry:
        store.retry(experiment)
    return experiment


def resumed(experiment: Experiment, store: Store) -> Experiment | None:
    """The experiment of a file that asks the same, whatever precision was chosen for it then; None if there is none."""
    asked = json.loads(experiment.training)
    for known in reversed(store.experiments()):
        training = json.loads(known.training)
        if asked.get("precision", "auto") == "auto":
            training = {**training, "precision": "auto"}
            asked["precision"] = "auto"
        same = dataclasses.replace(known, training=experiment.training) == experiment
        if same and training == asked:
            return known
    return None


def _strategies(strategies: Strategies) -> tuple[tuple[str, str], ...]:
    if isinstance(strategies, str):
        raise VoxgapError(f"strategies: give a list of names, such as ['mean', {strategies!r}]")
    pairs = (
        strategies.items() if isinstance(strategies, Mapping) else zip(strategies, strategies, strict=True)
    )
    found: dict[str, str] = {}
    for name, strategy in pairs:
        if name in found:
            raise VoxgapError(f"strategies: {name!r} is there twice; give each name once")
        if name in YARDSTICKS:
            strategy = "mean"  # what fills the gaps that are left: native ones, and those of test volumes
        elif isinstance(strategy, str) and strategy not in presets.PRESETS:
            choice = ", ".join([*presets.PRESETS, *YARDSTICKS])
            raise VoxgapError(f"no strategy {strategy!r}: choose from {choice}")
        found[name] = canonical(presets.get(strategy).to_json())
    if not found:
        raise VoxgapError("strategies: give at least one, such as mean")
    return tuple(found.items())


def _known(name: str, values: str | Sequence[str], choice: Any) -> tuple[str, ...]:
    several = (values,) if isinstance(values, str) else tuple(values)
    unknown = [value for value in several if value not in choice]
    if unknown or not several:
        said = f"{unknown[0]!r} is unknown" if unknown else "is empty"
        raise VoxgapError(f"{name} {said}: choose from {', '.join(choice)}")
    return tuple(dict.fromkeys(several))


def _rates(name: str, values: float | Sequence[float]) -> tuple[float, ...]:
    several = (values,) if isinstance(values, int | float) else tuple(values)
    for value in several:
        if not 0 <= value <= 1:
            raise VoxgapError(f"{name} {value} is out of range; give numbers from 0 to 1")
    if not several:
        raise VoxgapError(f"{name} is empty; give at least one number from 0 to 1")
    return tuple(dict.fromkeys(map(float, several)))


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(seeds, int):
        _check_count("seeds", seeds)
        return tuple(range(seeds))
    if not seeds:
        raise VoxgapError("seeds is empty; give how many, or a list")
    return tuple(dict.fromkeys(int(seed) for seed in seeds))


def _check_count(name: str, value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise VoxgapError(f"{name} must be a whole number of at least 1, got {value!r}")


def _gap_options(options: Mapping[str, Any]) -> str:
    allowed = ("axis", "block_size", "per_channel", "strength")
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise VoxgapError(f"gap_options {unknown[0]!r} is unknown: choose from {', '.join(allowed)}")
    return _text("gap_options", options)


def _architecture(arguments: Mapping[str, Any], dataset: Dataset) -> str:
    arguments = dict(arguments)
    asked = arguments.pop("normalize", "dataset")
    # By all volumes, without a label: each fold sees the same, and none its test classes.
    normalize = intensity.resolve(asked, dataset.volumes, dataset.channels).method
    try:
        Architecture(**arguments)
    except TypeError as error:
        raise VoxgapError(f"architecture: {error}".replace("Architecture.__init__() got", "got")) from None
    # Left out where it is the usual one: an experiment of an earlier version goes on.
    return _text("architecture", arguments | ({} if normalize == "dataset" else {"normalize": normalize}))


def _training(arguments: Mapping[str, Any], task: str) -> str:
    allowed = [name for name in inspect.signature(train).parameters if name not in _NOT_TRAINING]
    unknown = sorted(set(arguments) - set(allowed))
    if unknown:
        raise VoxgapError(f"no argument {unknown[0]!r}: for training, choose from {', '.join(allowed)}")
    # What every run would be refused for.
    intended(
        task,
        **{name: arguments[name] for name in inspect.signature(intended).parameters if name in arguments},
    )
    return _text("training", {"precision": "auto", **arguments})


def _text(name: str, values: Mapping[str, Any]) -> str:
    try:
        return canonical(dict(values))
    except (TypeError, ValueError):
        raise VoxgapError(
            f"{name}: only names, numbers and lists can be kept with the results, not {dict(values)!r}"
        ) from None
