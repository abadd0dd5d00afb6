"""Filling with a network: one that a bundle holds, or one that is trained on the very volumes that it fills."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voxgap.errors import VoxgapError
from voxgap.filling.learn import Fill, Where, _put, _saying
from voxgap.patches import predict_patches
from voxgap.runtime import Bundle, Predictor, load
from voxgap.volume import Values

if TYPE_CHECKING:
    from voxgap.fill import Learned
    from voxgap.models.beginning import Taken


def check(folder: str, options: Mapping[str, Any]) -> None:
    """Refuse a bundle that doesn't fill, and options for one that does.

    Raises:
        VoxgapError: It can't be opened, is for another task, or was given options.
    """
    task = Bundle.open(folder, "--task fill").manifest.task
    if task != "fill":
        raise VoxgapError(f"{folder}: is for {task}; train one that fills with voxgap train DATA --task fill")
    if options:
        raise VoxgapError(f"--option {next(iter(options))}: {folder} is trained, and takes none")


def trained_layer(folder: str | os.PathLike[str]) -> Learned:
    """Return the fill layer of a bundle that fills.

    Raises:
        VoxgapError: It can't be opened, or is for another task.
    """
    check(str(folder), {})
    layer: Learned = Bundle.open(folder).keras_model().get_layer("deviating").fill
    return layer


def start_from(model: Any, bundle: str | os.PathLike[str]) -> Taken:
    """Let the encoder of a model begin with that of a bundle of `voxgap train --task fill`, which needed no labels.

    Args:
        model: From `voxgap.build_model`, not trained yet; of `resnet3d`, `unet3d` or `resunet3d`, with the filters of
            the filler. It may have other channels.
        bundle: The folder.

    Returns:
        What was taken over.

    Raises:
        VoxgapError: The bundle can't be opened or does not fill, or no stage of the model agrees with its encoder.

    Example:
        >>> import voxgap as vg
        >>> model = vg.build_model("resnet3d", (16, 16, 16, 1), 3, strategy="kriging", filters=(16, 32, 64))
        >>> vg.start_from(model, "runs/sea").words()  # doctest: +SKIP
        "begins with 3 of 3 stages of the filler's encoder, 214,704 weights"
    """
    from voxgap.models.beginning import begin_with

    taken = begin_with(model, trained_layer(bundle))
    digest = Bundle.open(bundle).manifest.files["keras"].digest
    return taken._replace(filler=Path(bundle).resolve().name, sha256=digest)


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

    return _filling(lambda values: predict_patches(partial(answers, model), values[np.newaxis], size)[0])


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
