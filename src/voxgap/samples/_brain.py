"""The left half of the ICBM152 brain, patches of it labelled by their tissue, and blocks with label maps."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from voxgap.samples._files import read

CLASSES = ("grey matter", "white matter", "fluid")
PATCH = 16
BLOCK = 20


class BrainVolume(NamedTuple):
    """A scan and its tissues on one grid.

    Attributes:
        values: T1 intensities 0 to 255, float32 (163, 180, 80, 1): from below upwards, from behind forwards,
            from the left towards the middle.
        labels: uint8 (163, 180, 80): 0 outside the brain, 1 grey matter, 2 white matter, 3 fluid.
        affine: (4, 4), from indices (depth, height, width) to MNI coordinates (x, y, z) in mm.
        spacing: voxel size in mm.
    """

    values: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]
    spacing: tuple[float, float, float]


def brain_volume() -> BrainVolume:
    """Return the left half, without the mid-plane, of the left-right symmetric ICBM152 template (2009a) at 1 mm.

    Returns:
        The scan, its label map, and where they lie; see `BrainVolume`.
    """
    arrays = read("brain")
    return BrainVolume(
        _t1(arrays)[..., None].astype(np.float32), arrays["labels"], arrays["affine"], (1.0,) * 3
    )


def brain_patches() -> dict[str, Any]:
    """Load patches of 16x16x16 voxels; each lies within one of nine slabs, and each slab belongs to one split.

    The slabs (20 mm, from behind forwards) share no voxel, and the other half, a mirror image, is not used.
    """
    arrays = read("brain")
    centres, slabs = arrays["centres"].astype(np.int64), arrays["slabs"]
    cubes = np.lib.stride_tricks.sliding_window_view(_t1(arrays), (PATCH,) * 3)
    return {
        "volumes": cubes[tuple(centres.T - PATCH // 2)][..., None].astype(np.float32),
        "targets": arrays["labels"][tuple(centres.T)].astype(np.int64) - 1,
        "task": "classification",
        "classes": CLASSES,
        "split": arrays["slab_splits"][slabs],
        "groups": np.array([f"slab-{slab}" for slab in slabs]),
        "channels": ("T1",),
        "spacing": (1.0, 1.0, 1.0),
        "name": "brain",
    }


def brain_tissue() -> dict[str, Any]:
    """Load blocks of 20x20x20 voxels that tile the half brain, with the tissue of each voxel to be found.

    They lie within the slabs of `brain_patches`, and overlap nowhere; those without brain are left
    out.
    """
    arrays = read("brain")
    depth, height, width = (np.arange(0, size - BLOCK + 1, BLOCK) for size in arrays["labels"].shape)
    corners = np.stack(np.meshgrid(depth, height, width, indexing="ij"), axis=-1).reshape(-1, 3)
    labels = np.lib.stride_tricks.sliding_window_view(arrays["labels"], (BLOCK,) * 3)[tuple(corners.T)]
    held = (labels > 0).any(axis=(1, 2, 3))
    corners, slabs = corners[held], corners[held, 1] // BLOCK
    cubes = np.lib.stride_tricks.sliding_window_view(_t1(arrays), (BLOCK,) * 3)
    return {
        "volumes": cubes[tuple(corners.T)][..., None].astype(np.float32),
        "targets": labels[held].astype(np.int16),
        "task": "segmentation",
        "classes": ("outside", *CLASSES),
        "split": arrays["slab_splits"][slabs],
        "groups": np.array([f"slab-{slab}" for slab in slabs]),
        "channels": ("T1",),
        "spacing": (1.0, 1.0, 1.0),
        "name": "brain-tissue",
    }


def _t1(arrays: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.uint8]:
    """Return intensities from the stored steps between neighbours, which wrap around at 256."""
    return arrays["t1_steps"].cumsum(axis=2, dtype=np.uint8)
