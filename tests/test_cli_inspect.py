"""`voxgap inspect` on a data set and on one volume."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from voxgap.cli.inspect import inspect
from voxgap.errors import VoxgapError
from voxgap.io import write
from voxgap.missingness import simulate
from voxgap.volume import Volume

APP = typer.Typer()
APP.command()(inspect)


def values() -> np.ndarray:
    return simulate(np.random.default_rng(0).normal(size=(20, 8, 6, 6, 1)), "slices", 0.25)


def output(*arguments: str) -> str:
    result = CliRunner().invoke(APP, list(arguments), env={"COLUMNS": "140"}, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_a_data_set(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, volumes=values(), labels=["well", "ill"] * 10, groups=np.arange(20))
    text = output(str(path))
    for words in (
        "20 of 8×6×6×1",
        "slices along depth",
        "ill 10",
        "train 12",
        "25.0%",
        "20, each in one part",
    ):
        assert words in text
    facts = json.loads(output(str(path), "--json"))
    assert facts["classes"] == {"ill": 10, "well": 10}
    assert facts["description"]["pattern"] == "slices along depth"
    assert facts["description"]["missing_slices"]["depth"] == 40


@pytest.mark.parametrize("suffix", [".npz", ".nii.gz"])
def test_one_volume(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"scan{suffix}"
    write(path, Volume(values()[0], spacing=(3, 1, 1)))
    assert "3 × 1 × 1" in output(str(path))
    assert json.loads(output(str(path), "--json"))["spacing"] == [3, 1, 1]


def test_what_is_not_there() -> None:
    for name in ("none.npz", "none.nii", "none"):
        with pytest.raises(VoxgapError, match=f"{name}: no such file"):
            output(name)
