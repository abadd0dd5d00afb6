"""A static web server, a browser, and files of every kind for the tests of the page."""

from __future__ import annotations

import contextlib
import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

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
        "data": {"name": "tiny", "profile": {"channels": known, "shares": {"slices": 1.0}}},
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


def golden(folder: Path, inputs: np.ndarray) -> dict[str, Any]:
    """Golden inputs of two kinds, and their entry in the manifest."""
    gaps = np.array(["as_recorded", "slices"])
    np.savez_compressed(folder / "golden.npz", inputs=inputs, outputs=np.zeros((2, 3)), gaps=gaps)
    return {"path": "golden.npz"}


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
