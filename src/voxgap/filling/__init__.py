"""Filling the gaps of files: written in their own formats, observed voxels to the last bit as they were.

Here are the names and defaults that the command line shows; the work is in `voxgap.filling.files`.
"""

from pathlib import Path
from typing import Any

from voxgap.errors import VoxgapError
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


def refuse_unfinished(strategy: Any) -> None:
    """Refuse a path that is no bundle: of a training that was not finished, or where nothing is.

    Raises:
        VoxgapError: it is such a path; a name that may be that of a fill is none.
    """
    if not isinstance(strategy, str) or strategy in FILLS or "=" in strategy or is_bundle(strategy):
        return
    from voxgap.bundle import LOCK, STATE  # no Keras

    folder = Path(strategy)
    if any((folder / name).exists() for name in (STATE, LOCK)):
        raise VoxgapError(
            f"{folder}: no bundle yet: its training was not finished; give the train command again"
        )
    if len(folder.parts) > 1 or strategy.endswith(("/", "\\")):
        why = "holds no bundle" if folder.is_dir() else "no folder" if folder.exists() else "no such folder"
        raise VoxgapError(
            f"{folder}: {why}; voxgap train DATA --task fill --out {folder} makes a bundle that fills"
        )
