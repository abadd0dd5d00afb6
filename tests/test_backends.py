"""Training on the backends of Keras that a GPU is used through where TensorFlow's build for it is not to be had."""

import importlib.util
import os
import subprocess
import sys

import pytest

SCRIPT = """
import numpy as np
import voxgap as vg
from voxgap.backend import has_gpu, keras

volumes = np.random.default_rng(0).normal(size=(12, 8, 8, 8, 1)).astype("float32")
volumes[::2] += 2
volumes = vg.simulate(volumes, "slices", 0.3, seed=0)
split = ["train"] * 8 + ["validation"] * 4
data = vg.Dataset.from_arrays(volumes, np.arange(12) % 2, split=split)
model = vg.build_model("resnet3d", (8, 8, 8, 1), 2, strategy="masked_conv", filters=(4, 8))
history = vg.train(model, data, epochs=6, ema=1, consistency=0.5, batch_size=3, learning_rate=0.01, verbose=False)
maps = np.nan_to_num(volumes[..., 0]) > 1
data = vg.Dataset.from_arrays(volumes, label_maps=maps.astype(int), split=split)
plan = vg.plan(data, filters=(4, 8))
model = vg.build_model(
    "unet3d", (*plan.patch_size, 1), 2, "segmentation", "linear", filters=plan.filters, norm=plan.norm
)
segmented = vg.train(model, data, epochs=2, patch_size=plan.patch_size, augment="default", consistency=1, verbose=False)
layer = vg.fill.Learned(filters=(4, 8), steps=2)
layer.adapt(volumes)
filled, deviation = layer.with_deviation(volumes)
assert np.isfinite(filled).all() and np.isfinite(deviation).all()
print(keras.backend.backend(), has_gpu(), history.epochs[-1]["accuracy"] == 1, len(segmented.epochs))
"""


@pytest.mark.full
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_all_that_trains_trains_there(backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    # Without TensorFlow, which a machine that has another backend need not have.
    script = 'import sys\nsys.modules["tensorflow"] = None\n' + SCRIPT
    environment = os.environ | {"KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.split() == [backend, "False", "True", "2"]
