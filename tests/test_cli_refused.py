"""A command that is refused leaves no folder behind, and one whose reader has left says nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, volumes=tiny.volumes(12), labels=np.arange(12) % 2)
    return path


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("train", ("--optimizer", "magic", "--model", "cnn3d", "--filters", "2")),
        ("train", ("--epochs", "0", "--model", "cnn3d", "--filters", "2")),
        ("train", ("--test-share", "1", "--model", "cnn3d", "--filters", "2")),
        ("fill", ("--strategy", "magic")),
        ("fill", ("--option", "axis=up")),
        ("compare", ("--metric", "magic")),
        ("compare", ("--models", "magic")),
        ("compare", ("--epochs", "0")),
        ("compare", ("--learning-rate", "0")),
        ("compare", ("--patience", "0")),
        ("compare", ("--augment", "magic")),
        ("augment", ("--augment", "magic")),
    ],
)
def test_nothing_is_left_where_something_was_wrong(
    command: str, wrong: tuple[str, ...], data: Path, tmp_path: Path, voxgap
) -> None:
    done = voxgap(command, data, "--out", tmp_path / "a" / "out", *wrong)
    assert done.code == 2, done.err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "absent.npz"),
        ("fill", "absent.nii.gz"),
        ("compare", "absent.npz"),
        ("predict", "absent", "absent.npy"),
        ("export", "absent", "--to", "web"),
        ("demo", "--sample", "magic"),
    ],
)
def test_nothing_is_left_where_something_was_missing(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, voxgap
) -> None:
    monkeypatch.chdir(tmp_path)
    out = "out/table.csv" if arguments[0] == "predict" else "out/folder"
    assert voxgap(*arguments, "--out", out).code == 2
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "command", ["train", "compare", "evaluate", "guarantee", "certify", "inspect", "predict"]
)
def test_a_seed_below_0_is_refused_by_every_command_before_anything_is_read(command: str, voxgap) -> None:
    done = voxgap(
        command, "absent", *["absent"] * (command not in ("train", "compare", "inspect")), "--seed", "-1"
    )
    assert done.code == 2
    assert "--seed" in done.err
    assert "absent" not in done.err


@pytest.mark.skipif(os.name != "posix", reason="a pipe that nobody reads ends otherwise there")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [("shapes", "--input", "8,8,8,1", "--conv", "2:k3:same"), ("inspect",)])
def test_output_that_nobody_reads_ends_a_command_without_a_word(
    arguments: tuple[str, ...], unbuffered: str, data: Path
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from voxgap.cli import main; main()",
            *arguments,
            *[data] * (len(arguments) == 1),
        ],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        check=False,
    )
    os.close(writing)
    assert done.returncode in (0, 1)
    assert done.stderr == b""
