"""Splits: which sample is trained on, validated on and tested on, with each group in one part."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Iterator, Mapping, Sequence
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
            split = make_split(targets, groups, seed, fractions, name=name)
            dealt = np.ones(len(targets), bool)
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
            _warn_of_shares(split[dealt], fractions, groups is not None, name)
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


def _warn_of_shares(
    dealt: NDArray[np.str_], fractions: tuple[float, float, float], grouped: bool, name: str
) -> None:
    """Say where parts came out otherwise than they were asked for, by more than rounding."""
    found = np.array([np.sum(dealt == part) for part in SPLITS])
    if _off(found, fractions) <= 1:
        return
    got = ", ".join(
        f"{part} {here} ({here / len(dealt):.0%}; asked for {share:.0%})"
        for part, here, share in zip(SPLITS, found, fractions, strict=True)
    )
    why = "groups stay whole, and " if grouped else ""
    warnings.warn(
        f"{name}: of {len(dealt)} samples that are dealt out {got}: {why}classes of few samples can't be divided "
        "more finely",
        stacklevel=5,
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
    shares = np.asarray(fractions)[used]
    # What is divided by default stays as it was.
    others = not set(fractions[1:]) <= {VALIDATION_SHARE, TEST_SHARE, 0}
    parts = _deal(targets, groups, shares, seed, name, others)
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
    coarser: bool = False,
) -> NDArray[np.int_]:
    """Return the part of each sample, from 0: each part gets its fraction of each class, as far as groups allow.

    Args:
        targets, groups, fractions, seed, name: As for `make_split`.
        coarser: Whether numbers are put into fewer bins where too much would come of rounding in each of them.
    """
    values = np.asarray(targets)
    count = len(values)
    members = np.arange(count) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if len(members) != count:
        raise VoxgapError(f"{name}: {len(members)} groups for {count} samples; give one for each")
    sizes = np.bincount(members)
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    found: list[tuple[float, NDArray[np.int_]]] = []
    for strata in _strata(values):
        counts = np.zeros((len(sizes), strata.max() + 1))
        np.add.at(counts, (members, strata), 1)
        parts = _parts(counts, order, fractions)
        off = _off(np.bincount(parts, sizes, len(fractions)), fractions)
        found.append((off, parts))
        if not coarser or off <= 1:
            break
    parts = min(found, key=lambda one: one[0])[1]
    if len(np.unique(parts)) < len(fractions):
        what = "samples" if groups is None else "groups"
        raise VoxgapError(
            f"{name}: {len(sizes)} {what} are too few for {len(fractions)} parts; add some, or give a split"
        )
    return parts[members]


def _parts(
    counts: NDArray[np.float64], order: NDArray[np.int_], fractions: NDArray[np.float64]
) -> NDArray[np.int_]:
    """Return the part of each group, by how many of each class it has, `(groups, classes)`."""
    wanted = np.outer(fractions, counts.sum(axis=0))
    lacking = wanted.copy()
    parts = np.empty(len(counts), int)
    for group in order:
        # Whole groups may overshoot: the total decides between parts that lack this class equally.
        need = (lacking / wanted.clip(1e-9)) @ counts[group] + 1e-3 * lacking.sum(axis=1) / wanted.sum(axis=1)
        parts[group] = need.argmax()
        lacking[parts[group]] -= counts[group]
    return parts


def _off(found: NDArray[Any], fractions: Any) -> float:
    """Return how far the sizes of parts are from their shares; 1 is a sample, or two of a hundred if that is more."""
    count = found.sum()
    return float(np.abs(found - np.asarray(fractions) * count).max() / max(1, 0.02 * count))


def _strata(targets: NDArray[Any]) -> Iterator[NDArray[np.int_]]:
    """Yield the class of each sample; of numbers their bins, and then fewer and fewer."""
    if targets.ndim > 2:  # label maps: no sample has a class of its own
        yield np.zeros(len(targets), int)
    elif targets.dtype.kind != "f":
        yield np.unique(targets, return_inverse=True)[1]
    else:
        first = targets.reshape(len(targets), -1)[:, 0]
        for bins in range(min(TARGET_BINS, max(1, len(first) // 5)), 0, -1):
            edges = np.quantile(first, np.linspace(0, 1, bins + 1)[1:-1])
            yield np.unique(np.searchsorted(edges, first), return_inverse=True)[1]


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
