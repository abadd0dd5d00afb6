"""Fills beside what others fill with, at the same hidden points: SAITS of PyPOTS, scikit-learn's imputers, DINEOF.

`python benchmarks/fill_rivals.py motion` takes half of the frames of `sample:motion` away, which nobody sees again: all
learn from what is left of the training part, and are measured at what was taken from the test part. To SAITS a volume
is a sequence of frames, to `IterativeImputer` a place one of values, to `KNNImputer` a volume one sample.
`VOXGAP_BENCH_QUICK=1` takes few volumes and epochs: a try, not a measurement.

`ALBORAN=alboranSST_small.nc DINEOF=/path/to/dineof python benchmarks/fill_rivals.py alboran` hides the points of
`fill_step.py` from DINEOF (https://github.com/aida-alvera/DINEOF), too; without the program its published error stands
for those at random.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from protocol import OURS, PEERS

QUICK = bool(os.environ.get("VOXGAP_BENCH_QUICK"))
OWN = ("linear", "kriging", "learned")
RIVALS = ("SimpleImputer", "KNNImputer", "IterativeImputer", "SAITS")
EPOCHS = 2 if QUICK else 100
VOLUMES = 40 if QUICK else 400


def write_motion(file: Path) -> None:
    """Write training and test volumes with gaps, and the test volumes without."""
    from voxgap import load_data, simulate

    data = load_data("sample:motion")
    train, test = (
        data.part(part).volumes[:most] for part, most in (("train", 4 * VOLUMES), ("test", VOLUMES))
    )
    seen, asked = (simulate(one, "frames", 0.5, seed=i) for i, one in enumerate((train, test)))
    np.savez(file, train=seen, asked=asked, test=test)


def error(filled: np.ndarray, asked: np.ndarray, test: np.ndarray) -> float:
    """Root mean square error at what was taken away, in standard deviations of the values."""
    hidden = np.isnan(asked) & ~np.isnan(test)
    return float(np.sqrt(np.mean((filled - test)[hidden].astype(float) ** 2)) / np.nanstd(test))


def own(name: str, train: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Fill as a fill layer of voxgap does."""
    import keras

    from voxgap import fill

    layer = fill.make(name, {"steps": 20} if QUICK and name == "learned" else {})
    layer.adapt(train)
    inputs = keras.Input(asked.shape[1:])
    return np.asarray(keras.Model(inputs, layer(inputs)).predict(asked, batch_size=16, verbose=0))


def rival(name: str, train: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Fill as a peer does, with the arguments of its documentation."""
    if name == "SAITS":
        return saits(train, asked)
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

    if name == "IterativeImputer":
        tables = [np.moveaxis(one[..., 0], 1, -1).reshape(-1, one.shape[1]) for one in (train, asked)]
        places = np.random.default_rng(0).permutation(len(tables[0]))[:100_000]
        found = IterativeImputer(random_state=0).fit(tables[0][places]).transform(tables[1])
        return np.moveaxis(found.reshape(len(asked), *asked.shape[2:4], -1), -1, 1)[..., np.newaxis]
    imputer = {"SimpleImputer": SimpleImputer, "KNNImputer": KNNImputer}[name](keep_empty_features=True)
    table = imputer.fit(train.reshape(len(train), -1)).transform(asked.reshape(len(asked), -1))
    return np.asarray(table).reshape(asked.shape)


def saits(train: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Fill as PyPOTS does: Du et al., SAITS, Expert Systems with Applications 2023."""
    from pypots.imputation import SAITS

    rows = [one.reshape(*one.shape[:2], -1) for one in (train, asked)]
    middle, spread = np.nanmean(rows[0]), np.nanstd(rows[0])
    rows = [((one - middle) / spread).astype(np.float32) for one in rows]
    network = SAITS(
        n_steps=rows[0].shape[1],
        n_features=rows[0].shape[2],
        n_layers=2,
        d_model=256,
        n_heads=4,
        d_k=64,
        d_v=64,
        d_ffn=128,
        dropout=0.1,
        epochs=EPOCHS,
        batch_size=32,
        verbose=False,
    )
    network.fit({"X": rows[0]})
    found = np.asarray(network.impute({"X": rows[1]})) * spread + middle
    return found.reshape(asked.shape)


def motion(ours: str = OURS, peers: str = PEERS) -> dict[str, dict[str, float]]:
    """Measure all fills, each in a process of its own: their errors, and the seconds that each took."""
    found: dict[str, dict[str, float]] = {"errors": {}, "seconds": {}}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "motion.npz"
        write_motion(file)
        for name in (*OWN, *RIVALS):
            python = ours if name in OWN else peers
            done = subprocess.run(
                [python, __file__, "one", name, str(file)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                print(f"{name}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
                continue
            said = json.loads(done.stdout.splitlines()[-1])
            found["errors"][name], found["seconds"][name] = said["error"], said["seconds"]
    return found


def alboran(file: str, program: str | None) -> dict[str, dict[str, float]]:
    """Fill as `voxgap fill` and as DINEOF do, and return their errors by what `fill_step.py` hides."""
    from fill_step import PUBLISHED, holdouts, in_files, read

    values, sea = read(file)
    found: dict[str, dict[str, float]] = {"kriging": {}, "DINEOF": {}}
    for trial, hidden in holdouts(values).items():
        seen = np.where(hidden, np.float32(np.nan), values)
        fields = {"kriging": in_files(seen, sea)[0]}
        if program is not None:
            fields["DINEOF"] = dineof(seen, sea, program)
        for name, field in fields.items():
            found[name][trial] = float(np.sqrt(np.mean((field - values)[hidden] ** 2)))
    if program is None:
        found = {"kriging": found["kriging"], "DINEOF, as published": {"random": PUBLISHED}}
    return found


def dineof(seen: np.ndarray, sea: np.ndarray, program: str) -> np.ndarray:
    """Run DINEOF on a field `(time, lat, lon)`, and return what it made of it."""
    from netCDF4 import Dataset

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with Dataset(str(folder / "in.nc"), "w") as data:
            for axis, size in zip(("time", "lat", "lon"), seen.shape, strict=True):
                data.createDimension(axis, size)
            sst = data.createVariable("SST", "f4", ("time", "lat", "lon"), fill_value=9999.0)
            sst[:] = np.where(np.isnan(seen), 9999.0, seen)
            data.createVariable("mask", "f4", ("lat", "lon"))[:] = sea
            data.createVariable("time", "f8", ("time",))[:] = np.arange(len(seen))
        (folder / "dineof.init").write_text(SETTINGS)
        subprocess.run([program, "dineof.init"], cwd=folder, capture_output=True, check=True)
        with Dataset(str(folder / "out.nc")) as data:
            return np.ma.filled(data["SST"][:].astype(float), np.nan)


SETTINGS = """data = ['in.nc#SST']
mask = ['in.nc#mask']
time = 'in.nc#time'
alpha = 0.01
numit = 3
nev = 5
neini = 1
ncv = 10
tol = 1.0e-8
nitemax = 300
toliter = 1.0e-3
rec = 1
eof = 0
norm = 0
Output = './'
results = ['out.nc#SST']
EOF.U = ['eof.nc#U']
EOF.V = 'eof.nc#V'
EOF.Sigma = 'eof.nc#Sigma'
seed = 243435
"""
"""As in DINEOF's own example of this file."""


def main() -> None:
    if sys.argv[1:2] == ["one"]:
        name, file = sys.argv[2:]
        with np.load(file) as data:
            train, asked, test = (data[key] for key in ("train", "asked", "test"))
        started = time.perf_counter()
        filled = (own if name in OWN else rival)(name, train, asked)
        print(json.dumps({"error": error(filled, asked, test), "seconds": time.perf_counter() - started}))
    elif sys.argv[1:] == ["alboran"]:
        for name, errors in alboran(os.environ["ALBORAN"], os.environ.get("DINEOF")).items():
            for trial, value in errors.items():
                print(f"{name:22} {trial:14} {value:.4f}")
    elif sys.argv[1:] == ["motion"]:
        found = motion()
        for name, value in sorted(found["errors"].items(), key=lambda pair: pair[1]):
            print(f"{name:18} {value:.4f}  {found['seconds'][name]:6.0f} s")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
