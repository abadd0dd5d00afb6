"""Rotate + scale + translate: voxgap against TorchIO, MONAI, batchgeneratorsv2, SciPy and grid_sample, in one run.

Two jobs, at 28³, 64³ and 128³, with 1 and 2 threads:
  complete   one complete volume, trilinear;
  gaps       a volume with 20 % of its slices missing. voxgap is given the NaNs. The peers know none: they
             resample the values (0 where missing) and the observed map together, as two channels, and the
             result is divided and thresholded, which is what voxgap's rule comes to.

Every library gets the same angles, factor and, where it has one, shift; its transform is built beforehand, and
the time is that of applying it. Runs in the peers' venv, see requirements-augment.txt:

    .venv-augment/bin/python benchmarks/bench_augment.py [--out results.json] [--sizes 28 64 128]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from voxgap import augment
from voxgap.missingness import simulate

DEGREES, FACTOR, SHIFT = (10.0, 15.0, 20.0), 1.1, (2.0, 3.0, 4.0)
RECORD: augment.Record = {
    "transform": "compose",
    "steps": [
        {"transform": "rotate", "degrees": list(DEGREES), "spacing": [1.0, 1.0, 1.0]},
        {"transform": "scale", "factors": [FACTOR] * 3},
        {"transform": "translate", "voxels": list(SHIFT)},
    ],
}
Job = Callable[[], Any]
Maker = Callable[[np.ndarray, bool], Job]


def combine(values: Any, observed: Any) -> Any:
    """Finish a peer's two channels: a weighted mean, missing where less than half is observed."""
    return np.where(observed >= 0.5, values / np.maximum(observed, 1e-6), np.nan)


def channels_first(volume: np.ndarray, gaps: bool) -> np.ndarray:
    """Return what a peer resamples: the values, and with gaps the observed map beside them."""
    values = np.ascontiguousarray(np.moveaxis(volume, -1, 0))
    if not gaps:
        return values
    observed = ~np.isnan(values)
    return np.concatenate([np.where(observed, values, 0), observed]).astype(np.float32)


def finish(image: np.ndarray, gaps: bool) -> np.ndarray:
    return combine(image[0], image[1]) if gaps else image[0]


def matrix_of(size: int) -> np.ndarray:
    geometry = augment.fused(RECORD, (size, size, size))
    assert geometry is not None
    return geometry.matrix


def voxgap(threads: int) -> Maker:
    return lambda volume, gaps: lambda: augment.apply(volume, RECORD, threads=threads)[..., 0]


def scipy(volume: np.ndarray, gaps: bool) -> Job:
    from scipy.ndimage import affine_transform

    matrix, image = matrix_of(len(volume)), channels_first(volume, gaps)

    def job() -> np.ndarray:
        moved = [affine_transform(one, matrix[:3, :3], matrix[:3, 3], order=1) for one in image]
        return finish(np.stack(moved), gaps)

    return job


def torchio(volume: np.ndarray, gaps: bool) -> Job:
    import torch
    import torchio as tio

    transform = tio.Affine((FACTOR,) * 3, DEGREES, SHIFT, image_interpolation="linear", default_pad_value=0)
    image = tio.ScalarImage(tensor=torch.from_numpy(channels_first(volume, gaps)))
    return lambda: finish(transform(image).numpy(), gaps)


def monai(volume: np.ndarray, gaps: bool) -> Job:
    import torch
    from monai.transforms import Affine

    # MONAI's matrix acts on coordinates from the centre.
    size = len(volume)
    matrix, centre = matrix_of(size), (size - 1) / 2
    centred = np.eye(4)
    centred[:3, :3] = matrix[:3, :3]
    centred[:3, 3] = matrix[:3, :3] @ np.full(3, centre) + matrix[:3, 3] - centre
    transform = Affine(affine=centred, padding_mode="zeros", mode="bilinear", image_only=True)
    image = torch.from_numpy(channels_first(volume, gaps))
    return lambda: finish(transform(image).numpy(), gaps)


def batchgeneratorsv2(volume: np.ndarray, gaps: bool) -> Job:
    import torch
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

    radians = math.radians(statistics.mean(DEGREES))
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
    image = torch.from_numpy(channels_first(volume, gaps))
    return lambda: finish(transform(image=image)["image"].numpy(), gaps)


def grid_sample(volume: np.ndarray, gaps: bool) -> Job:
    import torch
    from torch.nn import functional

    size = len(volume)
    matrix, centre = matrix_of(size), (size - 1) / 2
    # torch counts width first, from -1 to 1 between the outermost voxels' centres.
    shift = (matrix[:3, :3] @ np.full(3, centre) + matrix[:3, 3] - centre) / centre
    theta = np.concatenate([matrix[2::-1, 2::-1], shift[::-1, np.newaxis]], axis=1).astype(np.float32)
    image = torch.from_numpy(channels_first(volume, gaps))[None]

    def job() -> np.ndarray:
        grid = functional.affine_grid(torch.from_numpy(theta)[None], list(image.shape), align_corners=True)
        return finish(functional.grid_sample(image, grid, align_corners=True)[0].numpy(), gaps)

    return job


def set_threads(threads: int) -> None:
    import SimpleITK  # noqa: N813
    import torch

    torch.set_num_threads(threads)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def seconds(jobs: dict[str, Job], repeats: int) -> dict[str, list[float]]:
    """Time all jobs in turns, so that what else the machine does falls on all of them."""
    spent: dict[str, list[float]] = {name: [] for name in jobs}
    for job in jobs.values():
        job()
    for _ in range(repeats):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            spent[name].append(time.perf_counter() - start)
    return spent


def agreement(jobs: dict[str, Job], size: int) -> dict[str, float]:
    """Return each peer's largest difference from voxgap where the output lies well inside the source.

    TorchIO turns in another order and batchgeneratorsv2 about all axes alike: they do the same work, not the
    same turn, and are left out.
    """
    corners = (
        np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), axis=-1) @ matrix_of(size)[:3, :3].T
    )
    place = corners + matrix_of(size)[:3, 3]
    inside = ((place > 1) & (place < size - 2)).all(axis=-1)
    reference = jobs["voxgap"]()
    found = {}
    for name in ("scipy", "monai", "grid_sample"):
        other = jobs[name]()
        both = inside & ~np.isnan(reference) & ~np.isnan(other)
        found[name] = float(np.abs(other - reference)[both].max())
    return found


def run(size: int, gaps: bool, threads: int, repeats: int) -> dict[str, Any]:
    volume = np.random.default_rng(0).random((size, size, size, 1), dtype=np.float32)
    if gaps:
        volume = simulate(volume, "slices", 0.2, seed=0)
    makers: dict[str, Maker] = {
        "voxgap": voxgap(threads),
        "torchio": torchio,
        "monai": monai,
        "batchgeneratorsv2": batchgeneratorsv2,
        "grid_sample": grid_sample,
        "scipy": scipy,
    }
    set_threads(threads)
    jobs = {name: make(volume, gaps) for name, make in makers.items()}
    times = {name: statistics.median(all_) for name, all_ in seconds(jobs, repeats).items()}
    peers = {name: times[name] for name in ("torchio", "monai", "batchgeneratorsv2")}
    return {
        "size": size,
        "job": "gaps" if gaps else "complete",
        "threads": threads,
        "milliseconds": {name: 1e3 * t for name, t in times.items()},
        "fastest_peer": min(peers, key=lambda name: peers[name]),
        "ratio": min(peers.values()) / times["voxgap"],
        "largest_difference": agreement(jobs, size),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[28, 64, 128])
    parser.add_argument("--repeats", type=int, default=11)
    given = parser.parse_args()
    results, names = [], ("voxgap", "torchio", "monai", "batchgeneratorsv2", "grid_sample", "scipy")
    print("| size | job | threads | " + " | ".join(names) + " | fastest of three peers / voxgap |")
    print("|" + " --- |" * (4 + len(names)))
    for size in given.sizes:
        for gaps in (False, True):
            for threads in (1, 2):
                result = run(size, gaps, threads, given.repeats)
                results.append(result)
                cells = " | ".join(f"{result['milliseconds'][name]:.2f}" for name in names)
                print(
                    f"| {size}³ | {result['job']} | {threads} | {cells} | {result['ratio']:.1f} |", flush=True
                )
    print("\nmilliseconds, medians; largest difference from voxgap where all neighbours exist:")
    print(max((v, k) for r in results for k, v in r["largest_difference"].items()))
    if given.out:
        given.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
