"""Fills beside the one that learns: errors at hidden voxels, and whether deviations hold.

`python benchmarks/learned_fill.py results.jsonl [hippocampus/images] [--seeds 3] [--only brain,slices,learned]`: brain
and motion are embedded, hippocampus are the images of task 4 of the Medical Segmentation Decathlon, cut to 32 x 48 x 32
about their centres, each in units of its own deviation. Of all volumes half of the slices or frames, or a third in
blocks, is taken away, and nobody sees it again: fills learn from what is left of the training part, and are measured
at what was taken from the test part. Each cell is a line of the results: what is there is not done again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

GAPS = {"slices": ("slices", 0.5), "blocks": ("blocks", 0.33)}
FILLS = ("zero", "mean", "median", "nearest", "linear", "kriging", "knn", "matrix_factorization", "learned")
MOST = 400
"""Test volumes that are filled."""
WINS, COVERAGE = 0.85, (0.62, 0.74)


def sample(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Training and test volumes of embedded data."""
    from voxgap import load_data

    data = load_data(f"sample:{name}")
    return data.part("train").volumes, data.part("test").volumes[:MOST]


def hippocampus(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Every fifth image is for the test."""
    from voxgap import read
    from voxgap.patches import read_patch

    volumes = []
    for file in sorted(folder.glob("hippocampus*.nii.gz")):
        values = read(file).values
        corner = [(have - wanted) // 2 for have, wanted in zip(values.shape, (32, 48, 32), strict=False)]
        patch = read_patch(values[np.newaxis], 0, (corner[0], corner[1], corner[2]), (32, 48, 32))
        volumes.append((patch - np.nanmean(patch)) / np.nanstd(patch))
    stack = np.stack(volumes).astype(np.float32)
    test = np.arange(len(stack)) % 5 == 4
    return stack[~test], stack[test]


def measure(train: np.ndarray, test: np.ndarray, gaps: str, fill: str, seed: int) -> dict[str, Any]:
    """Errors in standard deviations of the training values."""
    import keras

    from voxgap import fill as fills
    from voxgap import simulate

    pattern, rate = GAPS[gaps]
    seen, asked = (simulate(one, pattern, rate, seed=(2 * seed + i)) for i, one in enumerate((train, test)))
    layer = fills.make(fill, {"seed": seed} if fill == "learned" else {})
    started = time.perf_counter()
    layer.adapt(seen)
    learnt = time.perf_counter() - started
    inputs = keras.Input(test.shape[1:])
    sure = hasattr(layer, "with_deviation")
    model = keras.Model(inputs, (fills.Deviating(layer) if sure else layer)(inputs))
    answers = model.predict(asked, batch_size=16, verbose=0)
    channels = test.shape[-1]
    hidden = np.isnan(asked) & ~np.isnan(test)
    spread = float(np.nanstd(seen))
    error = (answers[..., :channels] - test)[hidden].astype(float) / spread
    found: dict[str, Any] = {
        "rmse": float(np.sqrt(np.mean(error**2))),
        "seconds": learnt,
        "hidden": error.size,
    }
    if sure:
        z = np.abs(error) / np.maximum(answers[..., channels:][hidden] / spread, 1e-12)
        found |= {"within_68": float(np.mean(z < 1)), "within_95": float(np.mean(z < 1.96))}
    return found


def cells(names: list[str], seeds: int) -> Iterator[tuple[str, str, str, int]]:
    """All that is measured, the quick ones first."""
    for seed in range(seeds):
        for fill in FILLS:
            for name in names:
                for gaps in GAPS:
                    yield name, gaps, fill, seed


def table(lines: list[dict[str, Any]]) -> None:
    """Print means over seeds, and whether the learned fill wins."""
    for name, gaps in dict.fromkeys((line["data"], line["gaps"]) for line in lines):
        here = [line for line in lines if (line["data"], line["gaps"]) == (name, gaps)]
        others = {line["fill"] for line in here} - {"learned"}
        best = min(
            ((np.mean([r["rmse"] for r in here if r["fill"] == fill]), fill) for fill in others), default=None
        )
        print(f"\n{name}, {gaps}: errors in standard deviations")
        for fill in dict.fromkeys(line["fill"] for line in here):
            rows = [line for line in here if line["fill"] == fill]
            rmse = np.array([row["rmse"] for row in rows])
            seconds = np.mean([row["seconds"] for row in rows])
            said = f"{fill:22}{rmse.mean():7.4f} +- {rmse.std():.4f}  n={len(rows)} {seconds:6.0f} s"
            if "within_68" in rows[0]:
                inside = float(np.mean([row["within_68"] for row in rows]))
                said += f"  68 %: {inside:.3f}  95 %: {np.mean([row['within_95'] for row in rows]):.3f}"
            if fill == "learned" and best is not None:
                ratio = rmse.mean() / best[0]
                held = ratio <= WINS and COVERAGE[0] <= inside <= COVERAGE[1]
                said += f"  {'held' if held else 'MISSED'}: {ratio:.2f} of {best[1]}, at most {WINS}"
            print(said)


def main() -> None:
    """Measure what is not there yet, and print all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("hippocampus", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="words of cells, as in brain,slices: others are left out")
    asked = parser.parse_args()
    words = [word for word in asked.only.split(",") if word]
    names = ["brain", "motion", *(["hippocampus"] if asked.hippocampus else [])]
    lines = (
        [json.loads(line) for line in asked.results.read_text().splitlines()]
        if asked.results.exists()
        else []
    )
    done = {tuple(line[key] for key in ("data", "gaps", "fill", "seed")) for line in lines}
    volumes: dict[str, Any] = {}
    for cell in cells(names, asked.seeds):
        if cell in done or not set(words) <= set(cell):
            continue
        name, gaps, fill, seed = cell
        if name not in volumes:
            volumes[name] = hippocampus(asked.hippocampus) if name == "hippocampus" else sample(name)
        found = {
            "data": name,
            "gaps": gaps,
            "fill": fill,
            "seed": seed,
            **measure(*volumes[name], gaps, fill, seed),
        }
        lines.append(found)
        with asked.results.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(json.dumps(found), flush=True)
    table(lines)


if __name__ == "__main__":
    main()
