"""Connections over raw sockets: what never comes is cut, what never ends too, and what is not for us is refused."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import server_cases as cases
from server_process import Process, running
from voxgap.errors import VoxgapError
from voxgap.server.hosts import host_name

HOST = b"Host: localhost\r\n"
GET = b"GET /healthz HTTP/1.1\r\n"
POST = b"POST /v1/predict HTTP/1.1\r\n"
RAW = b"Content-Type: application/octet-stream\r\nX-Shape: 4,6,8,1\r\n"
FORM = b"Content-Type: multipart/form-data; boundary=a\r\n"
LONG = b"Content-Length: 100000\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
PART = b'--a\r\nContent-Disposition: form-data; name="file"; filename="a.npy"\r\n'
VALUES = cases.volume().astype("<f4").tobytes()
BODY = RAW + b"Content-Length: %d\r\n\r\n" % len(VALUES) + VALUES

PATIENCE = 60.0  # of a client whose drops never end, many times what the server waits

# What is sent at once, what then comes drop by drop, and what is answered.
STALLS = {
    "nothing": (b"", b"", b""),
    "line ends": (b"\r\n", b"\r\n", b""),
    "request line": (b"GET /", b"a", b"408"),
    "headers": (POST + HOST, b"X: 1\r\n", b"408"),
    "one header": (POST + HOST + b"X: ", b"a", b"408"),
    "before the body": (POST + HOST + RAW + b"Content-Length: 768\r\n\r\n", b"", b"408"),
    "body": (POST + HOST + RAW + b"Content-Length: 768\r\n\r\n", b"a", b"408"),
    "body to be asked for": (POST + HOST + b"Expect: 100-continue\r\n" + FORM + LONG, b"", b"408"),
    "chunks": (POST + HOST + RAW + CHUNKED, b"1\r\na\r\n", b"408"),
    "chunk extension": (POST + HOST + RAW + CHUNKED + b"1;", b"a", b"408"),
    "trailer": (POST + HOST + RAW + CHUNKED + b"0\r\n", b"X: a\r\n", b"408"),
    "JSON": (POST + HOST + b"Content-Type: application/json\r\n" + LONG, b"[", b"408"),
    "header of a part": (POST + HOST + FORM + LONG + PART, b"a", b"408"),
    "part": (POST + HOST + FORM + LONG + PART + b"\r\n", b"a", b"408"),
    "after an answer": (GET + HOST + b"\r\n", b"", b"200"),
    "line ends after an answer": (GET + HOST + b"\r\n", b"\r\n", b"200"),
    "second request": (GET + HOST + b"\r\nGET /", b"a", b"408"),
    "body of a GET": (GET + HOST + LONG, b"a", b"200"),
    "body for nobody": (b"POST /none HTTP/1.1\r\n" + HOST + LONG, b"a", b"404"),
    "body for another": (b"POST /none HTTP/1.1\r\nHost: a.example\r\n" + LONG, b"a", b"421"),
    "another protocol": (GET + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", b"a", b"200"),
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = cases.make_bundle(tmp_path_factory.mktemp("server") / "b")
    with running(folder, timeout=0.5, queue=2, parsers=1, allow_hosts=["brain.example.org"]) as process:
        yield process


def exchange(port: int, sent: bytes, drop: bytes = b"", cut: int | None = None) -> tuple[bytes, bool]:
    """All that is answered until the connection ends, and whether it did; `sent` goes in one piece, or is cut."""
    answer, ended, until = b"", True, time.monotonic() + PATIENCE
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(0.05)
        for piece in (sent[:cut], sent[cut:]) if cut else (sent,):
            connection.sendall(piece)
            time.sleep(0.02 if cut else 0)
        while ended := time.monotonic() < until:
            try:
                if not (block := connection.recv(2**20)):
                    break
                answer += block
            except TimeoutError:
                connection.sendall(drop)
    return answer, ended


def statuses(answer: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d+)", answer)]


def test_what_never_comes_is_cut_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    found: dict[str, tuple[bytes, bool]] = {}
    # A healthy request has as long as a stalled one: enough for a slow machine too.
    with running(cases.make_bundle(tmp_path / "b"), timeout=5.0, queue=2, parsers=1) as server:

        def client(name: str) -> None:
            found[name] = exchange(server.port, *STALLS[name][:2])

        threads = [threading.Thread(target=client, args=(name,)) for name in STALLS]
        for thread in threads:
            thread.start()
        answered = 0
        with httpx.Client(timeout=PATIENCE) as healthy:
            while any(thread.is_alive() for thread in threads):
                response = healthy.post(f"{server.url}/v1/predict", **cases.raw(cases.volume()))
                assert response.status_code == 200, response.text
                answered += 1
                time.sleep(0.02)  # on few processors the stalled clients must drop too
        assert answered > 1
        for name, (*_, status) in STALLS.items():
            answer, ended = found[name]
            assert ended, name
            assert status in answer[:2000] + answer[-2000:] if status else not answer, (name, answer)
        until = time.monotonic() + PATIENCE
        while "voxgap_requests_active 0.0" not in httpx.get(f"{server.url}/metrics", timeout=PATIENCE).text:
            assert time.monotonic() < until, "a stalled request is still held"
            time.sleep(0.1)


@pytest.mark.full
def test_two_hundred_hostile_connections_do_not_delay_an_answer(tmp_path: Path) -> None:
    with running(cases.make_bundle(tmp_path / "b"), timeout=2.0, queue=2, parsers=1) as server:
        assert httpx.post(f"{server.url}/v1/predict", **cases.raw(cases.volume())).status_code == 200
        before, ended = server.memory(parsers=False, peak=False), []

        def client(name: str) -> None:
            ended.append(exchange(server.port, *STALLS[name][:2])[1])

        threads = [threading.Thread(target=client, args=(name,)) for name in [*STALLS] * 10]
        for thread in threads:
            thread.start()
        with httpx.Client() as healthy:
            while any(thread.is_alive() for thread in threads):
                assert (
                    healthy.post(f"{server.url}/v1/predict", **cases.raw(cases.volume())).status_code == 200
                )
        assert ended == [True] * len(threads)
        assert server.memory(parsers=False, peak=False) - before < 64 * 2**20
        assert not any("Traceback" in line for line in server.log)


def padded(size: int) -> bytes:
    return GET + HOST + b"X: " + b"a" * (size - len(GET + HOST) - 7) + b"\r\n\r\n"


def chunks(size: int, extension: bytes = b"") -> bytes:
    parts = [VALUES[start : start + size] for start in range(0, len(VALUES), size)]
    return b"".join(b"%x%s\r\n%s\r\n" % (len(part), extension, part) for part in parts) + b"0\r\n"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (padded(2**16) + padded(2**16), [200, 200]),
        (padded(2**16 + 1), [431]),
        ((GET + HOST + b"\r\n") * 30, [200] * 30),
        ((GET + HOST + b"\r\n") * 500, [200] * 33),
        (POST + HOST + RAW + CHUNKED + chunks(1) + b"\r\n", [200]),
        (POST + HOST + RAW + CHUNKED + chunks(1, b";" + b"a" * 300) + b"\r\n", [431]),
        (POST + HOST + RAW + CHUNKED + chunks(768) + b"Host: a.example\r\nX-Shape: 1\r\n\r\n", [200]),
        (POST + HOST + RAW + CHUNKED + chunks(768) + b"X: " + b"a" * 2**17 + b"\r\n\r\n", [431]),
        (POST + HOST + RAW + b"Content-Length: 4\r\n" + CHUNKED + chunks(768), [400]),
        (POST + HOST + b"Content-Length: 768\r\n" + BODY, [400]),
        (POST + HOST + RAW + b"Content-Length: +768\r\n\r\n" + VALUES, [400]),
        (POST + HOST + RAW + b"Content-Length: 4\r\n\r\n" + VALUES, [422]),
        (POST + HOST + RAW + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + chunks(768), [501]),
        (b"POST /v1/predict HTTP/1.0\r\n" + HOST + RAW + CHUNKED + chunks(768), [501]),
        (POST + HOST + b"Content-Encoding: gzip\r\n" + BODY, [415]),
        (POST + HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + BODY, [400]),
        (POST + HOST + RAW + b"Content-Length: 9999999999\r\n\r\n", [413]),
        (GET.replace(b"1.1", b"2.0") + HOST + b"\r\n", [505]),
        (GET + HOST + b"X: \x1b[2J\r\n\r\n", [400]),
        (b"\x16\x03\x01\x02\x00" * 20, [400]),
        (POST + HOST + BODY + b"\x00garbage\r\n\r\n", [200]),
    ],
)  # fmt: skip
def test_heads_and_frames_are_counted_and_never_guessed(
    server: Process, sent: bytes, expected: list[int]
) -> None:
    # In one piece, and cut where it hurts.
    for cut in (None, len(sent) // 2):
        answer, ended = exchange(server.port, sent, cut=cut)
        assert ended
        # An error of what was sent too much may follow.
        assert [status for status in statuses(answer) if status != 408][: len(expected)] == expected


@pytest.mark.parametrize("kind", [FORM, b"Content-Type: application/json\r\n", b"Content-Type: a/b\r\n"])
def test_a_body_without_end_is_cut_and_not_kept(tmp_path: Path, kind: bytes) -> None:
    start = PART + b"\r\n" if kind is FORM else b" "
    with running(cases.make_bundle(tmp_path / "b"), parsers=1, max_upload=2**20, max_json=2**20) as server:
        before, sent = server.memory(parsers=False), 0
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(POST + HOST + kind + CHUNKED + b"%x\r\n%s\r\n" % (len(start), start))
            with contextlib.suppress(ConnectionError):
                while sent < 64 * 2**20:
                    connection.sendall(b"10000\r\n" + b" " * 2**16 + b"\r\n")
                    sent += 2**16
        assert sent < 32 * 2**20  # most of it still lay in the sockets
        assert server.memory(parsers=False) - before < 16 * 2**20


ROUTES = [
    ("GET", path) for path in ("/", "/docs", "/openapi.json", "/metrics", "/v1/model", "/v1/samples", "/none")
]
ROUTES += [("POST", f"/v1/{name}") for name in ("predict", "view", "fill", "occlusion", "label_map")]
HEALTH = [("GET", "/healthz"), ("GET", "/readyz")]


def asked(server: Process, method: str, path: str, headers: bytes, version: bytes = b"1.1") -> int:
    close = b"Connection: close\r\n\r\n"
    line = f"{method} {path} HTTP/".encode() + version + b"\r\n"
    return statuses(exchange(server.port, line + headers + close)[0])[0]


@pytest.mark.parametrize(("method", "path"), ROUTES + HEALTH)
def test_a_request_for_somebody_else_is_refused(server: Process, method: str, path: str) -> None:
    for name in (b"localhost", b"127.0.0.1:1", b"[::1]:80", b"LOCALHOST.:8080", b"brain.example.org"):
        assert asked(server, method, path, b"Host: " + name + b"\r\n") not in (400, 403, 421), name
    for name in (b"a.example", b"localhost.a.example", b"x.brain.example.org", b"127.0.0.1.a.example"):
        assert asked(server, method, path, b"Host: " + name + b"\r\n") == 421, name
    assert asked(server, method, f"http://a.example{path}", HOST) == 421
    for wrong in (b"", b"Host:\r\n", HOST + HOST, b"Host: a@b\r\n", b"Host: a:b\r\n", b"Host: a/b\r\n"):
        assert asked(server, method, path, wrong) == 400, wrong
    # Orchestrators ask for health by address, or without Host as HTTP/1.0 may.
    by_address = asked(server, method, path, b"Host: 10.1.2.3:8080\r\n")
    assert by_address == (200 if (method, path) in HEALTH else 421)
    assert asked(server, method, path, b"", b"1.0") == (200 if (method, path) in HEALTH else 400)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_what_a_page_from_elsewhere_sends_is_refused(server: Process, method: str, path: str) -> None:
    own = b"Host: localhost:8080\r\n"
    for headers in (
        b"",
        b"Origin: http://localhost:8080\r\n",
        b"Origin: http://localhost:8080\r\nSec-Fetch-Site: same-origin\r\n",
        b"Origin: https://brain.example.org\r\nSec-Fetch-Site: cross-site\r\n",
        b"Sec-Fetch-Site: none\r\n",
    ):
        assert asked(server, method, path, own + headers) != 403, headers
    for headers in (
        b"Origin: null\r\n",
        b"Origin: http://a.example\r\n",
        b"Origin: http://localhost:3000\r\n",
        b"Origin: http://localhost:8080.a.example\r\n",
        b"Origin: http://localhost:8080\r\nOrigin: http://a.example\r\n",
        b"Sec-Fetch-Site: cross-site\r\n",
        b"Sec-Fetch-Site: same-site\r\n",
    ):
        assert (asked(server, method, path, own + headers) == 403) == (method == "POST"), headers


def test_a_name_to_answer_for_is_a_name() -> None:
    names = ("Brain.Example.ORG.", "münchen.de", "10.0.0.1", "FD00::5", "[fd00::5]", "*")
    assert [host_name(name) for name in names] == [
        *("brain.example.org", "xn--mnchen-3ya.de", "10.0.0.1", "[fd00::5]", "[fd00::5]", "*")
    ]
    for wrong in ("", "http://a/", "a:80", "[::1]:80", "*.a.de", "a b"):
        with pytest.raises(VoxgapError, match="name alone"):
            host_name(wrong)


def test_what_is_deployed_says_which_names_it_answers_for() -> None:
    root = Path(__file__).parents[1]
    for path in ("deploy/Dockerfile", "src/voxgap/bundle/Dockerfile"):
        command = (root / path).read_text().rpartition("CMD ")[2]
        assert json.loads(command)[-2:] == ["--allow-host", "localhost"]
    assert "--allow-host=${SERVER_NAME:?" in (root / "deploy/compose.yaml").read_text()
