"""Segment scans as scanners make them, in units of their own, with slices missing: Dice on the grid of each file.

For a folder with `images/` and `labels/` of the same names, such as task 4 of the Medical Segmentation Decathlon
(260 hippocampi, 33 of them several hundred times brighter than the others). The split, the gaps and the seeds are
fixed; networks are chosen by validation data and scored on test data.

    python benchmarks/raw_scans.py FOLDER [--normalize auto] [--seeds 3] [--scale]

With `--scale`, each test scan is also read with its values multiplied by a random factor from 0.01 to 100.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np

import voxgap as vg
from voxgap.bundle import save_bundle
from voxgap.experiment import train_and_score
from voxgap.missingness import simulate
from voxgap.recipe import Architecture, Recipe, Training, strategy_of

SIZE, SPACING = (40, 56, 40), (1, 1, 1)
MISSING_RATE = 0.3
STRATEGY = "linear"
TRAINING = {"epochs": 40, "patience": 10, "batch_size": 8, "learning_rate": 3e-3}


def table_of(folder: Path, where: Path) -> Path:
    """Write a manifest: every fifth scan for the test, the one after it for validation."""
    parts = ("test", "validation", "train", "train", "train")
    names = sorted(path.name for path in (folder / "images").iterdir() if path.name.endswith(".nii.gz"))
    with (where / "scans.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label_map", "split"])
        for index, name in enumerate(names):
            images, labels = ((folder / part / name).resolve() for part in ("images", "labels"))
            writer.writerow([images, labels, parts[index % len(parts)]])
    return where / "scans.csv"


def with_slices_missing(volume: vg.Volume, seed: int) -> vg.Volume:
    """Take slices away on the grid of the file, as a scanner loses them."""
    gaps = simulate(volume.values[np.newaxis], pattern="slices", missing_rate=MISSING_RATE, seed=seed)
    return dataclasses.replace(volume, values=gaps[0])


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean over the two structures."""
    return float(
        np.mean(
            [
                2
                * ((found == label) & (truth == label)).sum()
                / max(1, (found == label).sum() + (truth == label).sum())
                for label in (1, 2)
            ]
        )
    )


def score(bundle: Path, scans: list[tuple[Path, Path]], where: Path, seed: int, scaled: bool) -> float:
    """Predict test scans with slices missing, and compare on their own grids."""
    predictor, rng = vg.load(bundle), np.random.default_rng(seed)
    found = []
    for index, (image, labels) in enumerate(scans):
        volume = with_slices_missing(vg.read(image), 10_000 + index)
        if scaled:
            volume = dataclasses.replace(volume, values=volume.values * np.float32(10 ** rng.uniform(-2, 2)))
        vg.write(where / "scan.nii", volume)
        read, records = predictor.read(where / "scan.nii")
        answer = predictor.label_map(predictor.predict(read)[0], read, records)
        found.append(dice(answer.values[..., 0], vg.read(labels).values[..., 0]))
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--normalize", default="auto")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=TRAINING["epochs"])
    parser.add_argument("--scale", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        where = Path(temporary)
        table = table_of(arguments.folder, where)
        data = vg.load_data(table, size=SIZE, spacing=SPACING)
        data = data.with_volumes(simulate(data.volumes, pattern="slices", missing_rate=MISSING_RATE, seed=0))
        with table.open() as stream:
            rows = [row for row in csv.DictReader(stream) if row["split"] == "test"]
        scans = [(Path(row["path"]), Path(row["label_map"])) for row in rows]
        print(
            f"{len(data)} scans, {len(scans)} of them for the test\n| seed | Dice | scaled | epochs | seconds |"
        )
        results = []
        for seed in range(arguments.seeds):
            started = time.perf_counter()
            result = train_and_score(
                data,
                Recipe(
                    "unet3d",
                    strategy_of(STRATEGY),
                    Architecture((8, 16), normalize=arguments.normalize),
                    Training(**TRAINING | {"epochs": arguments.epochs}),
                ),
                seed=seed,
            )
            bundle = where / f"bundle{seed}"
            save_bundle(bundle, result.model, data, recipe=result.recipe, history=result.history)
            results.append(score(bundle, scans, where, seed, False))
            scaled = f"{score(bundle, scans, where, seed, True):.4f}" if arguments.scale else ""
            epochs, seconds = len(result.history.epochs), time.perf_counter() - started
            print(f"| {seed} | {results[-1]:.4f} | {scaled} | {epochs} | {seconds:.0f} |", flush=True)
        print(f"mean {np.mean(results):.4f}, from {min(results):.4f} to {max(results):.4f}")


if __name__ == "__main__":
    main()
