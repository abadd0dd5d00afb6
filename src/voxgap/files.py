"""Files that appear whole or not at all, places that one process holds at a time, and what JSON can hold."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import re
import shutil
import socket
import stat
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from voxgap.errors import VoxgapError, on_disk
from voxgap.process import lives

ABANDONED_SECONDS = 3600
"""After so long, what a process that nobody can ask left unfinished is nobody's any more."""
_UNFINISHED = re.compile(r"\.(writing|replaced)-(?:(?P<machine>\w{8})-(?P<pid>\d+)-\w{8})?(-(?P<name>.+))?.*")
_LOOKED: dict[Path, tuple[float, float]] = {}


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well, it takes the place of `path`.

    The temporary name keeps the suffix of `path`, since libraries choose a format by it. When the block raises,
    what stood at `path` stays. What killed processes left in the folder is removed.

    Raises:
        DiskError: the place can't be written to.
    """
    path = Path(path)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        temporary = path.with_name(unfinished() + "".join(path.suffixes[-2:])[-32:])
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def check_new(paths: Iterable[str | os.PathLike[str]], overwrite: bool = False) -> None:
    """Refuse to replace what is there already, which nobody asked for.

    Args:
        paths: that are to be written.
        overwrite: whether it was asked for.

    Raises:
        VoxgapError: one of them is there.
    """
    there = [] if overwrite else [os.fspath(path) for path in paths if os.path.lexists(path)]
    if there:
        more = f" and {len(there) - 1} more are" if len(there) > 1 else " is"
        raise VoxgapError(f"{there[0]}{more} there already: choose another place, or pass --overwrite")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn what the system refuses about a temporary name, or none, into one line about the file that was meant."""
    try:
        yield
    except VoxgapError:
        raise
    except OSError as error:
        named = error.filename2 or error.filename
        foreign = isinstance(named, str | bytes) and Path(os.fsdecode(named)).parent != path.parent
        raise on_disk(error, named if foreign else path) from error


def unfinished(word: str = "writing") -> str:
    """Name a file or folder that is not finished; it says who writes it, so that others can tell if it lives."""
    return f".{word}-{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def sweep(folder: Path) -> None:
    """Remove the unfinished files and folders in a folder that no living process is writing.

    What was moved away to make room, by a process that was killed before it had put anything there, is put back.
    """
    looked, took = _LOOKED.get(folder, (-math.inf, 0.0))
    started = time.monotonic()
    if (
        took > 0.001 and started - looked < 100 * took
    ):  # of ten thousand files, not each looks at all the others
        return
    found: list[os.DirEntry[str]] = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        found += [entry for entry in entries if entry.name.startswith((".writing-", ".replaced-"))]
    _LOOKED[folder] = started, time.monotonic() - started
    for entry in found:
        with contextlib.suppress(OSError):
            if _is_abandoned(entry):
                _remove(Path(entry.path))


def _is_abandoned(entry: os.DirEntry[str]) -> bool:
    found = _UNFINISHED.fullmatch(entry.name)
    if found and found["machine"] == _machine() and os.name != "nt":  # there, to ask a process is to end it
        return not lives(int(found["pid"]))
    return time.time() - entry.stat(follow_symlinks=False).st_mtime > ABANDONED_SECONDS


def _remove(path: Path) -> None:
    found = _UNFINISHED.fullmatch(path.name)
    if found and found[1] == "replaced" and found["name"] and not path.with_name(found["name"]).exists():
        path.rename(path.with_name(found["name"]))
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@functools.cache
def _machine() -> str:
    """Return where a process number means something: this machine since it was started, or this container."""
    parts = [socket.gethostname()]
    for file in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            parts.append(os.readlink(file) if file.endswith("pid") else Path(file).read_text())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


@contextlib.contextmanager
def held(lock: Path, what: str, *, seconds: float = 0.0) -> Iterator[None]:
    """Hold a place that one process may write into at a time; whoever is killed holds it no longer.

    Args:
        lock: a file that is made for it, and removed afterwards.
        what: the place, and what is done with it, for the message: `runs/brain is trained`.
        seconds: to wait for who holds it.

    Raises:
        VoxgapError: another process holds it.
        DiskError: the file can't be made.
    """
    missing = [folder for folder in (lock.parent, *lock.parent.parents) if not folder.exists()]
    until = time.monotonic() + seconds
    with naming(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        while (handle := _locked(lock)) is None:
            if time.monotonic() >= until:
                raise VoxgapError(
                    f"{what} by another process{_holder(lock)}: wait until it has ended, or choose another place"
                )
            time.sleep(0.05)
    try:
        yield
    finally:
        # Before it is let go: whoever has opened it meanwhile sees that it is no longer the one at that path.
        with contextlib.suppress(OSError):
            lock.unlink()
        os.close(handle)
        for folder in missing:  # unless something was put there
            with contextlib.suppress(OSError):
                folder.rmdir()


def _locked(lock: Path) -> int | None:
    """Open and lock a file; None where another process has it."""
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if _claim(handle) and os.path.samestat(os.fstat(handle), os.stat(lock)):
            about = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%H:%M")}
            os.ftruncate(handle, 0)
            os.write(handle, json.dumps(about).encode())
            return handle
    except FileNotFoundError:
        pass  # it was let go in this very moment
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def _claim(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(
                handle, 2**20, os.SEEK_SET
            )  # what is locked there can't be read either: not what it says
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            os.lseek(handle, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
        # A drive that knows no locks: nobody can be kept out, and nobody is locked out for ever.
    return True


def _holder(lock: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        about = json.loads(lock.read_bytes())
        return f" (pid {about['pid']} on {about['host']}, since {about['since']})"
    return ""


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file that appears whole."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def sha256(path: Path) -> str:
    """Return the digest by which a bundle knows its files, in hexadecimal; read in pieces, whatever the size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(path: Path, without: Iterable[Path] = ()) -> str | None:
    """Return what changes when a file, or one in a folder, does: names, sizes and times of change; None without one.

    Args:
        path: the file or folder.
        without: files and folders inside of it that don't count.
    """
    root = Path(os.path.realpath(path))
    inside = {Path(os.path.realpath(one)) for one in without}
    leave = {one for one in inside if root in one.parents}
    files = sorted(root.rglob("*")) if root.is_dir() else [root]
    found: list[tuple[str, int, int]] = []
    for file in files:
        if leave and not leave.isdisjoint((file, *file.parents)):
            continue
        with contextlib.suppress(OSError):  # what is gone meanwhile has no stamp
            about = file.stat()
            if stat.S_ISREG(about.st_mode):
                found.append((file.relative_to(root).as_posix(), about.st_size, about.st_mtime_ns))
    return digest(found) if found else None


def canonical(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, tuples as lists."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """Return the SHA-256 of what JSON can say, in hexadecimal, whatever the order of its keys."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def forget(files: Iterable[Path], latest: str, limit: int) -> None:
    """Remove what was used longest ago until the rest fits; who has mapped it keeps it.

    Args:
        files: what a folder keeps. Those of one name up to its first point are one entry, and the first of them, by
            name, says when it was used.
        latest: the entry that stays in any case.
        limit: bytes that may stay.
    """
    entries: dict[str, list[tuple[Path, os.stat_result]]] = {}
    for path in sorted(files):
        with contextlib.suppress(OSError):  # another process was faster
            entries.setdefault(path.name.partition(".")[0], []).append((path, path.stat()))
    sizes = {name: sum(about.st_size for _, about in held) for name, held in entries.items()}
    total = sum(sizes.values())
    for name in sorted(entries, key=lambda name: entries[name][0][1].st_mtime_ns):
        if total > limit and name != latest:
            total -= sizes[name]
            for path, _ in entries[name]:
                with contextlib.suppress(OSError):
                    path.unlink()


def finite(value: Any) -> Any:
    """Return the same data as JSON has it: null for NaN and infinity (a score that is not defined), text for keys."""
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if math.isfinite(value) else None


def cache_folder() -> Path:
    """Return where this platform keeps what a program can fetch again: `~/.cache/voxgap` on Linux."""
    if os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "voxgap"
