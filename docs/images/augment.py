"""Draw the pictures of augmentation.md: `python docs/images/augment.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from voxgap import augment
from voxgap.dataset import load_data
from voxgap.missingness import simulate
from voxgap.pictures import png, slices
from voxgap.samples import brain_volume

HERE = Path(__file__).parent


def draw(name: str, volume: np.ndarray, transform: augment.Compose, seeds: tuple[int, ...]) -> None:
    rows = {"before": volume} | {f"draw {i + 1}": transform(volume, seed) for i, seed in enumerate(seeds)}
    (HERE / name).write_bytes(png(slices(rows, count=7), dpi=80))


brain = brain_volume().values[40:136:2, ::2, ::2]
brain = simulate(brain, "slices", 0.25, axis="height", block_size=5, seed=3)
brain[24:40, 20:40, 10:26] = np.nan
draw("augment-scan.png", brain, augment.preset("scan"), (0, 3, 5))

film = load_data("sample:motion").volumes[3]
film = simulate(film, "frames", 0.3, seed=1)
draw("augment-video.png", film, augment.preset("video"), (0, 2, 4))
