"""Files from the web: fetched once, resumed where they broke off, and checked before they are used."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from voxgap.errors import VoxgapError

ATTEMPTS = 5
BLOCK = 2**20
MAX_BYTES = 4 * 2**30
SECONDS = 30.0

Report = Callable[[int, int | None], None]
"""Told how many bytes are there, and how many there will be, None where the server doesn't say."""


def fetch(url: str, target: Path, md5: str, report: Report | None = None) -> Path:
    """Return a file that has this checksum, downloading it to `target` if it isn't there yet.

    What has arrived lies in `target` + `.part`; the next attempt, in this call or a later one, asks the server
    for the rest. The file gets its name once it is whole and its checksum is right.

    Args:
        url: Where it is.
        target: Where it is to be.
        md5: Its checksum, as its publisher gives it.
        report: Told of the progress.

    Raises:
        VoxgapError: It can't be fetched, with the line that says what to fetch by hand, and where to put it;
            or the file is another one than its publisher describes.
    """
    if target.exists():
        if _md5(target) != md5:
            raise VoxgapError(
                f"{target}: not the published file (MD5 differs); delete it, and fetch {url} again"
            )
        return target
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _complete(url, part, report)
        found = _md5(part)
        if found != md5:
            part.unlink()
            raise VoxgapError(f"{url}: arrived with MD5 {found}, not {md5}, and was deleted; try again later")
        os.replace(part, target)
    except (OSError, http.client.HTTPException) as error:
        raise VoxgapError(
            f"can't download {url} ({_reason(error)}); fetch it and put it at {target}"
        ) from error
    return target


def _complete(url: str, part: Path, report: Report | None) -> None:
    """Download until all is there; try again as long as each attempt brings more."""
    for attempt in range(1, ATTEMPTS + 1):
        before = _size(part)
        try:
            if _append(url, part, report):
                return
            lost: Exception = ConnectionError("the connection broke off")
        except urllib.error.HTTPError as error:
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not before:
                raise
            # Nothing lies beyond what is there: it is whole, or of another file, as its checksum will tell.
            return
        except (OSError, http.client.HTTPException) as error:
            lost = error
        there = _size(part)
        if attempt == ATTEMPTS or there <= before:
            more = f", {there} bytes are there; run it again to go on" if there else ""
            raise ConnectionError(f"{_reason(lost)}{more}")


def _append(url: str, part: Path, report: Report | None) -> bool:
    """Ask for what is not there yet, and return whether it all came."""
    start = _size(part)
    headers = {"User-Agent": "voxgap", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)
    with contextlib.closing(urllib.request.urlopen(request, timeout=SECONDS)) as answer:
        if start and not _continues(answer, start):
            start = 0
        length = answer.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        if (total or 0) > MAX_BYTES:
            raise VoxgapError(f"{url}: {total} bytes are more than voxgap downloads; check the address")
        size = start
        with part.open("r+b" if start else "wb") as stream:
            stream.seek(start)
            while block := answer.read(BLOCK):
                stream.write(block)
                size += len(block)
                if size > MAX_BYTES:
                    raise VoxgapError(f"{url}: sends more than {MAX_BYTES} bytes; check the address")
                if report is not None:
                    report(size, total)
        return total is None or size >= total


def _continues(answer: http.client.HTTPResponse, start: int) -> bool:
    """Return whether the server sends the part that was asked for; many send the whole."""
    sent = answer.headers.get("Content-Range", "")
    return answer.status == http.HTTPStatus.PARTIAL_CONTENT and sent.startswith(f"bytes {start}-")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    return " ".join(str(inner).split()) or type(inner).__name__
