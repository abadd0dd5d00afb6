"""What an experiment will take, found by trying a few steps of each of its networks; and in which precision."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from voxgap.backend import keras
from voxgap.dataset import SPLITS, Dataset
from voxgap.errors import VoxgapError
from voxgap.experiment.data import VALIDATION_SHARE
from voxgap.experiment.execute import reason
from voxgap.experiment.plan import BASELINES, Experiment, Run
from voxgap.experiment.prepared import network_alone
from voxgap.experiment.single import built
from voxgap.patches import Patches
from voxgap.recipe import Precision
from voxgap.training import Examples, adapt_model, precision
from voxgap.trust.audit import PREDICTIONS

# A forward pass takes about a third of a training step.
FORWARD_SHARE = 1 / 3
STEPS = 3


class Network(NamedTuple):
    """One of a kind, as the runs train that have such a one.

    Attributes:
        runs: of an experiment.
        model: of the first of them, adapted to volumes that are no one's: only its arithmetic matters.
        seconds: that building it took.
    """

    runs: list[Run]
    model: keras.Model
    seconds: float


class Networks:
    """A network of each kind that an experiment trains: built once, when somebody first asks.

    Args:
        experiment: its precision decided or not.
        dataset: its data.
    """

    def __init__(self, experiment: Experiment, dataset: Dataset) -> None:
        self.experiment, self.dataset = experiment, dataset

    @cached_property
    def built(self) -> list[Network]:
        """Those that can be built; the runs of others will fail, which takes no time.

        Raises:
            VoxgapError: none can; why the first can't.
        """
        found, first = [], None
        kinds: dict[tuple[Any, ...], list[Run]] = {}
        for run in self.experiment.runs():
            kinds.setdefault(_kind(run), []).append(run)
        for runs in kinds.values():
            try:
                found.append(_network(runs, self.dataset))
            except Exception as error:  # what a run would be failed for
                first = first or error
        if first is not None and not found:
            raise VoxgapError(reason(first)) from first
        return found


def with_precision(
    experiment: Experiment, networks: Networks, known: Sequence[Experiment] = ()
) -> Experiment:
    """Return the same experiment with its precision decided, once for all runs: pairs that differ in it are no pairs.

    bfloat16 where it is the choice for the network of each strategy on this machine; see `voxgap.train`.

    Args:
        experiment: to be done.
        networks: of it.
        known: experiments that were begun before, the latest last; of one that asks the same, the precision stays.
    """
    if experiment.training.precision != "auto":
        return experiment
    if begun := same_experiment(experiment, known):
        return begun
    batch = experiment.training.batch_size
    policies = (precision.choose(one.model, "auto", batch) for one in networks.built)
    wanted = all(policy == "mixed_bfloat16" for policy in policies)
    return _in(experiment, "bfloat16" if wanted else "float32")


def same_experiment(experiment: Experiment, known: Sequence[Experiment]) -> Experiment | None:
    """Find the experiment that asks the same, whatever precision was chosen for it then; None without one."""
    auto = experiment.training.precision == "auto"
    return next((one for one in reversed(known) if experiment == (_in(one, "auto") if auto else one)), None)


def _in(experiment: Experiment, policy: Precision) -> Experiment:
    training = dataclasses.replace(experiment.training, precision=policy)
    return dataclasses.replace(experiment, training=training)


def estimate(experiment: Experiment, networks: Networks) -> tuple[float, float]:
    """Return the seconds that the runs of an experiment will take on this machine, all of them.

    Args:
        experiment: its precision decided.
        networks: of it.

    Returns:
        `(least, most)`: if each run stops as soon as its patience allows, and if none stops before its last epoch.
    """
    training, dataset = experiment.training, networks.dataset
    batch, epochs, patience = training.batch_size, training.epochs, training.patience
    size = training.patch_size
    count = len(dataset) if size is None else len(Patches(dataset.volumes, size))
    each = training.patches_per_volume
    drawn = count if size is None or each is None else each * len(dataset)
    train_share, validation_share, test_share = _shares(experiment, dataset)
    steps = math.ceil(drawn * train_share / batch)
    least = most = 0.0
    for network in networks.built:
        building, compiling, step = _seconds(network, batch, training.precision)
        passes = 2 if training.consistency else 1  # once as it is, once with further gaps
        epoch = step * (steps * passes + FORWARD_SHARE * count * validation_share / batch)
        least, most = least + compiling, most + compiling
        for run in network.runs:
            times = len(run.test_rates) + (0 if run.strategy in BASELINES else PREDICTIONS)
            test = step * FORWARD_SHARE * count * test_share / batch * times
            least += building + test + epoch * min(epochs, patience + 1)
            most += building + test + epoch * epochs
    return least, most


def _shares(experiment: Experiment, dataset: Dataset) -> tuple[float, ...]:
    """Return the shares of the data in the training, validation and test parts."""
    if experiment.folds == 1:
        return tuple(float((dataset.split == part).mean()) for part in SPLITS)
    test = 1 / experiment.folds
    return (1 - VALIDATION_SHARE) * (1 - test), VALIDATION_SHARE * (1 - test), test


def _kind(run: Run) -> tuple[Any, ...]:
    """Return what decides how long a step takes: strategies that differ in their fill only have the same network."""
    strategy = run.recipe.strategy
    return run.recipe.network, strategy.mask_channel, strategy.conv, strategy.attention


def _network(runs: list[Run], dataset: Dataset) -> Network:
    started = time.perf_counter()
    model = built(dataset, runs[0].recipe)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(4, *model.input_shape[1:])).astype(np.float32)
    with warnings.catch_warnings(action="ignore"):
        adapt_model(model, Examples(noise, rng.normal(size=(4, dataset.outputs)), dataset.task))
    return Network(runs, model, time.perf_counter() - started)


def _seconds(network: Network, batch: int, policy: str) -> tuple[float, float, float]:
    """Return the seconds of making a network that predicts, of compiling it for training, and of one of its steps."""
    started = time.perf_counter()
    model = network_alone(network.model)
    values = np.random.default_rng(0).normal(size=(batch, *model.input_shape[1:])).astype("float32")
    targets = np.zeros((batch, 1), "float32")
    model.predict_on_batch(values)
    predicting = time.perf_counter() - started
    if policy == "bfloat16":
        model = precision.with_policy(model, "mixed_bfloat16")
    model.compile("adam", _sum, jit_compile=False)
    model.train_on_batch(values, targets)
    compiling = time.perf_counter() - started - predicting
    times = []
    for _ in range(STEPS):
        started = time.perf_counter()
        model.train_on_batch(values, targets)
        times.append(time.perf_counter() - started)
    return network.seconds + predicting, compiling, float(np.median(times))


def _sum(targets: Any, predictions: Any) -> Any:
    """Return a loss that fits every task: only the time matters."""
    return keras.ops.sum(predictions)
