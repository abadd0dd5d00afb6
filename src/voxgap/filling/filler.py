"""Filling with a network: one that a bundle holds, or one that is trained on the very volumes that it fills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from voxgap.errors import VoxgapError
from voxgap.filling.learn import Fill, Where, _put, _saying
from voxgap.patches import predict_patches
from voxgap.runtime import Bundle, Predictor, load
from voxgap.volume import Values


def check(folder: str, options: Mapping[str, Any]) -> None:
    """Refuse a bundle that doesn't fill, and options for one that does.

    Raises:
        VoxgapError: It can't be opened, is for another task, or was given options.
    """
    task = Bundle.open(folder).manifest.task
    if task != "fill":
        raise VoxgapError(f"{folder}: is for {task}; train one that fills with voxgap train DATA --task fill")
    if options:
        raise VoxgapError(f"--option {next(iter(options))}: {folder} is trained, and takes none")


def opened(folder: str) -> Predictor:
    """Return the predictor of a bundle that fills."""
    return load(folder)


def from_bundle(folder: str) -> Fill:
    """Return what fills volumes of any size with a bundle."""
    predictor = opened(folder)

    def answer(values: Values) -> Values:
        return predictor.predict(values[np.newaxis])[0]

    return _filling(answer)


def from_training(options: Mapping[str, Any], volumes: Sequence[Values]) -> Fill:
    """Return what fills volumes of any size with a network that is trained on these."""
    from voxgap.backend import answers
    from voxgap.fill import restoring
    from voxgap.filling.train import patch_of, tiled, trained

    size, own = patch_of(volumes), dict(options)
    steps, seed = int(own.pop("steps", restoring.STEPS)), int(own.pop("seed", 0))
    tiles, apart = tiled(volumes, size, seed)
    how = {"steps": steps, "seed": seed} | ({} if apart is None else {"held": apart})
    model, _ = trained(tiles, own, how)

    def predict(patches: Values) -> Values:
        return answers(model, patches)

    return _filling(lambda values: predict_patches(predict, values[np.newaxis], size)[0])


def _filling(answer: Any) -> Fill:
    def fill(values: Values, where: Where | None) -> tuple[None, Values]:
        channels = values.shape[-1]
        observed = ~np.isnan(values)
        found = answer(values)
        _put(values, found[..., :channels], where)
        deviation = found[..., channels:].copy()
        deviation[observed] = 0
        deviation[np.isnan(values)] = np.nan
        return None, deviation

    return _saying("learned", fill)
