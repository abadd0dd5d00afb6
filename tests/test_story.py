"""The whole story, as a person lives it: own scans with holes, from the first look to a page that answers.

NIfTI files of two modalities, on several grids and in units of their own, with a mark for what is missing, slices
lost, and patients of one file: inspect, train, evaluate, predict, compare, export, serve, and the page of both kinds.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import web_cases as cases

pytestmark = pytest.mark.full

VOXGAP = [sys.executable, "-P", "-c", "from voxgap.cli import main; main()"]
MARK = -1000.0
PATIENTS = 36
GRID = ["--missing-values", "-1000", "--size", "12,16,16", "--spacing", "2,2,2", "--reference", "t1"]


def scan(path: Path, values: np.ndarray, spacing: float) -> Path:
    # NIfTI has x first, and x to the right: (width, height, depth) of ours.
    nibabel.Nifti1Image(values.T.astype(np.float32), np.diag([spacing] * 3 + [1.0])).to_filename(path)
    return path


def patient(folder: Path, number: int, label: int, flair: bool) -> dict[str, str]:
    """A scan with a bright ball, left or right, 24 x 32 x 32 mm large, on one of two grids."""
    rng = np.random.default_rng(number)
    spacing = (2.0, 1.0)[number % 2]
    shape = np.round(np.array([24, 32, 32]) / spacing).astype(int)
    depth, height, width = (
        (np.arange(size) + 0.5) * spacing - half for size, half in zip(shape, (12, 16, 16), strict=True)
    )
    ball = depth[:, None, None] ** 2 + height[:, None] ** 2 + (width - (7 if label else -7)) ** 2 < 36
    paths = {}
    for modality in ("t1", "flair")[: 1 + flair]:
        values = 100 * 10 ** rng.uniform(-1, 1) * (1 + ball + rng.normal(0, 0.1, shape))
        values[rng.random(shape[0]) < 0.2] = MARK
        values[:, :2] = MARK
        paths[modality] = str(
            scan(folder / f"p{number:02}_{modality}.nii.gz", values, spacing).relative_to(folder)
        )
    return paths


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("story")
    with (folder / "patients.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, ["t1", "flair", "label", "group"], restval="")
        table.writeheader()
        for number in range(PATIENTS):
            label = number % 3 % 2
            row = patient(folder, number, label, flair=number % 5 != 0)
            table.writerow({**row, "label": ("left", "right")[label], "group": f"g{number}"})
    return folder


def run(place: Path, *arguments: str) -> str:
    """A command, in a process of its own; what it printed on both streams."""
    done = subprocess.run(
        [*VOXGAP, *arguments],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def bundle(place: Path) -> Path:
    said = run(
        place, "train", "patients.csv", *GRID, "--model", "cnn3d", "--filters", "8,16", "--strategy", "mask_channel",
        "--epochs", "30", "--batch-size", "8", "--learning-rate", "0.01", "--precision", "float32",
        "--export", "onnx", "--out", "runs/patients",
    )  # fmt: skip
    assert "validation" in said
    return place / "runs/patients"


@pytest.fixture(scope="module")
def newcomers(place: Path) -> Path:
    """A ward of four patients whom nobody has seen, the last of them with one file."""
    ward = place / "ward"
    for number, label, flair in ((90, 0, True), (92, 1, True), (93, 1, True), (94, 0, False)):
        folder = ward / f"patient{number}"
        folder.mkdir(parents=True)
        for modality, name in patient(folder, number, label, flair).items():
            (folder / name).rename(folder / f"{modality}.nii.gz")
    return ward


@pytest.fixture(scope="module")
def predicted(bundle: Path, newcomers: Path, place: Path) -> dict[str, dict[str, str]]:
    """The row of each of them, by the name of the patient."""
    run(
        place, "predict", str(bundle), *map(str, sorted(newcomers.iterdir())), "--channels", "t1.nii.gz,flair.nii.gz",
        "--out", "preds.csv",
    )  # fmt: skip
    with (place / "preds.csv").open(newline="") as stream:
        return {re.search(r"patient\d+", row["path"])[0]: row for row in csv.DictReader(stream)}


def test_inspect_says_what_is_there_without_being_told_a_size(place: Path) -> None:
    said = run(place, "inspect", "patients.csv")
    assert "--missing-values -1000" in said, "the mark is not named"
    assert "flair" in said
    assert "--size" in said, "how the volumes come to one shape is not said"


def test_the_network_has_learnt_it_and_says_how_sure_that_is(place: Path, bundle: Path) -> None:
    said = run(place, "evaluate", str(bundle), "patients.csv", "--json")
    scores, _ = json.JSONDecoder().raw_decode(said)  # warnings follow
    assert scores["all"]["accuracy"] >= 0.8
    assert "were in training" in said, "the table has no split: most of it was learnt from"
    assert (bundle / "evidence").is_dir()


def test_new_patients_are_named(predicted: dict[str, dict[str, str]]) -> None:
    named = {name: row["class"] for name, row in predicted.items()}
    assert named == {"patient90": "left", "patient92": "right", "patient93": "right", "patient94": "left"}


def test_compare_has_a_page_and_a_table(place: Path) -> None:
    run(
        place, "compare", "patients.csv", *GRID, "--strategies", "zero,mask_channel", "--model", "cnn3d",
        "--folds", "2", "--filters", "4,8", "--epochs", "2", "--precision", "float32", "--out", "runs/which",
    )  # fmt: skip
    assert (place / "runs/which/report.html").is_file()
    assert (place / "runs/which/results.csv").is_file()


# --- the pages ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(bundle: Path) -> Any:
    process = subprocess.Popen(
        [*VOXGAP, "serve", str(bundle), "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield found[0]
                break
        else:
            raise AssertionError("the server ended")
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def site(place: Path, bundle: Path) -> Path:
    run(place, "export", str(bundle), "--to", "web", "--out", "site")
    return place / "site"


def answer(page: Any, folder: Path) -> str:
    """Drop a patient's files on the page; what it says of them."""
    page.set_input_files("#file", [str(path) for path in sorted(folder.iterdir())])
    if page.locator("#predict").is_visible():
        page.click("#predict")
    page.locator("#table tbody tr").first.wait_for(timeout=60_000)
    return page.locator("#answer").inner_text()


def shown(url: str, newcomers: Path, predicted: dict[str, dict[str, str]], names: list[str]) -> None:
    with cases.chromium() as browser:
        for name in names:
            page = browser.new_page(viewport={"width": 1200, "height": 900})
            page.goto(url)
            page.wait_for_selector("#choose:not([hidden])", timeout=60_000)
            assert predicted[name]["class"] in answer(page, newcomers / name)
            assert str(newcomers) not in page.content()
            page.close()


def test_the_page_of_the_server_takes_patients_of_two_files_and_of_one(
    served: str, newcomers: Path, predicted: dict[str, dict[str, str]]
) -> None:
    shown(served, newcomers, predicted, ["patient90", "patient93", "patient94"])


def test_the_page_without_a_server_answers_the_same(
    site: Path, newcomers: Path, predicted: dict[str, dict[str, str]]
) -> None:
    with cases.serving(site) as url:
        shown(url, newcomers, predicted, ["patient90", "patient94"])


def test_what_goes_out_names_no_patient(site: Path) -> None:
    for path in site.rglob("*"):
        if path.is_file():
            assert not re.search(rb"p\d\d_(t1|flair)|story\d", path.read_bytes()), path
