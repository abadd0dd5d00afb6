"""One volume with the gaps of an experiment, as each of its strategies fills it."""

from __future__ import annotations

import numpy as np

from voxgap.dataset import Dataset
from voxgap.experiment.data import divide, with_gaps
from voxgap.experiment.plan import YARDSTICKS, Experiment
from voxgap.strategies import Strategy
from voxgap.volume import Values

MOST_TRAINED = 256
"""Training volumes that a fill is adapted to: for a picture, more change nothing."""


def fill_examples(experiment: Experiment, dataset: Dataset) -> dict[str, Values]:
    """Fill one test volume of the first fold in each way of the experiment, adapted to its training volumes.

    Args:
        experiment: whose splits, gaps and strategies are used.
        dataset: that it is about.

    Returns:
        `complete` (where gaps are simulated), `with gaps`, and the name of each distinct fill, each
        `(depth, height, width, channels)`; empty where nothing is missing.
    """
    run = next((run for run in experiment.runs() if run.strategy not in YARDSTICKS), None)
    if run is None:
        return {}
    parts = divide(run, dataset)
    test = with_gaps(run, dataset, parts.test, max(run.test_rates)).volumes
    rates = np.isnan(test).mean(axis=(1, 2, 3, 4))
    usable = (rates > 0) & (rates < 1)
    if not usable.any():
        return {}
    spread = np.array([np.nanstd(v) if use else -1.0 for v, use in zip(test, usable, strict=True)])
    index = int(spread.argmax())
    gapped = test[index]
    rows: dict[str, Values] = (
        {} if max(run.test_rates) == 0 else {"complete": dataset.volumes[parts.test[index]]}
    )
    rows["with gaps"] = gapped
    train = with_gaps(run, dataset, parts.train[:MOST_TRAINED], run.train_rate).volumes
    for strategy in _strategies(experiment):
        label = strategy.fill + "".join(f"\n{key} {value}" for key, value in strategy.fill_options.items())
        if label not in rows:
            rows[label] = _filled(strategy, train, gapped)
    return rows


def _strategies(experiment: Experiment) -> list[Strategy]:
    first = {run.strategy: run for run in reversed(experiment.runs())}
    named = [first[name] for name, _ in experiment.strategies if name not in YARDSTICKS]
    return [Strategy(**run.options("settings")) for run in named]


def _filled(strategy: Strategy, train: Values, gapped: Values) -> Values:
    from voxgap.backend import keras

    layer = strategy.fill_layer()
    layer.adapt(train)
    filled: Values = keras.ops.convert_to_numpy(layer(gapped[np.newaxis], training=False))[0]
    return filled
