"""Packages: folders that are deployed as they are, each with what it needs and no volume of the training data."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stand_in
import tiny
from voxgap.bundle import export, save_bundle
from voxgap.bundle.evidence import EVIDENCE
from voxgap.bundle.formats import FORMATS, PACKAGES
from voxgap.bundle.packages import write_wheel
from voxgap.dataset import Dataset
from voxgap.errors import VoxgapError
from voxgap.runtime import MANIFEST, Bundle
from voxgap.runtime.engines import open_engine
from voxgap.training import adapt_model


def golden_of(folder: Path) -> Any:
    return Bundle.open(folder).golden()


SECRETS = ("Roe, Jane", "clinic", "g-17")


def private() -> Dataset:
    """Data whose cases, groups and folder are called after people."""
    data = tiny.dataset()
    names = tuple(f"Roe, Jane {index}/t1.nii.gz" for index in range(len(data)))
    groups = np.array([f"g-17-{index}" for index in range(len(data))])
    return replace(data, names=names, groups=groups, name="/home/clinic/Roe, Jane/scans.csv")


def told(data: bytes, name: str = "") -> set[str]:
    """Which of the secrets a file says, in its name, its content or that of what is packed in it."""
    found = {secret for secret in SECRETS if secret.encode() in data or secret in name}
    if data[:2] == b"\x1f\x8b":
        found |= told(gzip.decompress(data))
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for inner in archive.namelist():
                found |= told(archive.read(inner), inner)
    return found


def all_told(folder: Path) -> set[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return set().union(*(told(path.read_bytes(), str(path.relative_to(folder))) for path in files))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the formats that packages carry."""
    model = tiny.model("cnn3d", "mean", filters=(2,))
    adapt_model(model, tiny.dataset().part("train"))
    folder = tmp_path_factory.mktemp("packages") / "bundle"
    save_bundle(folder, model, private(), strategy="mean")
    export(folder, list(PACKAGES.values()))
    return folder


BLOCKED = """
import runpy, sys
for name in ("keras", "tensorflow", "voxgap", "torch", "onnxruntime", "openvino"):
    sys.modules[name] = None
sys.argv = ["predict.py", *sys.argv[1:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_edge_example_runs_on_litert_and_numpy_alone(exported: Path, tmp_path: Path) -> None:
    target = tmp_path / "edge"
    assert export(exported, ["edge"], out=target) == {"edge": {"path": str(target)}}
    example = (target / "predict.py").read_text().splitlines()
    assert len(example) <= 60
    stored = golden_of(exported)
    for i, volume in enumerate(stored.inputs):
        np.save(target / f"{i}.npy", volume)
    names = [f"{i}.npy" for i in range(len(stored.inputs))]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *names],
        cwd=target,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-1000:]
    said = [json.loads(line) for line in done.stdout.splitlines()]
    np.testing.assert_allclose([line["answer"] for line in said], stored.outputs, atol=1e-5)
    assert [line["class"] for line in said] == [tiny.CLASSES[i] for i in stored.outputs.argmax(axis=1)]
    held = {path.name for path in target.iterdir()} - set(names) - {".voxgap-package"}
    entry = stand_in.written(exported)["files"]["litert"]
    assert held == {"predict.py", "requirements.txt", MANIFEST, entry["path"]}
    assert "golden" not in json.loads((target / MANIFEST).read_text()), "training data on the device"


def test_the_container_holds_one_engine_and_this_voxgap(exported: Path, tmp_path: Path) -> None:
    target = tmp_path / "container"
    export(exported, ["container"], out=target)
    inside = stand_in.written(target / "bundle")
    assert list(inside["files"]) == ["openvino"]
    x = golden_of(exported)
    engine = open_engine("openvino", Bundle.open(target / "bundle").model("openvino"))
    np.testing.assert_allclose(engine(x.inputs), x.outputs, atol=1e-5)
    dockerfile = (target / "Dockerfile").read_text()
    (wheel,) = target.glob("*.whl")
    assert f'pip install --no-cache-dir "/tmp/{wheel.name}[runtime,serve]"' in dockerfile
    assert "USER 10001" in dockerfile
    assert "/healthz" in dockerfile
    assert "{" not in dockerfile
    # What is copied is there, and every step after the user is chosen needs no right of root.
    for line in dockerfile.splitlines():
        if line.startswith("COPY"):
            assert (target / line.split()[1]).exists()
    assert "RUN" not in dockerfile.split("USER")[1]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_case_leaves_with_a_package(exported: Path, tmp_path: Path, package: str) -> None:
    assert all_told(exported / EVIDENCE) == {"Roe, Jane", "g-17"}
    export(exported, [package], out=tmp_path / package)
    assert all_told(tmp_path / package) == set()
    assert not list(tmp_path.rglob(f"*{EVIDENCE}*"))
    (manifest,) = tmp_path.rglob(MANIFEST)
    assert json.loads(manifest.read_text())["data"]["name"] == "scans.csv"


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.full) for k in FORMATS])
def test_no_case_is_in_a_model(exported: Path, kind: str) -> None:
    if kind not in stand_in.written(exported)["files"]:
        export(exported, [kind])
    for part in stand_in.written(exported)["files"][kind]["parts"]:
        assert told((exported / part["path"]).read_bytes(), part["path"]) == set()


def test_no_case_is_served(exported: Path) -> None:
    from starlette.testclient import TestClient

    from voxgap.server import Settings, create_app

    app = create_app(exported, Settings())
    with TestClient(app, "http://localhost") as client:
        paths = {path for path in app.openapi()["paths"] if "{" not in path} | {"/", "/docs"}
        answers = {path: client.get(path) for path in paths}
        assert answers["/v1/model"].json()["manifest"]["data"]["name"] == "scans.csv"
        for sample in answers["/v1/samples"].json():
            answers[sample["name"]] = client.get(f"/v1/samples/{sample['name']}")
        for place in (f"/{EVIDENCE}/predictions.csv", f"/static/../{EVIDENCE}/predictions.csv"):
            assert client.get(place).status_code == 404
        assert {path: told(answer.content) for path, answer in answers.items() if told(answer.content)} == {}


def test_the_wheel_is_a_wheel(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        (record,) = [name for name in archive.namelist() if name.endswith("RECORD")]
        rows = [line.rsplit(",", 2) for line in archive.read(record).decode().splitlines()]
        assert {row[0] for row in rows} == set(archive.namelist())
        for name, digest, size in rows[:-1]:
            data = archive.read(name)
            assert len(data) == int(size)
            assert (
                digest
                == "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            )
        assert b"voxgap = voxgap.cli:main" in archive.read(record.replace("RECORD", "entry_points.txt"))


@pytest.mark.full
def test_the_wheel_installs(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target"]
    subprocess.run([*install, str(tmp_path / "site"), str(wheel)], check=True, timeout=120)
    code = "import voxgap; print(voxgap.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(tmp_path / "site"))


def test_a_package_replaces_its_like_and_nothing_else(exported: Path, tmp_path: Path) -> None:
    target = tmp_path / "edge"
    export(exported, ["edge"], out=target)
    (target / "stale.txt").write_text("of the earlier one")
    export(exported, ["edge"], out=target)
    assert not (target / "stale.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["edge"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("mine")
    for out, said in ((mine, "holds other files"), (mine / "thesis.tex", "is a file")):
        with pytest.raises(VoxgapError, match=said):
            export(exported, ["edge"], out=out)
    with pytest.raises(VoxgapError, match="one at a time"):
        export(exported, ["edge", "container"], out=mine)
    assert (mine / "thesis.tex").read_text() == "mine"


def test_packages_go_beside_the_bundle(exported: Path) -> None:
    entries = export(exported, ["edge", "web"])
    assert entries["web"]["path"] == f"{exported.resolve()}-web"
    assert (Path(entries["web"]["path"]) / "index.html").exists()
    assert (Path(entries["edge"]["path"]) / "predict.py").exists()


def test_packages_carry_formats_that_exist() -> None:
    assert set(PACKAGES.values()) <= set(FORMATS)
