"""Whether a strategy can be exported, found out before it is trained."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voxgap.bundle import packages
from voxgap.bundle.exporting import ExportError, Report, export
from voxgap.bundle.formats import PACKAGES, Precision, check_formats
from voxgap.bundle.saving import save_bundle
from voxgap.dataset import Dataset
from voxgap.errors import VoxgapError
from voxgap.patches import Size

if TYPE_CHECKING:
    from voxgap.recipe import Strategy

_FEW = 8  # volumes that the untrained network is adapted to


def check_exportable(
    strategy: str | Strategy,
    network: Any,
    formats: Sequence[str],
    *,
    data: Dataset | None = None,
    patch_size: Size | None = None,
    precision: Precision = "float32",
    report: Report | None = None,
    **architecture: Any,
) -> None:
    """Refuse a strategy that can't be exported, before hours of training.

    No table says what is possible, since it would be out of date with the next release of a converter: the
    untrained network is adapted to a few volumes, converted and proven as the trained one will be. It takes some
    seconds a format.

    Args:
        strategy: a preset's name or a `Strategy`.
        network: as for `build_model`.
        formats: as for `export`; for `web`, `container` and `edge` the format that they carry is tried.
        data: what it will be trained on; its first volumes are used. Without it, random ones of 8×8×8 voxels.
        patch_size: where it will be trained on patches, their size.
        precision: as for `export`.
        report: as for `export`.
        **architecture: further arguments of `build_model`.

    Raises:
        VoxgapError: a format is unknown or lacks a Python package, or which one the strategy can't be exported to,
            and why.

    Example:
        >>> import voxgap as vg
        >>> vg.check_exportable("linear", "cnn3d", ["onnx"], filters=(4,))  # silent: it can be exported
        >>> vg.check_exportable("linear", "cnn3d", ["tensorrt"])
        Traceback (most recent call last):
        voxgap.errors.VoxgapError: no format 'tensorrt': choose among ...
    """
    from voxgap.models import build_model
    from voxgap.recipe import fill_name, strategy_of
    from voxgap.training import Examples, adapt_model

    kinds, deployed = check_formats(formats, precision)
    kinds = list(dict.fromkeys([*kinds, *(PACKAGES[name] for name in deployed)]))
    chosen = strategy_of(strategy)
    if data is not None:
        chosen = chosen.of_channels(data.channels)
    few = _random() if data is None else _few(data, patch_size)
    packages.forewarn(deployed, few.volumes.shape[1:], few.grid)
    model = build_model(
        network,
        input_shape=few.volumes.shape[1:],
        outputs=len(few.classes) or int(np.prod(few.targets.shape[1:])),
        task=few.task,
        strategy=chosen,
        **architecture,
    )
    with tempfile.TemporaryDirectory(prefix="voxgap-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a few volumes, which are not what will be trained on
        adapt_model(model, Examples.of(few.part("train")))
        save_bundle(Path(folder), model, few, strategy=chosen)
        try:
            export(folder, kinds, precision=precision, report=report)
        except ExportError as error:
            name = strategy if isinstance(strategy, str) else f"with fill {fill_name(chosen.fill)}"
            reason = error.reason.replace("; nothing was changed", "")
            # What fills is the strategy's; the rest, or a converter that fails, is not to be blamed on it.
            blamed = f"the strategy {name} of {model.name}" if "layer prepare/" in reason else model.name
            instead = f"; or train without --export, and export to {error.kind} then"
            raise VoxgapError(
                f"{blamed} can't be exported to {error.kind}, because {reason}{instead}"
            ) from None


def _few(data: Dataset, patch_size: Size | None) -> Dataset:
    few = data.take(np.flatnonzero(data.split == "train")[:_FEW])
    return few if patch_size is None else few.tiled(patch_size, _FEW)


def _random() -> Dataset:
    rng = np.random.default_rng(0)
    volumes = rng.normal(size=(_FEW, 8, 8, 8, 1)).astype(np.float32)
    volumes[rng.random(volumes.shape) < 0.2] = np.nan
    targets = np.arange(_FEW) % 2
    return Dataset(volumes, targets, "classification", ("a", "b"), np.full(_FEW, "train"))
