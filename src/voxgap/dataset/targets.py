"""What is to be predicted: classes from labels as people write them, or numbers; and whether it can be learnt."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.arrays import as_array
from voxgap.dataset.lazy import OnDisk
from voxgap.dataset.splits import Division, given_split
from voxgap.errors import VoxgapError
from voxgap.grid import UNLABELLED
from voxgap.ragged import each
from voxgap.table import is_number
from voxgap.volume import times

_WHOLE = re.compile(r"([+-]?\d+)\.0*", re.ASCII)
_MAX_NAMED = 12


def learnable(
    count: int,
    labels: Any,
    targets: Any,
    classes: Sequence[str] | None,
    split: Any,
    groups: Any,
    seed: int | np.random.Generator,
    name: str,
    scoring: bool = False,
) -> tuple[NDArray[Any], tuple[str, ...], NDArray[np.str_]]:
    """Return what is to be predicted, the names of the classes and the split, or say why it can't be learnt.

    What is only to be scored needs no second class, and no other part than its own.
    """
    if (labels is None) == (targets is None):
        raise VoxgapError(f"{name}: give either labels (classes) or targets (numbers), or label maps alone")
    names: tuple[str, ...] = ()
    wanted: NDArray[Any]
    if labels is None:
        wanted = _numbers(targets, name)
    else:
        wanted, names = _labels(labels, classes, name)
    if len(wanted) != count:
        what = "targets" if labels is None else "labels"
        raise VoxgapError(f"{name}: {len(wanted)} {what} for {count} volumes; give one for each")
    if scoring:
        return wanted, names, given_split(Division.of(split).given, count, name)
    if labels is not None:
        _check_classes(wanted, names, name)
    return wanted, names, Division.of(split).parts(wanted, groups, seed, name, names)


def _numbers(targets: Any, name: str) -> NDArray[np.float32]:
    try:
        with np.errstate(over="ignore"):  # the data set refuses what is not finite
            numbers = as_array(targets, f"{name}: targets").astype(np.float32)
    except (ValueError, TypeError) as error:
        raise VoxgapError(f"{name}: targets are not numbers ({error}); give classes as labels") from error
    return numbers[:, 0] if numbers.ndim == 2 and numbers.shape[1] == 1 else numbers


def _labels(
    labels: Any, classes: Sequence[str] | None, name: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return class indices and class names."""
    array = as_array(labels, f"{name}: labels")
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.ndim != 1 or array.dtype.kind not in "biufUS":
        raise VoxgapError(
            f"{name}: labels of shape {times(array.shape)} and dtype {array.dtype}; give one class each"
        )
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise VoxgapError(
                f"{name}: label {int(np.argmin(np.isfinite(array)))} is NaN; give each volume a class"
            )
        if (array != np.round(array)).any():
            raise VoxgapError(f"{name}: labels are not whole numbers; give numbers to predict as targets")
    if array.dtype.kind in "US":
        array = np.array([class_name(label) for label in array.astype(np.str_).tolist()])
        if (array == "").any():
            raise VoxgapError(
                f"{name}: label {int(np.argmax(array == ''))} is empty; give each volume a class"
            )
        return _text_labels(array, classes, name)
    numbers = array.astype(np.int64)
    if classes is None:
        found, indices = np.unique(numbers, return_inverse=True)
        return indices.astype(np.int64), tuple(map(str, found))
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(classes):
        raise VoxgapError(
            f"{name}: labels go from {numbers.min()} to {numbers.max()}, with {len(classes)} class names"
        )
    return numbers, tuple(map(str, classes))


def _text_labels(
    labels: NDArray[np.str_], classes: Sequence[str] | None, name: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    def by_number(label: str) -> tuple[bool, Decimal, str]:
        is_whole = label.isascii() and label.removeprefix("-").isdecimal()
        return not is_whole, Decimal(label) if is_whole else Decimal(0), label

    names = sorted(set(labels.tolist()), key=by_number) if classes is None else [str(c) for c in classes]
    index = {class_name(label): position for position, label in enumerate(names)}
    unknown = sorted(set(labels.tolist()) - set(index))
    if unknown:
        raise VoxgapError(f"{name}: label {unknown[0]!r} is not among the classes {', '.join(names)}")
    return np.array([index[label] for label in labels], np.int64), tuple(names)


def _check_classes(targets: NDArray[Any], classes: tuple[str, ...], name: str) -> None:
    counts = np.bincount(targets, minlength=len(classes))
    if (counts > 0).sum() < 2:
        raise VoxgapError(
            f"{name}: all volumes are of class {classes[counts.argmax()]!r}; give at least two classes"
        )
    if (counts == 1).any():
        lonely = classes[int((counts == 1).argmax())]
        raise VoxgapError(f"{name}: class {lonely!r} has one sample only; add some, or leave the class out")


def class_name(label: str) -> str:
    """Return the name of the class that a label means: `1` and `1.0` are one, whichever program wrote the table.

    So are letters with accents of their own and such with them: Unicode's NFC, UAX 15; and `True`, `TRUE` and `true`.
    """
    label = unicodedata.normalize("NFC", label).strip()
    if label.lower() in ("true", "false"):  # pandas, R and JSON
        return label.lower()
    whole = _WHOLE.fullmatch(label)
    return whole[1] if whole else label


def alike(labels: Iterable[str]) -> tuple[str, str] | None:
    """Return two labels that people would read as one, such as `1` and `01`, or `sick` and `Sick`, if there are any."""
    seen: dict[Decimal | str, str] = {}
    for label in sorted(set(map(class_name, labels))):
        meaning = Decimal(label) if is_number(label) else " ".join(label.casefold().split())
        if seen.setdefault(meaning, label) != label:
            return seen[meaning], label
    return None


def as_classes(
    wanted: Any,
    names: Sequence[str],
    classes: Sequence[str],
    values: Sequence[int] | None = None,
    learnt: Sequence[int] | None = None,
) -> Any:
    """Return class indices, `(samples,)` or label maps, that count among other classes, or None where one lacks.

    Args:
        wanted: Indices among `names`; -1 stays.
        names: Of the classes in this data.
        classes: All that a network knows; data that is to be scored may lack some.
        values, learnt: What stands for each of them in label maps of this data, and of the training data.
    """
    places = class_places(names, classes, np.ndim(wanted) > 2, values, learnt)
    if places is None or places == list(range(len(places))):
        return None if places is None else wanted
    return _looked_up(wanted, np.array([*places, UNLABELLED]))


def class_places(
    names: Sequence[str],
    classes: Sequence[str],
    of_maps: bool,
    values: Sequence[int] | None = None,
    learnt: Sequence[int] | None = None,
) -> list[int] | None:
    """Return the index among other classes of each class of some data, or None where one lacks.

    Args:
        names, classes, values, learnt: As for `as_classes`.
        of_maps: Whether they are classes of label maps, of which the values count where only one side has names: a
            description beside the one data may name them, and none beside the other.
    """
    index = {class_name(name): position for position, name in enumerate(classes)}
    places = [index.get(class_name(name)) for name in names]
    values, learnt = values or _values(names), learnt or _values(classes)
    if None in places and of_maps and _is_named(names, values) != _is_named(classes, learnt):
        by_value = {value: position for position, value in enumerate(learnt)}
        places = [by_value.get(value) for value in values]
    found = [place for place in places if place is not None]
    return found if len(found) == len(places) else None


def _values(names: Sequence[str]) -> Sequence[int]:
    """Return the values in label maps that classes go by: numbers by themselves, names by their order."""
    return [int(name) for name in names] if all(map(str.isdecimal, names)) else range(len(names))


def _is_named(names: Sequence[str], values: Sequence[int]) -> bool:
    """Tell whether classes are called otherwise than what stands for them: nnU-Net's 3 and 4 may name 1 and 2."""
    return list(names) != [str(value) for value in values]


def voxel_classes(
    label_maps: Any, classes: Sequence[str] | None, name: str, scoring: bool = False
) -> tuple[Any, tuple[str, ...], tuple[int, ...]]:
    """Return label maps of class indices, the names of the classes, and the value that stood for each.

    Without names, each value that occurs is a class of that name: of masks drawn with 0 and 255 there are two.

    Args:
        label_maps: `(samples, depth, height, width)`, -1 = nobody said; read one by one.
        classes: names, 0 first, or None.
        name: What error messages call the data.
        scoring: Whether a trained network is to be scored on them: one class is enough.

    Raises:
        VoxgapError: They can't be learnt.

    Warns:
        UserWarning: There are values between those that occur.
    """
    seen = np.zeros(np.iinfo(np.int16).max + 2, bool)  # the last one is that of -1
    for label_map in label_maps:
        seen[np.asarray(label_map).ravel()] = True
    values = np.flatnonzero(seen[:-1])
    if len(values) < (1 if scoring else 2):
        raise VoxgapError(
            f"{name}: the label maps hold {'one class' if len(values) else 'nothing'}; give at least two classes"
        )
    if classes is not None and values[-1] >= len(classes):
        raise VoxgapError(f"{name}: label maps go up to {values[-1]}, with {len(classes)} class names")
    if classes is not None:
        return label_maps, tuple(map(str, classes)), tuple(range(len(classes)))
    stood = tuple(values.tolist())
    names = tuple(map(str, stood))
    if values[-1] == len(values) - 1:
        return label_maps, names, stood
    if scoring:  # the network's classes are the ones that count
        return _as_indices(label_maps, values), names, stood
    some = ", ".join(names[:_MAX_NAMED]) + (", ..." if len(names) > _MAX_NAMED else "")
    warnings.warn(
        f"{name}: label maps hold {len(names)} values from {names[0]} to {names[-1]}, so there are {len(names)} "
        f"classes, called {some}",
        stacklevel=2,
    )
    return _as_indices(label_maps, values), names, stood


def _as_indices(label_maps: Any, values: NDArray[np.intp]) -> Any:
    lookup = np.full(np.iinfo(np.int16).max + 2, UNLABELLED)
    lookup[values] = np.arange(len(values))
    return _looked_up(label_maps, lookup)


def without_value(label_maps: Any, value: int) -> Any:
    """Return label maps in which a value means that nobody said."""
    lookup = np.arange(np.iinfo(np.int16).max + 2)
    lookup[[value, -1]] = UNLABELLED
    return _looked_up(label_maps, lookup)


def _looked_up(indices: Any, lookup: NDArray[Any]) -> Any:
    """Return other whole numbers for each, in the same type; the last one of the lookup stands for -1."""
    if isinstance(indices, OnDisk):
        return indices.coded(lookup)
    codes = lookup.astype(indices.dtype)
    return each(lambda one: codes[one], indices)


def unstratified_split(
    count: int, split: Any, groups: Any, seed: int | np.random.Generator, name: str, scoring: bool = False
) -> NDArray[np.str_]:
    """Split samples that have no class, or check and complete the split that they have."""
    if scoring:
        return given_split(Division.of(split).given, count, name)
    return Division.of(split).parts(np.zeros(count, np.int64), groups, seed, name)
