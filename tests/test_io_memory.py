"""Reading takes little more than the volume, and what the library decodes as a whole where it does so."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import memory

MOST = 1.3
"""Shares of the volume as float32 that reading may take."""


def check(name: str, shape: tuple[int, ...], folder: Path) -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        memory.__file__,
        name,
        ",".join(map(str, shape)),
        str(folder / "m"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1500:]
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(reports) == 2  # Without and with sentinels.
    each = memory.KINDS[name][1]
    for report in reports:
        whole = each * report["size"] // 4 + report["packed"] if each else 0
        assert report["used"] <= MOST * report["size"] + whole


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "h5" else pytest.mark.full) for name in memory.KINDS]
)
def test_a_volume_is_in_memory_once(name: str, tmp_path: Path) -> None:
    check(name, (128, 448, 448), tmp_path)
