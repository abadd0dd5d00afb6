"""A network of patches that nobody trained: what it costs to answer is what it costs when it knows something."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np


def segmenting(folder: Path, edge: int, filters: tuple[int, ...]):
    """Save a segmentation of four classes by cubic patches as a bundle, and return the data that it is adapted to."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import voxgap as vg
    from voxgap.backend import keras
    from voxgap.dataset import Dataset
    from voxgap.recipe import Recipe, Training, strategy_of
    from voxgap.training import adapt_model

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 4, (4, edge, edge, edge)).astype(np.int16)
    volumes = (maps + rng.normal(0, 0.3, maps.shape)).astype("f4")[..., None]
    split = ["train", "train", "validation", "test"]
    data = Dataset.from_arrays(
        volumes, label_maps=maps, split=split, classes=("a", "b", "c", "d"), channels=("ct",)
    )
    model = vg.build_model(
        "unet3d", (edge, edge, edge, 1), 4, "segmentation", strategy="mean", filters=filters
    )
    adapt_model(model, data.part("train"))
    recipe = Recipe("unet3d", strategy_of("mean"), training=Training(patch_size=(edge, edge, edge)))
    vg.save_bundle(folder, model, data, recipe=recipe)
    return data
