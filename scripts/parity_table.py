"""The parity table of docs/deploy.md: every strategy and network, exported to every format and proven.

    python scripts/parity_table.py [--formats onnx,pt2] [--strategies knn,linear] [--networks cnn3d]

Each cell is the largest difference from Keras over golden inputs with every kind of gap. A row takes about a minute.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

from voxgap import build_model, export, save_bundle
from voxgap.bundle.formats import FORMATS
from voxgap.dataset import Dataset
from voxgap.errors import VoxgapError
from voxgap.recipe import PRESETS
from voxgap.training import adapt_model

SHAPE = (8, 9, 10, 2)
CLASSES = ("a", "b", "c")


def data(count: int = 24) -> Dataset:
    """Volumes of integers, with missing slices, voxels and channels."""
    rng = np.random.default_rng(0)
    volumes = rng.integers(-300, 700, size=(count, *SHAPE)).astype(np.float32)
    volumes[rng.random((count, SHAPE[0])) < 0.2] = np.nan
    volumes[rng.random(volumes.shape) < 0.1] = np.nan
    volumes[::5, ..., 1] = np.nan
    split = np.where(np.arange(count) % 3 == 2, "validation", "train")
    return Dataset(volumes, np.arange(count) % 3, "classification", CLASSES, split)


def row(network: str, strategy: str, formats: list[str], dataset: Dataset) -> dict[str, str]:
    """Export one network, and give what each format's proof found."""
    model = build_model(network, SHAPE, len(CLASSES), strategy=strategy, filters=(4, 6))
    cells: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `mode` of values that hardly repeat
        adapt_model(model, dataset.part("train"))
        save_bundle(folder, model, dataset, strategy=strategy)
        # Those of one Keras backend in one call, which is one process.
        for backend in {FORMATS[name].backend: None for name in formats}:
            kinds = [name for name in formats if FORMATS[name].backend == backend]
            try:
                found = export(Path(folder), kinds)
            except VoxgapError as error:
                print(f"{network} {strategy}: {error}", file=sys.stderr)
                cells |= dict.fromkeys(kinds, "refused")
                continue
            cells |= {kind: f"{found[kind]['parity']['max_difference']:.0e}" for kind in kinds}
    return cells


def main() -> None:
    """Print the table as Markdown, each row as soon as it is there."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--formats", default=",".join(FORMATS))
    options.add_argument("--strategies", default=",".join(PRESETS))
    options.add_argument("--networks", default="cnn3d,resnet3d")
    chosen = options.parse_args()
    formats = chosen.formats.split(",")
    dataset = data()
    print("| network | strategy |", " | ".join(formats), "|")
    print("| --- | --- |", " | ".join("---" for _ in formats), "|", flush=True)
    for network in chosen.networks.split(","):
        for strategy in chosen.strategies.split(","):
            cells = row(network, strategy, formats, dataset)
            print(f"| {network} | {strategy} |", " | ".join(cells[name] for name in formats), "|", flush=True)


if __name__ == "__main__":
    main()
