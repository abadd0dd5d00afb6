"""One rule, the same sets everywhere: in Python through every engine, from the server and in a real browser."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import server_cases
import stand_in
import voxgap
from voxgap.bundle.placing import write_manifest
from voxgap.dataset import Dataset
from voxgap.promises import TOLERANCE, Guarantee, Pattern, pattern_of, promised
from voxgap.runtime import Bundle

pytestmark = pytest.mark.full
SHAPE = (4, 6, 8, 2)
CLASSES = ("dim", "middling", "bright")
ENGINES = ("keras", "onnx", "openvino", "litert")
IN_BROWSER = """async (scans) => {
    const { BrowserEngine } = await import("./static/engine_browser.js");
    const engine = await BrowserEngine.start();
    const found = [];
    for (const { values, shape } of scans) {
        const volume = { values: Float32Array.from(values, (value) => value ?? NaN), shape };
        found.push((await engine.predict(volume)).guarantee);
    }
    return found;
}"""


def scans(task: Any, count: int = 180, seed: int = 0, split: str = "") -> Dataset:
    """A third with nothing missing, a third without a channel, a third with some voxels missing."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, count)
    volumes = (kind[:, None, None, None, None] + 2 * rng.normal(size=(count, *SHAPE))).astype(np.float32)
    targets: Any = kind
    if task == "segmentation":
        targets = (volumes[..., 0] > 1).astype(np.int64) + (volumes[..., 0] > 3)
    elif task == "regression":
        targets = np.stack([1000.0 + 50 * kind, kind / 10], axis=1) + rng.normal(size=(count, 2))
    volumes[1::3, ..., 1] = np.nan
    volumes[2::3][rng.random(volumes[2::3].shape) < 0.2] = np.nan
    parts = (
        np.full(count, split) if split else np.array(["train", "train", "validation", "test"] * (count // 4))
    )
    classes = () if task == "regression" else CLASSES
    return Dataset(volumes, targets, task, classes, parts, channels=("t1", "t2"), name="ward")


@dataclass
class Ward:
    """A bundle that was exported everywhere, scans, and what its trained network answers to them."""

    folder: Path
    volumes: np.ndarray
    values: np.ndarray
    guarantee: Guarantee


def ward(task: Any, folder: Path) -> Ward:
    data, outputs = scans(task), 2 if task == "regression" else 3
    network = "unet3d" if task == "segmentation" else "cnn3d"
    model = voxgap.build_model(network, SHAPE, outputs, task, strategy="mean", filters=(4, 8))
    voxgap.train(model, data, epochs=2, verbose=False)
    bundle = voxgap.save_bundle(folder / "bundle", model, data, strategy="mean")
    voxgap.export(bundle, ["onnx", "openvino", "litert"])
    fresh = scans(task, seed=1, split="test")
    made = voxgap.guarantee(voxgap.load(bundle, engine="keras"), fresh, 0.8).guarantee
    if task != "regression":  # to where an answer that was calibrated on lies on the widened edge itself
        moved = {
            pattern: replace(
                claim, thresholds=tuple(None if t is None else t + TOLERANCE for t in claim.thresholds)
            )
            for pattern, claim in made.claims.items()
        }
        made = replace(made, claims=moved)
        write_manifest(bundle, {**stand_in.written(bundle), "guarantee": made.to_json()})
    voxgap.export(bundle, ["web"], out=folder / "web")
    values = voxgap.load(bundle, engine="keras").predict(fresh.volumes)
    return Ward(bundle, np.asarray(fresh.volumes), values, made)


def everywhere(given: Ward, page: Any, serve: Callable[[Path], str]) -> dict[str, list[dict[str, Any]]]:
    """What each place says is guaranteed of each scan, as JSON; of an engine's regions the voxels themselves too."""
    from starlette.testclient import TestClient

    from voxgap.server import create_app

    found: dict[str, list[dict[str, Any]]] = {}
    for engine in ENGINES:
        promises = [one.promise for one in voxgap.load(given.folder, engine=engine).answers(given.volumes)]
        found[engine] = [promise.to_json() for promise in promises if promise is not None]
    load = functools.partial(voxgap.load, engine="onnx")
    with TestClient(create_app(given.folder, load=load), server_cases.HERE) as server:
        said = [
            one
            for start in range(0, len(given.volumes), 30)
            for one in server_cases.predictions(
                server.post("/v1/predict", **server_cases.raw(given.volumes[start : start + 30]))
            )
        ]
    found["server"] = [one["guarantee"] for one in said]
    page.goto(serve(given.folder.parent / "web"))
    sent = [
        {"values": np.where(np.isnan(v), None, v.astype(object)).ravel().tolist(), "shape": list(SHAPE)}
        for v in given.volumes
    ]
    found["browser"] = page.evaluate(IN_BROWSER, sent)
    return found


def sizes(task: str, said: dict[str, Any]) -> np.ndarray:
    """A set as numbers: whether each class is in it, bounds, or how large each region is."""
    if task == "classification":
        return np.array([name in said["classes"] for name in CLASSES], float)
    if task == "regression":
        return np.array(said["intervals"])
    return np.array([said["voxels"].get(name, 0) for name in CLASSES[1:]], float)


def of_rule(task: str, values: np.ndarray, thresholds: Any, tolerance: float) -> np.ndarray:
    found = np.asarray(promised(task, values, thresholds, tolerance), float)
    return found.reshape(-1, found.shape[-1]).sum(axis=0) if task == "segmentation" else found


@pytest.mark.parametrize("task", ["classification", "regression", "segmentation"])
def test_every_runtime_the_server_and_the_browser_give_the_same_sets(
    task: str, page: Any, serve: Callable[[Path], str], tmp_path: Path
) -> None:
    given = ward(task, tmp_path)
    assert {Pattern((), 0), Pattern((1,), 0), Pattern((), 1)} <= set(given.guarantee.claims)
    found = everywhere(given, page, serve)
    manifest = Bundle.open(given.folder).manifest
    differ: dict[str, int] = {}
    for place, said in found.items():
        assert len(said) == len(given.volumes)
        strays = manifest.strays(place if place in ENGINES else "onnx")
        assert strays is not None
        assert strays <= TOLERANCE
        differ[place] = 0
        for volume, values, one, first in zip(given.volumes, given.values, said, found["keras"], strict=True):
            assert {n: one[n] for n in ("coverage", "pattern", "rests")} == {
                n: first[n] for n in ("coverage", "pattern", "rests")
            }
            thresholds = given.guarantee.claims[pattern_of(volume)].thresholds
            mine, its = sizes(task, first), sizes(task, one)
            # Outward: all that the trained network's own thresholds hold is in each set, and no more than two
            # tolerances besides: that of the widening and that of the runtime.
            least = of_rule(task, values, thresholds, 0.0)
            most = of_rule(task, values, thresholds, TOLERANCE + strays + 1e-9)
            if task == "regression":
                assert (its[:, 0] <= least[:, 0]).all()
                assert (its[:, 1] >= least[:, 1]).all()
                scale = np.maximum(1, np.abs(values))[:, None]
                assert (np.abs(its - mine) <= 2 * strays * scale).all()
                differ[place] += bool((np.abs(its - mine) > TOLERANCE * scale).any())
            else:
                assert (least <= its).all()
                assert (its <= most).all()
                differ[place] += bool((its != mine).any())
    # Counted: of 180 scans those on the edge itself, of which each pattern has one a class at least.
    print(f"\n{task}: sets that differ from those of Keras, of {len(given.volumes)}: {differ}")
    assert differ["keras"] == 0
    assert differ["server"] == differ["onnx"]
    assert max(differ.values()) <= (0 if task == "regression" else 9)
