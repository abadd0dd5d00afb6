"""Make the pictures of README and docs, from the commands that those pages name.

    python scripts/make_pictures.py

Runs `voxgap demo` and the training of docs/early-stopping.md, some minutes on two cores.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.image import imread

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
EARLY = "--filters 8,16,32 --learning-rate 0.003 --batch-size 32 --epochs 60 --patience 4 --min-delta 0.005"


def voxgap(*arguments: str) -> None:
    subprocess.run([Path(sys.executable).parent / "voxgap", *arguments], cwd=ROOT, check=True)


def beside(left: Path, right: Path, target: Path) -> None:
    """Draw two pictures of like height beside each other."""
    pictures = [imread(path) for path in (left, right)]
    ratios = [p.shape[1] / p.shape[0] for p in pictures]
    figure = Figure(figsize=(10, 10 / sum(ratios)))
    for axes, picture in zip(figure.subplots(1, 2, width_ratios=ratios), pictures, strict=True):
        axes.imshow(picture, interpolation="lanczos")
        axes.set_axis_off()
    figure.subplots_adjust(0, 0, 1, 1, 0, 0)
    figure.savefig(target, dpi=130)


def main() -> None:
    demo = ROOT / "demo"
    voxgap("demo", "--out", str(demo))
    beside(demo / "slices.png", demo / "errors.png", IMAGES / "demo.png")
    runs = ROOT / "runs" / "early-stopping"
    voxgap("train", "sample:motion", *EARLY.split(), "--out", str(runs), "--overwrite")
    shutil.copy(runs / "history.png", IMAGES / "early-stopping.png")


if __name__ == "__main__":
    main()
