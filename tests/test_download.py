"""Downloads against a server on this machine: resumed, verified, and one line that says what to do when not."""

from __future__ import annotations

import hashlib
import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from voxgap.dataset import download
from voxgap.dataset.download import fetch
from voxgap.errors import VoxgapError
from voxgap.files import cache_folder

CONTENT = np.random.default_rng(0).bytes(300_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT, as badly as a test wants it; `asked` holds the Range headers that came."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []
        self.content = CONTENT
        self.breaks: list[int] = []
        """After how many bytes to hang up, for the answers to come."""
        self.ranges = True
        self.length = True
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/set.npz?download=1"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.asked.append(asked)
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        content, start = self.server.content, 0
        if asked and self.server.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        content = content[start:]
        if self.server.length:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: self.server.breaks.pop(0)] if self.server.breaks else content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    target = tmp_path / "new" / "set.npz"
    assert fetch(server.url, target, MD5, lambda *state: told.append(state)) == target
    assert target.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert fetch(server.url, target, MD5) == target
    assert server.asked == [None]
    assert [file.name for file in target.parent.iterdir()] == ["set.npz"]


def test_a_broken_connection_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    server.breaks = [100_000, 50_000]
    told: list[int] = []
    fetch(server.url, tmp_path / "set.npz", MD5, lambda size, _: told.append(size))
    assert (tmp_path / "set.npz").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]
    assert told == sorted(told)


def test_another_run_goes_on_where_the_last_one_stopped(server: Server, tmp_path: Path) -> None:
    server.breaks = [100_000, 0]
    with pytest.raises(VoxgapError, match=r"broke off, 100000 bytes are there; run it again to go on"):
        fetch(server.url, tmp_path / "set.npz", MD5)
    assert not (tmp_path / "set.npz").exists()
    fetch(server.url, tmp_path / "set.npz", MD5)
    assert server.asked[2:] == ["bytes=100000-"]
    assert (tmp_path / "set.npz").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_it_all_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "set.npz.part").write_bytes(b"x" * 1000)
    fetch(server.url, tmp_path / "set.npz", MD5)
    assert (tmp_path / "set.npz").read_bytes() == CONTENT


def test_a_server_that_does_not_say_how_much(server: Server, tmp_path: Path) -> None:
    server.length = False
    fetch(server.url, tmp_path / "set.npz", MD5)
    assert (tmp_path / "set.npz").read_bytes() == CONTENT


def test_a_part_that_is_whole_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.npz.part").write_bytes(CONTENT)
    fetch(server.url, tmp_path / "set.npz", MD5)
    assert server.asked == [f"bytes={len(CONTENT)}-"]
    assert (tmp_path / "set.npz").read_bytes() == CONTENT


@pytest.mark.parametrize("left", [0, 1000, len(CONTENT) + 5])
def test_another_file_is_never_used(left: int, server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[::-1]
    (tmp_path / "set.npz.part").write_bytes(CONTENT[:1] * left)
    with pytest.raises(VoxgapError, match=rf"arrived with MD5 \w+, not {MD5}, and was deleted"):
        fetch(server.url, tmp_path / "set.npz", MD5)
    assert not list(tmp_path.iterdir())


def test_a_wrong_file_put_there_by_hand_is_named_and_kept(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "set.npz"
    target.write_bytes(b"mine")
    with pytest.raises(VoxgapError, match=r"set\.npz: not the published file .MD5 differs.; delete it"):
        fetch(server.url, target, MD5)
    assert target.read_bytes() == b"mine"
    target.write_bytes(CONTENT)
    assert fetch(server.url, target, MD5) == target
    assert not server.asked


@pytest.mark.parametrize("status", [404, 403, 429, 503])
def test_a_refusal_says_what_to_fetch_and_where_to_put_it(
    status: int, server: Server, tmp_path: Path
) -> None:
    server.status = status
    with pytest.raises(VoxgapError) as caught:
        fetch(server.url, tmp_path / "set.npz", MD5)
    text = str(caught.value)
    assert f"can't download {server.url} (HTTP {status} " in text
    assert text.endswith(f"fetch it and put it at {tmp_path / 'set.npz'}")
    assert "\n" not in text
    assert server.asked == [None]


def test_without_a_network(tmp_path: Path) -> None:
    with pytest.raises(
        VoxgapError, match=r"can't download http://127\.0\.0\.1:9/x .*refused.*put it at .*x\.npz"
    ):
        fetch("http://127.0.0.1:9/x", tmp_path / "x.npz", MD5)
    (tmp_path / "file").write_text("")
    with pytest.raises(VoxgapError, match=r"can't download .*; fetch it and put it at"):
        fetch("http://127.0.0.1:9/x", tmp_path / "file" / "x.npz", MD5)


@pytest.mark.parametrize("length", [True, False])
def test_what_never_ends_is_cut_off(
    length: bool, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.length = length
    monkeypatch.setattr(download, "MAX_BYTES", 1000)
    with pytest.raises(VoxgapError, match="more than"):
        fetch(server.url, tmp_path / "set.npz", MD5)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= download.BLOCK


def test_the_cache_is_where_the_platform_keeps_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "voxgap"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "voxgap"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == Path.home() / "Library" / "Caches" / "voxgap"
