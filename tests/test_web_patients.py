"""Patients of several files on the page, with its own engine and with the server; and volumes deeper than its input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import web_cases as cases
from voxgap.patches import predict_patches
from voxgap.runtime import Bundle, Manifest
from voxgap.web import write_web

CHANNELS = ["T1", "T2 flair"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page whose network takes two channels."""
    folder = tmp_path_factory.mktemp("patients") / "ward"
    folder.mkdir()
    cases.averaging(folder / "model.onnx", cases.SHAPE)
    manifest = cases.manifest("classification", cases.SHAPE, ["first", "second"])
    manifest["input"]["channels"] = CHANNELS
    known = dict(zip(CHANNELS, manifest["data"]["profile"]["channels"].values(), strict=True))
    manifest["data"]["profile"]["channels"] = known
    return write_web(folder / "page", Bundle(folder, Manifest.from_json(manifest)), folder / "model.onnx")


def take(page: Any, *files: Path) -> None:
    page.locator("#file").set_input_files(files)


def answered(page: Any, folder: Path) -> dict[str, Any]:
    page.get_by_text("What was missing").wait_for()
    return cases.answer_of(page, folder)


def scan(path: Path, values: np.ndarray) -> Path:
    """One channel `(depth, height, width)` as a NIfTI file, that lies as the volume does."""
    nibabel.save(nibabel.Nifti1Image(np.transpose(values, (2, 1, 0)), np.diag([1.0, 2, 3, 1])), path)
    return path


@pytest.mark.full
def test_a_patient_of_two_files_and_one_of_one_file(
    page: Any, serve: Callable[[Path], str], site: Path, tmp_path: Path
) -> None:
    x = cases.volume(3)
    t1 = scan(tmp_path / "sub-07_T1.nii.gz", x[..., 0])
    flair = scan(tmp_path / "sub-07_T2-FLAIR.nii", x[..., 1])
    page.goto(serve(site))
    take(page, flair, t1)
    found = answered(page, tmp_path)
    assert page.inner_text("h1") == "ward"
    assert found["files"] == {"T1": t1.name, "T2 flair": flair.name}
    np.testing.assert_allclose(list(found["probabilities"].values()), cases.averages(x[None])[0], atol=1e-6)
    assert found["missing_rate"] == pytest.approx(np.isnan(x).mean())

    take(page, flair)
    found = answered(page, tmp_path)
    assert found["files"] == {"T1": None, "T2 flair": flair.name}
    alone = np.where([True, False], np.nan, x).astype(np.float32)
    np.testing.assert_allclose(
        list(found["probabilities"].values()), cases.averages(alone[None])[0], atol=1e-6
    )
    assert page.get_by_label("Channel").input_value() == "1", "shown is the channel that is there"
    assert "channel T1 is missing as a whole" in found["warnings"][0]

    # One more for the empty slot, whatever its name.
    page.locator("#pick-0").set_input_files(scan(tmp_path / "old.nii", x[..., 0]))
    page.get_by_role("heading", name="old.nii").wait_for()
    assert answered(page, tmp_path)["files"] == {"T1": "old.nii", "T2 flair": flair.name}


def test_files_that_no_name_tells_apart_are_asked_for_and_one_may_hold_all(
    page: Any, serve: Callable[[Path], str], site: Path, tmp_path: Path
) -> None:
    x = cases.volume(4)
    first, second = (scan(tmp_path / f"{name}.nii", x[..., i]) for i, name in enumerate(("one", "two")))
    page.goto(serve(site))
    take(page, first, second)
    page.get_by_text("Which channel is one.nii, two.nii?").wait_for()
    assert not page.locator("#predict").is_visible()
    page.get_by_label("T1", exact=True).select_option("one.nii")
    assert page.locator("#predict").is_visible(), "without the other one, if that is what is wanted"
    page.get_by_label("T2 flair", exact=True).select_option("two.nii")
    found = answered(page, tmp_path)
    np.testing.assert_allclose(list(found["probabilities"].values()), cases.averages(x[None])[0], atol=1e-6)

    np.save(tmp_path / "both.npy", x)
    take(page, tmp_path / "both.npy")
    page.get_by_role("heading", name="both.npy").wait_for()
    assert answered(page, tmp_path)["file"] == "both.npy"
    (tmp_path / "T1.npy").write_bytes((tmp_path / "both.npy").read_bytes())
    take(page, tmp_path / "T1.npy")
    page.get_by_text("T1.npy: shape 6×8×10×2, but this network takes 6×8×10×1").wait_for()
    page.get_by_role("button", name="This file holds all channels").click()
    assert answered(page, tmp_path)["file"] == "T1.npy"


@pytest.mark.full
def test_files_that_lie_apart_are_refused_with_the_command_that_brings_them_together(
    page: Any, serve: Callable[[Path], str], site: Path, tmp_path: Path
) -> None:
    x = cases.volume(5)
    t1 = scan(tmp_path / "T1.nii", x[..., 0])
    moved = np.diag([1.0, 2, 3, 1])
    moved[0, 3] = 0.5
    flair = tmp_path / "T2 flair.nii"
    nibabel.save(nibabel.Nifti1Image(np.transpose(x[..., 1], (2, 1, 0)), moved), flair)
    page.goto(serve(site))
    take(page, t1, flair)
    page.get_by_text("T2 flair.nii: lies on another grid than T1.nii").wait_for()
    assert 'vg.load("BUNDLE").read(["T1.nii", "T2 flair.nii"])' in page.inner_text("#command")


@pytest.mark.full
def test_names_tell_channels_apart_as_far_as_they_do(
    page: Any, serve: Callable[[Path], str], labels: Path
) -> None:
    script = """async (cases) => {
        const { matched } = await import("./static/patient.js");
        const files = (names) => names.map((name) => ({ name }));
        return cases.map(([names, channels]) => matched(files(names), channels).map((file) => file?.name ?? null));
    }"""
    known = [
        (["a_T1.nii.gz", "a_FLAIR.nii.gz"], ["flair", "t1"], ["a_FLAIR.nii.gz", "a_T1.nii.gz"]),
        (["p_t1ce.nii", "p_t1.nii"], ["t1", "t1ce"], ["p_t1.nii", "p_t1ce.nii"]),
        (["p_t1ce.nii"], ["t1", "t2"], [None, None]),
        (["p-t1-post.nii", "p-t1.nii"], ["T1 (post)", "T1"], ["p-t1-post.nii", "p-t1.nii"]),
        (["t1_t2.nii"], ["t1", "t2"], [None, None]),
        (["x_t1.nii", "y_t1.nii", "t2.nii"], ["t1", "t2"], [None, "t2.nii"]),
        (["Größe.npy"], ["größe", "+"], ["Größe.npy", None]),
    ]
    page.goto(serve(labels))
    found = page.evaluate(script, [[names, channels] for names, channels, _ in known])
    assert found == [expected for *_, expected in known]


def test_windows_are_those_of_python(page: Any, serve: Callable[[Path], str], labels: Path) -> None:
    script = """async ([shapes, values]) => {
        const { predictWindows } = await import("./static/windows.js");
        const floats = Float32Array.from(values, (value) => value ?? NaN);
        const voxels = async (window) => ({
            output: window.map((value, i) => (Number.isNaN(value) ? i % 7 : value * (i % 5))),
            shape: [4, 3, 5, 2],
            seconds: 0,
        });
        const three = (output) => ({ output: output.slice(30, 33), shape: [3], seconds: 0 });
        const whole = async (window) => three((await voxels(window)).output);
        const all = [];
        for (const depth of shapes) {
            const volume = { values: floats.slice(0, depth * 30), shape: [depth, 3, 5, 2] };
            for (const run of [voxels, whole]) {
                const { output, windows } = await predictWindows(run, volume, [4, 3, 5, 2]);
                all.push([Array.from(output), windows]);
            }
        }
        return all;
    }"""
    values = np.random.default_rng(0).random((13, 3, 5, 2)).astype(np.float32)
    values[:5] = np.nan
    order = np.arange(4 * 30).reshape(4, 3, 5, 2)

    def voxels(batch: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(batch), order % 7, batch * (order % 5)).astype(np.float32)

    page.goto(serve(labels))
    plain = [None if np.isnan(v) else float(v) for v in values.reshape(-1)]
    depths = [4, 5, 7, 8, 13]
    found = iter(page.evaluate(script, [depths, plain]))
    for depth in depths:
        batch = values[np.newaxis, :depth]
        for run in (voxels, lambda b: voxels(b).reshape(len(b), -1)[:, 30:33]):
            output, windows = next(found)
            expected = predict_patches(run, batch, (4, 3, 5))[0]
            np.testing.assert_allclose(output, expected.reshape(-1), rtol=1e-5, atol=1e-6)
            assert windows == {4: 1, 5: 2, 7: 3, 8: 3, 13: 6}[depth]


@pytest.mark.full
def test_a_deeper_volume_is_predicted_in_windows_and_the_page_says_so(
    page: Any, serve: Callable[[Path], str], site: Path, tmp_path: Path
) -> None:
    deep = np.concatenate([cases.volume(1), cases.volume(2)])
    np.save(tmp_path / "clip.npy", deep)
    page.goto(serve(site))
    take(page, tmp_path / "clip.npy")
    found = answered(page, tmp_path)
    expected = predict_patches(cases.averages, deep[None], cases.SHAPE[:3])[0]
    np.testing.assert_allclose(list(found["probabilities"].values()), expected, atol=1e-6)
    assert found["windows"] == 3
    assert "the mean over 3 overlapping windows" in page.inner_text("#windows")


@pytest.mark.full
def test_the_page_of_the_server_takes_the_same_patients(page: Any, tmp_path: Path) -> None:
    import httpx

    import server_cases

    entry = {"shape": list(cases.SHAPE), "channels": CHANNELS, "grid": server_cases.Grid().to_json()}
    bundle = server_cases.make_bundle(tmp_path / "ward", input=entry)
    x = 100 + 50 * cases.volume(6)
    t1, flair = scan(tmp_path / "T1.nii", x[..., 0]), scan(tmp_path / "T2_FLAIR.nii", x[..., 1])
    with cases.at_work(bundle, server_cases.load) as url:
        page.goto(url)
        for given in ((flair, t1), (flair,)):
            take(page, *given)
            names = ", ".join(sorted(file.name for file in given))
            page.get_by_role("heading", name=names).wait_for()
            shown = answered(page, tmp_path)
            parts = {("T1" if file == t1 else "T2 flair"): (file.name, file.read_bytes()) for file in given}
            (said,) = httpx.post(f"{url}v1/predict", files=parts).json()["predictions"]
            for field in ("class", "probabilities", "missing_rate", "warnings", "windows"):
                assert shown[field] == said[field]
            assert shown["files"] == {"T1": "T1.nii" if t1 in given else None, "T2 flair": "T2_FLAIR.nii"}
        assert page.inner_text("h1") == "ward"
        page.get_by_label("On top").select_option("what the network looked at")
        page.locator("#legend").wait_for()
        page.close()
