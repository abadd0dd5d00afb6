"""The page in a real browser: what it reads, shows and predicts is what Python reads and predicts."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest

import web_cases as cases
from voxgap.decision import named
from voxgap.errors import VoxgapError
from voxgap.io import read, write
from voxgap.runtime.calibration import tempered
from voxgap.runtime.predictor import Predictor
from voxgap.runtime.profile import Profile, drift
from voxgap.volume import Volume
from voxgap.web import ASSETS, write_web

READ = """async ([name, data, shape, grid]) => {
    const { readVolume } = await import("./static/readers/read.js");
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    try {
        const volume = await readVolume(new File([bytes], name), { shape, channels: [], grid });
        const text = Array.from(new Uint8Array(volume.values.buffer), (byte) => String.fromCharCode(byte)).join("");
        return { values: btoa(text), spacing: volume.spacing && Array.from(volume.spacing), affine: volume.affine };
    } catch (error) {
        return { error: error.message, command: error.command, kind: error.constructor.name };
    }
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with cases.chromium() as running:
        yield running


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """Serves a folder until the test's page is closed: a server that goes first resets what still loads."""
    with contextlib.ExitStack() as running:
        yield lambda folder: running.enter_context(cases.serving(folder))


@pytest.fixture
def page(browser: Any, serve: Callable[[Path], str]) -> Iterator[Any]:
    """A page that may load from one place only, and complain of nothing."""
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    origins: set[str] = set()
    opened.on("request", lambda request: origins.add("/".join(request.url.split("/")[:3])))
    yield opened
    opened.close()
    assert not complaints
    assert len({origin for origin in origins if origin.startswith("http")}) <= 1


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
    return write_web(folder / "page", folder, manifest, folder / "model.onnx"), (x, proven)


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network that labels voxels."""
    folder = tmp_path_factory.mktemp("labels")
    cases.segmenting(folder / "model.onnx")
    manifest = cases.manifest("segmentation", (*cases.SHAPE[:3], 1), ["background", "positive"])
    return write_web(folder / "page", folder, manifest, folder / "model.onnx")


@pytest.fixture
def reader(page: Any, serve: Callable[[Path], str], labels: Path) -> Callable[..., dict[str, Any]]:
    """Reads a file as the page does: name, bytes and the wanted shape -> what came of it."""
    url = serve(labels)
    page.goto(url)

    def call(
        name: str, data: bytes, shape: tuple[int, ...], grid: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        found: dict[str, Any] = page.evaluate(
            READ, [name, base64.b64encode(data).decode(), list(shape), grid or {}]
        )
        return found

    return call


def same_values(found: dict[str, Any], known: Volume, where: str) -> None:
    """To the last bit, but for the bits of a NaN."""
    values = np.frombuffer(base64.b64decode(found["values"]), "<f4").reshape(known.shape)
    np.testing.assert_array_equal(values, known.values, err_msg=where)


def choose(page: Any, file: Path) -> None:
    """Choose a file as people do."""
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Choose a volume").click()
    chooser.value.set_files(file)


def answer_of(page: Any, folder: Path) -> dict[str, Any]:
    """The answer as the page lets people download it."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the answer").click()
    download.value.save_as(folder / "answer.json")
    found: dict[str, Any] = json.loads((folder / "answer.json").read_text())
    return found


def coloured(page: Any, axis: int = 0) -> float:
    """Share of a plane that has the colour of gaps."""
    script = """(axis) => {
        const canvas = document.querySelectorAll(".slice")[axis];
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        let gaps = 0;
        for (let i = 0; i < data.length; i += 4) gaps += data[i] === 228 && data[i + 1] === 87 && data[i + 2] === 46;
        return (4 * gaps) / data.length;
    }"""
    return float(page.evaluate(script, axis))


# --- the exported folder ------------------------------------------------------------------------------------


def test_the_folder_holds_what_the_page_needs_and_no_more(answers: tuple[Path, Any]) -> None:
    folder = answers[0]
    assert 'data-engine="browser"' in (folder / "index.html").read_text()
    assert 'data-engine="server"' in (ASSETS / "index.html").read_text()
    published = json.loads((folder / "manifest.json").read_text())
    assert not {"arguments", "training", "files", "golden"} & set(published)
    index = json.loads((folder / "samples" / "index.json").read_text())
    assert [sample["title"] for sample in index] == ["as recorded", "with missing slices"]
    np.testing.assert_array_equal(read(folder / index[0]["url"]).values, answers[1][0][0])
    for file in folder.rglob("*"):
        if file.suffix in (".js", ".html", ".css") and "vendor" not in file.parts:
            assert "http://" not in file.read_text().replace("http://localhost", "").replace(
                "http://www.w3.org", ""
            )


def test_a_chosen_file_is_shown_and_predicted_as_python_does(
    page: Any, serve: Callable[[Path], str], answers: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, (x, proven) = answers
    np.save(tmp_path / "scan.npy", x[3])
    url = serve(folder)
    page.goto(url)
    choose(page, tmp_path / "scan.npy")
    page.get_by_text("What was missing").wait_for()
    found = answer_of(page, tmp_path)
    assert list(found["probabilities"]) == cases.CLASSES
    np.testing.assert_allclose(list(found["probabilities"].values()), proven[3], rtol=0, atol=1e-5)
    assert found["class"] == cases.CLASSES[proven[3].argmax()]
    assert found["missing_rate"] == pytest.approx(np.isnan(x[3]).mean())
    rows = [row.split() for row in page.locator("#table tbody tr").all_inner_texts()]
    assert rows == [[name, f"{p:.4f}"] for name, p in zip(cases.CLASSES, proven[3], strict=True)]
    slider = page.get_by_role("slider", name="depth")
    assert coloured(page) < 0.6
    slider.press("Home")
    slider.press("ArrowRight")
    assert page.inner_text("output >> nth=0") == "2 of 6"
    assert coloured(page) > 0.9, "slice 2 is missing as a whole"
    page.get_by_label("Channel").select_option("c1")
    page.get_by_label("colour gaps").uncheck()
    assert coloured(page) == 0


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


def test_a_label_map_is_downloaded_where_the_scan_lies(
    page: Any, serve: Callable[[Path], str], labels: Path, tmp_path: Path
) -> None:
    values = cases.volume(7, (*cases.SHAPE[:3], 1))
    affine = np.array([[-1, 0, 0.2, 9], [0, 0, 2, 8], [0, -3, 0, 7], [0, 0, 0, 1.0]])
    scan = np.transpose(values[..., 0], (2, 0, 1))  # stored x, z, y: the affine says so
    nibabel.save(nibabel.Nifti1Image(scan, affine), tmp_path / "scan.nii.gz")
    known = read(tmp_path / "scan.nii.gz")
    manifest = cases.manifest("segmentation", (*cases.SHAPE[:3], 1), ["0", "300"])
    url = serve(write_web(tmp_path / "page", tmp_path, manifest, labels / "model.onnx"))
    page.goto(url)
    choose(page, tmp_path / "scan.nii.gz")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the label map").click()
    assert download.value.suggested_filename == "scan.labels.nii"
    download.value.save_as(tmp_path / "labels.nii")
    made = read(tmp_path / "labels.nii")
    np.testing.assert_array_equal(made.values, 300 * (np.nan_to_num(known.values) > 0))
    np.testing.assert_allclose(made.affine, known.affine, atol=1e-6)


def test_a_page_without_samples_works(
    page: Any, serve: Callable[[Path], str], labels: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "one.npy", cases.volume(1, (*cases.SHAPE[:3], 1)))
    url = serve(labels)
    page.goto(url)
    choose(page, tmp_path / "one.npy")
    page.get_by_text("480 voxels").or_(page.get_by_text("6×8×10 voxels labelled")).first.wait_for()
    assert not page.locator("#samples").is_visible()


# --- files ----------------------------------------------------------------------------------------------------


def test_files_are_read_as_python_reads_them(reader: Any, tmp_path: Path) -> None:
    cases.nifti_files(tmp_path)
    cases.numpy_files(tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) > 30
    for file in files:
        known = read(file)
        found = reader(file.name, file.read_bytes(), known.shape)
        assert "error" not in found, found
        same_values(found, known, file.name)
        if known.affine is not None:
            np.testing.assert_allclose(found["affine"], known.affine, atol=1e-5, err_msg=file.name)
        if known.spacing is not None:
            np.testing.assert_allclose(found["spacing"], known.spacing, rtol=1e-5, err_msg=file.name)


def test_values_that_stand_for_missing_become_gaps(reader: Any, tmp_path: Path) -> None:
    stored = np.array([1.0, -3024.0, 9.96921e36, 0.1], np.float32).reshape(1, 1, 4, 1)
    np.save(tmp_path / "s.npy", stored)
    grid = {"missing_values": [-3024, 9.96921e36]}
    found = reader("s.npy", (tmp_path / "s.npy").read_bytes(), stored.shape, grid)
    values = np.frombuffer(base64.b64decode(found["values"]), "<f4")
    np.testing.assert_array_equal(np.isnan(values), [False, True, True, False])


def test_what_is_not_on_the_grid_is_refused_with_the_command_that_brings_it_there(
    reader: Any, tmp_path: Path
) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 6, 7), np.float32), np.eye(4)), tmp_path / "it's.nii")
    data = (tmp_path / "it's.nii").read_bytes()
    for name, found, said in (
        ("it's.nii", reader("it's.nii", data, (7, 6, 4, 1)), "shape 7×6×5×1, but this network takes 7×6×4×1"),
        ("it's.nii", reader("it's.nii", data, (7, 6, 5, 1), {"spacing": [2, 1, 1]}), "takes 2, 1, 1"),
        ("scan.dcm", reader("scan.dcm", b"", (7, 6, 5, 1)), "this page reads .npy, .npz, .nii, .nii.gz"),
    ):
        assert found["error"].startswith(f"{name}: ")
        assert said in found["error"]
        assert "\n" not in found["error"]
        compile(found["command"], "command", "exec")
        assert f'read("{name}")' in found["command"]


def npy(header: bytes) -> bytes:
    """A `.npy` file of a header alone."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


HOSTILE = {
    "empty.nii": b"",
    "short.nii": b"\x5c\x01\x00\x00" + bytes(20),
    "zeros.nii.gz": bytes(100),
    "empty.npz": b"PK\x05\x06" + bytes(18),
    "pickle.npy": npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1, 1, 1), }"),
    "huge.npy": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999, 9999999, 9), }"),
    "short.npy": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1), }"),
    "no.npy": b"\x93NUMPY",
    "noise.npz": bytes(range(256)) * 40,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_end_in_one_line(reader: Any, name: str) -> None:
    found = reader(name, HOSTILE[name], (1, 1, 1, 1))
    assert found["kind"] == "VoxgapError", found
    assert found["error"].startswith(f"{name}: ")
    assert "\n" not in found["error"]


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes changed, mostly in the header; or a piece cut out, doubled, or the end cut off."""
    changed = bytearray(data)
    kind = rng.integers(4)
    start = int(rng.integers(len(changed)))
    if kind == 0:
        del changed[start:]
    elif kind == 1:
        del changed[start : start + int(rng.integers(1, 64))]
    else:
        last = len(changed) if kind == 2 else min(400, len(changed))
        for _ in range(int(rng.integers(1, 6))):
            changed[int(rng.integers(last))] = int(rng.integers(256))
    return bytes(changed)


@pytest.mark.parametrize("count", [12, pytest.param(250, marks=pytest.mark.full)])
def test_mutated_files_are_refused_or_read_as_python_reads_them(
    reader: Any, tmp_path: Path, count: int
) -> None:
    cases.nifti_files(tmp_path)
    cases.numpy_files(tmp_path)
    rng = np.random.default_rng(count)
    read_by_both, differ = 0, []
    scans = ("oblique.nii", "packed.nii.gz", "qform.nii", "second.nii")
    for name in (*scans, "compressed.npz", "plain.npy", "written.npz"):
        data, shape = (tmp_path / name).read_bytes(), read(tmp_path / name).shape
        file = tmp_path / f"mutated-{name}"
        for _ in range(count):
            file.write_bytes(mutated(data, rng))
            found = reader(file.name, file.read_bytes(), shape)
            if "error" in found:
                assert found["kind"] == "VoxgapError"
                assert "\n" not in found["error"]
                continue
            try:
                same_values(found, read(file), name)
                read_by_both += 1
            except (VoxgapError, AssertionError) as error:
                differ.append(f"{name}: {error}")
    assert not differ, "the page reads what Python refuses, or reads otherwise"
    assert read_by_both


# --- what the answer means --------------------------------------------------------------------------------------


def test_decisions_and_doubts_follow_the_rules_of_the_runtime(
    page: Any, serve: Callable[[Path], str], labels: Path
) -> None:
    script = """async ([manifest, volumes, shape, probabilities, calibration, classes]) => {
        const { doubts } = await import("./static/missingness.js");
        const { calibrated, decide, labelValues } = await import("./static/decision.js");
        return {
            drawn: classes.map(labelValues),
            doubts: volumes.map((values) => {
                const floats = Float32Array.from(values, (value) => value ?? NaN);
                return doubts({ values: floats, shape }, manifest);
            }),
            decided: probabilities.map((p) => decide(p, calibration)),
            calibrated: probabilities.map((p) => calibrated(p, calibration)),
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
    p = rng.dirichlet([1, 1], 20)
    rule = {"temperature": 1.7, "threshold": 0.3}
    plain = [[None if np.isnan(v) else float(v) for v in volume.reshape(-1)] for volume in volumes]
    url = serve(labels)
    page.goto(url)
    found = page.evaluate(script, [manifest, plain, list(cases.SHAPE), p.tolist(), rule, names])
    known = Profile.of(manifest, "manifest")
    for volume, said in zip(volumes, found["doubts"], strict=True):
        expected = [line for line in drift(volume, known) if not line.startswith("the gaps look like")]
        assert said == expected
    assert sum(map(len, found["doubts"])) >= 6 + 2 * len(numbers)
    drawn = Predictor.label_values.fget  # type: ignore[attr-defined]
    assert found["drawn"] == [list(drawn(SimpleNamespace(classes=classes))) for classes in names]
    assert found["decided"] == named(p, 0.3).tolist()
    np.testing.assert_allclose(found["calibrated"], tempered(p, 1.7), atol=1e-12)


# --- with the server --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def at_work(folder: Path, load: Callable[[Path], Any]) -> Iterator[str]:
    """A server of voxgap in a thread; yields its address."""
    import threading

    import uvicorn

    from voxgap.server import create_app

    server = uvicorn.Server(uvicorn.Config(create_app(folder, load=load), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            thread.join(0.05)
            assert thread.is_alive()
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(10)


def test_the_page_of_the_server_says_what_its_api_says(page: Any, tmp_path: Path) -> None:
    import httpx

    import server_cases

    bundle = server_cases.make_bundle(tmp_path / "lamp")
    with at_work(bundle, server_cases.load) as url:
        scan = server_cases.files(tmp_path, server_cases.volume())[".nrrd"]
        page.goto(url)
        choose(page, scan)
        page.get_by_text("What was missing").wait_for()
        shown = answer_of(page, tmp_path)
        with scan.open("rb") as stream:
            reply = httpx.post(f"{url}v1/predict", files={"file": (scan.name, stream)})
        (said,) = reply.json()["predictions"]
        for field in ("class", "probabilities", "missing_rate", "warnings"):
            assert shown[field] == said[field]
        page.get_by_role("slider", name="depth").press("Home")
        page.get_by_role("slider", name="depth").press("ArrowRight")
        assert coloured(page) > 0.9, "slice 2 is missing as a whole"
        page.get_by_label("On top").select_option("what the network looked at")
        page.locator("#legend").wait_for()
        page.close()


def test_the_page_of_the_server_saves_a_label_map_where_the_file_lies(page: Any, tmp_path: Path) -> None:
    import server_cases

    values = np.full((9, 7, 12, 1), np.nan, np.float32)
    values[3:7, 1:7, 2:10] = server_cases.volume()
    affine = np.array([[0, 0, 2, 40], [0, 3, 0, -7], [1.5, 0, 0, 5], [0, 0, 0, 1]])
    write(tmp_path / "scan.nii.gz", Volume(values, affine))
    scan = read(tmp_path / "scan.nii.gz")
    with at_work(*server_cases.segmenter(tmp_path / "lamp", ("0", "300"))) as url:
        page.goto(url)
        choose(page, tmp_path / "scan.nii.gz")
        page.get_by_text("4×6×8 voxels labelled").wait_for()
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
