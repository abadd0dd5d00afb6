"""Does augmentation help on data with gaps? The same network, data and gaps, trained with and without it.

For each seed a small training set is drawn, gaps are simulated (or are there by nature), and a network is trained
twice from the same weights, in the same order, for the same number of epochs; each time the weights that were best
on validation data are scored on the same test volumes. Nothing but training volumes is augmented.

    python scripts/augmentation_experiment.py brain --seeds 3
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from typing import NamedTuple

import numpy as np

import voxgap as vg
from voxgap import augment as va
from voxgap.dataset import Dataset
from voxgap.experiment import train_and_score
from voxgap.recipe import Architecture, Recipe, Training, strategy_of


class Case(NamedTuple):
    """What is done to one embedded data set.

    Attributes:
        augment: leaves the label right, and the pattern of the gaps what it is.
        odd: leave out the first voxel along each axis.
        pattern: of simulated gaps; None where channels are missing by nature.
    """

    augment: va.Compose
    odd: bool
    pattern: str | None


ALL_AXES = ("depth", "height", "width")
CASES = {
    # A patch's label is the tissue of voxel 8 of 16: of 15 it is the centre, which flips and turns keep in place.
    # Turns are about the depth axis, along which slices are missing: what was a slice stays one.
    "brain": Case(va.Compose((va.Flip(ALL_AXES), va.Rotate(180, axes=("depth",)))), True, "slices"),
}
MISSING_RATE = 0.5
VOLUMES = {"train": 150, "validation": 150, "test": 900}
NETWORK = {"filters": (8, 16, 32)}
TRAINING = {"epochs": 40, "patience": 40, "batch_size": 16, "learning_rate": 3e-3, "precision": "float32"}


def drawn(dataset: Dataset, case: Case, seed: int) -> Dataset:
    """A small data set with gaps: as many volumes of each class, where there are enough."""
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    for split, count in VOLUMES.items():
        for target in range(len(dataset.classes)):
            own = np.flatnonzero((dataset.split == split) & (dataset.targets == target))
            chosen += rng.permutation(own)[: count // len(dataset.classes)].tolist()
    small = dataset.take(np.array(chosen))
    volumes = small.volumes[:, 1:, 1:, 1:] if case.odd else small.volumes
    if case.pattern is not None:
        volumes = vg.simulate(volumes, pattern=case.pattern, missing_rate=MISSING_RATE, seed=seed)
    return dataclasses.replace(small, volumes=volumes)


def accuracy(data: Dataset, strategy: str, augment: va.Compose | None, seed: int) -> float:
    """Train, and score on the test part."""
    training = TRAINING | {"augment": augment}
    recipe = Recipe("resnet3d", strategy_of(strategy), Architecture(**NETWORK), Training(**training))
    result = train_and_score(data, recipe, seed=seed)
    return result.scores["test"]["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sample", choices=CASES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--strategy", default="mask_channel")
    arguments = parser.parse_args()
    case = CASES[arguments.sample]
    dataset = vg.load_data(f"sample:{arguments.sample}")
    without: list[float] = []
    augmented: list[float] = []
    print("| seed | without | with augmentation | difference | seconds |\n| --- | --- | --- | --- | --- |")
    for seed in range(arguments.seeds):
        started = time.perf_counter()
        data = drawn(dataset, case, seed)
        without.append(accuracy(data, arguments.strategy, None, seed))
        augmented.append(accuracy(data, arguments.strategy, case.augment, seed))
        cells = f"{without[-1]:.3f} | {augmented[-1]:.3f} | {augmented[-1] - without[-1]:+.3f}"
        print(f"| {seed} | {cells} | {time.perf_counter() - started:.0f} |", flush=True)
    if arguments.seeds > 1:
        difference = [b - a for a, b in zip(without, augmented, strict=True)]
        cells = " | ".join(
            f"{statistics.mean(v):.3f} ± {statistics.stdev(v):.3f}" for v in (without, augmented, difference)
        )
        print(f"| mean ± standard deviation | {cells} | |")


if __name__ == "__main__":
    main()
