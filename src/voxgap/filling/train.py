"""`voxgap train --task fill`: a network learns to fill from the very data that have gaps, and becomes a bundle."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from voxgap.bundle import LOCK, STATE, check_free
from voxgap.bundle.filler import save_filler
from voxgap.errors import VoxgapError
from voxgap.files import held, sweep
from voxgap.filling import EPOCHS, FIT_ON
from voxgap.filling.check import scores_of
from voxgap.filling.field import of_job
from voxgap.filling.job import Job, Say, as_files_are, quiet
from voxgap.history import History, Reason
from voxgap.metrics.overlap import digests, known_cases
from voxgap.missingness import simulate
from voxgap.patches import Patches, Size
from voxgap.progress import Progress, unseen
from voxgap.volume import Values

EDGE = 32
"""Voxels of a patch along each axis, at most: a U-Net of three stages sees about as far."""
HELD = 0.1
"""The share of volumes, or of patches of a single one, that is held out."""


def train_filler(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    filters: Sequence[int] | None = None,
    epochs: int = EPOCHS,
    learning_rate: float | None = None,
    patience: int | None = None,
    patch_size: Size | None = None,
    pattern: str | None = None,
    missing_rate: float = 0.5,
    mechanism: str = "mcar",
    fit_on: str = FIT_ON,
    seed: int = 0,
    overwrite: bool = False,
    say: Say = quiet,
    progress: Progress = unseen,
    look: Any = None,
    **reading: Any,
) -> dict[str, dict[str, float]]:
    """Train a network to fill gaps from data that have some, labelled or not, and save it as a bundle.

    Further voxels are hidden in the shapes of the data's own gaps, and it learns to restore them upon kriging, with a
    standard deviation for each; see `voxgap.fill.Learned`. It fills volumes of any size by patches. A training that was
    killed, or interrupted, goes on when it is called again, and ends as if nothing had happened.

    Args:
        data: As for `voxgap.fill_files`: a data set, labelled or not, or one volume.
        out: Folder for the bundle.
        filters: Features of each stage of its U-Net.
        epochs: Of 100 steps each, at most.
        learning_rate: At the start.
        patience: Epochs without gain before it ends.
        patch_size: What it sees at once; by default 32 voxels along each axis, or the smallest volume's.
        pattern, missing_rate, mechanism: Of gaps that are hidden in place of the data's own, see `voxgap.simulate`.
        fit_on: What it learns from: `train` (all, where there is no split) or `all`.
        seed: Of its weights, and of what is hidden.
        overwrite: Replace a bundle that is there, and what is kept of a training by other settings.
        say: Called with each line that a user should read.
        progress: Wraps what is gone through one by one, with a title.
        look: Called with the record of each epoch.
        **reading: `missing_values`, `axes` and `at`, see `voxgap.load_data`.

    Returns:
        Errors at hidden voxels that were held out, of `kriging` and `learned`, as of `voxgap.check_fills`.

    Raises:
        VoxgapError: The data can't be read, or an argument is not possible.

    Example:
        >>> import voxgap as vg
        >>> vg.train_filler("sea.nc", "runs/sea")  # doctest: +SKIP
        >>> vg.fill_files("sea.nc", "filled", "runs/sea")  # doctest: +SKIP
    """
    from voxgap.fill import restoring
    from voxgap.fill.trial import punched

    folder = Path(out)
    check_free(folder, overwrite=True)
    if epochs < 1:
        raise VoxgapError(f"epochs must be at least 1, got {epochs}")
    with held(folder / LOCK, f"{folder}: a network is trained there"):
        sweep(folder)
        check_free(folder, overwrite)
        grid = as_files_are(**reading)
        job = Job(str(data), folder, fit_on=fit_on, grid=grid, say=say, progress=progress)
        known = of_job(job)
        volumes = [known.volumes[i] for i in range(len(known.volumes)) if i not in known.held]
        size = patch_size or patch_of(volumes)
        tiles, apart = tiled(volumes, size, seed)
        if pattern is None and not np.isnan(tiles).any():
            say("no gaps: blocks are hidden; --pattern and --missing-rate say which gaps are to come")
        punch = punched if pattern is None else _simulated(pattern, missing_rate, mechanism)
        given = {"steps": epochs * restoring.EVERY, "seed": seed, "punch": punch, "held": apart, "look": look}
        given |= {"rate": learning_rate} if learning_rate else {}
        given |= {"patience": patience} if patience else {}
        if apart is None:
            given.pop("held")
        hidden = (
            None
            if pattern is None
            else {"pattern": pattern, "missing_rate": missing_rate, "mechanism": mechanism}
        )
        options = {"filters": tuple(filters)} if filters else {}
        asked = {"epochs": epochs, "seed": seed, "hidden": hidden, "patch size": size, **options}
        asked |= {name: given[name] for name in ("rate", "patience") if name in given}
        kept = _Kept(folder / STATE, asked, tiles, apart, overwrite)
        if kept.there:
            say(f"going on with the training that {folder} keeps")
        model, looks = trained(tiles, options, given | {"kept": kept})
        scores = _scores(model, tiles if apart is None else apart, punch, seed)
        history = replace(_history(looks, epochs), unbeaten=unbeaten(scores, held_out=apart is not None))
        for remark in history.remarks():
            say(remark)
        save_filler(
            folder,
            model,
            tiles,
            name=known.name,
            channels=known.channels,
            spacing=None,
            grid=grid,
            history=history,
            scores={"validation": scores["learned"]},
            arguments={"epochs": epochs, "seed": seed, "hidden": hidden, "kriging": scores["kriging"]},
            cases=known_cases(digests(volumes), ["train"] * len(volumes)),
        )
        kept.checkpoint.clear()
    return scores


class _Kept:
    """A training's checkpoint, as that of every other network: `voxgap.fill.restoring.Kept`.

    Args:
        folder: for it.
        asked: settings, in words.
        tiles, apart: what is learnt from, and held out.
        anew: whether one by other settings, or of other data, is replaced.
    """

    def __init__(
        self, folder: Path, asked: dict[str, Any], tiles: Values, apart: Values | None, anew: bool
    ) -> None:
        from voxgap.training.checkpoint import Checkpoint, fingerprint

        self.checkpoint, self.anew = Checkpoint(folder), anew
        self.checkpoint.settings = {name: str(value) for name, value in asked.items()}
        self.checkpoint.key = fingerprint(sorted(self.checkpoint.settings.items()), tiles, apart)

    @property
    def there(self) -> bool:
        """Whether something is kept."""
        return (self.checkpoint.folder / "state.json").exists()

    def load(self, trainer: Any) -> tuple[list[Any], list[Any]] | None:
        from voxgap.training import ForeignError

        try:
            state = self.checkpoint.load(trainer)
        except ForeignError:
            if not self.anew:
                raise
            self.checkpoint.clear()
            return None
        return None if state is None else (state.records, state.best_weights)

    def save(self, trainer: Any, looks: list[Any], best: list[Any], better: bool) -> None:
        from voxgap.training.checkpoint import State

        self.checkpoint.save(trainer, State(looks, best_weights=best), better)


def patch_of(volumes: Sequence[Values]) -> Size:
    """Return the size of the patches that volumes are cut into."""
    depth, height, width = (min(EDGE, *(volume.shape[axis] for volume in volumes)) for axis in range(3))
    return depth, height, width


def tiled(volumes: Sequence[Values], size: Size, seed: int) -> tuple[Values, Values | None]:
    """Return patches of volumes to learn from, and those that are held out: of other volumes where there are several.

    Raises:
        VoxgapError: Nothing is observed.
    """
    each = [Patches(volume[np.newaxis], size)[:] for volume in volumes]
    parts = each if len(each) > 1 else list(each[0][:, np.newaxis])
    order = np.random.default_rng(seed).permutation(len(parts))
    count = min(-(-len(parts) // round(1 / HELD)), len(parts) - 1)
    apart, tiles = (
        _seen([parts[i] for i in sorted(some)]) for some in (order[:count].tolist(), order[count:].tolist())
    )
    if tiles is None or apart is None:
        tiles, apart = _seen(parts), None
    if tiles is None:
        raise VoxgapError("nothing is observed: there is nothing to learn a fill from")
    return tiles, apart


def _seen(parts: Sequence[Values]) -> Values | None:
    """Return the patches of which something is observed."""
    if not parts:
        return None
    tiles = np.concatenate(parts)
    tiles = tiles[~np.isnan(tiles).all(axis=(1, 2, 3, 4))]
    return tiles if len(tiles) else None


def trained(tiles: Values, options: dict[str, Any], how: dict[str, Any]) -> tuple[Any, list[Any]]:
    """Train a filler on patches, and return its model and what was seen of it."""
    from voxgap.backend import keras
    from voxgap.fill import Deviating, Learned, restoring

    layer = Learned(**{**options, "steps": 0, "seed": how.get("seed", 0)}, name="fill")
    layer.adapt(tiles)
    looks = restoring.train(layer, tiles, **how)
    volumes = keras.Input(tiles.shape[1:], dtype="float32", name="volumes")
    return keras.Model(volumes, Deviating(layer, name="deviating")(volumes), name="learned"), looks


def _simulated(pattern: str, missing_rate: float, mechanism: str) -> Any:
    def punch(volumes: Values, generator: np.random.Generator) -> tuple[Values, Values]:
        gapped = simulate(volumes, pattern, missing_rate, mechanism, seed=generator)
        nothing = np.float32(np.nan)
        return gapped, np.where(np.isnan(gapped), volumes, nothing)

    return punch


def _scores(model: Any, tiles: Values, punch: Any, seed: int) -> dict[str, dict[str, float]]:
    """Errors of what was trained and of kriging, in standard deviations of each of several channels."""
    from voxgap.backend import keras

    layer = model.get_layer("deviating").fill
    seen, hidden = punch(tiles, np.random.default_rng((seed, 1)))
    asked, channels = ~np.isnan(hidden), tiles.shape[-1]
    spread = np.nanstd(tiles, axis=(0, 1, 2, 3)) if channels > 1 else np.ones(1)
    unit = np.broadcast_to(np.where(spread > 0, spread, 1), tiles.shape)[asked]
    found = {}
    for name, fill in (("kriging", layer.closed), ("learned", layer)):
        answers = [fill.with_deviation(seen[i : i + 4]) for i in range(0, len(seen), 4)]
        parts = [
            np.concatenate([keras.ops.convert_to_numpy(one) for one in each])
            for each in zip(*answers, strict=True)
        ]
        value, deviation = (part[asked] for part in parts)
        error = (value.astype(float) - hidden[asked]) / unit
        found[name] = {k: v for k, v in asdict(scores_of(error, deviation / unit)).items() if v is not None}
    return found


def unbeaten(scores: Mapping[str, Mapping[str, float]], *, held_out: bool = True) -> str:
    """Say that kriging does as well as the network that was trained; nothing where it does not.

    Args:
        scores: errors of both, as `train_filler` returns them.
        held_out: whether they are at voxels that were held out.
    """
    closed, own = scores["kriging"]["rmse"], scores["learned"]["rmse"]
    if own < closed:
        return ""
    return (
        f"learned did not beat kriging on what was {'held out' if held_out else 'hidden'} (RMSE {own:.4g} against "
        f"{closed:.4g}): more data or steps, or --strategy kriging"
    )


def _history(looks: Sequence[dict[str, float]], epochs: int) -> History:
    """Tell looks as epochs; the first was before anything was learnt."""
    ran = tuple(looks[1:] or looks)
    best = min(range(len(ran)), key=lambda i: ran[i]["val_loss"])
    ended: Reason = "epochs" if len(ran) >= epochs else "patience"
    return History(ran, "val_loss", best, max(epochs, len(ran)), ended)
