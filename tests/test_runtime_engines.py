"""Engines: the same answer from each, from any thread, and none imports what another needs."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import stand_in
import tiny
import voxgap as vg
from voxgap.bundle import export
from voxgap.errors import VoxgapError
from voxgap.files import cache_folder
from voxgap.runtime import Bundle, choice
from voxgap.runtime.engines import RUNTIMES, Runtime, _pieces, open_engine
from voxgap.training import adapt_model

LIGHT = ("openvino", "onnx", "litert")
X = tiny.volumes(5, seed=3)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the files of the light engines."""
    folder = tmp_path_factory.mktemp("engines") / "bundle"
    data, model = tiny.dataset(), tiny.model("cnn3d", "linear", filters=(4, 6))
    adapt_model(model, data.part("train"))
    vg.save_bundle(folder, model, data, strategy="linear")
    export(folder, LIGHT)
    return folder


@pytest.fixture(scope="module")
def expected(bundle: Path) -> np.ndarray:
    return vg.load(bundle, engine="keras").predict(X)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize("engine", LIGHT)
def test_engines_agree_with_keras(engine: str, bundle: Path, expected: np.ndarray) -> None:
    predictor = vg.load(bundle, engine=engine)
    assert predictor.running.engine == engine
    assert predictor.running.difference == 0.0
    np.testing.assert_allclose(predictor.predict(X), expected, atol=1e-5)
    np.testing.assert_allclose(predictor.predict(X, batch_size=2), expected, atol=1e-5)
    np.testing.assert_allclose(predictor.predict(X[4]), expected[4:], atol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["savedmodel", "h5", "pt2"])
def test_heavy_engines_agree_with_keras(kind: str, bundle: Path, expected: np.ndarray) -> None:
    export(bundle, [kind])
    code = (
        "import sys, numpy as np, voxgap as vg; x = np.load(sys.argv[2]);"
        "print(vg.load(sys.argv[1], engine=sys.argv[3], threads=1).predict(x).tolist())"
    )
    np.save(bundle.parent / "x.npy", X)
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle), str(bundle.parent / "x.npy"), kind],
        capture_output=True,
        text=True,
        check=True,
    )
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), expected, atol=1e-5)


@pytest.mark.parametrize("engine", LIGHT)
def test_many_threads_get_their_own_answers(engine: str, bundle: Path, expected: np.ndarray) -> None:
    run = open_engine(engine, Bundle.open(bundle).model(engine), threads=1)
    wrong: list[int] = []

    def ask(index: int) -> None:
        for size in (1, 2, 1):
            batch = np.repeat(X[index : index + 1], size, axis=0)
            if not np.allclose(run(batch), expected[index], atol=1e-5):
                wrong.append(index)

    threads = [threading.Thread(target=ask, args=(i % 5,)) for i in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_answer_is_not_overwritten_by_the_next(bundle: Path) -> None:
    predictor = vg.load(bundle, engine="openvino")
    first = predictor.predict(X[:1])
    kept = first.copy()
    predictor.predict(X[1:2])
    np.testing.assert_array_equal(first, kept)


def test_fast_is_near_and_says_how_near(bundle: Path, expected: np.ndarray) -> None:
    predictor = vg.load(bundle, precision="fast")
    found = predictor.predict(X)
    np.testing.assert_allclose(found, expected, atol=0.05)
    running = predictor.running
    assert running.engine == "openvino"
    if running.precision != "float32":  # a processor without half precision has only that
        assert running.precision in ("bf16", "f16")
        assert running.difference is not None
        assert 0 < running.difference < 0.05
        assert predictor.answer(X[0]).difference == running.difference


def test_light_engines_import_nothing_heavy(bundle: Path, expected: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    code = """
import sys, json
for name in ("keras", "tensorflow", "torch", "h5py", "numba", "jax", "sklearn"):
    sys.modules[name] = None
import numpy as np, voxgap as vg
x = np.load(sys.argv[2])
found = {e: vg.load(sys.argv[1], engine=e).predict(x).tolist() for e in ("auto", "openvino", "onnx", "litert")}
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle), str(tmp_path / "x.npy")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-1500:]
    for engine, found in json.loads(done.stdout.splitlines()[-1]).items():
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=engine)


def test_the_quickest_engine_is_remembered(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"slow": 0.2, "quick": 0.01}
    opened: list[str] = []

    def opener(name: str):
        def open_():
            opened.append(name)
            return name

        return open_

    monkeypatch.setattr(choice, "RUNTIMES", dict.fromkeys(seconds, Runtime("numpy", opener)))
    monkeypatch.setattr(choice, "_time", lambda engine, batch: seconds[engine])
    engines = {name: opener(name) for name in seconds}
    assert choice.fastest(engines, "model", X)[0] == "quick"
    assert sorted(opened) == ["quick", "slow"]
    opened.clear()
    assert choice.fastest(engines, "model", X)[0] == "quick"
    assert opened == ["quick"], "the second time, nothing is measured"
    choice.fastest(engines, "another", X)
    assert len(opened) == 3
    for memory in (cache_folder() / "engines").iterdir():
        memory.write_bytes(b"\xff{")
    assert choice.fastest(engines, "model", X)[0] == "quick"


def test_a_machine_without_a_cache_chooses_all_the_same(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert vg.load(bundle).running.engine in LIGHT


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"engine": "tensorrt"}, "no engine 'tensorrt'"),
        ({"engine": "pt2"}, "has no file for pt2"),
        ({"precision": "float64"}, "no precision 'float64'"),
        ({"precision": "fast", "engine": "onnx"}, "needs the engine openvino"),
        ({"threads": 0}, "threads must be at least 1"),
    ],
)
def test_what_cannot_be_loaded_so_is_one_line(arguments: dict, said: str, bundle: Path) -> None:
    if "pt2" in stand_in.written(bundle)["files"] and arguments.get("engine") == "pt2":
        pytest.skip("exported by another test")
    with pytest.raises(VoxgapError, match=said) as caught:
        vg.load(bundle, **arguments)
    assert "\n" not in str(caught.value)


def test_an_engine_that_is_not_installed_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNTIMES, "litert", RUNTIMES["litert"]._replace(package="no_such_package"))
    assert vg.load(bundle).running.engine != "litert"
    with pytest.raises(VoxgapError, match="needs no_such_package"):
        vg.load(bundle, engine="litert")


def test_batches_are_cut_into_few_sizes() -> None:
    for count in range(1, 70):
        sizes = _pieces(count, 16**3)
        assert sum(sizes) == count
        assert set(sizes) <= {1, 2, 4, 8, 16}
    assert _pieces(21, 16**3) == [16, 4, 1]
    assert _pieces(21, 28**3) == [8, 8, 4, 1]
    assert _pieces(3, 128**3) == [1, 1, 1]


def test_an_onnx_file_serves_openvino(bundle: Path, expected: np.ndarray, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {"onnx": manifest["files"]["onnx"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    predictor = vg.load(folder, engine="openvino")
    np.testing.assert_allclose(predictor.predict(X), expected, atol=1e-5)
