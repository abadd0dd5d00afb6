"""One epoch of training of the reference network through the loader, with or without augmentation."""

from __future__ import annotations

import sys

import numpy as np

from keras_step import BATCH, CLASSES, SHAPE, ours
from protocol import serve

STEPS = 6


def main() -> None:
    from voxgap.augment import from_text
    from voxgap.training.loader import Loader

    augment = None if sys.argv[1] == "none" else from_text(sys.argv[1])
    rng = np.random.default_rng(0)
    volumes = rng.normal(size=(STEPS * BATCH, *SHAPE)).astype("float32")
    volumes[:, ::5] = np.nan
    loader = Loader(volumes, rng.integers(0, CLASSES, len(volumes)), BATCH, seed=0, augment=augment)
    model = ours("mean")
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    serve(lambda: model.fit(loader, shuffle=False, verbose=0), warm_up=1)


if __name__ == "__main__":
    main()
