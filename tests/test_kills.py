"""kill -9 at any moment, and the same command again: what it makes in the end is what it makes undisturbed.

The commands are forked from a process that has imported what they need: the moments then lie in their work.
"""

from __future__ import annotations

import contextlib
import csv
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import stand_in
import tiny
from voxgap.runtime import load

KILLS = 15
LONGEST = 300.0
NETWORK = ["--model", "cnn3d", "--filters", "2,2", "--precision", "float32"]
TRAINING = ["--epochs", "4", "--strategy", "mean", *NETWORK]
COMPARING = ["--strategies", "zero,mean", "--folds", "2", "--epochs", "2", "--processes", "1", *NETWORK]
PROCESSES = multiprocessing.get_context("forkserver") if os.name == "posix" else None


def _main(folder: Path, arguments: list[str]) -> None:
    """The command line in a process group of its own, as a scheduler would start it."""
    os.setsid()
    os.chdir(folder)
    said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.argv = ["voxgap", *arguments]
    from voxgap.cli import main

    main()


def start(folder: Path, *arguments: object) -> BaseProcess:
    assert PROCESSES is not None
    PROCESSES.set_forkserver_preload(["keras", "matplotlib.pyplot", "voxgap.cli", "voxgap.experiment"])
    process = PROCESSES.Process(target=_main, args=(folder, [*map(str, arguments)]))
    process.start()
    return process


def undisturbed(folder: Path, *arguments: object) -> float:
    """Let a command end; how long it took."""
    started = time.monotonic()
    process = start(folder, *arguments)
    process.join(LONGEST)
    said = (folder / "said.txt").read_text()[-2000:]
    assert process.exitcode == 0 or "holds a bundle" in said, (
        said
    )  # that was whole when its training was killed
    return time.monotonic() - started


def killed(folder: Path, moment: float, *arguments: object) -> bool:
    """Kill a command with all of its group; whether it was still at work."""
    process = start(folder, *arguments)
    process.join(moment)
    alive = process.exitcode is None
    with contextlib.suppress(ProcessLookupError):  # it is over, or has not become a group yet
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.kill()
    process.join()
    return alive


def weights(out: Path) -> dict[str, Any]:
    import keras

    import voxgap.fill
    import voxgap.layers  # noqa: F401  (both register the layers that the file names)

    (file,) = out.glob("model-*.keras")
    model = keras.saving.load_model(file, compile=False)
    return {str(i): np.asarray(value) for i, value in enumerate(model.get_weights())}


def trained(out: Path) -> dict[str, Any]:
    manifest = stand_in.written(out)
    kept = {name: manifest[name] for name in ("task", "classes", "input", "strategy", "scores", "arguments")}
    with (out / "history.csv").open(newline="") as stream:
        history = [_timeless(row) for row in csv.DictReader(stream)]
    return weights(out) | {"manifest": _timeless(kept), "history": history}


def filled(out: Path) -> dict[str, Any]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.is_file()}


def table(out: Path) -> dict[str, Any]:
    return {"table": (out / "preds.csv").read_bytes()}


def outcomes(out: Path) -> dict[str, Any]:
    assert (out / "report.html").is_file()
    with (out / "results.csv").open(newline="") as stream:
        rows = [_timeless(row) for row in csv.DictReader(stream) if "seconds" not in row["metric"]]
    return {str(index): row for index, row in enumerate(rows)}


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if "seconds" not in k}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def answers(out: Path) -> dict[str, Any]:
    entry = stand_in.written(out)["files"]["onnx"]
    return {"onnx": load(out, engine="onnx").predict(tiny.volumes(3)), "parity": entry["parity"]}


class Case(NamedTuple):
    """A command, what it made, and how often it is killed before it may end."""

    arguments: Callable[[Path], list[object]]
    result: Callable[[Path], dict[str, Any]]
    in_a_row: int = 3


COMMANDS = {
    "train": Case(lambda out: ["train", "data.npz", "--out", out, *TRAINING], trained, 2),
    "fill": Case(lambda out: ["fill", "data.csv", "--strategy", "linear", "--out", out], filled),
    "predict": Case(
        lambda out: ["predict", "bundle", "data.csv", "--engine", "keras", "--out", out / "preds.csv"], table
    ),
    # Their work is in processes of their own, which have everything to import.
    # Runs that ended are kept: after many kills in a row it is soon over, and a late one finds nothing to kill.
    "compare": Case(lambda out: ["compare", "data.npz", "--out", out, *COMPARING], outcomes, 2),
    "export": Case(lambda out: ["export", out, "--to", "onnx"], answers, 5),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    data = tiny.dataset()
    names = np.array(data.classes)[data.targets]
    np.savez(folder / "data.npz", volumes=data.volumes, labels=names, split=data.split)
    rows = ["path,label"]
    for index, (values, name) in enumerate(zip(data.volumes, names, strict=True)):
        np.save(folder / f"{index}.npy", values)
        rows.append(f"{index}.npy,{name}")
    (folder / "data.csv").write_text("\n".join(rows) + "\n")
    undisturbed(folder, "train", "data.npz", "--out", "bundle", *TRAINING)
    return folder


def hidden(folder: Path) -> set[str]:
    """What is no result; of an undisturbed run, the record by which it knows that it has ended."""
    found = folder.rglob("*")
    return {str(p.relative_to(folder)) for p in found if p.name.startswith(".") or p.name == "checkpoint"}


def check(name: str, work: Path, kills: int) -> None:
    """Kill it once in each of as many equal parts of the time that it takes, early and late, at a random moment."""
    case, rng = COMMANDS[name], np.random.default_rng(kills)
    whole = place(name, work, "whole")
    seconds = undisturbed(work, *case.arguments(whole))
    expected = case.result(whole)
    assert expected
    alive = 0
    moments = rng.permutation((np.arange(kills) + rng.random(kills)) / kills * seconds)
    for number in range(0, kills, case.in_a_row):
        broken = place(name, work, str(number))
        for moment in moments[number : number + case.in_a_row]:
            alive += killed(work, moment, *case.arguments(broken))
        undisturbed(work, *case.arguments(broken))
        found = case.result(broken)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_equal(found[key], value, f"{key}, killed after {moments[number]:.2f} s")
        left = sorted(hidden(broken) - hidden(whole))
        assert not left, f"left after a kill at {moments[number]:.2f} of {seconds:.2f} s"
    assert alive >= kills / 2


def place(name: str, work: Path, part: str) -> Path:
    """The folder that a command writes into; of an export it holds a bundle."""
    folder = work / f"{name}-{part}"
    if name == "export":
        shutil.copytree(work / "bundle", folder)
    return folder


@pytest.mark.full
@pytest.mark.skipif(os.name != "posix", reason="there is no kill -9")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_killed_makes_the_same_when_it_is_started_again(name: str, work: Path) -> None:
    check(name, work, KILLS)
