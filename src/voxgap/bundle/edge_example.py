"""Predict volumes on a device, with ai-edge-litert and NumPy alone: python predict.py volume.npy ...

An .npy holds (depth, height, width, channels) in the units and on the grid of the training data, NaN where missing.
"""

import json
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

HERE = Path(__file__).parent
MANIFEST = json.loads((HERE / "manifest.json").read_text())


def load(threads: int = 2) -> Interpreter:
    """Open the LiteRT model that lies beside this file."""
    interpreter = Interpreter(str(HERE / MANIFEST["files"]["litert"]["path"]), num_threads=threads)
    interpreter.allocate_tensors()
    return interpreter


def read(path: str) -> np.ndarray:
    """Read a volume; the values that stood for missing in the training data become NaN."""
    volume = np.load(path, allow_pickle=False).astype(np.float32)
    volume = volume[..., np.newaxis] if volume.ndim == 3 else volume
    if list(volume.shape) != MANIFEST["input"]["shape"]:
        raise SystemExit(f"{path}: shape {volume.shape}, the model takes {MANIFEST['input']['shape']}")
    volume[np.isin(volume, [float(value) for value in MANIFEST["input"]["grid"]["missing_values"]])] = np.nan
    return volume


def predict(interpreter: Interpreter, volume: np.ndarray) -> np.ndarray:
    """Answer one volume: probabilities of the classes, or values."""
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], volume[np.newaxis])
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]


def decide(probabilities: np.ndarray) -> int:
    """Return the class: the most probable one; of two, the second from the threshold on, where the bundle has one."""
    threshold = (MANIFEST.get("decision") or MANIFEST.get("calibration") or {}).get("threshold")
    if threshold is not None and len(probabilities) == 2:
        return int(float(probabilities[1]) >= threshold)
    return int(probabilities.argmax())


def main(paths: list[str]) -> None:
    """Print one line of JSON for each file: its path, the answer and, of a classifier, the class."""
    interpreter = load()
    for path in paths:
        answer = predict(interpreter, read(path))
        assert np.isfinite(answer).all(), f"{path}: no finite answer; give the units of the training data"
        named = {"class": MANIFEST["classes"][decide(answer)]} if MANIFEST["task"] == "classification" else {}
        print(json.dumps({"path": path, "answer": answer.tolist(), **named}))


if __name__ == "__main__":
    main(sys.argv[1:])
