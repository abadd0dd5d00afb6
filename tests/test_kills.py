"""kill -9 at random moments, again and again: what a command makes in the end is what it makes undisturbed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from voxgap.runtime import load
from voxgap.runtime.manifest import read_manifest

KILLS = 15
NETWORK = ["--model", "cnn3d", "--filters", "2,2"]
TRAINING = ["--epochs", "4", "--precision", "float32", "--strategy", "zero", *NETWORK]
COMPARING = [
    "--strategies",
    "zero,mean",
    "--folds",
    "2",
    "--epochs",
    "2",
    "--processes",
    "1",
    "--precision",
    "float32",
]


def command(folder: Path, *arguments: object) -> subprocess.Popen[bytes]:
    """The command line in a process group of its own, as a scheduler would start it."""
    return subprocess.Popen(
        [sys.executable, "-c", "from voxgap.cli import main; main()", *map(str, arguments)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        start_new_session=True,
    )


def undisturbed(folder: Path, *arguments: object) -> float:
    started = time.monotonic()
    process = command(folder, *arguments)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said.decode()[-2000:]
    return time.monotonic() - started


def killed_and_finished(folder: Path, seconds: float, kills: int, *arguments: object) -> int:
    """Kill it so often, at any moment of the time that it takes; then let it end. Return how often it was alive."""
    rng = np.random.default_rng(kills)
    hit = 0
    for moment in rng.uniform(0, seconds, kills):
        process = command(folder, *arguments)
        try:
            process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            hit += 1
    undisturbed(folder, *arguments)
    return hit


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    data = tiny.dataset()
    names = np.array(data.classes)[data.targets]
    np.savez(folder / "data.npz", volumes=data.volumes, labels=names, split=data.split)
    rows = ["path,label"]
    for index, (values, name) in enumerate(zip(data.volumes[:24], names, strict=False)):
        np.save(folder / f"{index}.npy", values)
        rows.append(f"{index}.npy,{name}")
    (folder / "data.csv").write_text("\n".join(rows) + "\n")
    undisturbed(folder, "train", "data.npz", "--out", "bundle", *TRAINING)
    return folder


def weights(out: Path) -> dict[str, Any]:
    import keras

    (file,) = out.glob("model-*.keras")
    model = keras.saving.load_model(file, compile=False)
    return {str(i): np.asarray(value) for i, value in enumerate(model.get_weights())}


def filled(out: Path) -> dict[str, Any]:
    return {path.name: np.load(path) for path in sorted(out.glob("*.npy"))}


def table(out: Path) -> dict[str, Any]:
    with (out / "preds.csv").open(newline="") as stream:
        return {row["path"]: np.array([*row.values()]) for row in csv.DictReader(stream)}


def outcomes(out: Path) -> dict[str, Any]:
    runs = json.loads((out / "results.json").read_text())["runs"]
    return {str(i): np.array([json.dumps(_timeless(run), sort_keys=True)]) for i, run in enumerate(runs)}


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            k: _timeless(v) for k, v in value.items() if "seconds" not in k and k not in ("history", "epochs")
        }
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def answers(out: Path) -> dict[str, Any]:
    assert "onnx" in read_manifest(out)["files"]
    return {"onnx": load(out, engine="onnx").predict(tiny.volumes(3))}


COMMANDS: dict[str, tuple[Callable[[Path], list[object]], Callable[[Path], dict[str, Any]]]] = {
    "train": (lambda out: ["train", "data.npz", "--out", out, *TRAINING], weights),
    "compare": (lambda out: ["compare", "data.npz", "--out", out, *COMPARING, *NETWORK], outcomes),
    "fill": (lambda out: ["fill", "data.csv", "--strategy", "linear", "--out", out], filled),
    "predict": (
        lambda out: ["predict", "bundle", "data.csv", "--engine", "keras", "--out", out / "preds.csv"],
        table,
    ),
    "export": (lambda out: ["export", out, "--to", "onnx"], answers),
}


def check(name: str, work: Path, kills: int) -> None:
    arguments, result = COMMANDS[name]
    whole, broken = work / f"{name}-whole", work / f"{name}-{kills}"
    if name == "export":
        for out in (whole, broken):
            subprocess.run(["cp", "-r", work / "bundle", out], check=True)
    seconds = undisturbed(work, *arguments(whole))
    hit = killed_and_finished(work, seconds, kills, *arguments(broken))
    assert hit > 0
    expected, found = result(whole), result(broken)
    assert expected.keys() == found.keys()
    assert expected
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, key)
    left = [path for path in broken.rglob(".*") if path.name != ".voxgap"]
    assert not left, "what killed processes left"


@pytest.mark.full
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_killed_again_and_again_makes_the_same(name: str, work: Path) -> None:
    check(name, work, KILLS)
