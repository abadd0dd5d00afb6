"""Pictures: north, the front and the head are up wherever the file says where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray

from voxgap.dataset import load_data
from voxgap.dataset.folders import list_folder
from voxgap.dataset.survey import survey
from voxgap.inspection import inspect
from voxgap.io import scan, write
from voxgap.pictures import differences, histogram, png, slices
from voxgap.report.inspection import examples
from voxgap.report.page import drawing
from voxgap.report.pareto import Candidate, against_cost
from voxgap.volume import Volume, rises, upright

FRONT = np.array([[0, 0, 1.0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
"""Canonical: width to the right, height to the front, depth up."""


def drawn_above(values: np.ndarray, known: bool) -> float:
    """How far above the middle of the picture the one bright row is drawn, in pixels."""
    (axes,) = slices({"": upright(values, known)}, count=1).axes
    picture = np.asarray(axes.images[0].get_array())
    row = int(picture.sum(axis=1).argmax())
    heights = axes.transData.transform([(0, row), (0, (len(picture) - 1) / 2)])[:, 1]
    return float(heights[0] - heights[1])


def sea(path: Path, latitudes: np.ndarray | None, **attributes: str) -> Path:
    """Bright along the northernmost row, where there are latitudes; else along the last one."""
    sst = np.zeros((3, 5, 6), np.float32)
    sst[:, -1 if latitudes is None else int(latitudes.argmax())] = 1
    coords = {} if latitudes is None else {"j": ("j", latitudes, attributes)}
    data = xarray.Dataset({"sst": (("time", "j", "i"), sst)}, coords)
    if path.suffix == ".zarr":
        data.to_zarr(path, consolidated=False)
    else:
        data.to_netcdf(path, engine="h5netcdf")
    return path


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
@pytest.mark.parametrize("falling", [False, True])
def test_north_is_up_however_latitudes_are_stored(suffix: str, falling: bool, tmp_path: Path) -> None:
    latitudes = np.linspace(30, 40, 5)[:: -1 if falling else 1]
    found = scan(sea(tmp_path / f"sea{suffix}", latitudes, units="degrees_north"))
    assert found.rises
    assert drawn_above(found.read().values, found.rises) > 0


def test_rows_that_may_run_either_way_stay_as_they_are(tmp_path: Path) -> None:
    found = scan(sea(tmp_path / "sea.nc", None))
    assert not found.rises
    assert drawn_above(found.read().values, found.rises) < 0
    write(tmp_path / "photograph.tif", Volume(np.zeros((3, 4, 5)), spacing=(1, 1, 1)))
    assert not scan(tmp_path / "photograph.tif").rises


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd", ".npz"])
def test_the_front_of_a_scan_is_up_however_it_is_stored(suffix: str, tmp_path: Path) -> None:
    for turn in (1, -1):
        affine = FRONT @ np.diag([1, turn, 1, 1])
        values = np.zeros((3, 5, 6), np.float32)
        values[:, -1 if turn > 0 else 0] = 1
        path = tmp_path / f"scan{turn}{suffix}"
        write(path, Volume(values, affine))
        found = scan(path)
        assert drawn_above(found.read().values, found.rises) > 0


def bright_behind(values: np.ndarray, index: int) -> np.ndarray:
    """A volume whose brightest row is the last one of height, which is in front."""
    values = np.random.default_rng(index).normal(0, 0.01, values.shape).astype(np.float32)
    values[:, -1] = 1
    return values


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".nii.gz", {"cache": "cache"}),
        *(
            pytest.param(suffix, options, marks=pytest.mark.full)
            for suffix in (".nii.gz", ".nc", ".npy")
            for options in ({}, {"size": (4, 8, 8)}, {"cache": "cache"})
        ),
    ],
)
def test_a_data_set_knows_what_is_up_as_its_files_do(
    suffix: str, options: dict[str, Any], tmp_path: Path
) -> None:
    for index in range(8):
        path = tmp_path / "data" / "ab"[index % 2] / f"{index}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = bright_behind(np.zeros((3, 5, 6)), index)
        if suffix == ".nc":
            held = {"sst": (("time", "lat", "lon"), values)}
            coords = {"lat": ("lat", np.arange(5.0), {"units": "degrees_north"})}
            xarray.Dataset(held, coords).to_netcdf(path, engine="h5netcdf")
        elif suffix == ".npy":
            np.save(path, values)
        else:
            write(path, Volume(values, FRONT))
    if "cache" in options:
        options = {"cache": tmp_path / "cache"}
    data = load_data(tmp_path / "data", **options)
    assert data.rises == (suffix != ".npy")
    assert (drawn_above(data.part("test").volumes[0], data.rises) > 0) == data.rises
    assert inspect(tmp_path / "data", size=options.get("size")).rises == data.rises
    assert survey(list_folder(tmp_path / "data"), "data", data.grid).rises == data.rises


def test_the_pictures_of_a_page_are_turned(tmp_path: Path) -> None:
    for index in range(4):
        (tmp_path / "flat").mkdir(exist_ok=True)
        write(tmp_path / "flat" / f"{index}.nii.gz", Volume(bright_behind(np.zeros((3, 5, 6)), index), FRONT))
    ((figure, _),) = examples(inspect(tmp_path / "flat"))
    for axes in figure.axes:
        assert np.asarray(axes.images[0].get_array()).sum(axis=1).argmax() == 0


@pytest.mark.parametrize(
    ("height", "known"),
    [
        ((0, 1, 0), True),
        ((0, -2, 0), False),
        ((0, 0.3, 0.9), True),
        ((0, 0.9, -0.3), True),
        ((1, 0.1, 0), False),
    ],
)
def test_the_height_axis_rises_where_it_runs_mostly_to_the_front_or_the_head(
    height: tuple[float, ...], known: bool
) -> None:
    affine = np.eye(4)
    affine[:3, 1] = height
    assert rises(affine) is known


def test_what_is_missed_too_much_or_of_another_class_has_its_colour() -> None:
    truth, answer = np.zeros((2, 3, 2, 4), np.int16)
    truth[1] = [[1, 1, 1, 0], [-1, 0, 0, 0]]
    answer[1] = [[1, 0, 2, 2], [1, 0, 0, 0]]
    answer[2, 0, 0] = 1
    figure = differences([("a", np.zeros((3, 2, 4), np.float32), truth, answer)], count=2)
    over = figure.axes[0].images[1]
    colours = over.to_rgba(over.get_array())[..., :3]
    legend = {
        text.get_text(): patch.get_facecolor()[:3]
        for text, patch in zip(figure.legends[0].get_texts(), figure.legends[0].get_patches(), strict=True)
    }
    expected = ["as drawn", "missed", "another class", "too much"]
    assert [tuple(colour) for colour in colours[0]] == [legend[name] for name in expected]
    assert np.ma.getmaskarray(over.get_array())[1].all()
    assert [axes.get_title() for axes in figure.axes] == ["slice 1", "slice 2"]


def test_gaps_have_the_colour_of_the_legend_and_are_grey_under_another_one() -> None:
    volume, truth = np.linspace(0, 1, 40, dtype=np.float32).reshape(2, 4, 5), np.zeros((2, 4, 5), np.int16)
    truth[1, 0, :2], volume[1, 0, 1:3] = 1, np.nan
    figure = differences([("a", volume, truth, truth)], spacing=(3, 2, 1))
    assert [axes.get_title() for axes in figure.axes] == ["slice 1"]  # the only one with a class, and once
    assert figure.axes[0].get_aspect() == 2
    under = np.ma.filled(figure.axes[0].images[0].get_array(), np.nan)
    assert (under[0, 1], np.isnan(under[0, 2])) == (pytest.approx(0.5, abs=0.02), True)
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[-1] == "gap in the volume"
    complete = differences([("a", np.zeros_like(volume), truth, truth)])
    assert [text.get_text() for text in complete.legends[0].get_texts()] == words[:-1]


@pytest.mark.filterwarnings("error")
def test_names_stand_in_pictures_as_they_are() -> None:
    truth = np.zeros((2, 4, 5), np.int16)
    names = [r"a$\nothing$b", "$$", r"one\$", "漢字 \N{GRINNING FACE}", "long_" * 20 + "end"]
    figure = differences([(name, np.zeros((2, 4, 5), np.float32), truth, truth) for name in names])
    assert png(figure).startswith(b"\x89PNG")
    labels = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert labels[:4] == names[:4]
    assert (len(labels[4]), labels[4][-4:], "…" in labels[4]) == (39, "_end", True)
    # What matplotlib itself writes along a logarithm is still typeset.
    page = drawing(histogram({"$x$": np.arange(1.0, 9), r"$\y$": np.arange(9.0)}))
    assert ("$x$</text>" in page, "<tspan" in page, "}$</text>" in page) == (True, True, False)
    found = [Candidate(r"a$\b$", 0.5, 1.0), Candidate("c$^$", 0.6, 2.0)]
    assert r"a$\b$" in drawing(against_cost(found, "auc", "cost"))
