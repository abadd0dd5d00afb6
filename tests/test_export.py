"""Export: what is written answers as the model did, or is refused with the layer named and nothing changed."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import stand_in
import tiny
from voxgap.bundle import check_exportable, child, export, exporting, save_bundle
from voxgap.bundle.formats import FORMATS, check_formats
from voxgap.bundle.graph import write_onnx
from voxgap.bundle.parity import Parity
from voxgap.cli import app
from voxgap.cli.export import print_entries
from voxgap.dataset import Dataset
from voxgap.errors import VoxgapError
from voxgap.models import build_model
from voxgap.recipe import PRESETS, Strategy
from voxgap.runtime import MANIFEST, Bundle
from voxgap.runtime.engines import open_engine
from voxgap.training import adapt_model

STRATEGY = "masked_conv"


def saved(folder: Path, strategy: str = STRATEGY, network: str = "cnn3d", **options: Any) -> Path:
    model = tiny.model(network, strategy, filters=(4,), **options)
    adapt_model(model, tiny.dataset().part("train"))
    return save_bundle(folder, model, tiny.dataset(), strategy=strategy)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def golden_of(folder: Path) -> Any:
    return Bundle.open(folder).golden()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("export") / "bundle")


@pytest.fixture
def bundle(original: Path, tmp_path: Path) -> Path:
    """A bundle with its model alone, which a test may change."""
    return Path(shutil.copytree(original, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def exported(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with every format, made by one call."""
    folder = Path(shutil.copytree(original, tmp_path_factory.mktemp("all") / "bundle"))
    export(folder, list(FORMATS))
    return folder


# --- every format ------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_answers_as_the_model_did(kind: str, exported: Path) -> None:
    manifest = stand_in.written(exported)
    proof = manifest["files"][kind]["parity"]
    stored = golden_of(exported)
    assert proof["inputs"] == len(stored.inputs)
    assert proof["max_difference"] <= proof["tolerance"] == 1e-5
    assert proof["class_agreement"] == 1.0
    # Not by the proof's own word: opened again, on other volumes, in batches of other sizes.
    engine = open_engine(kind, Bundle.open(exported).model(kind))
    model = open_engine("keras", Bundle.open(exported).model("keras"))
    x = tiny.volumes(7, seed=11)
    x[0] = np.nan
    np.testing.assert_allclose(engine(x), model(x), atol=1e-5)
    np.testing.assert_allclose(engine(x[2:5]), model(x[2:5]), atol=1e-5)


@pytest.mark.full
def test_a_bundle_with_every_format_holds_nothing_else(exported: Path) -> None:
    manifest = stand_in.written(exported)
    named = {part["path"] for entry in manifest["files"].values() for part in entry["parts"]}
    others = {MANIFEST, manifest["golden"]["path"], manifest["cases"]["path"], "evidence/predictions.csv"}
    assert set(content(exported)) == named | others
    assert len(manifest["files"]["openvino"]["parts"]) == 2
    assert (exported / manifest["files"]["savedmodel"]["path"]).is_dir()


@pytest.mark.full
@pytest.mark.parametrize("kind", FORMATS)
def test_a_tampered_file_is_refused(kind: str, exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "bundle"))
    manifest = stand_in.written(folder)
    part = folder / manifest["files"][kind]["parts"][-1]["path"]
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(VoxgapError, match="SHA-256 differs"):
        Bundle.open(folder).model(kind)


@pytest.mark.full
def test_exporting_again_replaces_the_file(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "bundle"))
    before = stand_in.written(folder)["files"]
    monkeypatch.setattr(exporting, "_convert", answering(0.005))
    entries = export(folder, ["litert"], precision="float16")
    after = stand_in.written(folder)["files"]
    assert entries == {"litert": after["litert"]}
    assert after["litert"]["precision"] == "float16"
    assert after["litert"]["parity"]["tolerance"] == 1e-2
    assert (folder / after["litert"]["path"]).read_bytes() == b"litert"
    assert not (folder / before["litert"]["path"]).exists()
    assert {kind: entry for kind, entry in after.items() if kind != "litert"} == {
        kind: entry for kind, entry in before.items() if kind != "litert"
    }


@pytest.mark.full
def test_each_step_is_reported(bundle: Path) -> None:
    steps: list[tuple[str, str]] = []
    entries = export(bundle, ["litert"], precision="float16", report=lambda *step: steps.append(step))
    assert steps == [("litert", "converting"), ("litert", "proving"), ("litert", "done")]
    assert 1e-7 < entries["litert"]["parity"]["max_difference"] < 1e-2


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("formats", "precision", "said"),
    [
        (["tflite"], "float32", "no format 'tflite': choose among keras, h5"),
        ([], "float32", "no format ''"),
        (["onnx"], "bf16", "no precision 'bf16'"),
        (["litert"], "int8", "litert can't be exported as int8, only as float32 or float16"),
        (["edge"], "int8", "edge can't be exported as int8"),
        (["pt2"], "float16", "pt2 can't be exported as float16, only as float32"),
    ],
)
def test_what_does_not_exist_is_refused_at_once(
    formats: list[str], precision: Any, said: str, original: Path
) -> None:
    with pytest.raises(VoxgapError, match=said):
        export(original, formats, precision=precision)


@pytest.mark.parametrize(
    ("kind", "package", "extra"), [("pt2", "torch", "torch"), ("onnx", "tf2onnx", "export")]
)
def test_a_missing_package_is_named_with_its_extra(
    kind: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import util

    found = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(VoxgapError, match=rf"^{kind} needs {package}: pip install 'voxgap\[{extra}\]'$"):
        check_formats([kind])


def answering(wrong: float) -> Any:
    """In the place of the process that converts: files of a sort, and answers that are right but for one."""

    def convert(work: Any, kinds: list[str]) -> None:
        for kind in kinds:
            work.answers[kind] = work.golden.outputs.copy()
            file = exporting._file(work, kind)
            file.parent.mkdir()
            file.write_bytes(kind.encode())
        work.answers[kinds[-1]][4, 0] += wrong

    return convert


def test_answers_that_differ_are_refused_and_nothing_changes(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(bundle)
    monkeypatch.setattr(exporting, "_convert", answering(0.01))
    monkeypatch.setattr(exporting, "_where", lambda *_: ", from layer network/conv_1 on")
    with pytest.raises(VoxgapError) as caught:
        export(bundle, ["litert", "h5"])
    assert str(caught.value) == (
        "h5: the answers differ from those of Keras by 0.01, more than 1e-05, for the golden input with gap "
        "'voxels', from layer network/conv_1 on; nothing was changed; --tolerance 0.011 accepts it"
    )
    assert content(bundle) == before
    monkeypatch.setattr(exporting, "_convert", answering(9e-6))
    export(bundle, ["litert", "h5"])
    assert set(stand_in.written(bundle)["files"]) == {"keras", "litert", "h5"}
    # More is accepted by who asks for it, and told to who uses it.
    monkeypatch.setattr(exporting, "_convert", answering(0.01))
    export(bundle, ["h5"], tolerance=0.02)
    proof = stand_in.written(bundle)["files"]["h5"]["parity"]
    assert (proof["tolerance"], proof["max_difference"]) == (0.02, pytest.approx(0.01, rel=1e-3))


def test_a_model_that_has_learnt_nothing_is_refused(tmp_path: Path) -> None:
    tiny.model("cnn3d", "mean", filters=(2,)).save(tmp_path / "m.keras")
    with pytest.raises(
        VoxgapError, match=r"^the fill layer fill \(Mean\) has learnt nothing: train the model"
    ):
        child._load(tmp_path / "m.keras")


def test_a_converter_that_dies_is_one_line(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(bundle)
    popen = subprocess.Popen
    code = "import os, sys; sys.stderr.write('Segmentation fault\\n'); os.abort()"
    monkeypatch.setattr(
        subprocess, "Popen", lambda _, **options: popen([sys.executable, "-c", code], **options)
    )
    with pytest.raises(VoxgapError, match=r"^onnx: the converter ended with -6 \(Segmentation fault\)"):
        export(bundle, ["onnx"])
    assert content(bundle) == before


def test_a_bundle_without_golden_inputs_is_refused(bundle: Path) -> None:
    manifest = stand_in.written(bundle)
    del manifest["golden"]
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(VoxgapError, match="no golden inputs to prove an export with"):
        export(bundle, ["h5"])


# --- before training ---------------------------------------------------------------------------------------


def test_a_strategy_is_tried_before_it_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_convert", answering(0))
    check_exportable("mean", "cnn3d", ["h5"], data=tiny.dataset(), filters=(2,))
    monkeypatch.setattr(exporting, "_convert", answering(0.5))
    monkeypatch.setattr(exporting, "_where", lambda *_: ", from layer prepare/fill on")
    with pytest.raises(VoxgapError) as caught:
        check_exportable("mean", "cnn3d", ["h5"], data=tiny.dataset(), filters=(2,))
    assert str(caught.value) == (
        "the strategy mean of cnn3d can't be exported to h5, because the answers differ from those of Keras by 0.5, "
        "more than 1e-05, for the golden input with gap 'voxels', from layer prepare/fill on; --tolerance 0.6 "
        "accepts it; or train without --export, and export to h5 then"
    )
    monkeypatch.setattr(exporting, "_where", lambda *_: ", from layer network/conv_1 on")
    with pytest.raises(VoxgapError, match=r"^cnn3d can't be exported to h5, because the answers differ"):
        check_exportable("mean", "cnn3d", ["h5"], data=tiny.dataset(), filters=(2,))


@pytest.mark.parametrize(
    ("difference", "said"),
    [(1.2e-5, "; --tolerance 2e-05 accepts it"), (0.97, "; --tolerance 1 accepts it"), (np.inf, "")],
)
def test_a_tolerance_that_would_do_is_named(difference: float, said: str) -> None:
    assert exporting._acceptable(Parity(3, difference, None, 1e-5)) == said


def test_of_a_training_on_patches_the_network_of_patches_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []

    def proof(work: exporting._Work, kinds: Any) -> None:
        shapes.append(work.inputs.shape[1:])
        answering(0)(work, kinds)

    monkeypatch.setattr(exporting, "_convert", proof)
    check_exportable("mean", "cnn3d", ["h5"], data=tiny.dataset(), patch_size=(4, 4, 8), filters=(2,))
    assert shapes == [(4, 4, 8, 1)]


@pytest.mark.full
def test_a_strategy_that_a_converter_refuses_is_refused_before_training() -> None:
    # Three-dimensional average pooling is what LiteRT lacks.
    def pooling(values: Any, observed: Any) -> Any:
        return keras.layers.AveragePooling3D(2, name="pool")(values)

    check_exportable("mean", pooling, ["onnx"])
    with pytest.raises(VoxgapError) as caught:
        check_exportable("mean", pooling, ["onnx", "litert"])
    said = str(caught.value)
    assert said.startswith(
        "the strategy mean of pooling can't be exported to litert, because the conversion fails, "
    )
    assert "from layer network/pool on" in said


def test_training_checks_first_and_exports_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import voxgap.bundle

    called: list[Any] = []
    monkeypatch.setattr(voxgap.bundle, "check_exportable", lambda s, n, f, **_: called.append((s, n, f)))
    monkeypatch.setattr(voxgap.bundle, "export", lambda b, f, **_: called.append((b, f)) or {})
    data = tiny.dataset()
    np.savez(tmp_path / "d.npz", volumes=data.volumes, labels=data.targets)
    options = ["--model", "cnn3d", "--strategy", "mean", "--filters", "2", "--epochs", "1"]
    run = ["train", str(tmp_path / "d.npz"), "--out", str(tmp_path / "b"), "--export", "onnx,h5", *options]
    result = CliRunner().invoke(app, run, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert called == [(PRESETS["mean"], "cnn3d", ["onnx", "h5"]), (tmp_path / "b", ["onnx", "h5"])]


# --- the command -------------------------------------------------------------------------------------------


def test_the_command_prints_each_proof(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_convert", answering(2e-6))
    result = CliRunner().invoke(app, ["export", str(bundle), "--to", "h5"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "largest difference" in result.output
    assert f"{bundle}/model-" in result.output.replace("\n", "")
    assert stand_in.written(bundle)["files"]["h5"]["parity"]["class_agreement"] == 1.0


# --- large weights -----------------------------------------------------------------------------------------


@pytest.mark.full
def test_the_donors_of_knn_are_in_the_onnx_file_once(tmp_path: Path) -> None:
    model = tiny.model("cnn3d", "knn", filters=(2,))
    adapt_model(model, tiny.dataset().part("train"))
    x = tiny.volumes(3, seed=5)
    expected = model.predict(x, verbose=0)
    write_onnx(model, tmp_path / "m.onnx")
    donors = model.get_layer("prepare").get_layer("fill").donors
    # Left to the converter they are in it once for each operation: above 2 GiB for volumes of 32×32×32×4.
    assert (tmp_path / "m.onnx").stat().st_size < 1.2 * 4 * np.prod(donors.shape)
    engine = open_engine("onnx", tmp_path / "m.onnx")
    np.testing.assert_allclose(engine(x), expected, atol=1e-6)
    np.testing.assert_allclose(engine(x[:1]), expected[:1], atol=1e-6)


# --- smaller weights ---------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_smaller_weights_cost_what_the_manifest_says(precision: Any, bundle: Path) -> None:
    data = tiny.dataset()
    entries = export(bundle, ["onnx", "openvino"], precision=precision, data=data)
    held_out = data.part("validation")
    for kind, entry in entries.items():
        assert entry["precision"] == precision
        assert 0 < entry["parity"]["max_difference"] <= entry["parity"]["tolerance"]
        assert entry["scores"]["inputs"] == len(held_out)
        got = open_engine(kind, Bundle.open(bundle).model(kind))(held_out.volumes)
        accuracy = np.mean(got.argmax(axis=1) == held_out.targets)
        assert entry["scores"][precision]["accuracy"] == pytest.approx(accuracy)
        assert set(entry["scores"]["float32"]) == set(entry["scores"][precision])


@pytest.mark.full
def test_smaller_weights_of_a_network_of_patches_are_scored_on_patches(tmp_path: Path) -> None:
    data = tiny.dataset()
    few = data.tiled((4, 4, 8), 16)
    model = build_model("cnn3d", few.volumes.shape[1:], 3, strategy="mean", filters=(2,))
    adapt_model(model, few)
    folder = save_bundle(tmp_path / "b", model, data, strategy="mean", patch_size=(4, 4, 8))
    entry = export(folder, ["onnx"], precision="float16", data=data)["onnx"]
    assert entry["scores"]["inputs"] == 4 * len(data.part("validation"))


@pytest.mark.full
def test_float16_weights_are_stored_so_and_the_fill_is_not(bundle: Path) -> None:
    import onnx

    entry = export(bundle, ["onnx"], precision="float16")["onnx"]
    graph = onnx.load(str(bundle / entry["path"])).graph
    half = [t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    assert half
    assert all("prepare" not in t.name for t in half)


# --- everything --------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("network", ["cnn3d", "resnet3d"])
@pytest.mark.parametrize("strategy", PRESETS)
def test_every_strategy_in_every_format(strategy: str, network: str, tmp_path: Path) -> None:
    entries = export(saved(tmp_path / "b", strategy, network), list(FORMATS))
    for kind, entry in entries.items():
        assert entry["parity"]["max_difference"] <= 1e-5, kind
        assert entry["parity"]["class_agreement"] == 1.0


@pytest.mark.full
@pytest.mark.parametrize("strategy", ["mean", "linear", "knn", "matrix_factorization", "masked_conv"])
@pytest.mark.parametrize("normalize", ["volume", "percentile", "window:-1,2", "none"])
def test_every_normalisation_in_every_format(normalize: str, strategy: str, tmp_path: Path) -> None:
    entries = export(saved(tmp_path / "b", strategy, normalize=normalize), list(FORMATS))
    for kind, entry in entries.items():
        assert entry["parity"]["max_difference"] <= 1e-5, kind
        assert entry["parity"]["class_agreement"] == 1.0


@pytest.mark.full
@pytest.mark.parametrize("network", ["unet3d", "resunet3d"])
@pytest.mark.parametrize("strategy", ["mean", "masked_conv", "gated_conv", "attention"])
def test_what_a_plan_builds_in_every_format(strategy: str, network: str, tmp_path: Path) -> None:
    """Instance normalisation and deep supervision, an odd size: one output, and the same answers."""
    shape = (7, 9, 6, 1)
    told: dict[str, Any] = {"filters": (3, 4, 5), "norm": "instance", "deep_supervision": True}
    model = build_model(network, shape, 3, "segmentation", strategy, **told)
    volumes = tiny.volumes(12, shape)
    maps = np.arange(12 * 7 * 9 * 6).reshape(12, 7, 9, 6) % 3
    data = Dataset.from_arrays(volumes, label_maps=maps)
    adapt_model(model, data.part("train"))
    save_bundle(tmp_path / "b", model, data, strategy=strategy)
    entries = export(tmp_path / "b", list(FORMATS))
    for kind, entry in entries.items():
        assert entry["parity"]["max_difference"] <= 1e-5, kind
        assert entry["parity"]["class_agreement"] == 1.0


@pytest.mark.full
def test_a_fill_for_each_channel_in_every_format(tmp_path: Path) -> None:
    data = tiny.dataset()
    data = dataclasses.replace(data, volumes=np.concatenate([data.volumes] * 2, -1), channels=("sst", "mask"))
    strategy = Strategy({"mask": "zero", "sst": "kriging"}).of_channels(data.channels)
    model = build_model("cnn3d", data.volumes.shape[1:], 3, strategy=strategy, filters=(4,))
    adapt_model(model, data.part("train"))
    entries = export(save_bundle(tmp_path / "b", model, data, strategy=strategy), list(FORMATS))
    for kind, entry in entries.items():
        assert entry["parity"]["max_difference"] <= 1e-5, kind
    assert Bundle.open(tmp_path / "b").manifest.strategy["fill"] == {"0": "kriging", "1": "zero"}


@pytest.mark.full
def test_a_killed_export_leaves_the_old_bundle(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "bundle"))
    stored = golden_of(folder)
    command = [
        sys.executable,
        "-c",
        "from voxgap.cli import main; main()",
        "export",
        str(folder),
        "--to",
        "h5,savedmodel",
    ]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    whole = time.perf_counter() - started
    for share in (0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1.0):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(share * whole)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for kind in FORMATS:
            Bundle.open(folder).model(kind)
    for kind in ("h5", "savedmodel", "onnx"):
        engine = open_engine(kind, Bundle.open(folder).model(kind))
        np.testing.assert_allclose(engine(stored.inputs), stored.outputs, atol=1e-5)


def test_each_path_that_an_export_writes_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Model files are in the bundle, whatever --out says, and said to be; the folder of a package is where it says."""
    proof = {"max_difference": 0.0, "tolerance": 1e-5, "class_agreement": None}

    def entry(path: str, *parts: str) -> dict[str, Any]:
        return {
            "path": path,
            "precision": "float32",
            "parity": proof,
            "parts": [{"path": part, "bytes": 8} for part in parts],
        }

    (tmp_path / "manifest.json").write_text("{}")
    entries = {
        "onnx": entry("model-1.onnx", "model-1.onnx"),
        "openvino": entry("model-2.xml", "model-2.xml", "model-2.bin"),
        "savedmodel": entry("model-3.savedmodel", "model-3.savedmodel/a.pb", "model-3.savedmodel/v/b"),
        "container": {"path": "image"},
    }
    print_entries(tmp_path, entries)
    said = capsys.readouterr().out.splitlines()
    inside = [
        f"onnx: {tmp_path}/model-1.onnx",
        f"openvino: {tmp_path}/model-2.xml",
        f"openvino: {tmp_path}/model-2.bin",
    ]
    inside += [f"savedmodel: {tmp_path}/model-3.savedmodel"]
    assert said[-5:] == [*(f"{line}  (in the bundle)" for line in inside), "container: image"]
