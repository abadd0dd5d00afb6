"""What the runs of an experiment share: the same splits and the same gaps, whatever the strategy."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.dataset import Dataset
from voxgap.dataset.gaps import own_gaps
from voxgap.dataset.splits import SPLITS, make_folds, make_split
from voxgap.errors import VoxgapError
from voxgap.experiment.cache import cached
from voxgap.experiment.plan import Run, key_of
from voxgap.missingness import sample_gaps
from voxgap.ragged import differ, each, is_by_item
from voxgap.recipe import Gaps

Indices = NDArray[np.intp]

VALIDATION_SHARE = 0.2
FEWEST_PER_CLASS = 2


class NotPossibleError(Exception):
    """What a run asks for can't be had from these data, and why: a finding, not a failure."""


@dataclass(frozen=True, eq=False)
class Parts:
    """Which samples a run trains on, watches and is scored on, as indices in ascending order."""

    train: Indices
    validation: Indices
    test: Indices


def content_key(dataset: Dataset) -> str:
    """Return 16 hexadecimal digits of all that an outcome depends on: values, gaps, targets, groups and the split."""
    digest = hashlib.sha256()
    for volume in dataset.volumes:  # one at a time: they may be on disk
        digest.update(np.ascontiguousarray(volume).data)
    for array in (dataset.targets, dataset.split, dataset.groups, dataset.label_maps):
        parts = [b"-"] if array is None else array if is_by_item(array) else [array]
        for part in parts:
            digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes())
    digest.update(repr((dataset.volumes.shape, dataset.task, dataset.classes)).encode())
    if dataset.drawn is not None:
        digest.update(b"scored on own grids")  # as it once was not: such results are others
    return digest.hexdigest()[:16]


def divide(run: Run, dataset: Dataset, cache: Path | None = None) -> Parts:
    """Return the parts of a run: those that were `dealt`; `drop` trains and watches complete volumes only.

    Raises:
        VoxgapError: there are too few samples or groups.
        NotPossibleError: `drop`, and too few volumes are complete.
    """
    split = run.folds, run.split_seed, run.repeat, run.fold
    parts = dealt(dataset, *split)
    if run.strategy != "drop":
        return parts
    complete = _complete(run, dataset, np.union1d(parts.train, parts.validation), cache)
    _check_enough(dataset, complete, complete)
    try:
        parts = dealt(dataset, *split, among=complete)
    except VoxgapError as error:
        raise NotPossibleError(f"complete volumes alone can't be divided: {error}") from None
    _check_enough(dataset, parts.train, parts.validation)
    return parts


def dealt(
    dataset: Dataset,
    folds: int,
    split_seed: int,
    repeat: int = 0,
    fold: int = 0,
    among: Indices | None = None,
) -> Parts:
    """Return the parts of a split: a fold for the test, and of the rest a fifth for validation.

    Both are stratified, and keep each group in one part. With one fold it is the data's own split.

    Args:
        dataset: that is dealt out.
        folds, split_seed, repeat, fold: see `Run`.
        among: samples that may be trained on and watched; all, if nothing is said.

    Raises:
        VoxgapError: there are too few samples or groups.
    """
    among = np.arange(len(dataset)) if among is None else among
    if folds == 1:
        train, validation, test = (np.flatnonzero(dataset.split == part) for part in SPLITS)
        if not len(test):
            raise VoxgapError(f"{dataset.name}: no test part in its split; give one, or ask for folds")
        return Parts(np.intersect1d(train, among), np.intersect1d(validation, among), test)
    strata = _strata(dataset)
    stream = np.random.default_rng((split_seed, repeat))
    number = make_folds(strata, dataset.groups, folds, stream, name=dataset.name)
    outer = np.intersect1d(np.flatnonzero(number != fold), among)
    groups = None if dataset.groups is None else dataset.groups[outer]
    stream = np.random.default_rng((split_seed, repeat, fold))
    shares = (1 - VALIDATION_SHARE, VALIDATION_SHARE, 0.0)
    inner = make_split(strata[outer], groups, stream, shares, name=dataset.name)
    return Parts(outer[inner == "train"], outer[inner == "validation"], np.flatnonzero(number == fold))


def _strata(dataset: Dataset) -> NDArray[Any]:
    """Return what is dealt out evenly: classes, numbers, or for label maps the commonest label but the background's."""
    targets = dataset.targets
    if targets.dtype.kind == "f" or targets.ndim == 1:
        return targets
    return np.array([np.bincount(m[m > 0], minlength=1).argmax() for m in targets])


def _complete(run: Run, dataset: Dataset, indices: Indices, cache: Path | None) -> Indices:
    """Return those of the samples that have no gap of their own and get none."""
    gaps = missing_units(run, dataset, run.train_rate, cache)
    hit = np.zeros(len(dataset), bool) if gaps is None else np.array([bool(one.any()) for one in gaps])
    return np.array([i for i in indices if not hit[i] and not own_gaps(dataset, i).any()], dtype=np.intp)


def _check_enough(dataset: Dataset, train: Indices, validation: Indices) -> None:
    if not len(train) or not len(validation):
        raise NotPossibleError(
            "no volume is complete" if not len(train) else "no validation volume is complete"
        )
    if dataset.task != "classification":
        if len(train) < FEWEST_PER_CLASS:
            raise NotPossibleError(f"only {len(train)} training volumes are complete")
        return
    # Only classes that occur can be asked for.
    occurs = np.bincount(dataset.targets, minlength=len(dataset.classes)) > 0
    counts = np.bincount(dataset.targets[train], minlength=len(dataset.classes))
    fewest = int(np.where(occurs, counts, counts.max() + 1).argmin())
    if counts[fewest] < FEWEST_PER_CLASS:
        raise NotPossibleError(
            f"class {dataset.classes[fewest]!r} has {counts[fewest]} complete training volumes, "
            f"and {FEWEST_PER_CLASS} are needed"
        )


def missing_units(
    run: Run, dataset: Dataset, rate: float, cache: Path | None = None
) -> NDArray[np.bool_] | None:
    """Return where gaps are simulated at one rate, over the whole data set; None where there are none.

    They depend on the data, the pattern, the mechanism, the rate, the seed of splits and the repeat, and on nothing
    else: each strategy, model and fold meets the same ones, and a verdict over several repeats is one over several
    draws. Those of the first repeat are what `simulate` makes with the seed of splits.

    Returns:
        `(samples, d, h, w, c)`, True = goes missing; a size is 1 where a gap spans the axis.
    """
    if rate == 0:
        return None

    def draw() -> NDArray[np.bool_]:
        stream = np.random.default_rng(np.random.SeedSequence(run.split_seed, spawn_key=_anew(run)))
        return sample_gaps(dataset.volumes, **_at(run, rate).arguments(), seed=stream).missing

    # Of several shapes they are no one array that could be kept.
    return cached(None if differ(dataset.volumes) else cache, f"gaps-{gaps_key(run, rate)}", draw)


def gaps_key(run: Run, rate: float) -> str:
    """Return what the simulated gaps at one rate are known by."""
    return key_of([run.data_key, _at(run, rate).to_json(), run.split_seed, *_anew(run)])


def weights_seed(run: Run) -> int:
    """Return the seed of a run's weights and batches: another in each split, the same for all strategies in it.

    Were it the same in all splits, the luck of one draw of weights would be in every score of a strategy, and no
    scatter between splits would show it: by that a strategy was told from itself under another seed.
    """
    if not run.repeat and not run.fold:
        return run.seed
    sequence = np.random.SeedSequence(run.seed, spawn_key=(run.repeat, run.fold))
    return int(sequence.generate_state(1)[0] >> 1)


def _at(run: Run, rate: float) -> Gaps:
    """Return the gaps of a run at one of its rates."""
    return dataclasses.replace(run.gaps or Gaps(), missing_rate=rate)


def _anew(run: Run) -> tuple[int, ...]:
    return (run.repeat,) if run.repeat else ()


def with_gaps(
    run: Run, dataset: Dataset, indices: Indices, rate: float, cache: Path | None = None
) -> Dataset:
    """Return these samples with the gaps of their own and the simulated ones."""
    part = dataset.take(indices)
    missing = missing_units(run, dataset, rate, cache)
    if missing is None:
        return part if differ(part.volumes) else part.with_volumes(np.asarray(part.volumes))
    gapped = each(
        lambda gone, values: np.where(gone, np.float32(np.nan), values), missing[indices], part.volumes
    )
    return part.with_volumes(gapped)
