"""`vg.inspect`: one value, whoever asks, that prints, draws and says what the command line says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import voxgap as vg
from test_cli_inspect import informative, output
from voxgap import intensity, patches
from voxgap.cli.console import err
from voxgap.cli.data import choose_normalization
from voxgap.io import write
from voxgap.report import inspection as pictured


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


def mixed(folder: Path, scales: tuple[float, ...] = (1.0,) * 6) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Write scans of several shapes with label maps: four to train on, one to validate, the last to test."""
    rng, rows, scans, maps = np.random.default_rng(0), ["image,label_map,split"], [], []
    for index, (scale, part) in enumerate(zip(scales, [*["train"] * 4, "validation", "test"], strict=True)):
        shape = (4, 5 + index, 9 - index)
        scans.append((scale * rng.gamma(1, 1, shape)).astype(np.float32))
        maps.append((rng.random(shape) < 0.15).astype(np.float32))
        scans[-1][index % 4, 1:3] = np.nan
        for kind, values in (("scan", scans[-1]), ("map", maps[-1])):
            write(folder / f"{kind}{index}.nii.gz", vg.Volume(values, spacing=(1, 1, 1)))
        rows.append(f"scan{index}.nii.gz,map{index}.nii.gz,{part}")
    (folder / "data.csv").write_text("\n".join(rows))
    return scans, maps


def test_of_mixed_shapes_the_numbers_are_those_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans, maps = mixed(tmp_path)
    values = np.concatenate([scan.ravel() for scan in scans])
    seen = values[~np.isnan(values)]
    drawn: dict[str, np.ndarray] = {}
    monkeypatch.setattr(pictured, "histogram", lambda values: drawn.update(values))
    inspections = [
        vg.inspect(given) for given in (tmp_path / "data.csv", vg.load_data(tmp_path / "data.csv"))
    ]
    for found in inspections:
        facts = found.to_json()
        voxels = np.concatenate([one.ravel() for one in maps])
        assert list(facts["classes"].values()) == [int((voxels == 0).sum()), int((voxels == 1).sum())]
        held = facts["description"]
        assert held["missing_rate"] == pytest.approx(np.isnan(values).mean())
        for name, number in {
            "min": seen.min(),
            "max": seen.max(),
            "mean": seen.mean(),
            "std": seen.std(),
        }.items():
            assert held["intensity"][name] == pytest.approx(number, rel=1e-5), name
        for name in ("p01", "p25", "p50", "p75", "p99"):
            assert held["intensity"][name] == pytest.approx(np.quantile(seen, int(name[1:]) / 100), rel=1e-5)
        pictured._observed(found)
        np.testing.assert_array_equal(np.sort(next(iter(drawn.values()))), np.sort(seen))
        size = facts["measured_on"]["size"]
        assert f"tests and pictures: resampled to {'×'.join(map(str, size))}" in str(found)
        assert f"resampled to {'×'.join(map(str, size))} here" in pictured.examples(found)[0][1]


def test_inspect_and_train_decide_by_the_same_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed(tmp_path, (1, 1, 1, 1, 1, 3000))
    said = vg.inspect(tmp_path / "data.csv").facts["intensity"]
    assert not any("differ up to" in one for one in said)
    monkeypatch.setattr(err, "_width", 300)
    assert choose_normalization("auto", vg.load_data(tmp_path / "data.csv")) == "dataset"
    spoken = capsys.readouterr().err
    assert "normalize: dataset (most volumes are on one scale)" in spoken
    for told in (" ".join(said), spoken):
        assert "scan5.nii.gz (test): mean" in told
    mixed(tmp_path, (1, 1, 3000, 1, 1, 1))
    assert "each is normalised by itself" in vg.inspect(tmp_path / "data.csv").facts["intensity"][0]
    assert choose_normalization("auto", vg.load_data(tmp_path / "data.csv")) == "volume"
    mixed(tmp_path)
    choose_normalization("auto", vg.load_data(tmp_path / "data.csv"))
    assert "units others" not in capsys.readouterr().err


@pytest.mark.parametrize(("edge", "scales"), [(24, 1.0), (24, 300.0), (200, 300.0)])
def test_label_maps_are_spoken_of_in_the_words_of_the_plan(
    edge: int, scales: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    volumes = rng.normal(size=(6, 8, 8, edge, 1)).astype("f4")
    volumes[0] *= scales
    monkeypatch.setattr(patches, "memory", lambda: 2**26)  # where 8×8×200 are too many
    maps = (volumes[..., 0] > 0).astype("i2")
    split = ["train"] * 4 + ["val", "test"]
    data = vg.Dataset.from_arrays(volumes, label_maps=maps, classes=("a", "b"), split=split)
    found = vg.inspect(data)
    known = data.take(intensity.deciding(data.split))
    said = found.facts["plan"]
    for gpu, machine in enumerate((patches.PROCESSORS, patches.GPU)):
        (words,) = (line for line in vg.plan(data, gpu=bool(gpu)).why if line.startswith("patches of"))
        assert words in (said[0] if len(said) == 1 else said[gpu].partition(f"on {machine.name}: ")[2])
        size = vg.plan(data, gpu=bool(gpu)).patch_size
        chosen = intensity.resolve("auto", known.volumes, data.channels, size)
        heard = chosen.why in found.facts["intensity"][0] if found.facts["intensity"] else False
        assert heard == (scales > 1)
    assert ("plan", said[0]) in found.rows()
    assert len(said) == (2 if edge == 200 else 1)
