"""How often `precision="fast"` names the class that float32 names, on data that the network was not trained on.

Trains a network on the brain patches with missing slices for a few epochs, then predicts the test patches with ever
other slices missing, until there are at least 3,000 samples.
"""

from __future__ import annotations

import os
import tempfile

import numpy as np

MIN_SAMPLES = 3000


def measure(epochs: int = 4) -> dict[str, float]:
    """Train, export, predict in both precisions.

    Returns:
        `samples`, `agreement` in [0, 1], `difference` (largest, of a probability), `accuracy` and `accuracy_fast`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import voxgap as vg
    from voxgap.bundle import export

    data = vg.load_data("sample:brain")
    gappy = data.with_volumes(vg.simulate(data.volumes, "slices", 0.3, seed=0))
    model = vg.build_model(
        "resnet3d", data.volumes.shape[1:], len(data.classes), strategy="mean", filters=(16, 32)
    )
    vg.train(model, gappy, epochs=epochs, seed=0)
    held_out = gappy.part("test")
    copies = -(-MIN_SAMPLES // len(held_out))
    complete = data.part("test").volumes
    x = np.concatenate([vg.simulate(complete, "slices", 0.3, seed=seed) for seed in range(1, copies + 1)])
    truth = np.tile(held_out.targets, copies)
    with tempfile.TemporaryDirectory() as folder:
        vg.save_bundle(folder, model, gappy, strategy="mean")
        export(folder, ["openvino"])
        exact, fast = (vg.load(folder, precision=kind).predict(x) for kind in ("float32", "fast"))
    classes, classes_fast = exact.argmax(axis=1), fast.argmax(axis=1)
    return {
        "samples": float(len(x)),
        "agreement": float((classes == classes_fast).mean()),
        "difference": float(np.abs(exact - fast).max()),
        "accuracy": float((classes == truth).mean()),
        "accuracy_fast": float((classes_fast == truth).mean()),
    }


if __name__ == "__main__":
    print(measure())
