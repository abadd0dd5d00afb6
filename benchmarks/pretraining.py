"""Few labels, with and without an encoder that learnt from volumes with gaps alone: accuracy on people never seen.

`python benchmarks/pretraining.py results.jsonl [--seeds 3] [--labels 20,50,100] [--folder fillers]`: sample:brain, of
which half of the slices of each volume are taken away. A filler learns from all volumes of the training part, without
labels; a resnet3d learns from as many labelled ones of that part as are asked for, a fifth of which chooses the epoch,
once from random weights and once from the filler's encoder. Both are scored on the test part: volumes of other people.
Each network is a line of the results, each filler a bundle in the folder: what is there is not done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

FILTERS = (16, 32, 64)
FILLER_EPOCHS, EPOCHS, PATIENCE = 4, 40, 12
GAIN = 0.03
"""Of accuracy with 50 labels, that is hoped for."""


def parts(seed: int) -> tuple[Any, Any]:
    """Return the training and the test part with gaps of their own; people of one are not in the other."""
    from voxgap import load_data, simulate

    data = load_data("sample:brain")
    found = []
    for number, name in enumerate(("train", "test")):
        part = data.part(name)
        found.append(part.with_volumes(simulate(part.volumes, "slices", 0.5, seed=2 * seed + number)))
    return found[0], found[1]


def filler(folder: Path, seed: int) -> Path:
    """Return the bundle of a filler that saw the training part without its labels."""
    from voxgap import train_filler

    bundle, data = folder / f"filler-{seed}", folder / f"unlabelled-{seed}.npz"
    if not (bundle / "manifest.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        train, _ = parts(seed)
        # A table of volumes needs labels; a filler reads none of them.
        np.savez(data, volumes=train.volumes, labels=np.arange(len(train)) % 2, split=["train"] * len(train))
        train_filler(data, bundle, epochs=FILLER_EPOCHS, seed=seed)
    return bundle


def few(train: Any, test: Any, labels: int, seed: int) -> Any:
    """Return a data set with so many labelled volumes, of all classes alike, and the test part."""
    from voxgap.dataset import make_split

    generator = np.random.default_rng(seed)
    order, classes = generator.permutation(len(train)), len(train.classes)
    ranks = np.zeros(len(train), int)
    for label in range(classes):
        of_class = order[train.targets[order] == label]
        ranks[of_class] = np.arange(len(of_class)) * classes + label
    known = train.take(np.flatnonzero(ranks < labels))
    split = make_split(known.targets, seed=seed, fractions=(0.8, 0.2, 0.0))
    return dataclasses.replace(
        known,
        volumes=np.concatenate([known.volumes, test.volumes]),
        targets=np.concatenate([known.targets, test.targets]),
        split=np.concatenate([split, np.full(len(test), "test")]),
        groups=None,
    )


def measure(data: Any, begin: Any, seed: int) -> dict[str, Any]:
    """Train and score one network; which answers are right comes along, for paired differences."""
    from voxgap.experiment import train_and_score
    from voxgap.recipe import Architecture, Recipe, Strategy, Training

    recipe = Recipe(
        "resnet3d",
        Strategy(fill="linear", mask_channel=True),
        Architecture(FILTERS),
        Training(epochs=EPOCHS, patience=PATIENCE, batch_size=8),
    )
    started = time.perf_counter()
    result = train_and_score(data, recipe, seed=seed, verbose=False, begin=begin)
    test = data.part("test")
    named = np.asarray(result.model.predict(test.volumes, verbose=0)).argmax(axis=1)
    right = (named == test.targets).astype(int)
    return {
        "accuracy": float(right.mean()),
        "epochs": len(result.history.epochs),
        "seconds": time.perf_counter() - started,
        "right": "".join(map(str, right)),
    }


def table(rows: list[dict[str, Any]]) -> None:
    """Print accuracies and paired differences, with intervals over test volumes, and over seeds if there are more."""
    from voxgap.metrics.significance import estimate

    print(f"{'labels':>6}  {'seed':>4}  {'random':>7}  {'filler':>7}  difference (95 %, over test volumes)")
    for labels in sorted({row["labels"] for row in rows}):
        gains = []
        for seed in sorted({row["seed"] for row in rows}):
            both = {row["begin"]: row for row in rows if (row["labels"], row["seed"]) == (labels, seed)}
            if len(both) < 2:
                continue
            right = [np.array(list(both[begin]["right"]), int) for begin in ("random", "filler")]
            paired = right[1] - right[0]
            gains.append(float(paired.mean()))
            error = 1.96 * float(paired.std(ddof=1)) / math.sqrt(len(paired))
            print(
                f"{labels:6d}  {seed:4d}  {right[0].mean():7.3f}  {right[1].mean():7.3f}  "
                f"{gains[-1]:+.3f} ({gains[-1] - error:+.3f} to {gains[-1] + error:+.3f})"
            )
        if len(gains) > 1:
            mean = estimate(gains, 1, 0)
            low, high = mean.interval()
            print(
                f"{labels:6d}   all  {'':7}  {'':7}  {mean.mean:+.3f} ({low:+.3f} to {high:+.3f}, over seeds)"
            )
    print(f"asked for with 50 labels: {GAIN:+.2f}; intervals over test volumes say nothing of further people")


def main() -> None:
    """Measure what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--labels", default="20,50,100")
    parser.add_argument("--folder", type=Path, default=Path("fillers"))
    asked = parser.parse_args()
    from voxgap import start_from

    rows = (
        [json.loads(line) for line in asked.results.read_text().splitlines()]
        if asked.results.exists()
        else []
    )
    done = {(row["seed"], row["labels"], row["begin"]) for row in rows}
    for seed in range(asked.seeds):
        train, test = parts(seed)
        for labels in map(int, asked.labels.split(",")):
            for begin in ("random", "filler"):
                if (seed, labels, begin) in done:
                    continue
                start = (
                    None
                    if begin == "random"
                    else functools.partial(start_from, bundle=filler(asked.folder, seed))
                )
                found = measure(few(train, test, labels, seed), start, seed)
                rows.append({"seed": seed, "labels": labels, "begin": begin, **found})
                with asked.results.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                print(
                    f"seed {seed}, {labels} labels, {begin}: {found['accuracy']:.3f}, {found['seconds']:.0f} s"
                )
    table(rows)


if __name__ == "__main__":
    main()
