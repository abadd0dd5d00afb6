"""A manifest with a wrong value in any field: one line that names it, never a traceback, by every way in."""

from __future__ import annotations

import copy
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
import voxgap as vg
from voxgap.bundle import save_bundle
from voxgap.bundle.placing import write_manifest
from voxgap.errors import VoxgapError
from voxgap.runtime import MANIFEST, Bundle, Predictor
from voxgap.runtime.loading import candidates
from voxgap.training import adapt_model

WRONG = [
    *(None, True, -1, 0, 10**400, 1e308, float("nan"), float("inf"), "", "x", "\x1b[2J\n\u202e"),
    *([], {}, [[]], [{}], {"a": [{}]}, [None], [1, "x"], [[[[[[]]]]]]),
]
GONE = object()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manifest") / "bundle"
    data, model = tiny.dataset(), tiny.model("cnn3d", "mean", filters=(2, 2))
    adapt_model(model, data.part("train"))
    return Path(save_bundle(folder, model, data, strategy="mean"))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "bundle"))


def fields(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each field, and to the first two items of each list."""
    inner = (
        value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    )
    for key, held in inner:
        yield (*path, key)
        yield from fields(held, (*path, key))


def changed(manifest: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    made = copy.deepcopy(manifest)
    place: Any = made
    for key in path[:-1]:
        place = place[key]
    if value is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return made


def one_line(error: BaseException) -> bool:
    return str(error).isprintable() and len(str(error)) < 2000


@pytest.mark.full
def test_any_wrong_value_is_one_line_or_of_no_consequence(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    refused = 0
    for path in fields(manifest):
        for value in (*WRONG, GONE):
            (folder / MANIFEST).write_text(json.dumps(changed(manifest, path, value)))
            try:
                bundle = Bundle.open(folder)
                candidates(bundle, "auto", "float32")
                known = bundle.manifest
                predictor = Predictor(known, lambda batch: np.zeros((len(batch), 3), np.float32))
                assert predictor.batch_size
                predictor.answer(
                    np.zeros(predictor.input_shape, np.float32)
                ) if known.written == manifest else predictor.grid
                assert known.input.takes
                assert all(isinstance(entry.digest, str) for entry in known.files.values())
            except VoxgapError as error:
                refused += 1
                if not one_line(error):
                    pytest.fail(f"{path} {value!r}: {error!r}")
    assert refused > 500


def test_what_a_later_version_says_besides_is_kept(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text()) | {"further": {"a": [1, None]}}
    manifest["input"]["further"] = 2
    (folder / MANIFEST).write_text(json.dumps(manifest))
    written = write_manifest(folder, {**Bundle.open(folder).manifest.written, "network": "renamed"})
    assert written.manifest.network == Bundle.open(folder).manifest.network == "renamed"
    assert json.loads((folder / MANIFEST).read_text()) == manifest | {"network": "renamed"}


def test_what_could_not_be_read_is_not_written(folder: Path) -> None:
    before = (folder / MANIFEST).read_bytes()
    with pytest.raises(VoxgapError, match="field classes must be 4 names"):
        write_manifest(folder, Bundle.open(folder).manifest.written | {"outputs": 4})
    assert (folder / MANIFEST).read_bytes() == before


@pytest.mark.full
@pytest.mark.parametrize("command", ["predict", "evaluate", "export", "serve"])
def test_no_command_ends_in_a_traceback(
    command: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, voxgap: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("voxgap.server.serve", lambda *_: None)
    monkeypatch.setattr(
        "voxgap.bundle.exporting._convert", lambda *_: (_ for _ in ()).throw(VoxgapError("enough"))
    )
    data = tiny.dataset()
    np.save("x.npy", data.volumes[0])
    np.savez("data.npz", volumes=data.volumes, labels=np.array(data.classes)[data.targets], split=data.split)
    more = {
        "predict": ["x.npy"],
        "evaluate": ["data.npz"],
        "export": ["--to", "onnx"],
        "serve": ["--port", "0"],
    }
    manifest = json.loads((folder / MANIFEST).read_text())
    few = [None, -1, 10**400, "\x1b[2J\n\u202e", [], {"a": [{}]}, [1, "x"], GONE]
    for path in fields(manifest):
        if len(path) > 1 and path[0] in ("versions", "training", "scores", "arguments"):
            continue
        for value in few:
            (folder / MANIFEST).write_text(json.dumps(changed(manifest, path, value)))
            done = voxgap(command, folder, *more[command])
            assert done.code in (0, 2), (path, value, done.err)
            assert "Traceback" not in done.err
            assert "\x1b[2J" not in done.err
            assert "\u202e" not in done.err
    assert threading.active_count() < 50


def test_control_bytes_of_names_cells_and_headers_reach_no_terminal(tmp_path: Path, voxgap: Any) -> None:
    evil = "a\x1b]0;owned\x07\u202eb\nc"
    file = tmp_path / f"{evil}.nrrd"
    file.write_text(f"NRRD0004\ntype: {evil}\ndimension: 3\n\n")
    table = tmp_path / "t.csv"
    table.write_text(f'path,label\n"{evil}.npy",x\n"{evil}2.npy",y\n')
    np.save(tmp_path / "wrong\x1b[31m.npy", np.zeros(3))
    arrays = tmp_path / "d.npz"
    labels = np.array([evil, "ok"] * 6)
    np.savez(arrays, volumes=tiny.volumes(12), labels=labels, channels=np.array(["t1\x1b[5m"]))
    for arguments in (
        ("inspect", file),
        ("inspect", tmp_path / "wrong\x1b[31m.npy"),
        ("inspect", table),
        ("inspect", arrays),
        ("train", table, "--out", tmp_path / "b"),
        ("predict", tmp_path / evil, file),
        ("report", tmp_path / evil),
        ("fill", file, "--out", tmp_path / "f"),
    ):
        done = voxgap(*arguments)
        for said in (done.err, done.out):
            assert not {"\x1b", "\x07", "\u202e"} & set(said), (arguments, said)
            assert "Traceback" not in said
    with pytest.raises(VoxgapError) as caught:
        vg.read(file)
    assert str(caught.value).isprintable()
