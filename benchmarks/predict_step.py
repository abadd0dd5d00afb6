"""Prediction of one batch by the reference network: voxgap's default runtime, or what it replaces.

`python predict_step.py WHAT FOLDER` with WHAT one of `voxgap`, `fast`, `keras`, `onnxruntime`, on the bundle in FOLDER.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from protocol import serve

SHAPE, CLASSES, BATCH = (28, 28, 28, 1), 11, 16


def volumes(count: int = BATCH) -> np.ndarray:
    """Volumes of which every fifth slice is missing."""
    x = np.random.default_rng(0).normal(size=(count, *SHAPE)).astype("float32")
    x[:, ::5] = np.nan
    return x


def make_bundle(folder: str | Path) -> None:
    """Save the reference network as a bundle, exported to ONNX and OpenVINO."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import voxgap as vg
    from voxgap.bundle import export
    from voxgap.dataset import Dataset
    from voxgap.training import adapt_model

    x = volumes(2 * CLASSES)
    split = np.array(["train", "validation"])[np.arange(len(x)) // CLASSES]
    classes = tuple(f"class_{i}" for i in range(CLASSES))
    data = Dataset(x, np.arange(len(x)) % CLASSES, "classification", classes, split, name="noise")
    model = vg.build_model("resnet3d", SHAPE, CLASSES, strategy="mean")
    adapt_model(model, data.part("train"))
    vg.save_bundle(folder, model, data, strategy="mean")
    export(folder, ["onnx", "openvino"])


def main() -> None:
    what, folder = sys.argv[1], Path(sys.argv[2])
    x = volumes()
    if what == "keras":
        import keras

        import voxgap.fill
        import voxgap.layers

        model = keras.saving.load_model(next(folder.glob("*.keras")), compile=False)
        serve(lambda: model.predict(x, batch_size=BATCH, verbose=0), warm_up=3)
    elif what == "onnxruntime":
        import onnxruntime

        session = onnxruntime.InferenceSession(next(folder.glob("*.onnx")))
        name = session.get_inputs()[0].name
        serve(lambda: session.run(None, {name: x}), warm_up=3)
    else:
        import voxgap as vg

        predictor = vg.load(folder, precision="fast" if what == "fast" else "float32")
        serve(lambda: predictor.predict(x), warm_up=3)


if __name__ == "__main__":
    main()
