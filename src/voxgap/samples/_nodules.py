"""Lung nodules as up to four radiologists outlined them; what one of them did not draw is missing."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from voxgap.samples._files import read

CLASSES = ("benign", "malignant")
SHAPE = (32, 32, 32, 4)
UNDECIDED = 3  # the middle of the radiologists' scale from 1, surely benign, to 5, surely malignant


def nodules(task: Literal["classification", "regression"] = "classification") -> dict[str, Any]:
    """Load the nodules to tell malignant from benign, or to predict the mean rating of the radiologists.

    Their number alone (the missing channels) says much about the answer, and those who drew also rated.

    Args:
        task: `classification`: 1,983 nodules whose mean rating is above (malignant) or below 3 (benign), so
            without the 638 that tie; `regression`: all 2,621 and their mean rating, 1 to 5, 1.4 GB in memory.

    Returns:
        The arguments of `Dataset`, split by patient; see `load`. Values are 1 inside an outline, 0 outside.
    """
    arrays = read("nodules")
    drawn = arrays["malignancy"] > 0
    rating = arrays["malignancy"].sum(1) / drawn.sum(1)
    classify = task == "classification"
    kept = np.flatnonzero(rating != UNDECIDED) if classify else np.arange(len(rating))
    return {
        "volumes": _unpack(arrays["outlines"][kept], drawn[kept]),
        "targets": (rating[kept] > UNDECIDED).astype(np.int64)
        if classify
        else rating[kept].astype(np.float32),
        "task": task,
        "classes": CLASSES if classify else (),
        "split": arrays["splits"][kept],
        "groups": arrays["patients"][kept],
        "channels": ("reader 1", "reader 2", "reader 3", "reader 4"),
        "spacing": (1.25, 1.25, 1.25),
        "name": "nodules",
    }


def _unpack(outlines: npt.NDArray[np.uint8], drawn: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Return volumes from packed bits, NaN in the channels where nothing was drawn."""
    volumes = np.empty((len(outlines), *SHAPE), np.float32)
    # A byte holds two voxels of four channels. Looking its eight values up, NaN included, writes each volume
    # once: unpacking a gigabyte and then blanking channels takes three times as long.
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32)
    for volume, packed, present in zip(volumes, outlines, drawn, strict=True):
        table = np.where(np.tile(present, 2), bits, np.float32(np.nan))
        np.take(table, packed, axis=0, out=volume.reshape(-1, 8), mode="clip")
    return volumes
