"""Ways of training, each seen alone and together, on sets with all of their slices and with half of them.

`python benchmarks/recipe.py results.jsonl [--sets brain,motion,nodules,adrenal] [--adrenal FILE.npz] [--recipes ...]`:
resnet3d learns with the fields of `voxgap.Training` that a recipe names, the same epochs and all else as by default; of
complete volumes with the fill `mean`, of those with half of the slices or frames missing with `linear`. brain, motion
and nodules are embedded (nodules lack channels of their own), adrenal is AdrenalMNIST3D of 64^3 with its own parts,
averaged to 32^3. At most `--most` volumes of the training and of the validation part are taken, drawn anew for each
seed, so that a cell takes about a minute on a GPU; the test part is whole. Recipes of one seed share volumes, gaps and
first weights.

Each cell (set, rate, recipe, seed) is a line of the results: what is there, by the same settings, is not done again.
With `--jobs N` so many processes train at once; one that fails says why, and the rest goes on. At the end: what each
recipe gains over `today`, paired over sets, rates and seeds, on the validation part, which is what a default is chosen
by, and on the test part, which says what the choice is worth. The intervals say nothing of further sets.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

COSINE = {"schedule": "cosine", "warmup": 2.0}
ADAMW, SMOOTHING, AUGMENT = {"weight_decay": 0.05}, {"label_smoothing": 0.1}, {"augment": "default"}
EMA, FAST = {"ema": 2.0}, {"learning_rate": 3e-3}
RECIPES: dict[str, dict[str, Any]] = {
    "today": {},
    "ema": EMA,
    "cosine": COSINE,
    "adamw": ADAMW,
    "smoothing": SMOOTHING,
    "augment": AUGMENT,
    "fast": FAST,
    "consistency": {"consistency": 1.0},
    "cosine_ema": COSINE | EMA,
    "cosine_adamw": COSINE | ADAMW,
    "cosine_augment": COSINE | AUGMENT,
    "cosine_fast": COSINE | FAST,
    "still": COSINE | EMA | ADAMW | SMOOTHING,
    "all": COSINE | EMA | ADAMW | SMOOTHING | AUGMENT,
    "all_fast": COSINE | EMA | ADAMW | SMOOTHING | AUGMENT | FAST,
}
"""Fields of `voxgap.Training`; `still` is all without augmentation. A cosine has the patience of all its epochs."""
SETS = ("brain", "motion", "nodules", "adrenal")
KINDS = {"motion": "video"}
METRICS = {"accuracy": 1, "auc": 1, "log_loss": -1}
"""What is measured, and its sign where it gets better."""
PARTS = ("validation", "test")
Cell = tuple[str, float, str, int]


@functools.lru_cache(maxsize=2)
def complete(name: str, adrenal: str, size: int) -> Any:
    """Return a set with its own parts, without gaps but those that it has itself."""
    from voxgap import Dataset, load_data

    if name != "adrenal":
        return load_data(f"sample:{name}")
    volumes, labels, split = [], [], []
    with np.load(adrenal) as file:
        for part, called in (("train", "train"), ("val", "validation"), ("test", "test")):
            images = file[f"{part}_images"]
            n, edge = len(images), images.shape[1]
            blocks = images.reshape(n, *(step for _ in range(3) for step in (size, edge // size)))
            volumes.append(blocks.mean(axis=(2, 4, 6), dtype=np.float32) / 255)
            labels.append(file[f"{part}_labels"].ravel())
            split += [called] * n
    return Dataset.from_arrays(np.concatenate(volumes), np.concatenate(labels), split=split, name=name)


def gappy(whole: Any, rate: float, most: int, seed: int) -> Any:
    """Return as many volumes as are asked for, each with gaps that depend on the seed alone."""
    from voxgap import simulate

    rng = np.random.default_rng(seed)
    places = [np.flatnonzero(whole.split == part) for part in ("train", *PARTS)]
    kept = [rng.permutation(found)[:most] for found in places[:-1]] + places[-1:]
    few = whole.take(np.sort(np.concatenate(kept)))
    return few.with_volumes(simulate(few.volumes, "slices", rate, seed=seed)) if rate else few


def measure(cell: Cell, asked: argparse.Namespace) -> dict[str, Any]:
    """Train and score one network."""
    import keras

    from voxgap.experiment import train_and_score
    from voxgap.recipe import Architecture, Recipe, Strategy, Training

    name, rate, recipe, seed = cell
    fields = {"epochs": asked.epochs, "precision": "float32", "augment_kind": KINDS.get(name, "scan")}
    fields |= RECIPES[recipe]
    if fields.get("schedule") == "cosine":
        fields["patience"] = asked.epochs
    filters = tuple(map(int, asked.filters.split(",")))
    data = gappy(complete(name, asked.adrenal, asked.size), rate, asked.most, seed)
    strategy = Strategy(fill="linear" if rate else "mean")
    keras.utils.clear_session()
    result = train_and_score(
        data,
        Recipe("resnet3d", strategy, Architecture(filters), Training.of(fields)),
        seed=seed,
        verbose=False,
    )
    history = result.history
    found: dict[str, Any] = {part: {m: result.scores[part][m] for m in METRICS} for part in PARTS}
    return found | {
        "ran": len(history.epochs),
        "best_epoch": history.best_epoch + 1,
        "seconds": result.seconds,
        "epoch_seconds": float(np.median([epoch["seconds"] for epoch in history.epochs])),
    }


def serve(asked: argparse.Namespace) -> None:
    """Answer each cell on standard input with a line."""
    # What libraries print must not get between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        name, rate, recipe, seed = json.loads(line)
        try:
            found = measure((name, rate, recipe, seed), asked)
        except Exception as error:  # the rest of the cells goes on
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), file=answers, flush=True)


class Worker:
    """A process of this script that trains one cell after the other."""

    def __init__(self, jobs: int) -> None:
        share = str(max(1, (os.cpu_count() or 1) // jobs))
        names = ("OMP_NUM", "MKL_NUM", "NUMBA_NUM", "TF_NUM_INTRAOP", "TF_NUM_INTEROP")
        alone = {f"{name}_THREADS": share for name in names} | {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        self.process = subprocess.Popen(
            [sys.executable, *sys.argv, "--worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=alone | os.environ,
        )

    def answer(self, cell: Cell) -> dict[str, Any]:
        """Return what one cell gave, or its `error`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps(cell), file=self.process.stdin, flush=True)
            return dict(json.loads(self.process.stdout.readline()))
        except (OSError, ValueError):
            return {"error": f"the process ended with {self.process.wait()}"}

    def close(self) -> None:
        """End the process, which has nothing to do."""
        self.process.kill()
        self.process.wait()


def trained(cells: list[Cell], jobs: int) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Yield what each cell gave, as it ends."""
    waiting: SimpleQueue[Cell] = SimpleQueue()
    done: SimpleQueue[tuple[Cell, dict[str, Any]]] = SimpleQueue()
    for cell in cells:
        waiting.put(cell)

    def work() -> None:
        worker = Worker(jobs)
        try:
            while True:
                cell = waiting.get_nowait()
                found = worker.answer(cell)
                if worker.process.poll() is not None:
                    worker = Worker(jobs)
                done.put((cell, found))
        except Empty:
            worker.close()

    for _ in range(min(jobs, len(cells))):
        threading.Thread(target=work, daemon=True).start()
    for _ in cells:
        yield done.get()


def table(lines: list[dict[str, Any]]) -> None:
    """Print means, and what each recipe gains over `today`, with 95 % intervals."""
    from voxgap.metrics.significance import estimate

    by_cell = {(r["set"], r["rate"], r["seed"], r["recipe"]): r for r in lines}
    recipes = [name for name in RECIPES if any(r["recipe"] == name for r in lines)]
    for name, rate in sorted({(r["set"], r["rate"]) for r in lines}):
        print(f"\n{name}, {rate:.0%} of the slices missing: means of validation / test")
        for recipe in recipes:
            rows = [r for r in lines if (r["set"], r["rate"], r["recipe"]) == (name, rate, recipe)]
            if rows:
                said = [
                    f"{metric} "
                    + " / ".join(f"{np.mean([r[part][metric] for r in rows]):.4f}" for part in PARTS)
                    for metric in METRICS
                ]
                epochs, each = (np.mean([r[key] for r in rows]) for key in ("ran", "epoch_seconds"))
                print(f"{recipe:16}{'   '.join(said)}   n={len(rows)} {epochs:.0f} epochs of {each:.2f} s")
    for part in PARTS:
        print(f"\ngain over today on {part}, mean (95 %), better is positive")
        print(f"{'recipe':16}{''.join(f'{metric:30}' for metric in METRICS)}pairs")
        for recipe in recipes[1:] if recipes[:1] == ["today"] else []:
            pairs = [
                (by_cell[(*key, recipe)], by_cell[(*key, "today")])
                for key in sorted({k[:3] for k in by_cell})
                if {(*key, recipe), (*key, "today")} <= set(by_cell)
            ]
            said = ""
            for metric, sign in METRICS.items():
                mean = estimate([sign * (a[part][metric] - b[part][metric]) for a, b in pairs], 1, 0)
                low, high = mean.interval()
                said += f"{f'{mean.mean:+.4f} ({low:+.4f} to {high:+.4f})':30}"
            print(f"{recipe:16}{said}{len(pairs)}")


def arguments() -> argparse.Namespace:
    """Return what is asked for on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("--sets", default="", help="brain,motion,nodules,adrenal; by default all there are")
    parser.add_argument("--adrenal", default="", metavar="FILE.npz", help="AdrenalMNIST3D of 64^3")
    parser.add_argument("--recipes", default=",".join(RECIPES), help="of %(default)s")
    parser.add_argument("--rates", default="0,0.5")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--filters", default="16,32,64")
    parser.add_argument("--most", type=int, default=600)
    parser.add_argument("--size", type=int, default=32, help="edge of adrenal's volumes: 32 or 64")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", default="", help="words of cells, as in brain,0.5: others are left out")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.names = asked.sets.split(",") if asked.sets else [*SETS[:-1], *SETS[-1:] * bool(asked.adrenal)]
    for named, known in ((asked.names, SETS), (asked.recipes.split(","), RECIPES)):
        if unknown := {*named} - {*known}:
            parser.error(f"no {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    if "adrenal" in asked.names and not Path(asked.adrenal).is_file():
        parser.error("the set adrenal needs --adrenal FILE.npz")
    return asked


def main() -> None:
    """Measure what is not there yet, and print the tables."""
    asked = arguments()
    if asked.worker:
        return serve(asked)
    settings = {key: getattr(asked, key) for key in ("epochs", "filters", "most", "size")}
    there = asked.results.read_text().splitlines() if asked.results.exists() else []
    lines = [line for line in map(json.loads, there) if line.items() >= settings.items()]
    done = {(line["set"], line["rate"], line["recipe"], line["seed"]) for line in lines}
    words = {word for word in asked.only.split(",") if word}
    cells = [
        (name, rate, recipe, seed)
        for seed in range(asked.seeds)
        for name in asked.names
        for rate in map(float, asked.rates.split(","))
        for recipe in asked.recipes.split(",")
    ]
    named = [{cell[0], f"{cell[1]:g}", cell[2], str(cell[3])} for cell in cells]
    left = [cell for cell, said in zip(cells, named, strict=True) if cell not in done and words <= said]
    print(f"{len(cells) - len(left)} of {len(cells)} cells are there or left out", flush=True)
    for cell, found in trained(left, asked.jobs):
        line = dict(zip(("set", "rate", "recipe", "seed"), cell, strict=True)) | settings | found
        print(json.dumps(line), flush=True)
        if "error" not in found:
            lines.append(line)
            with asked.results.open("a") as file:
                file.write(json.dumps(line) + "\n")
    table(lines)


if __name__ == "__main__":
    main()
