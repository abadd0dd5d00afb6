"""A static web server, a browser, and files of every kind for the tests of the page."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from voxgap.files import sha256

SHAPE = (6, 8, 10, 2)
CLASSES = ["dim", "middling", "bright"]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Python's own static server, on a free port."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright, which downloads none of its own."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium on PATH: the page is tested in a real browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Containers have no user namespaces for its sandbox.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def manifest(task: str, shape: tuple[int, ...], classes: list[str], **fields: Any) -> dict[str, Any]:
    """What a bundle would say of its network."""
    channels = [f"c{index}" for index in range(shape[-1])]
    grid = {"size": None, "spacing": None, "crop": None, "missing_values": []}
    known = {
        name: {"missing_rate": [0.1, 0.5], "values": [-5.0, 5.0], "deviation": [0.5, 2.0]}
        for name in channels
    }
    return {
        "schema_version": 1,
        "task": task,
        "classes": classes,
        "input": {
            "shape": list(shape),
            "channels": channels,
            "spacing": None,
            "missing": "NaN",
            "grid": grid,
        },
        "outputs": len(classes) or 1,
        "network": "cnn3d",
        "strategy": {"fill": "linear"},
        "data": {
            "name": "/home/ann/tiny.csv",
            "profile": {"channels": known, "shares": {"slices along depth": 0.8, "voxels": 0.2}},
        },
        "arguments": {"seed": 0},
        "training": {"epochs": []},
        "files": {"onnx": {"path": "model.onnx"}},
    } | fields


def volume(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Normal values, two slices and some voxels missing."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape).astype(np.float32)
    values[rng.random(shape) < 0.1] = np.nan
    values[1:3] = np.nan
    return values


def segmenting(path: Path) -> None:
    """A network of two classes for each voxel, the second where a value is positive; a gap counts as 0."""
    from onnx import TensorProto, checker, helper, save

    shape = ["n", *SHAPE[:3], 1]
    nodes = [
        helper.make_node("IsNaN", ["x"], ["gap"]),
        helper.make_node("Where", ["gap", "zero", "x"], ["filled"]),
        helper.make_node("Neg", ["filled"], ["less"]),
        helper.make_node("Concat", ["less", "filled"], ["both"], axis=-1),
        helper.make_node("Softmax", ["both"], ["y"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "sign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*shape[:-1], 2])],
        [helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    save(model, path)


def averaging(path: Path, shape: tuple[int, ...]) -> None:
    """A classifier of as many classes as channels: softmax of the mean of each, a gap counting as 0."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    nodes = [
        helper.make_node("IsNaN", ["x"], ["gap"]),
        helper.make_node("Where", ["gap", "zero", "x"], ["filled"]),
        helper.make_node("ReduceMean", ["filled"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Softmax", ["mean"], ["y"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "averages",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", shape[-1]])],
        [numpy_helper.from_array(np.float32(0), "zero")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    save(model, path)


def averages(batch: np.ndarray) -> np.ndarray:
    """What that network answers, in NumPy."""
    means = np.nan_to_num(batch).mean(axis=(1, 2, 3))
    odds = np.exp(means)
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def golden(folder: Path, inputs: np.ndarray) -> dict[str, Any]:
    """Golden inputs of two kinds, and their entry in the manifest."""
    gaps = np.array(["as_recorded", "slices"])
    np.savez_compressed(folder / "golden.npz", inputs=inputs, outputs=np.zeros((2, 3)), gaps=gaps)
    return {"path": "golden.npz", "sha256": sha256(folder / "golden.npz")}


def nifti_files(folder: Path) -> None:
    """Scans that lie every way, in every stored kind."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(5, 6, 7)).astype(np.float32)
    x[2, 3] = np.nan
    turned = {
        "upright": np.diag([1.0, 2.0, 3.0, 1.0]),
        "flipped": np.array([[-1, 0, 0, 9], [0, -2, 0, 8], [0, 0, 3, 7], [0, 0, 0, 1.0]]),
        "permuted": np.array([[0, 0, 3, 0], [-1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1.0]]),
        "oblique": np.array([[0.9, 0.3, 0.1, 5], [-0.4, 1.8, 0.2, -6], [0.1, -0.3, 2.9, 7], [0, 0, 0, 1]]),
        "sheared": np.array([[0.2, 1.4, 0.1, 5], [1.1, 0.5, 0.2, -6], [0.7, -0.3, -2.0, 7], [0, 0, 0, 1]]),
    }
    for name, affine in turned.items():
        nibabel.save(nibabel.Nifti1Image(x, affine), folder / f"{name}.nii")
    nibabel.save(nibabel.Nifti1Image(x, turned["oblique"]), folder / "packed.nii.gz")
    nibabel.save(nibabel.Nifti2Image(x, turned["permuted"]), folder / "second.nii")
    for name, unit in (("microns", ("micron", "msec")), ("metres", ("meter", "unknown"))):
        image = (
            nibabel.Nifti2Image(x, turned["oblique"])
            if name == "metres"
            else nibabel.Nifti1Image(x, turned["oblique"])
        )
        image.header.set_xyzt_units(*unit)
        nibabel.save(image, folder / f"{name}.nii")
    odd = nibabel.Nifti2Image(x, turned["oblique"])
    odd.header["xyzt_units"] = 4390912 | 3  # micrometres, and a unit of time that nobody knows
    nibabel.save(odd, folder / "odd_time.nii")
    only_qform = nibabel.Nifti1Image(x, None)
    rotation = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]]) * [1.0, 2.0, 3.0]
    only_qform.set_qform(nibabel.affines.from_matvec(rotation, [1, 2, 3]), code=1)
    only_qform.set_sform(None, code=0)
    nibabel.save(only_qform, folder / "qform.nii")
    nothing = nibabel.Nifti1Image(x, None)
    nothing.set_sform(None, code=0)
    nothing.set_qform(None, code=0)
    nibabel.save(nothing, folder / "nothing.nii")
    big = nibabel.Nifti1Image(x.astype(">f8"), turned["flipped"], nibabel.Nifti1Header(endianness=">"))
    nibabel.save(big, folder / "bigendian.nii")
    for kind in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"):
        whole = rng.integers(0, 100, (5, 6, 7)).astype(kind)
        nibabel.save(nibabel.Nifti1Image(whole, turned["upright"], dtype=kind), folder / f"{kind}.nii")
    nibabel.save(
        nibabel.Nifti1Image(np.nan_to_num(x), turned["upright"], dtype="int16"), folder / "scaled.nii"
    )
    several = rng.normal(size=(5, 6, 7, 3)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(several, turned["permuted"]), folder / "channels.nii")
    nibabel.save(nibabel.Nifti1Image(several[:, :, :, None], turned["flipped"]), folder / "vector.nii.gz")


def numpy_files(folder: Path) -> None:
    """Arrays in every order and kind, alone and with what `voxgap.write` keeps beside them."""
    import voxgap

    rng = np.random.default_rng(2)
    x = rng.normal(size=(5, 6, 7, 2)).astype(np.float32)
    x[1] = np.nan
    np.save(folder / "plain.npy", x)
    np.save(folder / "three.npy", x[..., 0])
    np.save(folder / "fortran.npy", np.asfortranarray(x))
    np.save(folder / "ones.npy", x[None, ..., :1])
    for kind in ("<f2", ">f4", ">f8", "<i2", ">u4", "<i8", "?"):
        name = kind.replace("<", "little-").replace(">", "big-").replace("?", "bool")
        np.save(folder / f"{name}.npy", np.nan_to_num(10 * x).astype(kind))
    np.savez(folder / "stored.npz", volume=x, labels=np.arange(3))
    np.savez_compressed(folder / "compressed.npz", values=x, labels=x)
    np.savez_compressed(folder / "named.npz", values=x[..., 0], axes=np.array(["lat", "lon", "time"]))
    affine = np.array([[0, 0, 1, 0], [0, 2, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1.0]])
    voxgap.write(folder / "written.npz", voxgap.Volume(x, affine=affine))


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
