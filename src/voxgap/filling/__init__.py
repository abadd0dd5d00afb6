"""Filling the gaps of files: written in their own formats, observed voxels to the last bit as they were.

Here are the names and defaults that the command line shows; the work is in `voxgap.filling.files`.
"""

from pathlib import Path
from typing import Any

from voxgap.recipe import FILLS as FILLS

STRATEGY = "linear"
FIT_ON = "train"
SEEDS = 3
EPOCHS = 12
"""Of the training of a filler, at most, 100 steps each."""


def is_bundle(strategy: Any) -> bool:
    """Tell the folder of a bundle from the name of a fill, or of those of channels."""
    if not isinstance(strategy, str) or strategy in FILLS:
        return False
    from voxgap.runtime import MANIFEST

    return (Path(strategy) / MANIFEST).is_file()
