"""`voxgap fill --check`: what is hidden, how errors are scored, and which fill is named."""

from __future__ import annotations

import itertools
import json
import math
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
from numpy.testing import assert_array_equal
from scipy.integrate import quad
from scipy.ndimage import gaussian_filter
from scipy.stats import norm
from typer.testing import CliRunner

from voxgap.cli.fill import fill
from voxgap.errors import VoxgapError
from voxgap.filling import check
from voxgap.filling.check import check_fills, crps, scores_of
from voxgap.filling.field import Field
from voxgap.filling.job import Job, as_files_are
from voxgap.io import write
from voxgap.volume import Volume

APP = typer.Typer()
APP.command()(fill)


def smooth(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rough = np.random.default_rng(seed).normal(size=shape)
    values = gaussian_filter(rough, 1.5)
    return (5 + values / values.std()).astype(np.float32)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(APP, [str(part) for part in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("error", [-3.0, -0.2, 0.0, 1.1])
@pytest.mark.parametrize("deviation", [0.3, 2.0])
def test_crps_equals_its_integral(error: float, deviation: float) -> None:
    def squared(y: float) -> float:
        return (norm.cdf(y, scale=deviation) - float(y >= -error)) ** 2

    # The forecast is centred on 0, and what came lies `error` below it.
    ends = sorted((-40.0, -error, 40.0))
    expected = sum(quad(squared, low, high, limit=200)[0] for low, high in itertools.pairwise(ends))
    assert crps(np.array([error]), np.array([deviation]))[0] == pytest.approx(expected, rel=1e-5)


def test_scores_equal_loops() -> None:
    generator = np.random.default_rng(0)
    error, deviation = generator.normal(size=300), generator.uniform(0.5, 1.5, 300)
    found = scores_of(error, deviation)
    assert found.rmse == pytest.approx(math.sqrt(sum(e * e for e in error.tolist()) / 300))
    assert found.mae == pytest.approx(sum(abs(e) for e in error.tolist()) / 300)
    for within, limit in ((found.within_68, 1.0), (found.within_95, norm.ppf(0.975))):
        inside = [abs(e) <= limit * d for e, d in zip(error.tolist(), deviation.tolist(), strict=True)]
        assert within == sum(inside) / 300
    assert scores_of(error, None).crps is None


def test_clouds_of_other_days_are_laid_on_days_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voxgap.filling.field.LEAST", 1)
    values = smooth((9, 8, 10, 1))
    land = np.zeros(values.shape[1:], bool)
    land[:, :2] = True
    for day in range(9):
        values[day, day % 5 : day % 5 + 3, 4 : 4 + day % 4 + 1] = np.nan
    values[:, land] = np.nan
    wanted = np.broadcast_to(~land, values.shape)
    field = Field("sea", [values], [wanted], ("sst",), time=0, single=True)
    hidden, said = field.hide(0)
    (here,) = hidden.values()
    assert "other steps in time, laid on 3 of 9" in said
    assert not here[:, land].any()
    clouds = np.isnan(values) & wanted
    days = np.flatnonzero(here.any(axis=(1, 2, 3)))
    for day in days:
        shapes = [clouds[other] & ~clouds[day] for other in range(9) if other != day]
        assert any((here[day] == shape).all() for shape in shapes)
    assert_array_equal(field.hide(0)[0][0], here)
    assert any((field.hide(seed)[0][0] != here).any() for seed in (1, 2))


def test_gaps_of_other_volumes_are_laid_on_those_nothing_is_learnt_from() -> None:
    volumes = [smooth((8, 9, 10, 1), seed) for seed in range(6)]
    for index, volume in enumerate(volumes):
        volume[index : index + 2] = np.nan
    field = Field("scans", volumes, [None] * 6, ("",), held=(3, 4, 5))
    hidden, _ = field.hide(0)
    assert set(hidden) == {3, 4, 5}
    for index, here in hidden.items():
        planes = set(np.flatnonzero(here.all(axis=(1, 2, 3))))
        assert planes
        assert here.sum() == len(planes) * 90
        assert any(planes <= {other, other + 1} for other in (3, 4, 5) if other != index)


def test_own_gaps_are_moved_and_what_lies_too_thin_is_simulated() -> None:
    volume = smooth((12, 12, 12, 1))
    volume[2:4] = np.nan
    field = Field("scan", [volume], [None], ("",), single=True)
    hidden, said = field.hide(1)
    assert "own gaps, moved" in said
    assert hidden[0].all(axis=(1, 2, 3)).sum() == hidden[0].any(axis=(1, 2, 3)).sum() > 0
    volume = smooth((14, 14, 14, 1))
    volume[5, 5, 5] = np.nan
    hidden, said = Field("scan", [volume], [None], ("",), single=True).hide(0)
    assert "simulated gaps: voxels" in said
    assert hidden[0].sum() == pytest.approx(0.05 * volume.size, rel=0.05)
    assert (
        "simulated gaps: blocks"
        in Field("scan", [smooth((14, 14, 14, 1))], [None], ("",), single=True).hide(0)[1]
    )
    with pytest.raises(VoxgapError, match="scan: too little is observed to hide 100 voxels"):
        Field("scan", [volume[:2, :2, :2]], [None], ("",), single=True).hide(0)


def test_what_is_hidden_is_neither_learnt_from_nor_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    volume = smooth((10, 12, 12, 1))
    volume[3:5] = np.nan
    write(tmp_path / "scan.npy", Volume(volume))
    monkeypatch.setattr(check, "FILLS", ("mean", "zero", "linear", "knn"))
    found = check_fills(tmp_path / "scan.npy", "linear", options={"axis": "depth"}, seeds=2)
    field = Field("scan", [volume], [None], ("",), single=True)
    errors = {"mean": [], "zero": []}
    for seed in range(2):
        here = field.hide(seed)[0][0]
        mean = volume[~here & ~np.isnan(volume)].mean(dtype=float)
        errors["mean"] += [mean - one for one in volume[here].tolist()]
        errors["zero"] += [0 - one for one in volume[here].tolist()]
    rows = {row.name: row for row in found.rows}
    for name, these in errors.items():
        assert rows[name].scores.rmse == pytest.approx(math.sqrt(np.mean(np.square(these))), rel=1e-5)
        assert found.hidden == len(these)
    assert "not tried: fills from other volumes" in rows["knn"].why
    assert found.best.name in ("linear (axis=depth)", "linear")
    assert [row.scores.rmse for row in found.rows[:-1]] == sorted(row.scores.rmse for row in found.rows[:-1])
    assert found.command.startswith(f"voxgap fill {tmp_path}/scan.npy --strategy linear")


def test_channels_are_scored_in_their_own_units(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    volumes = np.stack(
        [np.concatenate([smooth((6, 8, 8, 1), s), 100 * smooth((6, 8, 8, 1), s + 9)], -1) for s in range(6)]
    )
    for index in range(6):
        volumes[index, index % 4 : index % 4 + 2] = np.nan
    np.savez(tmp_path / "data.npz", volumes=volumes, labels=np.arange(6) % 2, channels=["t", "s"])
    monkeypatch.setattr(check, "FILLS", ("mean", "zero"))
    found = check_fills(tmp_path / "data.npz", "mean", seeds=1)
    assert found.unit == "standard deviations of each channel"
    assert found.best.strategy == "mean"
    scores = found.best.channels
    assert scores["s"].rmse == pytest.approx(100 * scores["t"].rmse, rel=0.5)
    spread = [np.nanstd(volumes[..., channel], dtype=float) for channel in range(2)]
    pooled = [scores[name].rmse / one for name, one in zip("ts", spread, strict=True)]
    assert found.best.scores.rmse == pytest.approx(np.sqrt(np.mean(np.square(pooled))), rel=1e-5)


@pytest.mark.full
def test_the_command_prints_a_table_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    volume = smooth((10, 12, 12))
    volume[3:5] = np.nan
    write(tmp_path / "scan.npy", Volume(volume))
    monkeypatch.setattr(check, "FILLS", ("mean", "kriging"))
    text = run(tmp_path / "scan.npy", "--check", "--seeds", 1, "--strategy", "mean", "--everywhere")
    assert "RMSE" in text
    assert "--strategy kriging --everywhere --out filled" in text.replace("\n", " ")
    assert [file.name for file in tmp_path.iterdir()] == ["scan.npy"]
    found = json.loads(
        run(
            tmp_path / "scan.npy",
            "--check",
            "--seeds",
            1,
            "--strategy",
            "mean",
            "--json",
            "--out",
            tmp_path / "out",
        )
    )
    assert found == json.loads((tmp_path / "out" / "check.json").read_text())
    best = found["rows"][0]
    assert best["strategy"] == "kriging"
    assert 0.4 < best["scores"]["within_68"] < 0.95
    assert best["scores"]["crps"] < best["scores"]["mae"]
    assert found["rows"][1]["scores"]["crps"] is None
    with pytest.raises(VoxgapError, match="--out names the folder"):
        run(tmp_path / "scan.npy")
    with pytest.raises(VoxgapError, match="seeds must be at least 1"):
        run(tmp_path / "scan.npy", "--check", "--seeds", 0)


def test_the_command_reads_files_as_they_were_read(tmp_path: Path) -> None:
    grid = as_files_are([-3.4028234663852886e38, -9.0], ["z", "y", "x"], {"t": 0})
    said = check._command(Job("a b.nc", tmp_path, grid=grid), check.Row("mean", {"per": "voxel"}))
    words = shlex.split(said)
    assert words[:6] == ["voxgap", "fill", "a b.nc", "--strategy", "mean", "--option"]
    # As one word: a number that begins with a minus is no option.
    (marks,) = (word.partition("=")[2] for word in words if word.startswith("--missing-values"))
    assert [float(mark) for mark in marks.split(",")] == [
        pytest.approx(-3.4028234663852886e38, rel=1e-7),
        -9.0,
    ]
    assert np.float32(marks.split(",")[0]) == np.finfo(np.float32).min
    assert {"--axes=z,y,x", "--at=t=0"} <= set(words)
