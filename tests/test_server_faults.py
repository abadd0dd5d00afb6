"""The server as a process: killed parsers, a stop under load, hostile uploads, its schema, and a proxy before it."""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import server_cases as cases
from server_process import Process, load, running, wait
from voxgap.io import write
from voxgap.volume import Volume

pytestmark = pytest.mark.full
ROOT = Path(__file__).parents[1]


def test_killing_the_parsing_processes_costs_only_the_requests_in_them(tmp_path: Path) -> None:
    write(tmp_path / "a.nii.gz", Volume(cases.volume()))
    data = (tmp_path / "a.nii.gz").read_bytes()
    statuses: collections.Counter[int] = collections.Counter()
    details: set[str] = set()
    with running(cases.make_bundle(tmp_path / "b")) as server:

        def ask(client: httpx.Client) -> bool:
            response = client.post(f"{server.url}/v1/predict", files={"file": ("a.nii.gz", data)})
            statuses[response.status_code] += 1
            if response.status_code != 200:
                details.add(response.json()["detail"])
            return True

        kills = 0
        with load(8, ask):
            for _ in range(6):
                answered = statuses[200]
                wait(lambda enough=answered + 20: statuses[200] >= enough)
                for pid in server.parsers():
                    os.kill(pid, signal.SIGKILL)
                    kills += 1
        assert kills >= 10
        assert set(statuses) == {200, 503}
        assert statuses[503] <= kills
        assert details == {"the process that read this file was killed; send it again"}
        response = httpx.post(f"{server.url}/v1/predict", files={"file": ("a.nii.gz", data)})
        assert response.status_code == 200
        assert f"voxgap_parsers_lost_total {float(kills)}" in httpx.get(f"{server.url}/metrics").text


@pytest.mark.parametrize(
    "start",
    [
        b"GET /",
        b"GET / HTTP/1.1\r\nX-Long: ",
        b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;",
        b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Long: ",
    ],
    ids=["path", "header", "chunk extension", "trailer"],
)
def test_a_request_of_headers_without_end_is_cut_off(start: bytes, tmp_path: Path) -> None:
    with running(cases.make_bundle(tmp_path / "b")) as server:
        assert httpx.post(f"{server.url}/v1/predict", **cases.raw(cases.volume())).status_code == 200
        before, sent, answer = server.memory(parsers=False), len(start), b""
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(start)
            with contextlib.suppress(ConnectionError):
                while sent < 64 * 2**20:
                    connection.sendall(b"a" * 2**14)
                    sent += 2**14
            with contextlib.suppress(ConnectionError):
                while block := connection.recv(2**16):
                    answer += block
        assert sent < 16 * 2**20  # most of it still lay in the sockets
        assert server.memory(parsers=False) - before < 8 * 2**20
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
        long = {"X-Long": "a" * 2**15}
        assert httpx.get(f"{server.url}/healthz", headers=long).json() == {"status": "alive"}


def test_a_file_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    with running(cases.make_bundle(tmp_path / "b"), parsers=1, parse_timeout=5.0) as server:
        (parser,) = server.parsers()
        write(tmp_path / "a.npy", Volume(cases.volume()))
        sent = {"file": ("a.npy", (tmp_path / "a.npy").read_bytes())}
        assert httpx.post(f"{server.url}/v1/predict", files=sent, timeout=30).status_code == 200
        os.kill(parser, signal.SIGSTOP)
        response = httpx.post(f"{server.url}/v1/predict", files=sent, timeout=30)
        assert (response.status_code, "5 s" in response.json()["detail"]) == (422, True)
        assert parser not in server.parsers()
        assert httpx.post(f"{server.url}/v1/predict", files=sent, timeout=30).status_code == 200


def test_sigterm_under_load_loses_nothing(tmp_path: Path) -> None:
    results: collections.Counter[Any] = collections.Counter()
    with running(cases.make_bundle(tmp_path / "b"), 0.05, drain=1.0) as server:
        request = cases.raw(cases.volume())

        def ask(client: httpx.Client) -> bool:
            # As a load balancer does: a replica that says goodbye gets no further request.
            response = client.post(f"{server.url}/v1/predict", **request)
            results[response.status_code] += 1
            return response.headers.get("connection") != "close"

        with load(16, ask):
            wait(lambda: results[200] >= 32)
            server.popen.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            assert httpx.get(f"{server.url}/readyz").status_code == 503
            assert httpx.get(f"{server.url}/healthz").status_code == 200
            assert server.popen.wait(20) == 0
        assert set(results) == {200}
        assert results[200] >= 32
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/healthz")


def test_what_is_inside_when_the_door_closes_is_answered(tmp_path: Path) -> None:
    with running(cases.make_bundle(tmp_path / "b"), 4.0, drain=0.0) as server:
        found: list[int] = []

        def ask(client: httpx.Client) -> bool:
            found.append(client.post(f"{server.url}/v1/predict", **cases.raw(cases.volume())).status_code)
            return False

        with load(6, ask):
            wait(lambda: "voxgap_requests_active 6.0" in httpx.get(f"{server.url}/metrics").text)
            server.popen.send_signal(signal.SIGTERM)
        assert found == [200] * 6
        assert server.popen.wait(20) == 0


def test_new_bundles_under_load_fail_no_request(tmp_path: Path) -> None:
    folder = cases.make_bundle(tmp_path / "b", "0")
    seen: collections.Counter[Any] = collections.Counter()
    with running(folder, 0.01) as server:
        request = cases.raw(cases.volume())

        def ask(client: httpx.Client) -> bool:
            response = client.post(f"{server.url}/v1/predict", **request)
            seen[response.json()["model"]["sha256"][0] if response.status_code == 200 else response.text] += 1
            return True

        with load(8, ask):
            for version in "12345":
                time.sleep(0.6)
                cases.make_bundle(folder, version)
                server.popen.send_signal(signal.SIGHUP)
            time.sleep(0.6)
    assert set(seen) == set("012345")


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Flipped, cut, repeated, or with bytes of the largest value where numbers may be."""
    changed = bytearray(data)
    kind = rng.integers(4)
    if kind == 0:
        return bytes(changed[: rng.integers(1, len(changed))])
    head = min(len(changed), 512 if rng.random() < 0.7 else len(changed))
    for _ in range(rng.integers(1, 9)):
        place = int(rng.integers(head))
        changed[place] = int(rng.integers(256)) if kind != 1 else 255
    if kind == 3:
        start = int(rng.integers(len(changed)))
        changed[start:start] = changed[start : start + 64]
    return bytes(changed)


UPLOADS = 1000


def originals(folder: Path) -> dict[str, bytes]:
    values = cases.volume()
    found = {suffix: path.read_bytes() for suffix, path in cases.files(folder, values).items()}
    series = folder / "s.dicom"
    write(series, Volume(values, spacing=(2.0, 1.0, 1.0)))
    found[".dcm"] = next(path for path in sorted(series.iterdir()) if path.suffix == ".dcm").read_bytes()
    write(folder / "z.zarr", Volume(values))
    for name, source in (("series", series), ("zarr", folder / "z.zarr")):
        archive = shutil.make_archive(str(folder / name), "zip", source)
        found[f"-{name}.zip"] = Path(archive).read_bytes()
    found[".mp4"] = _clip(folder / "clip.mp4")
    return found


def _clip(path: Path) -> bytes:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for index in range(4):
            pixels = np.full((32, 32, 3), 50 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


@pytest.mark.parametrize(
    "suffix",
    [*cases.WRITTEN, ".dcm", "-series.zip", "-zarr.zip", ".mp4"],
    ids=lambda suffix: suffix.strip(".-"),
)
def test_mutated_uploads_get_a_clear_answer_and_take_no_memory(tmp_path: Path, suffix: str) -> None:
    data = originals(tmp_path)[suffix]
    rng = np.random.default_rng(7)
    statuses: collections.Counter[int] = collections.Counter()
    with running(cases.make_bundle(tmp_path / "b"), max_volume=64 * 2**20, parse_timeout=20.0) as server:
        before, sent = server.memory(), iter([mutated(data, rng) for _ in range(UPLOADS)])
        lock = threading.Lock()

        def ask(client: httpx.Client) -> bool:
            with lock:
                one = next(sent, None)
            if one is None:
                return False
            response = client.post(
                f"{server.url}/v1/predict", files={"file": (f"scan{suffix}", one)}, timeout=60
            )
            statuses[response.status_code] += 1
            if response.status_code == 200:
                (prediction,) = response.json()["predictions"]
                assert abs(sum(prediction["probabilities"].values()) - 1) < 1e-5
            else:
                detail = response.json()["detail"]
                assert detail.strip(), response.text
                assert "\n" not in detail
                assert str(tmp_path) not in detail
            return True

        with load(2, ask):
            deadline = time.monotonic() + 900
            while sum(statuses.values()) < UPLOADS and time.monotonic() < deadline:
                time.sleep(0.2)
        assert sum(statuses.values()) == UPLOADS
        assert set(statuses) <= {200, 413, 415, 422}, statuses
        assert statuses[422] > 0
        assert server.memory() - before < 2**30
        assert httpx.get(f"{server.url}/readyz").status_code == 200
        assert not any("Traceback" in line for line in server.log)


def test_the_schema_holds_for_whatever_schemathesis_thinks_of(tmp_path: Path) -> None:
    import hypothesis
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    seen: collections.Counter[str] = collections.Counter()
    with running(cases.make_bundle(tmp_path / "b")) as server:
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        for result in schema.get_all_operations():
            operation = result.ok()

            @hypothesis.given(case=operation.as_strategy())
            @hypothesis.settings(
                max_examples=60, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
            )
            def check(case: Any) -> None:
                response = case.call()
                seen[f"{case.operation.path} {response.status_code}"] += 1
                # Without a Keras model, filling is said to be not implemented.
                if response.status_code != 501:
                    checks = (not_a_server_error, status_code_conformance)
                    case.validate_response(
                        response, checks=[*checks, content_type_conformance, response_schema_conformance]
                    )

            check()
        paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    assert {key.split()[0] for key in seen} == set(paths)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_nginx_example_balances_guards_and_survives_a_replica(tmp_path: Path) -> None:
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None or shutil.which("openssl") is None:
        pytest.skip("nginx and openssl are not installed: apt-get install nginx-light openssl")
    folder, port = cases.make_bundle(tmp_path / "b"), free_port()
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "1",
                "-subj",
                "/CN=localhost",
            ),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    with running(folder) as one, running(folder) as two:
        text = (ROOT / "deploy" / "nginx.conf").read_text()
        for old, new in (
            ("voxgap-1:8080", f"127.0.0.1:{one.port}"),
            ("voxgap-2:8080", f"127.0.0.1:{two.port}"),
            ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
            ("/etc/nginx/cert.pem", str(certificate)),
            ("/etc/nginx/key.pem", str(key)),
            ("events {}", f"pid {tmp_path}/pid; daemon off; events {{}}"),
        ):
            assert old in text, old
            text = text.replace(old, new)
        paths = "".join(
            f"    {kind}_temp_path {tmp_path}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (tmp_path / "nginx.conf").write_text(
            text.replace("http {\n", f"http {{\n    access_log off;\n{paths}", 1)
        )
        proxy = subprocess.Popen([nginx, "-c", f"{tmp_path}/nginx.conf", "-e", f"{tmp_path}/error.log"])
        try:
            _through_the_proxy(f"https://127.0.0.1:{port}", one, two)
        finally:
            proxy.terminate()
            proxy.wait()


def _through_the_proxy(url: str, one: Process, two: Process) -> None:
    request, mine = cases.raw(cases.volume()), {"X-API-Key": "change-me"}
    request["headers"] |= mine
    with httpx.Client(base_url=url, verify=False) as client:
        for _ in range(50):
            with contextlib.suppress(httpx.ConnectError):
                if client.get("/healthz").status_code == 200:
                    break
            time.sleep(0.1)
        for _ in range(10):
            assert client.post("/v1/predict", **request).status_code == 200
        counts = [httpx.get(f"{server.url}/metrics").text for server in (one, two)]
        assert all('voxgap_requests_total{route="/v1/predict",status="200"}' in text for text in counts)
        assert client.get("/v1/model").status_code == 401
        assert client.get("/metrics").status_code == 404
        theirs = client.get("/v1/model", headers=mine | {"Origin": "https://example.org"})
        assert theirs.headers["access-control-allow-origin"] == "https://example.org"
        other = client.get("/v1/model", headers=mine | {"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        for origin, status in ((url, 200), ("https://example.org", 200), ("https://evil.example", 403)):
            page = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
            sent = request | {"headers": request["headers"] | page}
            assert client.post("/v1/predict", **sent).status_code == status, origin
        assert client.get("/healthz", headers={"Host": "evil.example"}).status_code == 421
        assert "default-src 'self'" in client.get("/docs").headers["content-security-policy"]
        assert client.post("/v1/predict", headers=mine, content=b"x" * (257 * 2**20)).status_code == 413
        one.popen.kill()
        one.popen.wait()
        for _ in range(10):
            assert client.post("/v1/predict", **request).status_code == 200
