"""Splits: which sample is trained on, validated on and tested on, with each group in one part."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError

SPLITS = ("train", "validation", "test")
FRACTIONS = (0.6, 0.2, 0.2)
TARGET_BINS = 10
_ALIASES = {"val": "validation", "valid": "validation", "training": "train", "testing": "test"}


def split_name(name: str) -> str | None:
    """Return `train`, `validation` or `test`, also for the usual short forms; None for anything else."""
    lower = name.strip().lower()
    known = _ALIASES.get(lower, lower)
    return known if known in SPLITS else None


def make_split(
    targets: Any,
    groups: Any = None,
    seed: int | np.random.Generator = 0,
    fractions: tuple[float, float, float] = FRACTIONS,
    *,
    name: str = "data",
) -> NDArray[np.str_]:
    """Assign each sample to train, validation or test, stratified and with each group in one part.

    Groups are dealt out, the largest first and in random order among equals, each to the part that lacks most
    of its classes. Numbers to predict are stratified by their quantiles.

    Args:
        targets: Class indices `(samples,)`, numbers `(samples,)` or `(samples, outputs)`, or label maps
            `(samples, depth, height, width)`, by which nothing is stratified.
        groups: A name for each sample, or None: each is its own group.
        seed: A number, or a generator to go on with.
        fractions: Shares of train, validation and test; a share of 0 leaves that part empty.
        name: What error messages call the data.

    Returns:
        `train`, `validation` or `test` for each sample.

    Raises:
        VoxgapError: There are too few samples or groups to put one into each part.
    """
    used = np.flatnonzero(fractions)
    parts = _deal(targets, groups, np.asarray(fractions)[used], seed, name)
    return np.array(SPLITS)[used[parts]]


def make_folds(
    targets: Any,
    groups: Any = None,
    folds: int = 5,
    seed: int | np.random.Generator = 0,
    *,
    name: str = "data",
) -> NDArray[np.int_]:
    """Deal the samples into folds of about equal size, stratified and with each group in one fold.

    Args:
        targets, groups, seed, name: As for `make_split`.
        folds: How many, 2 or more.

    Returns:
        The fold of each sample, from 0.

    Raises:
        VoxgapError: There are too few samples or groups to put one into each fold.
    """
    return _deal(targets, groups, np.full(folds, 1 / folds), seed, name)


def _deal(
    targets: Any,
    groups: Any,
    fractions: NDArray[np.float64],
    seed: int | np.random.Generator,
    name: str,
) -> NDArray[np.int_]:
    """Return the part of each sample, from 0: each part gets its fraction of each class, as far as groups allow."""
    strata = _strata(np.asarray(targets))
    members = (
        np.arange(len(strata)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    )
    if len(members) != len(strata):
        raise VoxgapError(f"{name}: {len(members)} groups for {len(strata)} samples; give one for each")
    counts = np.zeros((members.max() + 1, strata.max() + 1))
    np.add.at(counts, (members, strata), 1)
    wanted = np.outer(fractions, counts.sum(axis=0))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    lacking = wanted.copy()
    parts = np.empty(len(counts), int)
    for group in order:
        # Whole groups may overshoot: the total decides between parts that lack this class equally.
        need = (lacking / wanted.clip(1e-9)) @ counts[group] + 1e-3 * lacking.sum(axis=1) / wanted.sum(axis=1)
        parts[group] = need.argmax()
        lacking[parts[group]] -= counts[group]
    if len(np.unique(parts)) < len(fractions):
        what = "samples" if groups is None else "groups"
        raise VoxgapError(
            f"{name}: {len(counts)} {what} are too few for {len(fractions)} parts; add some, or give a split"
        )
    return parts[members]


def _strata(targets: NDArray[Any]) -> NDArray[np.int_]:
    if targets.ndim > 2:  # label maps: no sample has a class of its own
        return np.zeros(len(targets), int)
    if targets.dtype.kind != "f":
        return np.unique(targets, return_inverse=True)[1]
    first = targets.reshape(len(targets), -1)[:, 0]
    bins = min(TARGET_BINS, max(1, len(first) // 5))
    edges = np.quantile(first, np.linspace(0, 1, bins + 1)[1:-1])
    return np.unique(np.searchsorted(edges, first), return_inverse=True)[1]


def split_names(split: NDArray[Any], name: str) -> NDArray[np.str_]:
    """Return the full name of each part, or raise a `VoxgapError` that names the data and the unknown one."""
    known = [split_name(str(part)) for part in split]
    if None in known:
        raise VoxgapError(
            f"{name}: split {str(split[known.index(None)])!r} is unknown; use {', '.join(SPLITS)}"
        )
    return np.array(known, dtype="<U10")


def completed_split(
    split: NDArray[Any], targets: NDArray[Any], groups: Any, seed: int | np.random.Generator, name: str
) -> NDArray[np.str_]:
    """Check a given split; take validation samples out of the training part where there are none."""
    if len(split) != len(targets):
        raise VoxgapError(f"{name}: {len(split)} split names for {len(targets)} volumes; give one for each")
    split = split_names(split, name)
    training = np.flatnonzero(split == "train")
    if not len(training):
        raise VoxgapError(f"{name}: no sample in split 'train'; assign some to it")
    members = None if groups is None else np.asarray(groups).astype(np.str_)
    if members is not None:
        part_of: dict[str, str] = {}
        for group, part in zip(members.tolist(), split.tolist(), strict=True):
            if part_of.setdefault(group, part) != part:
                raise VoxgapError(f"{name}: group {group!r} is in two parts of the split; keep it in one")
    if "validation" not in split:
        own_groups = None if members is None else members[training]
        split[training] = make_split(targets[training], own_groups, seed, (0.8, 0.2, 0.0), name=name)
    return split


def given_split(split: Any, count: int, name: str) -> NDArray[np.str_]:
    """Return the split of data that is only to be scored: as given, or all of it `test`."""
    if split is None:
        return np.full(count, "test")
    if len(split) != count:
        raise VoxgapError(f"{name}: {len(split)} split names for {count} volumes; give one for each")
    return split_names(np.asarray(split), name)
