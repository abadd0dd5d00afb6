"""What the server refuses: each mistake has its status and its line, limits hold, and nothing is left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

import server_cases as cases


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with cases.client(cases.make_bundle(tmp_path_factory.mktemp("server") / "lamp")) as running:
        yield running


def test_each_mistake_has_its_status_and_its_line(server: TestClient) -> None:
    values = cases.volume()
    good = cases.np_bytes(values)

    def post(**request: Any) -> httpx.Response:
        return server.post("/v1/predict", **request)

    cases.refused(post(), 415, "multipart/form-data")
    cases.refused(post(content=b"x", headers={"Content-Type": "text/plain"}), 415)
    cases.refused(post(content=b"x", headers=cases.RAW), 422, "X-Shape")
    cases.refused(post(content=b"x", headers=cases.RAW | {"X-Shape": "4,6,8,0"}), 422, "4×6×8×1")
    cases.refused(post(content=b"x", headers=cases.RAW | {"X-Shape": "9999999,4,6,8,1"}), 422, "1 to 64")
    cases.refused(post(content=b"x", headers=cases.RAW | {"X-Shape": "4,6,8,1"}), 422, "768 bytes", "holds 1")
    cases.refused(post(content=b"x" * 769, headers=cases.RAW | {"X-Shape": "4,6,8,1"}), 422, "holds more")
    infinite = values.copy()
    infinite[0, 0, 0] = np.inf
    cases.refused(post(**cases.raw(infinite)), 422, "1 infinite value")
    cases.refused(post(json={"volume": [[["1"]]]}), 422, "JSON")
    cases.refused(post(json={"volume": [[[[1.0, 2.0], [1.0]]]]}), 422, "unequal lengths")
    cases.refused(post(json={"volume": [[[[1.0]]]]}), 422, "1×1×1×1", "4×6×8×1")
    cases.refused(post(json={}), 422, "volume", "volumes")
    cases.refused(post(json={"path": "/etc/passwd"}), 422, "path")
    cases.refused(post(content=b"[" * 10**6, headers={"Content-Type": "application/json"}), 422, "JSON")
    cases.refused(post(files=[cases.upload("scan.txt", good)]), 415, "scan.txt", ".nii.gz")
    cases.refused(post(files=[cases.upload("scan.mhd", good)]), 415, "scan.mhd")
    cases.refused(post(files=[cases.upload("scan.nii.gz", good)]), 422, "scan.nii.gz")
    cases.refused(post(files=[cases.upload("scan.npy", b"")]), 422, "scan.npy", "empty")
    cases.refused(
        post(files=[cases.upload("scan.npy", cases.np_bytes(values[:2]))]), 422, "2×6×8×1", "4×6×8×1"
    )
    cases.refused(post(files=[cases.upload("scan.npy", good, "pet")]), 422, "pet", "t1")
    cases.refused(post(files=[cases.upload("scan.npy", good)], data={"file": "text"}), 422, "holds text")
    cases.refused(post(files=[cases.upload("scan.zip", good)]), 422, "scan.zip")
    cases.refused(post(files=[cases.upload("scan.zip", cases.zipped({}))]), 422, "holds no file")
    cases.refused(
        post(content=b"--", headers={"Content-Type": "multipart/form-data; boundary=a"}), 422, "no file"
    )
    cases.refused(post(content=b"--", headers={"Content-Type": "multipart/form-data"}), 400, "boundary")
    cases.refused(server.post("/v1/view", **cases.raw(np.stack([values, values]))), 422, "2 volumes")
    cases.refused(server.get("/v1/predict"), 405)
    cases.refused(server.get("/v1/none"), 404)
    cases.refused(server.get("/v1/samples/none"), 404, "no such sample")
    cases.refused(server.post("/v1/occlusion?block=0", **cases.raw(values)), 422, "block")
    cases.refused(server.post("/v1/occlusion?class=red", **cases.raw(values)), 422, "dim, bright")
    cases.refused(server.post("/v1/label_map", **cases.raw(values)), 404, "classification")
    cases.refused(server.post("/v1/fill", **cases.raw(values)), 501, "Keras")
    cases.refused(server.post("/v1/predict?draws=1", **cases.raw(values)), 422, "draws")
    cases.refused(server.post("/v1/predict?draws=3", **cases.raw(values)), 501, "draws need")


def test_limits_hold_before_memory_is_taken(tmp_path: Path) -> None:
    bundle = cases.make_bundle(tmp_path / "b")
    with cases.client(
        bundle, max_upload=2**16, max_volume=2**12, max_json=100, max_files=3, max_volumes=2
    ) as server:
        large = b"x" * 2**17
        cases.refused(server.post("/v1/predict", files=[cases.upload("a.npy", large)]), 413)

        def chunks() -> Iterator[bytes]:  # without Content-Length
            yield from (large[:1000] for _ in range(100))

        headers = {"Content-Type": "multipart/form-data; boundary=a"}
        cases.refused(server.post("/v1/predict", content=chunks(), headers=headers), 413)
        cases.refused(server.post("/v1/predict", json={"volume": [[[[1.0] * 100]]]}), 413, "octet-stream")
        three = np.zeros((3, *cases.SHAPE), np.float32)
        cases.refused(server.post("/v1/predict", **cases.raw(three)), 422, "1 to 2")
        bomb = cases.zipped({"scan.npy": b"\0" * 10**7})
        assert len(bomb) < 2**16
        cases.refused(
            server.post("/v1/predict", files=[cases.upload("bomb.zip", bomb)]), 422, "more than the limit"
        )
        many = cases.zipped({f"IM{i}": b"x" for i in range(4)})
        cases.refused(
            server.post("/v1/predict", files=[cases.upload("many.zip", many)]), 422, "holds 4 files"
        )
        # A header may promise anything.
        huge = cases.np_bytes(np.zeros((1, 1, 1), np.float32)).replace(b"(1, 1, 1)", b"(1<<9, 1)")
        huge = huge.replace(b"(1<<9, 1)", b"(9999,99,99)"[:9])
        cases.refused(server.post("/v1/predict", files=[cases.upload("huge.npy", huge)]), 422, "huge.npy")


def test_names_of_clients_never_reach_the_file_system(server: TestClient, tmp_path: Path) -> None:
    target = tmp_path / "written"
    values = cases.volume()
    escape = "../" * 12 + str(target).lstrip("/")
    for name in (
        f"{target}.npy",
        f"{escape}.npy",
        "..\\..\\x.npy",
        "a\r\nX-Evil: 1.npy",
        "x" * 500 + ".npy",
    ):
        assert cases.predictions(
            server.post("/v1/predict", files=[cases.upload(name, cases.np_bytes(values))])
        )
    for name in (escape, f"/{escape}", "..", f"{escape}/zarr.json"):
        archive = cases.zipped({name: cases.np_bytes(values), "b": b"x"})
        assert server.post("/v1/predict", files=[cases.upload("a.zip", archive)]).status_code == 422
    # A header that names another file: only what came with it can be read.
    header = "NRRD0004\ntype: float\ndimension: 3\nsizes: 8 6 4\nencoding: raw\nendian: little\n"
    header += f"data file: {escape}\n\n"
    target.write_bytes(np.zeros(192, "<f4").tobytes())
    response = server.post("/v1/view", files=[cases.upload("a.nrrd", header.encode())])
    assert response.status_code == 422
    assert "same folder" in response.json()["detail"]
    assert os.listdir(tmp_path) == ["written"]


def test_uploads_are_gone_afterwards(
    server: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cases.predictions(
        server.post("/v1/predict", files=[cases.upload("a.npy", cases.np_bytes(cases.volume()))])
    )
    cases.refused(server.post("/v1/predict", files=[cases.upload("a.npy", b"broken")]), 422)
    assert os.listdir(tmp_path) == []
