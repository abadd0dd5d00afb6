"""What README and docs say of the embedded data, trained anew: minutes each, so in `make check` only."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxgap.dataset import Dataset, load_data
from voxgap.experiment import train_and_score
from voxgap.missingness import simulate
from voxgap.recipe import PRESETS, Architecture, Recipe, Training

pytestmark = pytest.mark.full
ROOT = Path(__file__).parents[1]
TRAINING = {"patience": 12, "lr_patience": 3, "batch_size": 32}


def accuracies(data: Dataset, network: str, strategy: str, seeds: int, **training: Any) -> np.ndarray:
    """Test accuracy of each seed."""
    runs = [
        train_and_score(
            data,
            Recipe(network, PRESETS[strategy], Architecture((16, 32, 64)), Training(**TRAINING | training)),
            seed=seed,
        )
        for seed in range(seeds)
    ]
    return np.array([run.scores["test"]["accuracy"] for run in runs])


def test_a_3d_network_sees_motion_and_a_2d_one_cannot() -> None:
    data = load_data("sample:motion")
    solid = accuracies(data, "resnet3d", "zero", seeds=1, epochs=8, learning_rate=0.003)
    flat = accuracies(data, "resnet2d", "zero", seeds=1, epochs=8, learning_rate=0.003)
    assert solid > 0.95
    assert flat <= 0.55  # the pair is found, which of the two is a coin's toss


def test_interpolating_missing_slices_beats_zeros_beyond_the_seeds_spread() -> None:
    data = load_data("sample:brain")
    data = data.with_volumes(simulate(data.volumes, pattern="slices", missing_rate=0.5, seed=0))
    zero, linear = (accuracies(data, "resnet3d", s, seeds=3, epochs=12) for s in ("zero", "linear"))
    spread = max(zero.std(ddof=1), linear.std(ddof=1))
    assert linear.mean() - zero.mean() > spread


def test_the_wheel_tells_the_demo_in_an_empty_environment(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 5 * 2**20
    venv.create(tmp_path / "venv", with_pip=True)
    scripts = tmp_path / "venv" / "bin"
    subprocess.run([scripts / "python", "-m", "pip", "install", "--quiet", f"{wheel}[train]"], check=True)
    done = subprocess.run(
        [scripts / "voxgap", "demo", "--epochs", "1", "--out", "demo"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "Open demo/report.html" in done.stdout
    assert (tmp_path / "demo" / "bundle" / "manifest.json").exists()
