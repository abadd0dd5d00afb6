"""KNN fill of 300 volumes of 28³, 20 % missing: the adapted layer beside scikit-learn's KNNImputer."""

import statistics
import time
from collections.abc import Callable

import keras
import numpy as np
from sklearn.impute import KNNImputer

from voxgap.fill import KNN

COUNT, SIDE, MISSING = 300, 28, 0.2


def make_volumes() -> np.ndarray:
    """Noisy volumes of low rank, so that neighbours mean something."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(COUNT, 12)) @ rng.normal(size=(12, SIDE**3))
    values += 0.5 * rng.normal(size=values.shape)
    values[rng.random(values.shape) < MISSING] = np.nan
    return values.astype(np.float32).reshape(COUNT, SIDE, SIDE, SIDE, 1)


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(repeats: int = 3) -> list[dict[str, object]]:
    """Times both on the same data, in turns.

    Args:
        repeats: turns, of which the median counts.

    Returns:
        One row: `what`, `ours` and `peer` in seconds, `ratio` (peer / ours), `target` (the least ratio), and
        `difference`, the largest one between the two results.
    """
    volumes = make_volumes()
    rows = volumes.reshape(COUNT, -1)
    layer = KNN(max_rank=32)
    layer.adapt(volumes)
    inputs = keras.Input(volumes.shape[1:])
    model = keras.Model(inputs, layer(inputs))
    imputer = KNNImputer(n_neighbors=5).fit(rows)

    def fill() -> np.ndarray:
        return model.predict(volumes, batch_size=32, verbose=0).reshape(COUNT, -1)

    def peer_fill() -> np.ndarray:
        return imputer.transform(rows)

    # Distances are float32 here and float64 there: donors that are all but equally near may swap.
    difference = np.abs(fill() - peer_fill())
    turns = [(seconds(fill), seconds(peer_fill)) for _ in range(repeats)]
    ours, peer = (statistics.median(column) for column in zip(*turns, strict=True))
    return [
        {
            "what": f"KNN fill, {COUNT} x {SIDE}^3, {MISSING:.0%} missing (peer: scikit-learn KNNImputer)",
            "ours": ours,
            "peer": peer,
            "ratio": peer / ours,
            "target": 6.0,
            "difference": float(difference.max()),
        }
    ]


if __name__ == "__main__":
    for row in measure():
        print(
            "  ".join(
                f"{key} {value:.3g}" if isinstance(value, float) else str(value) for key, value in row.items()
            )
        )
