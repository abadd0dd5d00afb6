"""From data and a recipe to a bundle: set aside what a guarantee takes, train, score, save, and promise."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voxgap.bundle.continuing import STATE, forget, outdated
from voxgap.bundle.guaranteeing import Guaranteed, guarantee, set_aside
from voxgap.bundle.saving import Origin, save_bundle
from voxgap.dataset import Dataset
from voxgap.dataset.gaps import with_simulated
from voxgap.errors import VoxgapError
from voxgap.files import write_bytes
from voxgap.metrics.overlap import digests, known_cases
from voxgap.recipe import Gaps, Recipe

if TYPE_CHECKING:
    from voxgap.experiment import Result
    from voxgap.models.beginning import Taken

BEGAN = "began.json"


@dataclass(frozen=True)
class Material:
    """The data of a bundle.

    Attributes:
        learnt: what its network is trained, chosen and scored on, with the simulated gaps.
        known: the cases that it will have met, by part; see `voxgap.metrics.overlap.known_cases`.
        aside: what a guarantee is calibrated on, and nothing else sees; None where there is none.
        coverage: that is to be guaranteed.
    """

    learnt: Dataset
    known: Mapping[str, list[str]]
    aside: Dataset | None = None
    coverage: float | None = None


def material(
    raw: Dataset, gaps: Gaps | None, *, coverage: float | None = None, refit: bool = False, seed: int = 0
) -> Material:
    """Simulate gaps, and set aside what a guarantee is to be calibrated on.

    Args:
        raw: as it was read.
        gaps: that are simulated besides its own.
        coverage: that is to be guaranteed; None: nothing is.
        refit: whether the network will learn from all parts.
        seed: of the gaps, and of what is set aside.

    Raises:
        VoxgapError: such gaps can't be, or too few samples would be set aside.
    """
    dataset = raw
    if gaps is not None:
        dataset = with_simulated(raw, gaps.pattern, gaps.missing_rate, gaps.mechanism, seed)
    aside = np.zeros(len(raw), bool) if coverage is None else set_aside(dataset, coverage, seed)
    learnt = np.full(len(raw), "train") if refit else raw.split
    known = known_cases(digests(raw.volumes), np.where(aside, "calibration", learnt), raw.groups)
    if coverage is None:
        return Material(dataset, known)
    kept, held = (dataset.take(np.flatnonzero(which)) for which in (~aside, aside))
    return Material(kept, known, held, coverage)


@dataclass(frozen=True)
class Trained:
    """What came of training a bundle.

    Attributes:
        result: the network and what it is worth.
        promised: what is guaranteed; None where nothing was asked for.
        gone: of what was exported of the network before, a line each.
    """

    result: Result
    promised: Guaranteed | None
    gone: list[str]


def train_bundle(
    folder: Path,
    given: Material,
    recipe: Recipe,
    origin: Origin,
    progress: Callable[[], contextlib.AbstractContextManager[Any]],
    noted: Callable[[Path], None],
    *,
    overwrite: bool = False,
    again: Collection[str] = (),
    begin: Callable[[Any], Taken] | None = None,
    **learning: Any,
) -> Trained:
    """Train a network, going on from what the folder keeps of such a training, and save it there.

    Args:
        folder: for the bundle; nobody else works in it.
        given: its data.
        recipe: what is trained, and how.
        origin: what else it comes from; its seed is that of weights and batches.
        progress: gives a context for the time of the training, and with it what is told of each step.
        noted: leaves in a folder how this was asked for.
        overwrite: train anew where the folder keeps another training.
        again: formats and packages that will be exported anew.
        begin: as for `voxgap.experiment.train_and_score`; a training goes on with what it began with.
        **learning: `refit` and `filler` of the same.

    Raises:
        ForeignError: the folder keeps another training.
        VoxgapError: as for `train_and_score`, `save_bundle` and `guarantee`.
    """
    from voxgap.experiment import train_and_score
    from voxgap.training import ForeignError

    state = folder / STATE
    seed = origin.seed or 0

    def go_on() -> Result:
        if not (state / "state.json").is_file():
            state.mkdir(parents=True, exist_ok=True)
            noted(state)
        with progress() as live:
            running = {"progress": live, "checkpoint": state, "keep_checkpoint": True}
            if begin is not None:
                running["begin"] = _as_it_began(begin, folder, ForeignError if overwrite else VoxgapError)
            return train_and_score(given.learnt, recipe, seed=seed, **learning, **running)

    if overwrite:
        forget(folder)
    try:
        result = go_on()
    except ForeignError:
        if not overwrite:
            raise
        shutil.rmtree(state)
        result = go_on()
    if result.refitted is not None:
        origin = dataclasses.replace(origin, judged=result.model)
    if result.taken is not None:
        origin = dataclasses.replace(origin, began=result.taken._asdict())
    gone = outdated(folder, again)
    save_bundle(
        folder,
        result.model if result.refitted is None else result.refitted,
        given.learnt,
        recipe=result.recipe,
        origin=origin,
        history=result.history,
        scored=result.scored,
        decision=result.decision,
        known=given.known,
    )
    noted(folder)
    noted(state)
    promised = None
    if given.aside is not None and given.coverage is not None:
        promised = guarantee(folder, given.aside, given.coverage, "all", seed=seed)
    return Trained(result, promised, gone)


def _as_it_began(
    begin: Callable[[Any], Taken], folder: Path, refusal: type[VoxgapError]
) -> Callable[[Any], Taken]:
    """Return what lets a network begin, keeps with what it did, and refuses to go on with anything else."""
    file = folder / STATE / BEGAN
    goes_on = (folder / STATE / "state.json").is_file() and file.is_file()

    def begun(model: Any) -> Taken:
        taken = begin(model)
        if not goes_on:
            write_bytes(file, json.dumps(taken._asdict()).encode())
            return taken
        said = json.loads(file.read_bytes())
        kept = taken._replace(**said | {"channels": tuple(said["channels"])})
        if kept.sha256 != taken.sha256:
            raise refusal(
                f"{folder} keeps a training that began with another filler, {kept.filler} of SHA-256 "
                f"{kept.sha256[:12]}, not {taken.filler} of {taken.sha256[:12]}: give that one to go on, or choose "
                "another folder, or pass --overwrite to train anew"
            )
        return kept

    return begun
