"""A volume that is larger than memory, segmented and filled by `voxgap`, and killed three times midway.

`python benchmarks/large_volume.py FOLDER [--shape 512,1024,1024]` makes a Zarr volume with gaps and two tiny untrained
networks of patches, runs `voxgap predict` and `voxgap fill` on it, each once without a stop and once killed three
times, and prints the peak memory of all processes, and whether both results are the same. What FOLDER holds already is
not made again. At that size it takes hours on two cores; 96,1024,1024 takes as much memory.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from untrained import segmenting

EDGE = 64
KILLS = (0.25, 0.5, 0.75)


def make_volume(path: Path, shape: tuple[int, ...]) -> None:
    """Write blobs of three levels, with every seventh slice and a block missing."""
    import zarr

    array = zarr.create_array(str(path), shape=shape, chunks=(EDGE,) * 3, dtype="f4", fill_value=float("nan"))
    for start in range(0, shape[0], EDGE):
        rng = np.random.default_rng(start)
        planes = min(EDGE, shape[0] - start)
        coarse = rng.integers(0, 3, (-(-planes // 16), -(-shape[1] // 16), -(-shape[2] // 16))).astype("f4")
        part = coarse.repeat(16, 0).repeat(16, 1).repeat(16, 2)[:planes, : shape[1], : shape[2]]
        part += rng.normal(0, 0.2, part.shape).astype("f4")
        part[::7] = np.nan
        part[:, 20:40, 20:90] = np.nan
        array[start : start + planes] = part


def make_bundles(folder: Path) -> None:
    """Save an untrained segmentation of four classes, and a filler, of patches of 64."""
    data = segmenting(folder / "segmenting", EDGE, (4, 8))
    from voxgap.backend import keras
    from voxgap.bundle.filler import save_filler
    from voxgap.fill import Deviating, Learned
    from voxgap.history import History
    from voxgap.metrics.overlap import known_cases

    tiles = data.volumes[:, : EDGE // 2, : EDGE // 2, : EDGE // 2].copy()
    tiles[:, ::5] = np.nan
    layer = Learned(filters=(2, 4), steps=0, seed=0, name="fill")
    layer.adapt(tiles)
    patches = keras.Input(tiles.shape[1:], dtype="float32", name="volumes")
    filler = keras.Model(patches, Deviating(layer, name="deviating")(patches), name="learned")
    ran = ({"loss": 0.0, "val_loss": 0.0, "seconds": 0.0},)
    save_filler(
        folder / "filling",
        filler,
        tiles,
        name="noise",
        channels=("ct",),
        spacing=None,
        grid=data.grid,
        history=History(ran, "val_loss", 0, 1, "epochs"),
        scores={},
        arguments={},
        cases=known_cases([], []),
    )


def peak_of(pid: int) -> int:
    """Return the most memory that a process has held so far, in bytes; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 0


def run(arguments: list[Any], progress: Path, planes: int, kills: tuple[float, ...]) -> tuple[float, int]:
    """Run a command of voxgap, kill it when so much is done, go on, and return seconds and peak memory."""
    left, started, most = list(kills), time.perf_counter(), 0
    while True:
        process = subprocess.Popen(
            [sys.executable, "-c", "from voxgap.cli import main; main()", *map(str, arguments)]
        )
        while process.poll() is None:
            most = max(most, peak_of(process.pid))
            if left and done_of(progress) >= left[0] * planes:
                process.send_signal(signal.SIGKILL)
                process.wait()
                break
            time.sleep(0.02)
        if process.returncode == 0:
            return time.perf_counter() - started, most
        if process.returncode != -signal.SIGKILL or not left:
            raise SystemExit(f"voxgap {arguments[0]} ended with code {process.returncode}")
        left.pop(0)


def done_of(progress: Path) -> int:
    """Return the planes that are noted to be done."""
    try:
        return int(json.loads(progress.read_bytes())["done"])
    except (OSError, ValueError, KeyError):
        return 0


def same(one: Path, other: Path) -> bool:
    """Compare two volumes bit by bit, some planes at a time."""
    from voxgap.io import scan

    first, second = scan(one), scan(other)
    return first.shape == second.shape and all(
        first.read([(at, min(at + 16, first.shape[0]))]).values.tobytes()
        == second.read([(at, min(at + 16, first.shape[0]))]).values.tobytes()
        for at in range(0, first.shape[0], 16)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", default="512,1024,1024")
    parser.add_argument("--only", choices=["predict", "fill"])
    asked = parser.parse_args()
    shape, folder = tuple(map(int, asked.shape.split(","))), asked.folder
    folder.mkdir(parents=True, exist_ok=True)
    volume = folder / f"{'x'.join(map(str, shape))}.zarr"
    if not volume.exists():
        make_volume(volume, shape)
    if not (folder / "filling").exists():
        subprocess.run([sys.executable, __file__, folder, "--shape", "0"], check=True)
    print(f"{shape[0]} x {shape[1]} x {shape[2]}, {4 * np.prod(shape) / 2**30:.2f} GiB as float32")
    for command, bundle in (("predict", "segmenting"), ("fill", "filling")):
        if asked.only not in (None, command):
            continue
        outs = {kills: folder / f"{command}-{volume.stem}-{len(kills)}" for kills in ((), KILLS)}
        for kills, out in outs.items():
            if (out / volume.name).exists():
                continue
            seconds, peak = run(
                [command, folder / bundle, volume, "--out", out],
                out / f".{volume.name}.progress",
                shape[0],
                kills,
            )
            print(
                f"{command}, killed {len(kills)} times: {seconds:.0f} s, peak {peak / 2**30:.2f} GiB",
                flush=True,
            )
        print(
            f"{command}: {'the same' if same(*(out / volume.name for out in outs.values())) else 'NOT the same'}"
        )


if __name__ == "__main__":
    if sys.argv[-1] == "0":
        make_bundles(Path(sys.argv[1]))
    else:
        main()
