"""Volumes with the gaps of an experiment, before and after each of its strategies has filled them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.dataset import Dataset
from voxgap.dataset.names import case_names
from voxgap.experiment.data import divide, with_gaps
from voxgap.experiment.plan import BASELINES, Experiment
from voxgap.patches import Size, read_patch
from voxgap.ragged import shapes_of
from voxgap.recipe import Strategy, fill_name
from voxgap.volume import Values, upright

MOST_TRAINED = 256
"""Training volumes that a fill is adapted to: for a picture, more change nothing."""


class Example(NamedTuple):
    """One channel of a volume with gaps, as it is and as it is filled.

    Attributes:
        channel: its name; empty where there is one.
        versions: what is shown -> `(depth, height, width)`, as `upright` turns it: `complete` (where gaps are
            simulated, and NaN where the data itself has some), `with gaps`, and `filled: ` with the name of
            each distinct fill.
        case: what the volume is called.
    """

    channel: str
    versions: dict[str, Values]
    case: str = ""


def fill_examples(experiment: Experiment, dataset: Dataset) -> tuple[Example, ...]:
    """Fill test volumes of the first fold in each way of the experiment, adapted to its training volumes.

    Args:
        experiment: whose splits, gaps and strategies are used.
        dataset: that it is about.

    Returns:
        One for each channel that has gaps in some test volume, of as few volumes as show all of them.
    """
    run = next((run for run in experiment.runs() if run.strategy not in BASELINES), None)
    if run is None:
        return ()
    parts = divide(run, dataset)
    rate = max(run.test_rates)
    size = run.recipe.training.patch_size
    gapped = _middles(with_gaps(run, dataset, parts.test, rate).volumes, size)
    chosen = _volumes(gapped)
    if not chosen:
        return ()
    train = _middles(with_gaps(run, dataset, parts.train[:MOST_TRAINED], run.train_rate).volumes, size)
    shown = sorted(set(chosen.values()))
    whole = _middles(dataset.volumes[parts.test[shown]], size)
    versions = {} if rate == 0 else {"complete": whole}
    versions["with gaps"] = gapped[shown]
    normalize = run.recipe.architecture.normalize
    for label, strategy in _fills(experiment).items():
        versions[f"filled: {label}"] = _filled(strategy, normalize, train, gapped[shown])
    names = dataset.channels if len(dataset.channels) > 1 else ("",)
    turned = {label: [upright(volume, dataset.rises) for volume in held] for label, held in versions.items()}
    cases = case_names(dataset.take(parts.test[shown]))
    examples = []
    for channel, index in sorted(chosen.items()):
        at = shown.index(index)
        seen = {label: held[at][..., channel] for label, held in turned.items()}
        examples.append(Example(names[channel], seen, cases[at]))
    return tuple(examples)


def _middles(volumes: Any, size: Size | None) -> Values:
    """Return volumes, or of a network of patches the patch in the middle of each."""
    if size is None:
        return np.asarray(volumes)
    shapes = [shape[:3] for shape in shapes_of(volumes)]
    corners = [[(length - edge) // 2 for length, edge in zip(s, size, strict=True)] for s in shapes]
    return np.stack([read_patch(volumes, i, (a, b, c), size) for i, (a, b, c) in enumerate(corners)])


def _volumes(gapped: Values) -> dict[int, int]:
    """Return channel -> volume: for each channel that has gaps somewhere, one that has some there.

    Volumes that show most of the channels come first, and of those the one with the most to see.
    """
    rates = np.isnan(gapped).mean(axis=(1, 2, 3))
    spread: NDArray[np.float64] = np.array(
        [0.0 if np.isnan(volume).all() else np.nanstd(volume) for volume in gapped]
    )
    # A channel with a hole says more than one that is not there at all; of a volume of nothing nothing can be said.
    useful = np.where(rates < 1, 1.0, 0.5) * (rates > 0) * (rates.mean(axis=1) < 1)[:, np.newaxis]
    chosen: dict[int, int] = {}
    open_ = set(np.flatnonzero(useful.any(axis=0)).tolist())
    while open_:
        worth = useful[:, sorted(open_)].sum(axis=1)
        best = int(np.lexsort((spread, worth))[-1])
        found = {channel for channel in open_ if useful[best, channel]}
        chosen |= dict.fromkeys(found, best)
        open_ -= found
    return chosen


def _fills(experiment: Experiment) -> dict[str, Strategy]:
    """Return label -> a strategy that is nothing but a fill, one for each that is compared."""
    found: dict[str, Strategy] = {}
    for run in experiment.runs():
        if run.strategy not in BASELINES:
            fill, options = run.recipe.strategy.fill, run.recipe.strategy.fill_options
            label = "\n".join([fill_name(fill), *(f"{name} {value}" for name, value in options.items())])
            found.setdefault(label, Strategy(fill=fill, fill_options=options))
    return found


def _filled(strategy: Strategy, normalize: str, train: Values, gapped: Values) -> Values:
    """Fill as a network with this strategy does, in the units of the data."""
    from voxgap.experiment.single import fill_volumes
    from voxgap.models import build_model
    from voxgap.training import adapt_layers

    model = build_model(
        "cnn3d", gapped.shape[1:], 2, strategy=strategy, normalize=normalize, filters=(1,), kernel_size=1
    )
    adapt_layers(model.get_layer("prepare").layers, train)
    return fill_volumes(model, gapped)
