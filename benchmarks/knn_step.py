"""KNN fill of 300 volumes of 28³, 20 % missing, from themselves: voxgap's adapted layer or scikit-learn's imputer."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from protocol import serve

COUNT, SIDE, MISSING = 300, 28, 0.2


def volumes() -> np.ndarray:
    """Noisy volumes of low rank, so that neighbours mean something: `(300, 28, 28, 28, 1)`."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(COUNT, 12)) @ rng.normal(size=(12, SIDE**3))
    values += 0.5 * rng.normal(size=values.shape)
    values[rng.random(values.shape) < MISSING] = np.nan
    return values.astype(np.float32).reshape(COUNT, SIDE, SIDE, SIDE, 1)


def voxgap(data: np.ndarray) -> Callable[[], np.ndarray]:
    import keras

    from voxgap.fill import KNN

    layer = KNN(max_rank=32)
    layer.adapt(data)
    inputs = keras.Input(data.shape[1:])
    model = keras.Model(inputs, layer(inputs))
    return lambda: model.predict(data, batch_size=32, verbose=0).reshape(COUNT, -1)


def scikit_learn(data: np.ndarray) -> Callable[[], np.ndarray]:
    from sklearn.impute import KNNImputer

    rows = data.reshape(COUNT, -1)
    imputer = KNNImputer(n_neighbors=5).fit(rows)
    return lambda: imputer.transform(rows)


if __name__ == "__main__":
    make = {"voxgap": voxgap, "scikit-learn": scikit_learn}[sys.argv[1]]
    fill = make(volumes())
    if len(sys.argv) > 2:  # what was computed, for the comparison of the two
        np.save(sys.argv[2], fill())
    serve(fill, warm_up=1)
