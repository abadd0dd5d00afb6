"""A bundle and a predictor for the server's tests: NumPy only, as slow or broken as a test wants; and a client."""

from __future__ import annotations

import io
import json
import os
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

from voxgap.errors import VoxgapError
from voxgap.grid import Grid
from voxgap.io import write
from voxgap.runtime import Bundle, Manifest, Predictor
from voxgap.runtime.predictor import Running
from voxgap.server import Settings, create_app, serve
from voxgap.volume import Volume

if TYPE_CHECKING:
    from starlette.testclient import TestClient

SHAPE = (4, 6, 8, 1)
CLASSES = ("dim", "bright")
WRITTEN = (".npy", ".npz", ".nii", ".nii.gz", ".nrrd", ".mha", ".tif", ".h5", ".nc", ".mkv")


def make_bundle(folder: Path, version: str = "1", **fields: Any) -> Path:
    """Write a manifest whose model is the version itself; replaced whole, as a real one is."""
    folder.mkdir(exist_ok=True)
    manifest = {
        "schema_version": 1,
        "task": "classification",
        "classes": list(CLASSES),
        "input": {"shape": list(SHAPE), "channels": ["t1"], "grid": Grid().to_json()},
        "outputs": len(CLASSES),
        "network": "brightness",
        "strategy": {},
        "files": {"numpy": {"path": "none", "sha256": version * 64}},
    } | fields
    beside = folder / ".manifest"
    beside.write_text(json.dumps(manifest))
    os.replace(beside, folder / "manifest.json")
    return folder


class Brightness(Predictor):
    """Says `bright` the surer, the larger the mean of the observed voxels; 100 is in between."""

    def __init__(self, manifest: Manifest, seconds: float = 0.0) -> None:
        super().__init__(manifest, self.compute, Running("numpy"))
        self.seconds = seconds
        self.batches: list[int] = []

    def predict(self, volumes: np.ndarray, batch_size: int | None = None, **draws: Any) -> Any:
        self.batches.append(len(volumes))
        time.sleep(self.seconds)
        return super().predict(volumes, batch_size, **draws)

    def compute(self, volumes: np.ndarray) -> np.ndarray:
        total = np.nansum(volumes, axis=(1, 2, 3, 4)) / np.maximum(
            (~np.isnan(volumes)).sum(axis=(1, 2, 3, 4)), 1
        )
        bright = 1 / (1 + np.exp((100 - total) / 50))
        return np.stack([1 - bright, bright], axis=1).astype(np.float32)


def load(folder: Path, seconds: float = 0.0) -> Brightness:
    manifest = Bundle.open(folder).manifest
    if manifest.network == "broken":
        raise VoxgapError(f"{folder}: damaged")
    return Brightness(manifest, seconds)


def segmenter(folder: Path, classes: tuple[str, ...] = CLASSES) -> tuple[Path, Callable[[Path], Predictor]]:
    """A bundle for voxels above 100, on the observed part of a file, and what loads it."""
    grid = {"size": list(SHAPE[:3]), "crop": "observed"}
    entry = {"shape": [*SHAPE], "channels": ["t1"], "grid": grid}
    bundle = make_bundle(folder, task="segmentation", classes=[*classes], input=entry)

    def above(batch: np.ndarray) -> np.ndarray:
        bright = (np.nan_to_num(batch) > 100).astype(np.float32)
        return np.concatenate([1 - bright, bright], axis=-1)

    return bundle, lambda path: Predictor(Bundle.open(path).manifest, above)


def windowed(folder: Path) -> tuple[Path, Callable[[Path], Predictor]]:
    """A bundle whose predictor is voxgap's own, which lays windows over what is deeper than SHAPE."""
    bundle = make_bundle(folder)

    def brightness(batch: np.ndarray) -> np.ndarray:
        return Brightness(Bundle.open(bundle).manifest).predict(batch)

    return bundle, lambda path: Predictor(Bundle.open(path).manifest, brightness)


def volume(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Whole numbers from 0 to 255, one slice (a frame) missing."""
    values = np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32)
    values[1] = np.nan
    return values


def files(folder: Path, values: np.ndarray) -> dict[str, Path]:
    """The same volume in every format that holds it in one file."""
    found = {}
    for suffix in WRITTEN:
        found[suffix] = folder / f"scan{suffix}"
        # A clip's frames are placed by their time; one that is missing must lie between others.
        spacing = (0.04, 1.0, 1.0) if suffix == ".mkv" else (2.0, 1.0, 1.0)
        write(found[suffix], Volume(values, spacing=spacing))
    return found


HERE = "http://localhost"
RAW = {"Content-Type": "application/octet-stream"}


def client(folder: Path, **settings: Any) -> TestClient:
    from starlette.testclient import TestClient

    return TestClient(create_app(folder, Settings(**settings), load=load), HERE)


def raw(values: np.ndarray, **headers: str) -> dict[str, Any]:
    shape = ",".join(map(str, values.shape))
    return {"content": values.astype("<f4").tobytes(), "headers": RAW | {"X-Shape": shape} | headers}


def upload(name: str, data: bytes, field: str = "file") -> tuple[str, tuple[str, bytes]]:
    return field, (name, data)


def predictions(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["predictions"]
    return found


def refused(response: httpx.Response, status: int, *said: str) -> None:
    assert response.status_code == status, response.text
    answer = response.json()
    assert set(answer) == {"detail", "request_id"}
    assert "\n" not in answer["detail"]
    assert "/tmp" not in answer["detail"], "a path of the server's"
    for words in said:
        assert words in answer["detail"]


def expected(values: np.ndarray) -> np.ndarray:
    bright = 1 / (1 + np.exp((100 - np.nanmean(values)) / 50))
    return np.array([1 - bright, bright])


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def np_bytes(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


if __name__ == "__main__":
    # A server in a process of its own: folder, seconds for a batch, settings as JSON.
    bundle, seconds, given = Path(sys.argv[1]), float(sys.argv[2]), json.loads(sys.argv[3])
    app = create_app(bundle, Settings(**given), load=lambda folder: load(folder, seconds))
    serve(app, port=0)
