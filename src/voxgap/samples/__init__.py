"""Real data inside the package, ready for `voxgap.dataset.Dataset`; licences and sources are in NOTICE.md.

Example:
    >>> import voxgap as vg
    >>> vg.samples.NAMES
    ('motion', 'brain', 'nodules', 'brain-tissue')
    >>> vg.samples.load("brain-tissue")["volumes"].shape
    (195, 20, 20, 20, 1)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from voxgap.errors import VoxgapError
from voxgap.samples import _motion
from voxgap.samples._brain import BrainVolume, brain_patches, brain_tissue, brain_volume
from voxgap.samples._files import read
from voxgap.samples._nodules import nodules

__all__ = ["NAMES", "BrainVolume", "brain_volume", "load", "nodules"]

_LOADERS: dict[str, Callable[[], dict[str, Any]]] = {
    "motion": lambda: _motion.load(read("digits")["digits"]),
    "brain": brain_patches,
    "nodules": nodules,
    "brain-tissue": brain_tissue,
}
NAMES = tuple(_LOADERS)


def load(name: str) -> dict[str, Any]:
    """Load an embedded data set, the same values every time.

    Args:
        name: `motion`, 2,100 video clips of 16x24x24 whose class is how a digit moves, complete; `brain`,
            2,796 MRI patches of 16x16x16 at 1 mm whose class is the tissue in the centre, complete;
            `brain-tissue`, 195 blocks of 20x20x20 of that scan with the tissue of each voxel, complete; or
            `nodules`, 1,983 lung nodules of 32x32x32 at 1.25 mm outlined by one to four radiologists (the
            channels of those who drew nothing are missing), benign or malignant, 1 GB in memory.

    Returns:
        The arguments of `Dataset`: volumes (n, depth, height, width, channels) float32, NaN where missing,
        targets (n,) int64 or for segmentation (n, depth, height, width) int16, task, classes, split (n,),
        groups (n,), channels, spacing (mm, or None), name.

    Raises:
        VoxgapError: If there is no such data set.
    """
    if name not in _LOADERS:
        raise VoxgapError(f"no embedded data set {name!r}: choose one of {', '.join(NAMES)}")
    return _LOADERS[name]()
