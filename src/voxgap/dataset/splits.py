"""Splits: which sample is trained on, validated on and tested on, with each group in one part."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.names import TEST_SHARE, VALIDATION_SHARE

SPLITS = ("train", "validation", "test")
TARGET_BINS = 10
_ALIASES = {"val": "validation", "valid": "validation", "training": "train", "testing": "test"}


def _fractions(validation: float, test: float) -> tuple[float, float, float]:
    """Return the shares of all three parts; rounded, since by the last bit of a share samples would come elsewhere."""
    return round(1 - validation - test, 12), validation, test


FRACTIONS = _fractions(VALIDATION_SHARE, TEST_SHARE)


@dataclass(frozen=True)
class Division:
    """How samples come into parts: as their data says, and by shares where it says nothing.

    Args:
        given: A part for each sample; None: they are dealt out.
        validation: Share of what is dealt out, in (0, 1); None: nobody asked for one.
        test: Share in [0, 1); 0: nothing is tested on.

    Raises:
        VoxgapError: There are no such shares.
    """

    given: Any = None
    validation: float | None = None
    test: float | None = None

    def __post_init__(self) -> None:
        for part in ("validation", "test"):
            share = getattr(self, part)
            if share is not None and (not isinstance(share, numbers.Real) or not 0 <= float(share) < 1):
                raise VoxgapError(f"{part} share must be from 0 to below 1, as in 0.1, got {share}")
        if self.validation == 0:
            raise VoxgapError("validation share must be above 0: the best epoch is chosen on that part")
        train, validation, test = self.fractions
        if train <= 0:
            raise VoxgapError(
                f"validation share {validation:g} and test share {test:g} leave nothing to train on; "
                "give shares that add up to less than 1"
            )

    @classmethod
    def of(cls, split: Any) -> Division:
        """Return that of a part for each sample, of shares such as `{"validation": 0.1, "test": 0}`, or of None."""
        if isinstance(split, Division):
            return split
        if not isinstance(split, Mapping):
            return cls(split)
        if unknown := sorted(map(str, set(split) - {"validation", "test"})):
            raise VoxgapError(
                f"split: no share of {unknown[0]!r} is asked for; give those of validation and test"
            )
        return cls(None, **split)

    @property
    def fractions(self) -> tuple[float, float, float]:
        """Shares of train, validation and test."""
        validation = VALIDATION_SHARE if self.validation is None else self.validation
        return _fractions(validation, TEST_SHARE if self.test is None else self.test)

    def parts(
        self,
        targets: NDArray[Any],
        groups: Any,
        seed: int | np.random.Generator,
        name: str,
        classes: Sequence[str] = (),
    ) -> NDArray[np.str_]:
        """Return the part of each sample; validation samples leave the training part where no split has any.

        Shares that somebody asked for leave no part without one of the classes; by default a class of two samples is
        only in two parts.

        Args:
            targets, groups, seed, name: As for `make_split`.
            classes: What classes are called; of anything else nothing.

        Raises:
            VoxgapError: The parts do not fit the samples, or the shares do not fit their split or their classes.
        """
        fractions = self.fractions
        if self.given is None:
            split, dealt = (
                make_split(targets, groups, seed, fractions, name=name),
                np.ones(len(targets), bool),
            )
        else:
            split = _checked(np.asarray(self.given), targets, groups, name)
            self.refuse_for(split, name)
            dealt = split == "train"
            if "validation" in split:
                return split
            fractions = _fractions(fractions[1], 0.0)
            own = None if groups is None else np.asarray(groups).astype(np.str_)[dealt]
            split[dealt] = make_split(targets[dealt], own, seed, fractions, name=name)
        if (self.validation, self.test) != (None, None):
            _refuse_without_class(split, dealt, targets, fractions, classes, name)
        return split

    def refuse_for(self, split: NDArray[Any], name: str) -> None:
        """Refuse shares of parts that a split says.

        Raises:
            VoxgapError: It has a share for one.
        """
        said = "test" if self.test is not None else "validation"
        if self.test is not None or (self.validation is not None and "validation" in split):
            how = "says the" if said in split else "has no"
            raise VoxgapError(
                f"{name}: has a split of its own, which {how} {said} part; leave out its share"
                f"{'' if said in split else ', or the split'}"
            )


def _refuse_without_class(
    split: NDArray[np.str_],
    dealt: NDArray[np.bool_],
    targets: NDArray[Any],
    fractions: tuple[float, float, float],
    classes: Sequence[str],
    name: str,
) -> None:
    for part, share in zip(SPLITS, fractions, strict=True):
        for index, label in enumerate(classes if share else ()):
            held = split[dealt & (targets == index)]
            if len(held) and part not in held:
                raise VoxgapError(
                    f"{name}: class {label!r}, of {len(held)} samples that are dealt out, would be missing in the "
                    f"{part} part, a share of {share:g}; choose another share, or leave the class out"
                )


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


def _checked(split: NDArray[Any], targets: NDArray[Any], groups: Any, name: str) -> NDArray[np.str_]:
    """Return the full names of a given split, if it fits the samples and keeps groups together."""
    if len(split) != len(targets):
        raise VoxgapError(f"{name}: {len(split)} split names for {len(targets)} volumes; give one for each")
    split = split_names(split, name)
    if "train" not in split:
        raise VoxgapError(f"{name}: no sample in split 'train'; assign some to it")
    if groups is not None:
        part_of: dict[str, str] = {}
        for group, part in zip(np.asarray(groups).astype(np.str_).tolist(), split.tolist(), strict=True):
            if part_of.setdefault(group, part) != part:
                raise VoxgapError(f"{name}: group {group!r} is in two parts of the split; keep it in one")
    return split


def given_split(split: Any, count: int, name: str) -> NDArray[np.str_]:
    """Return the split of data that is only to be scored: as given, or all of it `test`."""
    if split is None:
        return np.full(count, "test")
    if len(split) != count:
        raise VoxgapError(f"{name}: {len(split)} split names for {count} volumes; give one for each")
    return split_names(np.asarray(split), name)
