"""`voxgap inspect` on a data set and on one volume."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from voxgap.cli import console
from voxgap.cli.inspect import inspect
from voxgap.dataset import load_data
from voxgap.errors import VoxgapError
from voxgap.experiment.migration import _reading
from voxgap.inspection import inspect as inspect_it
from voxgap.io import write
from voxgap.missingness import simulate
from voxgap.report import inspection as pictured
from voxgap.volume import Volume

APP = typer.Typer()
APP.command()(inspect)


def values() -> np.ndarray:
    return simulate(np.random.default_rng(0).normal(size=(20, 8, 6, 6, 1)), "slices", 0.25)


def output(*arguments: str) -> str:
    # Not by COLUMNS alone: a console that was made where it was set keeps that width.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console.out, "_width", 200)
        result = CliRunner().invoke(APP, list(arguments), env={"COLUMNS": "200"}, catch_exceptions=False)
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


def informative(tmp_path: Path) -> Path:
    """Ill patients lose more slices, in groups of two."""
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.integers(0, 2, 30), 2)
    complete = rng.normal(size=(60, 8, 6, 6, 2)).cumsum(axis=1)
    gapped = simulate(complete, "slices", 0.3, "mar", given=labels, seed=1)
    groups = np.repeat(np.arange(30), 2)
    held = {"volumes": gapped, "labels": np.array(["well", "ill"])[labels], "groups": groups}
    np.savez(tmp_path / "data.npz", **held, channels=["t1", "flair"])
    return tmp_path / "data.npz"


def test_what_missingness_depends_on_and_what_to_do(tmp_path: Path) -> None:
    path = informative(tmp_path)
    text = " ".join(output(str(path)).split())
    assert "What is missing depends on the label: it is not missing completely at random" in text
    assert "more is missing in class ill" in text or "less is missing in class well" in text
    assert "No test can prove" in text
    assert "mask_channel" in text
    assert "linear" in text
    facts = json.loads(output(str(path), "--json"))
    first = facts["evidence"]["tests"][0]
    assert first["found"]
    assert first["units"] == 30
    assert first["p_value"] <= first["adjusted"] <= 0.05
    assert facts["evidence"]["auc_of_missing_rate"] > 0.7
    assert facts["advice"][0]["strategies"] == ["mask_channel", "masked_conv"]
    assert facts["evidence"] == json.loads(output(str(path), "--json"))["evidence"]


def test_gaps_at_random_are_called_so(tmp_path: Path) -> None:
    volumes = simulate(np.random.default_rng(0).normal(size=(40, 8, 6, 6, 1)), "voxels", 0.3)
    np.savez(tmp_path / "data.npz", volumes=volumes, labels=np.arange(40) % 2)
    text = " ".join(output(str(tmp_path / "data.npz")).split())
    assert "No evidence against gaps that are missing completely at random (MCAR)" in text
    assert "No test can prove" in text


@pytest.mark.parametrize(
    ("given", "written"),
    [("page.html", "page.html"), pytest.param("folder", "folder/inspect.html", marks=pytest.mark.full)],
)
def test_the_page_stands_alone(given: str, written: str, tmp_path: Path) -> None:
    output(str(informative(tmp_path)), "--out", str(tmp_path / given))
    page = (tmp_path / written).read_text()
    for words in (
        "What is there",
        "Where it is missing",
        "What is observed",
        "What it depends on",
        "What to try",
        "class ill",
        "flair",
        "No test can prove",
        "voxgap compare",
        "--strategies mask_channel,masked_conv,",
    ):
        assert words in page
    assert page.count("data:image/png;base64,") + page.count("<svg") == 4
    for elsewhere in ("http://", "https://", "<script", "<link"):
        assert elsewhere not in page


@pytest.mark.parametrize(
    "kind", ["complete", pytest.param("one volume", marks=pytest.mark.full), "nothing observed"]
)
def test_the_page_of_what_has_little_to_show(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    if kind == "complete":
        np.savez(path, volumes=np.random.default_rng(0).normal(size=(8, 4, 4, 4, 1)), labels=np.arange(8) % 2)
    elif kind == "one volume":
        write(path, Volume(values()[0]))
    else:
        write(path, Volume(np.full((3, 3, 3), np.nan)))
    output(str(path), "--out", str(tmp_path))
    page = (tmp_path / "inspect.html").read_text()
    assert ("Where it is missing" in page) == (kind != "complete")
    assert ("What is observed" in page) == (kind != "nothing observed")
    assert "voxgap compare" not in page


def test_sentinels_are_missing_when_told(tmp_path: Path) -> None:
    volumes = np.random.default_rng(0).integers(1, 9, (8, 4, 4, 4)).astype(np.int16)
    volumes[:, 1] = -3024
    np.savez(tmp_path / "data.npz", volumes=volumes, labels=np.arange(8) % 2)
    read_as = json.loads(output(str(tmp_path / "data.npz"), "--missing-values", "-3024", "--json"))
    assert read_as["description"]["missing_rate"] == 0.25
    assert json.loads(output(str(tmp_path / "data.npz"), "--json"))["description"]["missing_rate"] == 0


@pytest.mark.parametrize(
    "mark",
    [
        float(np.finfo(np.float32).min),
        *(pytest.param(mark, marks=pytest.mark.full) for mark in (-1000.0, 1e20, -999.25)),
    ],
)
def test_a_mark_that_was_not_named_is_in_the_command_and_in_no_claim(mark: float, tmp_path: Path) -> None:
    volumes = np.random.default_rng(0).normal(300, 50, (12, 4, 6, 6)).astype(np.float32)
    volumes[:, 1] = mark
    path = tmp_path / "data.npz"
    for gaps in (False, True):
        volumes[:6, 3] = np.nan if gaps else volumes[:6, 3]
        np.savez(path, volumes=volumes, labels=np.arange(12) % 2)
        text = " ".join(output(str(path)).split())
        facts = json.loads(output(str(path), "--json"))
        assert "more, if" in text
        assert not any("Nothing is missing" in advice["why"] for advice in facts["advice"])
        (command,) = (line[2:] for line in output(str(path)).splitlines() if line.startswith("$ "))
        assert command.startswith(f"voxgap {'compare' if gaps else 'inspect'} ")
        option = next(word for word in command.split() if word.startswith("--missing-values="))
        named = json.loads(output(str(path), option, "--json"))
        assert named["description"]["missing_rate"] == (0.375 if gaps else 0.25)
        assert "more, if" not in output(str(path), option)
    write(tmp_path / "one.nii.gz", Volume(volumes[8], spacing=(1, 1, 1)))
    assert "$ voxgap inspect" in output(str(tmp_path / "one.nii.gz"))


@pytest.mark.parametrize("said", [{"flag_values": [0, 1], "flag_meanings": "land sea"}, {}])
def test_what_is_outside_of_the_mask_of_a_file_is_not_missing(
    said: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leads: list[str] = []
    xr = pytest.importorskip("xarray")
    rng = np.random.default_rng(0)
    sea = np.ones((8, 9), np.int8)
    sea[:, 6:], sea[2] = 0, 0
    sst = rng.normal(15, 1, (6, 8, 9)).cumsum(axis=0).astype(np.float32)
    sst[rng.random(sst.shape) < 0.2] = np.nan
    sst[4] = np.nan
    sst[:, sea == 0] = np.nan
    coords = {"time": np.arange(6.0), "lat": np.arange(8.0), "lon": np.arange(9.0)}
    attributes = {name: np.asarray(x, np.int8) if isinstance(x, list) else x for name, x in said.items()}
    held = {"sst": (("time", "lat", "lon"), sst), "landmask": (("lat", "lon"), sea, attributes)}
    xr.Dataset(held, coords).to_netcdf(tmp_path / "sea.nc", engine="h5netcdf")
    found = json.loads(output(f"{tmp_path}/sea.nc::sst", "--json"))
    gaps = np.isnan(sst[:, sea == 1])
    assert found["description"]["missing_rate"] == pytest.approx(gaps.mean())
    np.testing.assert_allclose(found["description"]["per_axis"]["depth"], gaps.mean(axis=1))
    assert found["description"]["missing_slices"] == {"depth": 1, "height": 0, "width": 0}
    assert found["mask"]["outside"] == pytest.approx(1 - sea.mean())
    text = output(f"{tmp_path}/sea.nc::sst")
    assert (
        f"{gaps.mean():.1%} inside the mask; {1 - sea.mean():.1%} of all lies outside, never observed" in text
    )
    assert ("0 (land)" in text) == bool(said)
    seen = inspect_it(f"{tmp_path}/sea.nc::sst")
    rates = pictured._profiles(seen)
    assert list(rates) == ["time", "lat", "lon"]
    np.testing.assert_array_equal(np.isnan(rates["lat"][0]), (sea == 0).all(axis=1))
    np.testing.assert_array_equal(np.isnan(rates["lon"][0]), (sea == 0).all(axis=0))
    assert "along lat" in text
    assert f"$ voxgap fill {tmp_path}/sea.nc::sst --check" in text
    assert "--task fill" in text
    assert "masked_conv" not in text
    monkeypatch.setattr(pictured, "write_page", lambda path, title, lead, sections: leads.append(lead))
    seen.write_page(tmp_path / "page.html")
    assert leads[0].startswith("1 volume, ")


def test_the_command_that_is_suggested_reads_the_data_in_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "a set.npz"
    volumes = np.where(np.isnan(values()), -7.5, values())
    np.savez(path, volumes=volumes, labels=["well", "ill"] * 10)
    text = output(str(path), "--missing-values", "-7.5", "--size", "6,6,6")
    (command,) = (line[2:] for line in text.splitlines() if line.startswith("$ "))
    assert command.startswith("voxgap compare ")
    data = load_data(**_reading(command, ""))
    assert data.volumes.shape == (20, 6, 6, 6, 1)
    assert np.isnan(data.volumes).any()
    assert not (data.volumes == -7.5).any()


def test_what_is_not_there() -> None:
    for name in ("none.npz", "none.nii", "none"):
        with pytest.raises(VoxgapError, match=f"{name}: no such file"):
            output(name)
