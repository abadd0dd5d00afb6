"""A hostile bundle, whose manifest vouches for it: refused in one line, and nothing of it is executed."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from fastapi.testclient import TestClient

import stand_in
import tiny
import voxgap as vg
from voxgap.bundle import packages
from voxgap.errors import VoxgapError
from voxgap.runtime import MANIFEST, Bundle, Manifest, Predictor, hostile
from voxgap.server import create_app
from voxgap.training import adapt_model


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "bundle"
    data, model = tiny.dataset(), tiny.model("cnn3d", "mean", filters=(2, 2))
    adapt_model(model, data.part("train"))
    return Path(vg.save_bundle(folder, model, data, strategy="mean"))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "bundle"))


def model_of(folder: Path) -> Path:
    return next(folder.glob("*.keras"))


def vouch(folder: Path, data: bytes) -> None:
    """Put a file in the model's place, and make the manifest vouch for it."""
    file = model_of(folder)
    file.write_bytes(data)
    manifest = json.loads((folder / MANIFEST).read_text())
    part = {"path": file.name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    manifest["files"] = {"keras": {"path": file.name, "parts": [part]}}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def members(folder: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(model_of(folder)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(contents: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return stream.getvalue()


def refused(folder: Path, said: str = ".") -> None:
    with pytest.raises(VoxgapError, match=said) as caught:
        vg.load(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def with_layer(contents: dict[str, bytes], **entry: Any) -> dict[str, bytes]:
    config = json.loads(contents["config.json"])
    config["config"]["layers"][0].update(entry)
    return contents | {"config.json": json.dumps(config).encode()}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"class_name": "Lambda", "module": "keras.layers"}, "Lambda"),
        ({"class_name": "TFSMLayer", "module": "keras.layers"}, "TFSMLayer"),
        ({"class_name": "TorchModuleWrapper", "module": "keras.layers"}, "TorchModuleWrapper"),
        ({"class_name": "StringLookup", "module": "keras.layers"}, "StringLookup"),
        ({"class_name": "__lambda__", "module": None}, "__lambda__"),
        ({"class_name": "system", "module": "os"}, "os.system"),
        ({"class_name": "get_file", "module": "keras.utils", "registered_name": "get_file"}, "get_file"),
        ({"class_name": "function", "module": "builtins", "config": "exec"}, "builtins.function"),
        ({"class_name": "Mine", "module": "mine", "registered_name": "mine>Mine"}, "mine.Mine"),
        ({"class_name": ["Dense"], "module": "keras.layers"}, "holds a layer"),
    ],
)
def test_a_configuration_that_names_code_is_refused(entry: dict[str, Any], said: str, folder: Path) -> None:
    vouch(folder, archive_of(with_layer(members(folder), **entry)))
    refused(folder, said)


def hdf5(fill: Callable[[h5py.File], object]) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        fill(file)
    return stream.getvalue()


def weights(fill: Callable[[h5py.File], object]) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda members: members | {"model.weights.h5": hdf5(fill)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m | {"../../evil": b""}, "named as if it were elsewhere"),
        (lambda m: m | {"/etc/evil": b""}, "named as if it were elsewhere"),
        (lambda m: m | {"code.py": b"print()"}, "code.py"),
        (lambda m: {k: v for k, v in m.items() if k != "config.json"}, "config.json"),
        (lambda m: m | {"config.json": b"[" * 100_000}, "can't be loaded"),
        (lambda m: m | {"config.json": b"\xff"}, "can't be loaded"),
        (lambda m: m | {"model.weights.h5": b"no"}, "can't be loaded"),
        (weights(lambda f: f.create_dataset("x", (2**40,), "f4", chunks=(2**20,))), "many times its size"),
        (weights(lambda f: f.__setitem__("x", h5py.ExternalLink("/etc/passwd", "/"))), "links"),
        (
            weights(lambda f: f.create_dataset("x", (8,), "u1", external=[("/etc/passwd", 0, 8)])),
            "plain array",
        ),
    ],
    ids=range(10),
)
def test_an_archive_that_reaches_further_is_refused(
    change: Callable[[dict[str, bytes]], dict[str, bytes]], said: str, folder: Path
) -> None:
    vouch(folder, archive_of(change(members(folder))))
    refused(folder, said)


def test_an_archive_that_unpacks_to_many_times_its_size_is_refused(folder: Path) -> None:
    contents = members(folder) | {"model.weights.h5": bytes(64 * 2**20)}
    vouch(folder, archive_of(contents, zipfile.ZIP_DEFLATED))
    refused(folder, "many times its size")


def test_two_members_of_one_name_are_refused(folder: Path) -> None:
    stream = io.BytesIO(model_of(folder).read_bytes())
    with zipfile.ZipFile(stream, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("config.json", b"{}")
    vouch(folder, stream.getvalue())
    refused(folder, "two of one name")


def test_a_folder_holds_what_the_manifest_lists_and_no_more(folder: Path) -> None:
    inner = folder / "m.savedmodel"
    inner.mkdir()
    (inner / "saved_model.pb").write_bytes(b"x")
    manifest = json.loads((folder / MANIFEST).read_text())
    part = {"path": "m.savedmodel/saved_model.pb", "sha256": hashlib.sha256(b"x").hexdigest(), "bytes": 1}
    manifest["files"] = {"savedmodel": {"path": "m.savedmodel", "parts": [part]}}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    refused(folder, "can't be loaded")
    (inner / "assets").mkdir()
    (inner / "assets" / "more").write_bytes(b"")
    refused(folder, "not a file that the manifest describes")
    (inner / "assets" / "more").unlink()
    (inner / "saved_model.pb").rename(folder.parent / "elsewhere")
    (inner / "saved_model.pb").symlink_to(folder.parent / "elsewhere")
    refused(folder, "is a link")


@pytest.mark.parametrize("path", ["a/../../x", "/x", "a//b", "./x", "a\\b", "c:x", "", ".."])
def test_parts_lie_inside(path: str, folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["keras"]["parts"][0]["path"] = path
    (folder / MANIFEST).write_text(json.dumps(manifest))
    refused(folder, "inside the bundle")


def test_an_onnx_file_with_weights_elsewhere_is_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    tensor = onnx.numpy_helper.from_array(np.zeros(2000, np.float32), "location_of_w")
    graph = onnx.helper.make_graph([], "g", [], [], [tensor])
    inside = tmp_path / "m.onnx"
    onnx.save(onnx.helper.make_model(graph), inside)
    hostile.check("onnx", inside)
    outside = tmp_path / "o.onnx"
    onnx.save(
        onnx.helper.make_model(graph), outside, save_as_external_data=True, location="w.bin", size_threshold=0
    )
    for kind in ("onnx", "openvino"):
        with pytest.raises(ValueError, match="another file"):
            hostile.check(kind, outside)


@pytest.mark.parametrize(
    ("expression", "fine"),
    [
        ("Symbol('s33', positive=True, integer=True)", True),
        ("2*s0 + FloorDiv(s1, 4)", True),
        ("Mul(Integer(2), Symbol('s33', positive=True, integer=True))", True),
        ("__import__('os').system('x')", False),
        ("s0.__class__", False),
        ("eval('1')", False),
        ("Symbol(chr(65))", False),
        (3, False),
        ("s0" * 2000, False),
    ],
)
def test_expressions_of_a_pt2_file_are_shapes(expression: Any, fine: bool, tmp_path: Path) -> None:
    file = tmp_path / "m.pt2"
    model = json.dumps({"graph": [{"as_expr": {"expr_str": expression}}]}).encode()
    file.write_bytes(archive_of({"m/models/model.json": model}))
    if fine:
        hostile.check("pt2", file)
    else:
        with pytest.raises(ValueError, match="no shape"):
            hostile.check("pt2", file)
    file.write_bytes(archive_of({"m/data/aotinductor/model/evil.so": b""}))
    with pytest.raises(ValueError, match="compiled code"):
        hostile.check("pt2", file)


@pytest.mark.full
def test_a_saved_model_that_reads_files_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    class Evil(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float32)])
        def __call__(self, x):
            tf.io.write_file(str(tmp_path / "written"), "x")
            return x

    evil = Evil()
    tf.saved_model.save(
        evil, tmp_path / "m", signatures={"serving_default": evil.__call__.get_concrete_function()}
    )
    with pytest.raises(ValueError, match="WriteFile"):
        hostile.check("savedmodel", tmp_path / "m")


def said(folder: Path) -> str | None:
    """What loading complains of; anything but a VoxgapError fails the test."""
    try:
        vg.load(folder)
    except VoxgapError as error:
        return str(error)
    return None


@pytest.mark.full
def test_whatever_bytes_change_it_is_one_line(folder: Path) -> None:
    rng = np.random.default_rng(0)
    whole = model_of(folder).read_bytes()
    text = (folder / MANIFEST).read_bytes()
    loaded = 0
    for _ in range(150):
        data = bytearray(whole)
        for place in rng.integers(len(data), size=rng.integers(1, 20)):
            data[place] = rng.integers(256)
        vouch(folder, bytes(data[: rng.integers(1, len(data) + 1)] if rng.random() < 0.2 else data))
        loaded += said(folder) is None  # a weight has changed, which no one can tell
    assert loaded < 150
    model_of(folder).write_bytes(whole)
    for _ in range(300):
        data = bytearray(text)
        for place in rng.integers(len(data), size=rng.integers(1, 6)):
            data[place] = rng.integers(32, 127)
        (folder / MANIFEST).write_bytes(data)
        assert "\n" not in (said(folder) or "")


# --- every way in ------------------------------------------------------------------------------------------------


@pytest.fixture
def hostile_bundle(folder: Path) -> Path:
    """Its digest matches its manifest; only what is in the file gives it away."""
    vouch(folder, archive_of(with_layer(members(folder), class_name="Lambda", module="keras.layers")))
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "predict BUNDLE x.npy",
        "predict BUNDLE x.npy --engine keras --out preds.csv",
        "evaluate BUNDLE data.npz",
        pytest.param("export BUNDLE --to onnx", marks=pytest.mark.full),
        pytest.param("export BUNDLE --to web --out site", marks=pytest.mark.full),
        "serve BUNDLE --port 0",
        "shapes --input 8,8,8,1 --model MODEL",
    ],
)
def test_every_command_refuses_a_hostile_model(
    command: str, hostile_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, voxgap: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    data = tiny.dataset()
    np.save("x.npy", data.volumes[0])
    np.savez("data.npz", volumes=data.volumes, labels=np.array(data.classes)[data.targets], split=data.split)
    before = sorted(path.name for path in hostile_bundle.iterdir())
    names = {"BUNDLE": hostile_bundle, "MODEL": model_of(hostile_bundle)}
    done = voxgap(*(names.get(word, word) for word in command.split()))
    assert done.code == 2
    assert "Lambda" in done.err
    assert "Traceback" not in done.err
    assert sorted(path.name for path in hostile_bundle.iterdir()) == before


def test_the_server_fills_with_no_hostile_model(hostile_bundle: Path) -> None:
    """Predictions come from another file of the bundle, which is fine."""
    manifest = Bundle.open(hostile_bundle).manifest
    app = create_app(
        hostile_bundle, load=lambda _: Predictor(manifest, lambda x: np.full((len(x), 3), 1 / 3))
    )
    with TestClient(app, base_url="http://127.0.0.1") as client:
        shape = {"X-Shape": "8,8,8,1", "Content-Type": "application/octet-stream"}
        said = client.post("/v1/fill", content=tiny.volumes(1)[0].tobytes(), headers=shape)
    assert said.status_code == 501
    assert "Lambda" in said.json()["detail"]
    assert str(hostile_bundle) not in said.json()["detail"]


def test_golden_inputs_outside_of_a_bundle_are_never_read(
    original: Path, folder: Path, tmp_path: Path
) -> None:
    """Not for the samples of a page either, which anyone may download."""
    manifest = stand_in.written(folder)
    shutil.copyfile(folder / manifest["golden"]["path"], tmp_path / "secret.npz")
    changed = manifest | {"golden": manifest["golden"] | {"path": "../secret.npz"}}
    changed["files"] = {"onnx": manifest["files"]["keras"]}
    with pytest.raises(VoxgapError, match="must name a file inside the bundle"):
        packages.write("web", tmp_path / "site", Bundle(folder, Manifest.from_json(changed)))
    assert not (tmp_path / "site").exists()
