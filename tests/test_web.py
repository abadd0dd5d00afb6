"""The page in a real browser: what it reads, shows and predicts is what Python reads and predicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest

import stand_in
import web_cases as cases
from voxgap.bundle.packages import forewarn
from voxgap.decision import named
from voxgap.grid import Grid
from voxgap.io import read, write
from voxgap.promises import pattern_of
from voxgap.runtime import Bundle, Manifest
from voxgap.runtime.calibration import Calibration, OfPattern, tempered
from voxgap.runtime.profile import Profile, drift
from voxgap.volume import Volume
from voxgap.web import ASSETS, refused, write_web


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with a classifier of voxgap, and the classifier."""
    from voxgap.models import build_model
    from voxgap.training import adapt_model

    folder = tmp_path_factory.mktemp("web")
    x = np.stack([cases.volume(seed) for seed in range(6)])
    model = build_model("cnn3d", cases.SHAPE, 3, strategy="linear", filters=(4, 8))
    adapt_model(model, SimpleNamespace(volumes=x, targets=np.arange(6) % 3))
    proven = model.predict(x, verbose=0)
    model.export(str(folder / "model.onnx"), format="onnx", verbose=False)
    golden = cases.golden(folder, x[:2])
    manifest = cases.manifest("classification", cases.SHAPE, cases.CLASSES, golden=golden)
    bundle = Bundle(folder, Manifest.from_json(manifest))
    return write_web(folder / "page", bundle, folder / "model.onnx"), (x, proven)


# --- the exported folder ------------------------------------------------------------------------------------


def test_the_folder_holds_what_the_page_needs_and_no_more(answers: tuple[Path, Any]) -> None:
    folder = answers[0]
    assert 'data-engine="browser"' in (folder / "index.html").read_text()
    assert 'data-engine="server"' in (ASSETS / "index.html").read_text()
    published = json.loads((folder / "manifest.json").read_text())
    assert not {"arguments", "training", "files", "golden"} & set(published)
    assert published["name"] == folder.parent.name
    assert published["data"]["name"] == "tiny.csv", "no folder of the machine that it was trained on"
    assert published["decision"]["threshold"] is None
    index = json.loads((folder / "samples" / "index.json").read_text())
    assert [sample["title"] for sample in index] == ["as recorded", "with missing slices"]
    np.testing.assert_array_equal(read(folder / index[0]["url"]).values, answers[1][0][0])
    for file in folder.rglob("*"):
        if file.suffix in (".js", ".html", ".css") and "vendor" not in file.parts:
            assert "http://" not in file.read_text().replace("http://localhost", "").replace(
                "http://www.w3.org", ""
            )


def test_what_the_page_will_refuse_is_said_before_it_is_made() -> None:
    assert refused((4, 6, 8, 1), Grid()) is None
    assert refused((4, 6, 8, 1), Grid(missing_values=(-1000,), axes=("z", "y", "x"))) is None
    for grid, said in (
        (Grid(size=(4, 6, 8)), "it takes 4×6×8×1, and"),
        (Grid(spacing=(2.5, 1, 1)), "it takes 4×6×8×1 with voxels of 2.5×1×1, and"),
        (Grid(crop="observed"), "it takes 4×6×8×1, and"),
    ):
        with pytest.warns(UserWarning, match="web: the page resamples nothing: ") as warned:
            forewarn(["edge", "web"], (4, 6, 8, 1), grid)
        assert said in str(warned[0].message)
        forewarn(["edge", "container"], (4, 6, 8, 1), grid)


def test_a_chosen_file_is_shown_and_predicted_as_python_does(
    page: Any, serve: Callable[[Path], str], answers: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, (x, proven) = answers
    np.save(tmp_path / "scan.npy", x[3])
    url = serve(folder)
    page.goto(url)
    cases.choose(page, tmp_path / "scan.npy")
    page.get_by_text("What was missing").wait_for()
    found = cases.answer_of(page, tmp_path)
    assert list(found["probabilities"]) == cases.CLASSES
    np.testing.assert_allclose(list(found["probabilities"].values()), proven[3], rtol=0, atol=1e-5)
    assert found["class"] == cases.CLASSES[proven[3].argmax()]
    assert found["missing_rate"] == pytest.approx(np.isnan(x[3]).mean())
    rows = [row.split() for row in page.locator("#table tbody tr").all_inner_texts()]
    assert rows == [[name, f"{p:.4f}"] for name, p in zip(cases.CLASSES, proven[3], strict=True)]
    slider = page.get_by_role("slider", name="depth")
    assert cases.coloured(page) < 0.6
    slider.press("Home")
    slider.press("ArrowRight")
    assert page.inner_text("output >> nth=0") == "2 of 6"
    assert cases.coloured(page) > 0.9, "slice 2 is missing as a whole"
    page.get_by_label("Channel").select_option("c1")
    page.get_by_label("colour gaps").uncheck()
    assert cases.coloured(page) == 0


def test_a_sample_is_one_click_and_a_map_shows_what_the_answer_rests_on(
    page: Any, serve: Callable[[Path], str], answers: tuple[Path, Any]
) -> None:
    url = serve(answers[0])
    page.goto(url)
    page.get_by_role("button", name="with missing slices").click()
    page.get_by_text("What was missing").wait_for()
    page.get_by_label("On top").select_option("what the network looked at")
    page.locator("#legend").wait_for()
    assert "Each part is made missing in turn" in page.inner_text("#legend")


def test_everything_can_be_done_with_the_keyboard(
    page: Any, serve: Callable[[Path], str], answers: tuple[Path, Any]
) -> None:
    url = serve(answers[0])
    page.goto(url)
    page.locator("#samples button").first.wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.id") == "file"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_text("What was missing").wait_for()
    page.locator(".slice").first.focus()
    for key in ("PageDown", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    # From the middle: depth 4, height 5, width 6 of 6, 8, 10.
    assert page.inner_text("#value").startswith("At depth 3, height 6, width 7:")


@pytest.mark.full
def test_the_page_fits_a_phone(browser: Any, serve: Callable[[Path], str], answers: tuple[Path, Any]) -> None:
    narrow = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme="dark")
    url = serve(answers[0])
    narrow.goto(url)
    narrow.locator("#samples button").first.click()
    narrow.get_by_text("What was missing").wait_for()
    assert narrow.evaluate("() => document.documentElement.scrollWidth") == 400
    dark = narrow.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert max(map(int, dark.removeprefix("rgb(").removesuffix(")").split(","))) < 60
    narrow.close()


@pytest.mark.full
def test_a_label_map_is_downloaded_where_the_scan_lies(
    page: Any, serve: Callable[[Path], str], labels: Path, tmp_path: Path
) -> None:
    values = cases.volume(7, (*cases.SHAPE[:3], 1))
    affine = np.array([[-1, 0, 0.2, 9], [0, 0, 2, 8], [0, -3, 0, 7], [0, 0, 0, 1.0]])
    scan = np.transpose(values[..., 0], (2, 0, 1))  # stored x, z, y: the affine says so
    nibabel.save(nibabel.Nifti1Image(scan, affine), tmp_path / "scan.nii.gz")
    known = read(tmp_path / "scan.nii.gz")
    manifest = cases.manifest("segmentation", (*cases.SHAPE[:3], 1), ["0", "300"])
    manifest["input"]["grid"]["size"] = [*cases.SHAPE[:3]]
    bundle = Bundle(tmp_path, Manifest.from_json(manifest))
    url = serve(write_web(tmp_path / "page", bundle, labels / "model.onnx"))
    page.goto(url)
    page.locator("#choose").wait_for()
    about = page.locator("#about").inner_text()
    assert (
        "Takes volumes of 6×8×10×1 (depth, height, width, channels: c0). This page resamples nothing: "
        in about
    )
    cases.choose(page, tmp_path / "scan.nii.gz")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the label map").click()
    assert download.value.suggested_filename == "scan.labels.nii"
    download.value.save_as(tmp_path / "labels.nii")
    made = read(tmp_path / "labels.nii")
    np.testing.assert_array_equal(made.values, 300 * (np.nan_to_num(known.values) > 0))
    np.testing.assert_allclose(made.affine, known.affine, atol=1e-6)


@pytest.mark.full
def test_a_page_without_samples_works(
    page: Any, serve: Callable[[Path], str], labels: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "one.npy", cases.volume(1, (*cases.SHAPE[:3], 1)))
    url = serve(labels)
    page.goto(url)
    cases.choose(page, tmp_path / "one.npy")
    page.get_by_text("480 voxels").or_(page.get_by_text("6×8×10 voxels labelled")).first.wait_for()
    assert not page.locator("#samples").is_visible()


# --- what the answer means --------------------------------------------------------------------------------------


def test_decisions_and_doubts_follow_the_rules_of_the_runtime(
    page: Any, serve: Callable[[Path], str], labels: Path
) -> None:
    script = """async ([manifest, volumes, shape, probabilities, temperature, thresholds, classes, byGaps]) => {
        const { doubts } = await import("./static/missingness.js");
        const { calibrated, labelValues, named, temperatureOf } = await import("./static/decision.js");
        return {
            drawn: classes.map(labelValues),
            doubts: volumes.map((values) => {
                const floats = Float32Array.from(values, (value) => value ?? NaN);
                return doubts({ values: floats, shape }, manifest);
            }),
            named: thresholds.map((threshold) => probabilities.map((p) => named(p, threshold))),
            calibrated: probabilities.map((p) => calibrated(p, { temperature })),
            byGaps: volumes.map((values) => {
                const floats = Float32Array.from(values, (value) => value ?? NaN);
                return temperatureOf({ values: floats, shape }, byGaps);
            }),
        };
    }"""
    rng = np.random.default_rng(0)
    manifest = cases.manifest("classification", cases.SHAPE, ["no", "yes"])
    volumes = [cases.volume(0), np.full(cases.SHAPE, np.nan), cases.volume(1) * 1000, cases.volume(2) + 30]
    volumes += [np.where([False, True], np.nan, cases.volume(3)), rng.normal(size=cases.SHAPE)]
    volumes += [np.where(np.arange(np.prod(cases.SHAPE)).reshape(cases.SHAPE) == 2, 1e20, cases.volume(4))]
    numbers = [1000.5, -1001.5, 9999.5, -12345.0, 1e-5, 0.000123456, -0.0, 255.25, 255.75, 1e20, 3e38]
    volumes += [
        np.full(cases.SHAPE, number) for number in numbers
    ]  # flat, and some halfway between two numbers
    order = np.arange(np.prod(cases.SHAPE)).reshape(cases.SHAPE)
    volumes += [np.where(order < part * order.size, np.nan, cases.volume(5)) for part in (0.625, 0.885, 0.0)]
    volumes = [volume.astype(np.float32) for volume in volumes]
    names = [
        ["0", "255"],
        ["0", "300", "32767"],
        ["1", "32768"],
        ["0", "00"],
        ["no", "7"],
        ["", "1"],
        ["٣", "1"],
    ]
    learnt = [{"classes": classes} for classes in names]
    learnt += [{"classes": ["0", "3", "4"], "label_values": [0, 1, 2]}]
    p = np.concatenate([rng.dirichlet([1, 1], 20), [[0.5, 0.5], [0.7, 0.3], [0.3, 0.7]]]).astype(np.float32)
    thresholds = [None, 0.3, 0.5, 0.7, float(p[4, 1])]
    plain = [[None if np.isnan(v) else float(v) for v in volume.reshape(-1)] for volume in volumes]
    own = [
        OfPattern(*pattern, 2.0 + i) for i, pattern in enumerate(dict.fromkeys(map(pattern_of, volumes[:5])))
    ]
    calibration = Calibration(1.7, patterns=tuple(own[:-1]))
    made = calibration.to_json() | {"log_loss": None}
    url = serve(labels)
    page.goto(url)
    found = page.evaluate(
        script, [manifest, plain, list(cases.SHAPE), p.tolist(), 1.7, thresholds, learnt, made]
    )
    known = Profile.of(manifest, "manifest")
    for volume, said in zip(volumes, found["doubts"], strict=True):
        expected = [line for line in drift(volume, known) if not line.startswith("the gaps look like")]
        assert said == expected
    assert sum(map(len, found["doubts"])) >= 6 + 2 * len(numbers)
    assert found["drawn"] == [list(stand_in.manifest(**said).label_values) for said in learnt]
    assert found["named"] == [named(p, threshold).tolist() for threshold in thresholds]
    np.testing.assert_allclose(found["calibrated"], tempered(p, 1.7), atol=1e-12)
    assert found["byGaps"] == [calibration.of_input(volume) for volume in volumes]
    assert len({*found["byGaps"]}) > 2


# --- with the server --------------------------------------------------------------------------------------------


@pytest.mark.full
def test_the_page_of_the_server_says_what_its_api_says(page: Any, tmp_path: Path) -> None:
    import httpx

    import server_cases

    bundle = server_cases.make_bundle(tmp_path / "lamp")
    with cases.at_work(bundle, server_cases.load) as url:
        scan = server_cases.files(tmp_path, server_cases.volume())[".nrrd"]
        page.goto(url)
        cases.choose(page, scan)
        page.get_by_text("What was missing").wait_for()
        shown = cases.answer_of(page, tmp_path)
        with scan.open("rb") as stream:
            reply = httpx.post(f"{url}v1/predict", files={"file": (scan.name, stream)})
        (said,) = reply.json()["predictions"]
        for field in ("class", "probabilities", "missing_rate", "warnings"):
            assert shown[field] == said[field]
        page.get_by_role("slider", name="depth").press("Home")
        page.get_by_role("slider", name="depth").press("ArrowRight")
        assert cases.coloured(page) > 0.9, "slice 2 is missing as a whole"
        page.get_by_label("On top").select_option("what the network looked at")
        page.locator("#legend").wait_for()
        page.close()


@pytest.mark.full
def test_the_page_of_the_server_saves_a_label_map_where_the_file_lies(page: Any, tmp_path: Path) -> None:
    import server_cases

    values = np.full((9, 7, 12, 1), np.nan, np.float32)
    values[3:7, 1:7, 2:10] = server_cases.volume()
    affine = np.array([[0, 0, 2, 40], [0, 3, 0, -7], [1.5, 0, 0, 5], [0, 0, 0, 1]])
    write(tmp_path / "scan.nii.gz", Volume(values, affine))
    scan = read(tmp_path / "scan.nii.gz")
    with cases.at_work(*server_cases.segmenter(tmp_path / "lamp", ("0", "300"))) as url:
        page.goto(url)
        cases.choose(page, tmp_path / "scan.nii.gz")
        about = page.locator("#about").inner_text()
        assert about.startswith("Takes volumes of any size, which are brought to 4×6×8×1 (depth")
        assert "resamples nothing" not in about
        # Of the file, of which the network saw 4×6×8.
        page.get_by_text("756 voxels labelled").wait_for()
        bright = int((np.nan_to_num(scan.values) > 100).sum())
        table = page.locator("#table").inner_text().split()
        assert "voxels of the file" in page.locator("#table thead").inner_text()
        assert table[-4:] == ["0", f"{756 - bright}", "300", f"{bright}"]
        page.locator("#legend").wait_for()
        with page.expect_download() as download:
            page.get_by_role("button", name="Download the label map").click()
        assert download.value.suggested_filename == "scan.labels.nii.gz"
        download.value.save_as(tmp_path / "labels.nii.gz")
        page.close()
    labels = read(tmp_path / "labels.nii.gz")
    np.testing.assert_allclose(labels.affine, scan.affine)
    bright = np.nan_to_num(scan.values) > 100
    assert (labels.values == 300).sum() == bright.sum()
    np.testing.assert_array_equal(labels.values[bright], 300)
