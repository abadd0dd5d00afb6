"""Rotate + scale + translate: voxgap, TorchIO, MONAI, batchgeneratorsv2, SciPy and grid_sample, in one run.

Two jobs, at 28³, 64³ and 128³, with 1 and 2 threads:
  complete   one complete volume, trilinear;
  gaps       a volume with 20 % of its slices missing. voxgap is given the NaNs. The peers know none: they
             resample the values (0 where missing) and the observed map together, as two channels, and the
             result is divided and thresholded, which is what voxgap's rule comes to.

Every library gets the same angles, factor and, where it has one, shift; its transform is built beforehand,
and the time is that of applying it. Each is a process of its own, and they take turns. From the root:

    python -m venv .venv-peers && .venv-peers/bin/pip install -r benchmarks/requirements.txt
    python benchmarks/augment_step.py [--peers .venv-peers/bin/python] [--sizes 28 64 128] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from protocol import OURS, PEERS, compare, serve

DEGREES, FACTOR, SHIFT = (10.0, 15.0, 20.0), 1.1, (2.0, 3.0, 4.0)
RECORD = {
    "transform": "compose",
    "steps": [
        {"transform": "rotate", "degrees": list(DEGREES), "spacing": [1.0, 1.0, 1.0]},
        {"transform": "scale", "factors": [FACTOR] * 3},
        {"transform": "translate", "voxels": list(SHIFT)},
    ],
}
RIVALS = ("torchio", "monai", "batchgeneratorsv2")
"""The libraries that the target is set against."""
Job = Callable[[], np.ndarray]


def made(size: int, gaps: bool) -> np.ndarray:
    """Return the volume, `(size, size, size, 1)`."""
    rng = np.random.default_rng(0)
    volume = rng.random((size, size, size, 1), dtype=np.float32)
    if gaps:
        volume[rng.permutation(size)[: round(0.2 * size)]] = np.nan
    return volume


def centred_matrix() -> np.ndarray:
    """Return the 3 × 4 matrix from output to source, in voxels from the centre, independently of voxgap."""
    turned = np.eye(3)
    for axis, degrees in enumerate(DEGREES):
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        first, second = (i for i in range(3) if i != axis)
        turn = np.eye(3)
        turn[[first, first, second, second], [first, second, first, second]] = cosine, -sine, sine, cosine
        turned = turned @ turn
    linear = turned.T / FACTOR
    return np.concatenate([linear, -linear @ np.array(SHIFT)[:, np.newaxis]], axis=1)


def channels_first(volume: np.ndarray) -> np.ndarray:
    """Return what a peer resamples: the values, and where there are gaps the observed map beside them."""
    values = np.ascontiguousarray(np.moveaxis(volume, -1, 0))
    observed = ~np.isnan(values)
    if observed.all():
        return values
    return np.concatenate([np.where(observed, values, 0), observed]).astype(np.float32)


def finish(image: np.ndarray) -> np.ndarray:
    """Finish a peer's channels: with gaps, a weighted mean, missing where less than half is observed."""
    if len(image) == 1:
        return image[0]
    return np.where(image[1] >= 0.5, image[0] / np.maximum(image[1], 1e-6), np.float32(np.nan))


def voxgap(volume: np.ndarray, threads: int) -> Job:
    from voxgap import augment

    return lambda: augment.apply(volume, RECORD, threads=threads)[..., 0]


def scipy(volume: np.ndarray, threads: int) -> Job:
    from scipy.ndimage import affine_transform

    matrix, centre, image = centred_matrix(), (len(volume) - 1) / 2, channels_first(volume)
    offset = matrix[:, 3] + centre - matrix[:, :3] @ np.full(3, centre)
    return lambda: finish(np.stack([affine_transform(one, matrix[:, :3], offset, order=1) for one in image]))


def torchio(volume: np.ndarray, threads: int) -> Job:
    import SimpleITK
    import torch
    import torchio as tio

    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    transform = tio.Affine((FACTOR,) * 3, DEGREES, SHIFT, image_interpolation="linear", default_pad_value=0)
    image = tio.ScalarImage(tensor=torch.from_numpy(channels_first(volume)))
    return lambda: finish(transform(image).numpy())


def monai(volume: np.ndarray, threads: int) -> Job:
    import torch
    from monai.transforms import Affine

    matrix = np.concatenate([centred_matrix(), [[0, 0, 0, 1]]])
    transform = Affine(affine=matrix, padding_mode="zeros", mode="bilinear", image_only=True)
    image = torch.from_numpy(channels_first(volume))
    return lambda: finish(transform(image).numpy())


def batchgeneratorsv2(volume: np.ndarray, threads: int) -> Job:
    import torch
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

    radians = math.radians(sum(DEGREES) / 3)
    transform = SpatialTransform(
        volume.shape[:3],
        patch_center_dist_from_border=0,
        random_crop=False,
        p_elastic_deform=0,
        p_rotation=1,
        rotation=(radians, radians),
        p_scaling=1,
        scaling=(1 / FACTOR, 1 / FACTOR),
        p_synchronize_scaling_across_axes=1,
    )
    image = torch.from_numpy(channels_first(volume))
    return lambda: finish(transform(image=image)["image"].numpy())


def grid_sample(volume: np.ndarray, threads: int) -> Job:
    import torch
    from torch.nn import functional

    # torch counts width first, from -1 to 1 between the outermost voxels' centres.
    matrix = centred_matrix()
    shift = matrix[::-1, 3:] / ((len(volume) - 1) / 2)
    theta = torch.from_numpy(np.concatenate([matrix[::-1, 2::-1], shift], axis=1).astype(np.float32))[None]
    image = torch.from_numpy(channels_first(volume))[None]

    def job() -> np.ndarray:
        grid = functional.affine_grid(theta, list(image.shape), align_corners=True)
        return finish(functional.grid_sample(image, grid, align_corners=True)[0].numpy())

    return job


CONTENDERS = {one.__name__: one for one in (voxgap, torchio, monai, batchgeneratorsv2, grid_sample, scipy)}
SAME_TURN = ("monai", "grid_sample", "scipy")
"""TorchIO turns in another order, batchgeneratorsv2 by one angle: the same work, but another result."""


def contend(name: str, size: int, gaps: bool, threads: int, result: Path) -> None:
    """Be one contender: write the result once, then run as often as asked."""
    if name in (*RIVALS, "grid_sample"):
        import torch

        torch.set_num_threads(threads)
    job = CONTENDERS[name](made(size, gaps), threads)
    np.save(result, job())
    serve(job)


def largest_difference(folder: Path, size: int) -> float:
    """Return how far peers that do the same turn are from voxgap where all neighbours exist."""
    matrix, centre = centred_matrix(), (size - 1) / 2
    grid = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), axis=-1) - centre
    place = grid @ matrix[:, :3].T + matrix[:, 3] + centre
    inside = ((place > 0) & (place < size - 1)).all(axis=-1)
    ours = np.load(folder / "voxgap.npy")
    found = 0.0
    for name in SAME_TURN:
        difference = np.abs(np.load(folder / f"{name}.npy") - ours)[inside]
        found = max(found, float(np.nanmax(difference)))
    return found


def measure(size: int, gaps: bool, threads: int, repetitions: int, peers: str) -> dict[str, Any]:
    """Time all contenders at one job."""
    with tempfile.TemporaryDirectory() as folder:
        script, job = Path(__file__).name, "gaps" if gaps else "complete"
        commands: dict[str, tuple[str, ...]] = {}
        for name in CONTENDERS:
            python, result = OURS if name == "voxgap" else peers, str(Path(folder, f"{name}.npy"))
            commands[name] = (python, script, "contend", name, str(size), job, str(threads), result)
        seconds = compare(commands, repetitions)
        difference = largest_difference(Path(folder), size)
    return {
        "size": size,
        "job": job,
        "threads": threads,
        "milliseconds": {name: 1e3 * t for name, t in seconds.items()},
        "ratio": min(seconds[name] for name in RIVALS) / seconds["voxgap"],
        "largest_difference": difference,
    }


def main() -> None:
    if sys.argv[1:2] == ["contend"]:
        _, _, name, size, job, threads, result = sys.argv
        contend(name, int(size), job == "gaps", int(threads), Path(result))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="where to write the numbers, as JSON")
    parser.add_argument("--peers", default=PEERS, help="the interpreter of the peers' venv")
    parser.add_argument("--sizes", type=int, nargs="+", default=[28, 64, 128])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repetitions", type=int, default=11)
    given = parser.parse_args()
    print("| size | job | threads | " + " | ".join(CONTENDERS) + " | fastest of three / voxgap |")
    print("|" + " --- |" * (4 + len(CONTENDERS)))
    results = []
    for size in given.sizes:
        for gaps in (False, True):
            for threads in given.threads:
                found = measure(size, gaps, threads, given.repetitions, given.peers)
                cells = " | ".join(f"{found['milliseconds'][name]:.2f}" for name in CONTENDERS)
                print(
                    f"| {size}³ | {found['job']} | {threads} | {cells} | {found['ratio']:.1f} |", flush=True
                )
                results.append(found)
    worst = max(found["largest_difference"] for found in results)
    print(f"\nmilliseconds, medians; largest difference of the same turn in a peer: {worst:.1e}")
    if given.out:
        given.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
