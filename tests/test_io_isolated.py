"""The child process that reads what may crash."""

import os
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from voxgap.errors import VoxgapError
from voxgap.io import hdf5, isolated, read
from voxgap.io.isolated import isolated as call


def example(folder: Path) -> Path:
    with h5py.File(folder / "v.h5", "w") as file:
        file["values"] = np.arange(24.0).reshape(2, 3, 4)
    return folder / "v.h5"


def child() -> "isolated._Child":
    assert isolated._child is not None
    return isolated._child


def test_one_child_answers_all_calls_and_is_replaced_when_it_dies(tmp_path: Path) -> None:
    path = example(tmp_path)
    read(path)
    first = child().process.pid
    assert np.array_equal(read(path).values[..., 0], np.arange(24.0).reshape(2, 3, 4))
    assert child().process.pid == first
    child().process.kill()
    child().process.wait()
    assert read(path).shape == (2, 3, 4, 1)
    assert child().process.pid != first


def test_a_crash_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = example(tmp_path)
    read(path)
    ask = isolated._Child.ask

    def crashing(self: "isolated._Child", *question: object) -> object:
        self.process.kill()
        return ask(self, *question)

    monkeypatch.setattr(isolated._Child, "ask", crashing)
    with pytest.raises(VoxgapError, match="its library crashed on it"):
        read(path)
    monkeypatch.undo()
    assert read(path).shape == (2, 3, 4, 1)


@pytest.mark.full
def test_a_file_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = example(tmp_path)
    read(path)
    monkeypatch.setattr(isolated, "SECONDS", 0.2)
    os.kill(child().process.pid, 19)  # Stopped: it will not answer.
    start = time.monotonic()
    with pytest.raises(VoxgapError, match="no answer in"):
        read(path)
    assert time.monotonic() - start < 5
    monkeypatch.undo()
    assert read(path).shape == (2, 3, 4, 1)


def test_only_readers_are_called(tmp_path: Path) -> None:
    path = example(tmp_path)
    for task in (os.system, Path.unlink):
        with pytest.raises(VoxgapError, match="not a task"):
            call(task, path)
    assert call(hdf5.describe, path, item=None)["shape"] == [2, 3, 4]
    assert path.exists()
