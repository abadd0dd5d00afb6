"""How often real experiments tell a strategy from itself: it stands under two names, with other weights each.

Each experiment draws its own volumes of sample:brain and trains small networks, two seeds a fold; then the seeds are
taken for two strategies and judged as `voxgap compare` judges them. At most 5 % may say that one is better. Results are
kept as each run ends: started again, it goes on where it was, so it can be done in parts.

    python benchmarks/one_strategy_twice.py --experiments 200 --out runs/twice.db
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

STRATEGY, NAMES = "mean", ("mean", "mean again")
VOLUMES, FOLDS, SEEDS = 120, 5, 2
TRAINING = {"epochs": 4, "patience": 4, "batch_size": 16, "learning_rate": 3e-3, "precision": "float32"}


def experiments(count: int) -> Iterator[tuple[object, object]]:
    """Yield each experiment and its data."""
    import voxgap as vg
    from voxgap.experiment import plan_experiment

    whole = vg.load_data("sample:brain", size=(8, 8, 8))
    for number in range(count):
        chosen = np.sort(np.random.default_rng(number).permutation(len(whole))[:VOLUMES])
        data = whole.take(chosen)
        yield (
            plan_experiment(
                data,
                [STRATEGY],
                models="cnn3d",
                architecture={"filters": (8,)},
                folds=FOLDS,
                seeds=SEEDS,
                split_seed=number,
                **TRAINING,
            ),
            data,
        )


def decision(plan: object, outcomes: Iterable[tuple[object, object]]) -> str:
    """Judge the seeds of an experiment as if they were strategies."""
    from voxgap.experiment import Comparison

    renamed = [
        (dataclasses.replace(run, strategy=NAMES[run.seed], seed=0), outcome) for run, outcome in outcomes
    ]
    two = dataclasses.replace(
        plan, strategies=tuple((name, plan.strategies[0][1]) for name in NAMES), seeds=(0,)
    )
    return Comparison.from_outcomes(two, renamed).overall.places[1].verdict.decision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--experiments", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/twice.db"), help="file of the results")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from voxgap.backend import keras
    from voxgap.experiment import open_store
    from voxgap.experiment.execute import execute
    from voxgap.experiment.store import worker_name
    from voxgap.training import Compiled

    found: Counter[str] = Counter()
    compiled, worker = Compiled(), worker_name()
    with open_store(arguments.out, create=True) as store, tempfile.TemporaryDirectory() as folder:
        for plan, data in experiments(arguments.experiments):
            store.add(plan)
            while (run := store.claim(plan, worker)) is not None:
                store.finish(execute(run, data, cache=Path(folder, plan.key), compiled=compiled), worker)
                keras.utils.clear_session()
            found[decision(plan, store.outcomes(plan))] += 1
            told = ", ".join(f"{name} {times}" for name, times in sorted(found.items()))
            print(f"{sum(found.values())} experiments: {told}", flush=True)


if __name__ == "__main__":
    main()
