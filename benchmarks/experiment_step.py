"""Eight strategies on sample:brain, 3 folds: one voxgap experiment, or eight scripts as anyone writes them.

A stock script loads the volumes with gaps from a file, fills them with scikit-learn or NumPy, and trains the same
network in Keras, in float32, with Keras's own early stopping: same folds, same gaps, same epochs, same batches. It is
told the folds and given batch normalisation with a momentum of 0.9: with Keras's 0.99 it would still be at chance.

It takes every third volume, with which both together need about half an hour.
`VOXGAP_BENCH_QUICK=1` takes an eighth of the volumes, a small network and two epochs: a try, not a measurement.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from protocol import OURS

QUICK = bool(os.environ.get("VOXGAP_BENCH_QUICK"))
STRATEGIES = ("zero", "mean", "median", "mode", "linear", "knn", "mask_channel", "complete")
FOLDS, RATE, BATCH = 3, 0.5, 16
EPOCHS, PATIENCE = (2, 2) if QUICK else (6, 3)
FILTERS = (4, 8) if QUICK else (32, 64, 128)


def dataset():
    import voxgap as vg

    data = vg.load_data("sample:brain")
    return data.take(np.arange(0, len(data), 8 if QUICK else 3))


def experiment(data):
    from voxgap.experiment import plan_experiment

    return plan_experiment(
        data,
        STRATEGIES,
        train_rates=RATE,
        folds=FOLDS,
        architecture={"filters": FILTERS},
        epochs=EPOCHS,
        patience=PATIENCE,
        batch_size=BATCH,
    )


def expected() -> tuple[float, float]:
    """The seconds that `voxgap compare` says at its start that the experiment will take."""
    from voxgap.experiment.cost import Networks, estimate, with_precision

    data = dataset()
    asked = experiment(data)
    networks = Networks(asked, data)
    return estimate(with_precision(asked, networks), networks)


def prepare(folder: Path) -> None:
    """Write down what the stock scripts are given: volumes with and without gaps, classes, and who is where."""
    from voxgap.experiment.data import divide, with_gaps

    data = dataset()
    runs = [run for run in experiment(data).runs() if run.strategy == "mean"]
    np.save(folder / "complete.npy", data.volumes)
    np.save(folder / "gaps.npy", with_gaps(runs[0], data, np.arange(len(data)), RATE).volumes)
    np.save(folder / "targets.npy", data.targets)
    for run in runs:
        parts = divide(run, data)
        np.savez(folder / f"fold-{run.fold}.npz", **vars(parts))


def voxgap(folder: Path) -> None:
    """The experiment, as `voxgap compare` does it."""
    from voxgap.experiment import open_store, run_all
    from voxgap.experiment.cost import Networks, with_precision

    data = dataset()
    asked = experiment(data)
    planned = with_precision(asked, Networks(asked, data))
    with open_store(folder / "results.db", create=True) as store:
        run_all(planned, data, store)
        outcomes = store.outcomes(planned)
    accuracy: dict[str, list[float]] = {name: [] for name in STRATEGIES}
    for run, outcome in outcomes:
        accuracy[run.strategy].append(outcome.scores[run.test_rates[0]]["accuracy"])
    epochs = sum(outcome.epochs for _, outcome in outcomes)
    answer = {"accuracy": accuracy, "epochs": epochs, "training": planned.training}
    (folder / "voxgap.json").write_text(json.dumps(answer))


def filled(strategy: str, train: np.ndarray, *parts: np.ndarray) -> list[np.ndarray]:
    """What scikit-learn and NumPy make of the parts, the statistics from the training part."""
    from sklearn.impute import KNNImputer, SimpleImputer

    if strategy == "complete":
        return list(parts)
    if strategy == "linear":
        return [interpolated(part) for part in parts]
    if strategy == "knn":
        imputer = KNNImputer(n_neighbors=5, keep_empty_features=True)
    else:
        kind = {"zero": "constant", "median": "median", "mode": "most_frequent"}.get(strategy, "mean")
        imputer = SimpleImputer(strategy=kind, fill_value=0, keep_empty_features=True)
    imputer.fit(train.reshape(len(train), -1))
    return [imputer.transform(part.reshape(len(part), -1)).reshape(part.shape) for part in parts]


def interpolated(volumes: np.ndarray) -> np.ndarray:
    """Linear along depth, line by line; a line without any value gets 0."""
    result = volumes.copy()
    depth = np.arange(volumes.shape[1])
    for volume in result:
        for line in np.moveaxis(volume, 0, -1).reshape(-1, len(depth)):
            seen = ~np.isnan(line)
            line[~seen] = np.interp(depth[~seen], depth[seen], line[seen]) if seen.any() else 0
    return result


def network(shape: tuple[int, ...], classes: int):
    """The network of `resnet3d`, straight from the Keras documentation."""
    import keras
    from keras import layers

    inputs = x = keras.Input(shape)
    for i, filters in enumerate(FILTERS):
        strides = 1 if i == 0 else 2
        shortcut = layers.Conv3D(filters, 1, strides=strides, use_bias=False)(x)
        shortcut = layers.BatchNormalization(momentum=0.9)(shortcut)
        x = layers.Conv3D(filters, 3, strides=strides, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        x = layers.Conv3D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.Add()([layers.BatchNormalization(momentum=0.9)(x), shortcut]))
    x = layers.GlobalAveragePooling3D()(x)
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(x))


def stock(folder: Path, strategy: str) -> None:
    """One script: three folds of one strategy."""
    import keras

    volumes = np.load(folder / ("complete.npy" if strategy == "complete" else "gaps.npy"))
    targets = np.load(folder / "targets.npy")
    accuracy, epochs = [], 0
    for fold in range(FOLDS):
        keras.utils.set_random_seed(0)
        where = np.load(folder / f"fold-{fold}.npz")
        parts = [where[name] for name in ("train", "validation", "test")]
        given = filled(strategy, volumes[parts[0]], *(volumes[part] for part in parts))
        mean, deviation = given[0].mean(), given[0].std()
        given = [((values - mean) / deviation).astype("float32") for values in given]
        if strategy == "mask_channel":
            seen = [~np.isnan(volumes[part]) for part in parts]
            given = [np.concatenate(pair, axis=-1, dtype="float32") for pair in zip(given, seen, strict=True)]
        train, validation, test = zip(given, (targets[part] for part in parts), strict=True)
        model = network(train[0].shape[1:], int(targets.max()) + 1)
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
        history = model.fit(
            *train,
            batch_size=BATCH,
            epochs=EPOCHS,
            validation_data=validation,
            callbacks=[
                keras.callbacks.EarlyStopping(patience=PATIENCE, restore_best_weights=True),
                keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=max(1, (PATIENCE - 1) // 2)),
            ],
            verbose=0,
        )
        epochs += len(history.epoch)
        accuracy.append(float((model.predict(test[0], verbose=0).argmax(axis=1) == test[1]).mean()))
    (folder / f"stock-{strategy}.json").write_text(json.dumps({"accuracy": accuracy, "epochs": epochs}))


def measure() -> dict[str, object]:
    """Time both, and compare the order that they put the strategies in."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        estimated = expected()
        prepare(folder)
        ours = timed("voxgap", folder)
        scripts = {strategy: timed("stock", folder, strategy) for strategy in STRATEGIES}
        found = json.loads((folder / "voxgap.json").read_text())
        stock_found = {s: json.loads((folder / f"stock-{s}.json").read_text()) for s in STRATEGIES}
        sizes = [len(part) for part in np.load(folder / "fold-0.npz").values()]
    stock_accuracy = {strategy: answer["accuracy"] for strategy, answer in stock_found.items()}
    decided, against = order(found["accuracy"], stock_accuracy, sizes[0], sizes[2])
    return {
        "seconds": {"voxgap, 8 strategies": ours, "8 stock scripts": sum(scripts.values())}
        | {f"stock {name}": seconds for name, seconds in scripts.items()},
        "estimated": estimated,
        "ratio": ours / sum(scripts.values()),
        "decided": decided,
        "against": against,
        "epochs": {"voxgap": found["epochs"], "stock": sum(a["epochs"] for a in stock_found.values())},
        "accuracy": {"voxgap": found["accuracy"], "stock": stock_accuracy},
        "training": found["training"],
    }


def timed(*arguments: object) -> float:
    """Seconds of this script as a process of its own, from start to end."""
    started = time.perf_counter()
    which, folder, *rest = map(str, arguments)
    subprocess.run([OURS, __file__, which, folder, *rest], check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def order(
    ours: dict[str, list[float]], stock_scores: dict[str, list[float]], n_train: int, n_test: int
) -> tuple[list[str], list[str]]:
    """The pairs that the stock scripts tell apart, and those of them that voxgap puts the other way round."""
    from voxgap.metrics.significance import estimate

    decided, against = [], []
    for one, two in itertools.combinations(STRATEGIES, 2):
        difference = np.subtract(stock_scores[one], stock_scores[two])
        low, high = estimate(difference, n_train, n_test).interval()
        if low <= 0 <= high:
            continue
        pair = f"{one} {'>' if low > 0 else '<'} {two}"
        decided.append(pair)
        if np.mean(ours[one]) > np.mean(ours[two]) if high < 0 else np.mean(ours[one]) < np.mean(ours[two]):
            against.append(pair)
    return decided, against


if __name__ == "__main__":
    if len(sys.argv) < 2:
        print(json.dumps(measure(), indent=2))
    else:
        which, folder, *rest = sys.argv[1:]
        {"voxgap": voxgap, "stock": stock}[which](Path(folder), *rest)
