"""A thousand kinds of damage to a file of each format: read or refused, soon, in little memory, in one shape."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import mutations

# What has nothing that tells how much there was: lines of a table, frames at the end of a clip, the axes of a
# Zarr array, which say how much of its last chunks counts, and those of OME, whose planes need not all be there.
MAY_DIFFER = {"csv", "parquet", "zarr2", "zarr3", "mkv", "mp4", "ome.tif"}
PEAK = 2 * 2**30


def tried(names: list[str], first: int, count: int, folder: Path) -> None:
    """Damage files in another process, which tells the last one that it tried."""
    place = folder / "damaged"
    command = [sys.executable, "-W", "ignore", mutations.__file__, str(first), str(count), str(place), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    last = next((line for line in reversed(lines) if line[:1] != "{"), "before the first")
    assert done.returncode == 0, f"ended with {done.returncode} at {last}: {done.stderr[-1500:]}"
    reports = [json.loads(line) for line in lines if line[:1] == "{"]
    assert [report["name"] for report in reports] == names
    assert max(report["peak"] for report in reports) < PEAK
    told = [report for report in reports if report["name"] not in MAY_DIFFER]
    assert {report["name"]: report["shapes"] for report in told if report["shapes"]} == {}


def test_damage_is_refused_or_read_as_what_it_was(tmp_path: Path) -> None:
    tried(list(mutations.SEEDS), 0, 4, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("name", list(mutations.SEEDS))
def test_damage_is_refused_or_read_as_what_it_was_many(name: str, tmp_path: Path) -> None:
    tried([name], 0, 1000, tmp_path)
