"""`vg.inspect`: one value, whoever asks, that prints, draws and says what the command line says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import voxgap as vg
from test_cli_inspect import informative, output
from voxgap.io import write


def test_it_is_what_the_command_line_says(tmp_path: Path) -> None:
    path = informative(tmp_path)
    found = vg.inspect(path)
    assert json.loads(json.dumps(found.to_json())) == json.loads(output(str(path), "--json"))
    said, shown = str(found), output(str(path))
    for line in [found.evidence.conclusion, found.command(), *(text for _, text in found.to_try())]:
        assert line in said
        assert " ".join(line.split()) in " ".join(shown.split())
    assert found.plot().axes
    found.write_page(tmp_path / "page.html")
    assert found.evidence.conclusion in (tmp_path / "page.html").read_text()


def test_a_data_set_in_memory_is_described_alike_and_has_no_command(tmp_path: Path) -> None:
    path = informative(tmp_path)
    read, there = vg.load_data(path, size=(4, 6, 6)), vg.inspect(path, size=(4, 6, 6))
    held = vg.inspect(read)
    assert held.to_json() == there.to_json()
    assert held.command() == there.command()
    assert "--size=4,6,6" in held.command()
    unnamed = vg.inspect(vg.Dataset.from_arrays(read.volumes, labels=read.targets))
    assert unnamed.command() == ""
    assert unnamed.found.missing_rate == held.found.missing_rate


def test_of_nothing_observed_there_is_no_picture(tmp_path: Path) -> None:
    write(tmp_path / "empty.nii.gz", vg.Volume(np.full((3, 3, 3), np.nan)))
    with pytest.raises(vg.VoxgapError, match=r"empty\.nii\.gz: nothing is observed"):
        vg.inspect(tmp_path / "empty.nii.gz").plot()
