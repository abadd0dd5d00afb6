"""Files: whole or not at all, held by one process, swept of what killed ones left; one line where the disk refuses."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxgap import files
from voxgap.errors import DiskError, VoxgapError, on_disk, visible
from voxgap.files import held, replacing, sweep, unfinished, write_bytes
from voxgap.io.folders import MARK, replacing_folder


def in_process(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that has done what it says once it has written a line."""
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def kill(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGKILL)
    child.wait()


WRITING = """
    import sys, time
    from pathlib import Path
    from voxgap.files import replacing
    from voxgap.io.folders import replacing_folder
    path = Path(sys.argv[1])
    with replacing(path / "a.bin") as file, replacing_folder(path / "b") as folder:
        file.write_bytes(b"half"); (folder / "x").write_bytes(b"half")
        print("ready", flush=True); time.sleep(60)
"""


def test_the_next_writer_removes_what_a_killed_one_left_and_nothing_of_a_living_one(tmp_path: Path) -> None:
    dead, alive = in_process(WRITING, tmp_path), in_process(WRITING, tmp_path)
    kill(dead)
    assert len(list(tmp_path.glob(".writing-*"))) == 4
    write_bytes(tmp_path / "c.bin", b"whole")
    left = list(tmp_path.glob(".writing-*"))
    assert len(left) == 2
    assert all(f"-{alive.pid}-" in path.name for path in left)
    kill(alive)
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["c.bin"]


def test_what_nobody_can_be_asked_about_goes_when_it_is_old(tmp_path: Path) -> None:
    young, old = tmp_path / ".writing-elsewhere", tmp_path / ".writing-00000000-1-00000000.npz"
    for path in (young, old):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    (tmp_path / ".writing-notes").mkdir()
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".writing-elsewhere", ".writing-notes"}


def test_a_folder_that_was_moved_away_before_a_kill_comes_back(tmp_path: Path) -> None:
    gone = in_process("import os; print('ready', flush=True)")
    gone.wait()
    moved = tmp_path / f"{unfinished('replaced').replace(f'-{os.getpid()}-', f'-{gone.pid}-')}-series"
    moved.mkdir()
    (moved / MARK).touch()
    (moved / "slice").write_bytes(b"old")
    with replacing_folder(tmp_path / "other"):
        pass
    assert (tmp_path / "series" / "slice").read_bytes() == b"old"
    assert not list(tmp_path.glob(".*-*"))


def test_many_files_in_a_folder_are_not_looked_at_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    scan = os.scandir
    monkeypatch.setattr(
        files.os, "scandir", lambda path: (looks.append(path), time.sleep(0.01), scan(path))[-1]
    )
    for index in range(20):
        write_bytes(tmp_path / f"{index}.bin", b"")
    assert len(looks) < 5


HOLDING = """
    import sys, time
    from pathlib import Path
    from voxgap.files import held
    with held(Path(sys.argv[1]), "it is held"):
        print("ready", flush=True); time.sleep(60)
"""


def test_one_process_holds_a_place_and_a_killed_one_no_longer(tmp_path: Path) -> None:
    lock = tmp_path / "new" / "bundle" / ".training.lock"
    holder = in_process(HOLDING, lock)
    with (
        pytest.raises(
            VoxgapError, match=rf"runs/b is trained by another process \(pid {holder.pid} on .*wait"
        ) as said,
        held(lock, "runs/b is trained"),
    ):
        pytest.fail("two hold it")
    assert "\n" not in str(said.value)
    kill(holder)
    with held(lock, "runs/b is trained"), pytest.raises(VoxgapError), held(lock, "runs/b is trained"):
        pytest.fail("two hold it")
    assert not lock.exists()


def test_what_was_made_for_a_lock_goes_with_it_unless_something_was_put_there(tmp_path: Path) -> None:
    with held(tmp_path / "a" / "b" / ".lock", "b"):
        pass
    assert not (tmp_path / "a").exists()
    with held(tmp_path / "a" / "b" / ".lock", "b"):
        (tmp_path / "a" / "b" / "model").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["model"]


def test_who_waits_gets_it_and_no_two_have_it_at_once(tmp_path: Path) -> None:
    code = """
        import sys, time
        from pathlib import Path
        from voxgap.files import held
        print("ready", flush=True)
        for _ in range(20):
            with held(Path(sys.argv[1]) / ".lock", "x", seconds=60):
                n = Path(sys.argv[1]) / "n"
                value = int(n.read_text()); time.sleep(0.002); n.write_text(str(value + 1))
    """
    (tmp_path / "n").write_text("0")
    children = [in_process(code, tmp_path) for _ in range(3)]
    assert [child.wait() for child in children] == [0, 0, 0]
    assert (tmp_path / "n").read_text() == "60"


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EACCES, "choose a place"),
        (errno.EROFS, "can be written to"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EFBIG, "ulimit -f"),
        (errno.ENAMETOOLONG, "shorter name"),
        (errno.EIO, "the disk fails"),
    ],
)
@pytest.mark.parametrize("where", ["write", "replace"])
def test_what_the_disk_refuses_names_the_file_and_the_remedy(
    number: int, remedy: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "preds.csv"
    target.write_bytes(b"before")

    def refuse(*paths: Any) -> None:
        raise OSError(number, os.strerror(number), *map(str, paths[:1]))

    if where == "replace":
        monkeypatch.setattr(files.os, "replace", refuse)
    else:
        monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(DiskError, match=remedy) as said:
        write_bytes(target, b"after")
    assert str(said.value).startswith(f"{target}: ")
    assert ".writing" not in str(said.value)
    assert isinstance(said.value, OSError)
    assert isinstance(said.value, VoxgapError)
    assert said.value.errno == number
    assert target.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["preds.csv"]


def test_the_file_that_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "x.csv", tmp_path / "file" / "a" / "x.csv"):
        with pytest.raises(DiskError, match=rf"^{tmp_path}/file: .* in the way"):
            write_bytes(path, b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DiskError, match="folder: Is a directory; it is a folder: name a file"):
        write_bytes(tmp_path / "folder", b"")
    with pytest.raises(DiskError, match="choose a shorter name"):
        write_bytes(tmp_path / ("x" * 300), b"")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


def test_a_file_that_was_read_meanwhile_is_the_one_that_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(DiskError, match=r"elsewhere/source\.npy: No such file"),
        replacing(tmp_path / "x.npy"),
    ):
        np.load(tmp_path / "elsewhere" / "source.npy")


def test_who_can_do_without_a_file_still_can() -> None:
    with contextlib.suppress(OSError):
        write_bytes("/dev/null/x", b"")


def test_control_bytes_are_seen_and_not_obeyed() -> None:
    said = VoxgapError("a\x1b[2Jb\nc\x07\u202ed\udcffé 猫")
    assert str(said) == r"a\x1b[2Jb\nc\x07\u202ed\udcffé 猫"
    assert str(VoxgapError("two problems", "  one\n", "  two")) == "two problems\n  one\\n\n  two"
    assert visible("plain é") == "plain é"
    assert "\x1b" not in str(on_disk(FileNotFoundError(2, "No such file", "x\x1b[2J\n")))
