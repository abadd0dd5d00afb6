"""One table at every door: what training reads, scoring, prediction, inspection and filling read alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import voxgap as vg
from voxgap import table
from voxgap.dataset import load_data
from voxgap.runtime.inputs import list_items
from voxgap.training import adapt_model

COUNT, SHAPE = 8, (6, 6, 6)
PATHS = ("t1", "t2")
Rows = list[dict[str, str]]


def rows() -> Rows:
    """Eight patients, two of them without the second channel."""
    return [
        {
            "t1": f"scans/p{i}-t1.npy",
            "t2": "" if i in (1, 4) else f"scans/p{i}-t2.npy",
            "label": str(i % 2),
            "group": str(10 + i),
            "split": ("train", "train", "validation", "test")[i // 2],
        }
        for i in range(COUNT)
    ]


def text(given: Rows, delimiter: str = ",", cell: Callable[[str], str] = str) -> str:
    lines = [list(given[0]), *(list(row.values()) for row in given)]
    return "".join(delimiter.join(map(cell, line)) + "\n" for line in lines)


def each(change: Callable[[str], str], *columns: str) -> Rows:
    """The rows with other cells in some columns."""
    return [{k: change(v) if k in columns else v for k, v in row.items()} for row in rows()]


def named(names: dict[str, str], given: Rows | None = None) -> Rows:
    return [{names.get(k, k): v for k, v in row.items()} for row in given or rows()]


def counted(name: str) -> Rows:
    return [{name: str(3 * i), **row} for i, row in enumerate(rows())]


def empty_as(token: str) -> Rows:
    return each(lambda cell: cell or token, *PATHS)


def backslashed(cell: str) -> str:
    return cell and ".\\" + cell.replace("/", "\\")


def at_home(cell: str) -> str:
    return cell and f"~/{cell}"


def all_at_once() -> Rows:
    messy = each(lambda cell: f"{cell}.0", "label", "group")
    messy = [{k: backslashed(v) or "#N/A" if k in PATHS else v for k, v in row.items()} for row in messy]
    messy = named({"label": " Label ", "group": "GROUP"}, messy)
    return [{"Unnamed: 0": str(i), **row, "": "", " ": ""} for i, row in enumerate(messy)]


CSV: dict[str, Callable[[], str]] = {
    **{f"parted by {mark!r}": lambda mark=mark: text(rows(), mark) for mark in table.DELIMITERS},
    **{
        f"{token} is empty": lambda token=token: text(empty_as(token)) for token in ("NA", "nan", "NULL", "-")
    },
    "sep=": lambda: "sep=;\n" + text(rows(), ";"),
    "byte order mark": lambda: "\ufeff" + text(rows()),
    "carriage returns": lambda: text(rows()).replace("\n", "\r"),
    "quotes after blanks": lambda: text(rows(), cell=lambda cell: f' "{cell}" '),
    "blank rows": lambda: "\n" + text(rows()).replace("\n", "\n,,,,\n\n"),
    "index": lambda: text(counted("")),
    "index of pandas": lambda: text(counted("Unnamed: 0")),
    "empty columns": lambda: text([{**row, "": "", " ": ""} for row in rows()], ";"),
    "header": lambda: text(named({"label": " Label ", "group": "GROUP", "split": "Split"})),
    "backslashes": lambda: text(each(backslashed, *PATHS)),
    "home": lambda: text(each(at_home, *PATHS)),
    "1.0 is 1": lambda: text(each(lambda cell: f"{cell}.0", "label", "group")),
    "all at once": lambda: "\ufeffsep=;\r\n" + text(all_at_once(), ";").replace("\n", "\r\n;;;;;;;\r\n"),
}
PARQUET: dict[str, Callable[[], dict[str, list[Any]]]] = {
    "text": lambda: columns(rows()),
    "null": lambda: {k: [cell or None for cell in v] for k, v in columns(rows()).items()},
    "NA is empty": lambda: columns(empty_as("NA")),
    "nan is empty": lambda: columns(empty_as("nan")),
    "numbers": lambda: {k: numbers(k, v) for k, v in columns(rows()).items()},
    "blank rows": lambda: {k: [None, *v, None, ""] for k, v in columns(rows()).items()},
    "index": lambda: columns(counted("__index_level_0__")),
    "index of pandas": lambda: columns(counted("Unnamed: 0")),
    "header": lambda: columns(named({"label": " Label ", "group": "GROUP", "split": "Split"})),
    "backslashes": lambda: columns(each(backslashed, *PATHS)),
    "home": lambda: columns(each(at_home, *PATHS)),
    "all at once": lambda: {k: [*v, None] for k, v in columns(all_at_once()).items()},
}
CASES = [*((".csv", name) for name in CSV), *((".parquet", name) for name in PARQUET)]


def columns(given: Rows) -> dict[str, list[Any]]:
    return {name: [row[name] for row in given] for name in given[0]}


def numbers(name: str, cells: list[Any]) -> list[Any]:
    return [float(cell) for cell in cells] if name in ("label", "group") else cells


def save(folder: Path, case: tuple[str, str]) -> Path:
    suffix, name = case
    path = folder / f"data{suffix}"
    if suffix == ".csv":
        path.write_bytes(CSV[name]().encode())
    else:
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.table(PARQUET[name]()), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doors")
    (folder / "scans").mkdir()
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        for name in PATHS:
            np.save(folder / "scans" / f"p{i}-{name}.npy", rng.normal(i % 2, 1, SHAPE).astype(np.float32))
    (folder / "clean.csv").write_text(text(rows()))
    return folder


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Path:
    data = load_data(folder / "clean.csv")
    model = vg.build_model("cnn3d", (*SHAPE, 2), 2, strategy="mean", filters=(4,))
    adapt_model(model, data.part("train"))
    return Path(vg.save_bundle(folder / "bundle", model, data, strategy="mean"))


@pytest.fixture(autouse=True)
def _home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))


def loaded(path: Path) -> list[Any]:
    data = load_data(path)
    assert data.groups is not None
    facts = [data.classes, data.channels, data.targets.tolist(), data.split.tolist(), data.groups.tolist()]
    return [*facts, data.volumes.tobytes()]


def listed(path: Path) -> list[Any]:
    return [
        [file and Path(file).resolve() for file in item.files] for item in list_items([path], ["t1", "t2"])
    ]


def inspected(path: Path, voxgap: Any, *_: Path) -> Any:
    found = json.loads(voxgap("inspect", path, "--json").out)
    return {name: value for name, value in found.items() if name != "name"}


def scored(path: Path, voxgap: Any, _: Path, bundle: Path) -> Any:
    return json.loads(voxgap("evaluate", bundle, path, "--split", "all", "--json").out)


def predicted(path: Path, voxgap: Any, out: Path, bundle: Path) -> Any:
    done = voxgap("predict", bundle, path, "--out", out / "predicted.csv")
    assert done.code == 0, done.err
    found = table.read(out / "predicted.csv")
    return [row.cells[found.header.index("class") : -2] for row in found.rows]


def filled(path: Path, voxgap: Any, out: Path, _: Path) -> Any:
    done = voxgap("fill", path, "--strategy", "zero", "--out", out / "filled")
    assert done.code == 0, done.err
    manifest = table.read(out / "filled" / f"{path.stem}.csv")
    files = sorted((out / "filled").rglob("*.npy"))
    return manifest.header, [row.cells for row in manifest.rows], [(f.name, f.read_bytes()) for f in files]


DOORS = {"inspect": inspected, "evaluate": scored, "predict": predicted, "fill": filled}


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_training_and_prediction_read_what_was_meant(case: tuple[str, str], folder: Path) -> None:
    path = save(folder, case)
    assert loaded(path) == loaded(folder / "clean.csv")
    assert listed(path) == listed(folder / "clean.csv")


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if case[1] == "all at once" else pytest.mark.full, id=" ".join(case))
        for case in CASES
    ],
)
def test_every_command_reads_what_was_meant(
    door: str, case: tuple[str, str], folder: Path, bundle: Path, tmp_path: Path, voxgap
) -> None:
    (tmp_path / "clean").mkdir()
    expected = DOORS[door](folder / "clean.csv", voxgap, tmp_path / "clean", bundle)
    assert expected
    assert DOORS[door](save(folder, case), voxgap, tmp_path, bundle) == expected
