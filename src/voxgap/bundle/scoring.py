"""What the answers of a network are worth: scored as it would decide, on all that the data has of a part."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from voxgap.bundle.evidence import WORST
from voxgap.dataset import Dataset, load_data
from voxgap.dataset.gaps import with_simulated
from voxgap.dataset.names import case_names
from voxgap.dataset.targets import as_classes, class_places
from voxgap.decision import Decision, asked, named
from voxgap.errors import VoxgapError
from voxgap.metrics import Scored, scored, without_interval
from voxgap.metrics.overlap import digests, in_part, overlap, read_cases, told_apart, too_good
from voxgap.metrics.surfaces import case_scores
from voxgap.names import check_seed, metric_words
from voxgap.patches import predict_patches, size_for
from voxgap.ragged import differ, each, shapes_of
from voxgap.runtime import Bundle, Predictor, load
from voxgap.volume import Values, channel_names, times, upright

if TYPE_CHECKING:
    from voxgap.backend import keras

Row = dict[str, Any]
Answered = tuple[str, Values, NDArray[Any], NDArray[Any]]
Split = str | None
Task = Literal["segmentation"] | None
SPLITS = ("train", "validation", "test", "all")


@dataclass(frozen=True)
class Evaluation:
    """What the answers of a network are worth on one data set.

    Attributes:
        split: the part that was scored: `train`, `validation`, `test` or `all`.
        scored: its scores, with intervals.
        decision: by which classes were named.
        known: how many of the volumes were among those that the network was trained on, and that it was chosen on
            (`train`, `validation`), by their content; None where nobody knows.
        classes: names of what the scores count: `dice_1` is of the second.
        cases: a row for each case of label maps, the worst first, where they were asked for; see
            `voxgap.metrics.surfaces.case_scores`.
        worst: of the first few of those, the volume `(depth, height, width)`, its label map and the answer, on the
            network's grid and upright; `voxgap.pictures.differences` draws them.
        spacing: of the voxels of those, where it is known.
        notes: what to know before the scores are believed.
    """

    split: str
    scored: Scored
    decision: Decision
    known: dict[str, int] | None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cases: tuple[Row, ...] = ()
    worst: tuple[Answered, ...] = ()
    spacing: tuple[float, float, float] | None = None

    def __str__(self) -> str:
        found = self.scored
        names = {
            name: metric_words(name, self.classes) for name, value in found.scores.items() if value == value
        }
        width = max(map(len, names.values()), default=0)
        lines = [f"{self.split} ({found.words})"]
        lines += [f"{words:<{width}}  {found.cell(name).rstrip()}" for name, words in names.items()]
        lines += without_interval(found.reasons, self.classes)
        decided = [self.decision.words(self.classes)] if self.classes else []
        return "\n".join([*lines, *decided, *self.notes])

    def to_json(self) -> dict[str, Any]:
        """Return the scores by split, and what they rest on under `about`."""
        about = self.scored.to_json() | {"decision": self.decision.to_json(), "known": self.known}
        about["classes"] = list(self.classes)
        return {self.split: self.scored.scores, "about": about}


def evaluate(
    model: str | os.PathLike[str] | Predictor | keras.Model,
    data: str | os.PathLike[str] | Dataset,
    split: Split = None,
    *,
    threshold: float | None = None,
    pattern: str | None = None,
    missing_rate: float = 0.5,
    mechanism: str = "mcar",
    seed: int = 0,
    axes: Sequence[str | int] = (),
    at: Mapping[str, int] | None = None,
    cases: bool = False,
) -> Evaluation:
    """Score a network on labelled data, each score with its 95 % interval.

    Args:
        model: the folder of a bundle, a `Predictor` of one, or a model from `build_model`. Data for a bundle is read
            and resampled as its training data was; for a model it is scored as it is.
        data: see `voxgap.load_data`.
        split: the part to score: `train`, `validation`, `test` or `all`; by default `test`, and all where the data
            has no split. A part that is asked for of data without a split is the one that the bundle knows by its
            content: what it was trained on, what it was chosen on, or neither.
        threshold: of two classes, name the second from this probability on; by default as the bundle says.
        pattern, missing_rate, mechanism: of gaps that are simulated besides the data's own, in all of the data as
            in a training, whatever part is scored; see `voxgap.simulate`.
        seed: of the simulated gaps and the intervals.
        axes, at: what is said of the axes of the files, where they are called otherwise; see `voxgap.load_data`.
        cases: of label maps, score each case by itself too, its surfaces and volumes.

    Raises:
        VoxgapError: the data can't be read, is for another task or other classes, or has no such part.

    Example:
        >>> import voxgap as vg
        >>> evaluation = vg.evaluate("bundle", "sample:brain")
        >>> evaluation.split, evaluation.scored.n
        ('test', 900)
        >>> low, high = evaluation.scored.intervals["accuracy"]
        >>> low <= evaluation.scored.scores["accuracy"] <= high
        True
    """
    check_seed(seed)
    if isinstance(model, str | os.PathLike):
        model = load(model)
    reading = {"axes": axes, "at": at}
    if isinstance(model, Predictor):
        given, decided = labelled(model, data, split, **reading), model.decision
        predict: Callable[..., Any] = model.predict
    else:
        from voxgap.backend import answers as answers_of

        given, decided = _as_it_is(model, data, split, reading), Decision()
        predict = partial(answers_of, model)
        if differ(given.source.volumes):
            shapes, whole = shapes_of(given.source.volumes), given.data.task != "segmentation"
            predict = partial(predict_patches, predict, size=size_for(model.input_shape, shapes, whole))
    if threshold is not None:
        chosen = asked(threshold, given.data.task, len(given.data.classes))
        if chosen is None:
            raise VoxgapError(
                f"threshold {threshold}: give a number; it is chosen where a network is trained"
            )
        decided = chosen
    gapped = given.data.volumes
    if pattern is not None:
        gapped = with_simulated(given.source, pattern, missing_rate, mechanism, seed).volumes[given.places]
    answers = predict(gapped)
    found = _score(given, answers, gapped, decided, seed)
    if not cases:
        return found
    rows, order = _cases_of(given.data, answers, decided, given.parts)
    worst = []
    for row, index in zip(rows[:WORST], order, strict=False):
        drawn = gapped[index][..., 0], given.data.targets[index], named(answers[index], decided.threshold)
        volume, truth, answer = (upright(one, given.data.rises) for one in drawn)
        worst.append((str(row["case"]), volume, truth, answer))
    return replace(found, cases=rows, worst=tuple(worst), spacing=given.data.spacing)


@dataclass(frozen=True)
class Labelled:
    """Data that a network is to be scored on, read as its training data was.

    Attributes:
        split: the part that is to be scored.
        data: its samples, of the bundle's task; targets count among the network's classes.
        source, places: the data that it is part of, and where its samples stand there.
        whole: whether that is all there is, because the data has no split.
        known: see `Evaluation`.
        told: how its samples were found, where the data does not say which they are.
        lacks: which channels of the bundle it does not have.
        parts: what each sample was to the network: train, validation, or new; empty where nobody knows.
    """

    split: str
    data: Dataset
    source: Dataset
    places: NDArray[np.intp]
    whole: bool
    known: dict[str, int] | None = None
    told: str = ""
    lacks: str = ""
    parts: Sequence[str] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know before its scores are believed."""
        count, notes = len(self.data), [said for said in (self.lacks, self.told) if said]
        if self.whole:
            notes.append(f"{self.data.name}: no split, so that all {count} volumes are scored")
        return (*notes, *too_good(self.known, count, self.split))


def labelled(
    bundle: str | os.PathLike[str] | Predictor,
    data: str | os.PathLike[str] | Dataset,
    split: Split = None,
    **reading: Any,
) -> Labelled:
    """Read data that a bundle is to be scored on.

    Args:
        bundle: its folder, or a predictor of it.
        data: see `voxgap.load_data`.
        split: the part to score, or `all`; see `evaluate`.
        reading: what is said of the axes of the files, `axes` and `at`, where they are called otherwise.

    Raises:
        VoxgapError: it can't be read, is for another task or other classes, or has no such part.
    """
    opened = (
        Bundle(bundle.folder or Path(), bundle.manifest)
        if isinstance(bundle, Predictor)
        else Bundle.open(bundle)
    )
    manifest = opened.manifest
    if manifest.task == "fill":
        raise VoxgapError(
            f"{opened.folder}: fills; vg.check_fills(data, folder) says how well, or voxgap evaluate"
        )
    on_grid = asdict(manifest.input.grid.told(reading.get("axes") or (), reading.get("at") or {}))
    task: Task = "segmentation" if manifest.task == "segmentation" else None
    _check_split(split)
    dataset = load_data(data, task=task, scoring=True, **on_grid)
    if dataset.task != manifest.task:
        raise VoxgapError(f"{dataset.name}: the data is for {dataset.task}, the bundle for {manifest.task}")
    lacking = [] if _unnamed(dataset, manifest.input.channels) else _lacking(dataset, manifest.input.channels)
    found = _part(in_order(dataset, manifest.input.channels), split, known_to(opened))
    part = _with_classes(found.data, manifest.classes, manifest.label_values)
    lacks = f"{dataset.name}: no {', '.join(lacking)}: missing in all volumes" if lacking else ""
    return replace(found, data=part, lacks=lacks)


def in_order(data: Dataset, channels: Sequence[str]) -> Dataset:
    """Return data with the channels of a network in its order, found by name; one that the data lacks is missing.

    Where one of the two was never given names, their places count.

    Args:
        data: as it was read.
        channels: of the network.

    Raises:
        VoxgapError: the data has a channel that the network does not know.
    """
    wanted = tuple(channels)
    if data.channels == wanted:
        return data
    if _unnamed(data, wanted):
        # Another number of channels is refused by whoever answers.
        return replace(data, channels=wanted) if len(data.channels) == len(wanted) else data
    own = _places(data, wanted)
    if unknown := [name for place, name in enumerate(data.channels) if place not in own]:
        raise VoxgapError(
            f"{data.name}: its channels are {', '.join(data.channels)}, the bundle's {', '.join(wanted)}: rename or "
            f"leave out {', '.join(unknown)}"
        )

    def placed(volume: Values) -> Values:
        found = np.full((*volume.shape[:-1], len(wanted)), np.nan, np.float32)
        for index, place in enumerate(own):
            if place is not None:
                found[..., index] = volume[..., place]
        return found

    return replace(data, volumes=each(placed, data.volumes), channels=wanted)


def _unnamed(data: Dataset, channels: Sequence[str]) -> bool:
    return any(tuple(names) == channel_names((), len(names), "") for names in (data.channels, channels))


def _places(data: Dataset, channels: Sequence[str]) -> list[int | None]:
    """Where each channel of a network stands in data, in any case of letters as in a table for `voxgap predict`."""
    own = data.channels
    folded = {name.casefold(): index for index, name in enumerate(own) if name not in channels}
    return [own.index(name) if name in own else folded.get(name.casefold()) for name in channels]


def _lacking(data: Dataset, channels: Sequence[str]) -> list[str]:
    return [name for name, place in zip(channels, _places(data, channels), strict=True) if place is None]


def _check_split(split: Split) -> None:
    if split is not None and split not in SPLITS:
        raise VoxgapError(f"split must be {', '.join(SPLITS[:-1])} or {SPLITS[-1]}, got {split!r}")


def _part(dataset: Dataset, split: Split, cases: Mapping[str, list[str]] | None = None) -> Labelled:
    """Take the samples that are to be scored: by the data's own split, or by what a bundle knows of its training."""
    whole, told, met = dataset.unsplit and split in (None, "all"), "", None
    if split is None:
        split = "all" if whole else "test"
    places = np.flatnonzero((dataset.split == split) | (split == "all"))
    if split != "all" and (dataset.unsplit or (split == "validation" and not len(places) and cases)):
        met = digests(dataset.volumes)
        places, told = _by_content(dataset, split, cases, met)
    part = dataset.take(places)
    if not len(part):
        raise VoxgapError(f"{dataset.name}: no {split} volumes; choose another --split, or all")
    if cases is None:
        return Labelled(split, part, dataset, places, whole, told=told)
    found = digests(part.volumes) if met is None else [met[place] for place in places]
    parts = told_apart(found, cases)
    return Labelled(split, part, dataset, places, whole, overlap(found, cases), told, parts=parts)


def _by_content(
    dataset: Dataset, split: str, cases: Mapping[str, list[str]] | None, found: Sequence[str | None]
) -> tuple[NDArray[np.intp], str]:
    """Find a part of a bundle's data in data that does not say it, and the line that tells how."""
    lacking = "no split" if dataset.unsplit else f"no {split} volumes by its split"
    if cases is None:
        raise VoxgapError(
            f"{dataset.name}: {lacking}, and nothing is known of what the network was trained on, so that nobody "
            f"knows which volumes are {split}; give a column split, or choose --split all"
        )
    places = np.flatnonzero(in_part(found, cases, split))
    which = {
        "train": "was trained on",
        "validation": "was chosen on",
        "test": "was neither trained nor chosen on",
    }[split]
    if not len(places):
        raise VoxgapError(
            f"{dataset.name}: {lacking}, and none of its {len(dataset)} volumes is one that this bundle {which}; "
            "choose another --split, or all"
        )
    told = f"{len(places)} of {len(dataset)} volumes that this bundle {which}, by their content"
    return places, f"{dataset.name}: {lacking}; {split} are the {told}"


def _as_it_is(
    model: keras.Model, data: str | os.PathLike[str] | Dataset, split: Split, reading: dict[str, Any]
) -> Labelled:
    """Read data for a model of which nothing is known but what it takes and gives."""
    _check_split(split)
    task: Task = "segmentation" if len(model.output_shape) == 5 else None
    found = _part(load_data(data, task=task, scoring=True, **reading), split)
    data, shape = found.data, model.input_shape[1:]
    if differ(found.source.volumes) and shape[3] == data.volumes.shape[4]:
        return found
    if any(wanted not in (None, size) for wanted, size in zip(shape, data.volumes.shape[1:], strict=True)):
        raise VoxgapError(
            f"{data.name}: volumes of {times(data.volumes.shape[1:])}, the model takes {times(shape)}; give "
            "load_data a size"
        )
    if data.task != "regression" and model.output_shape[-1] != len(data.classes):
        raise VoxgapError(
            f"{data.name}: {len(data.classes)} classes, and the model has {model.output_shape[-1]} outputs"
        )
    return found


def _score(given: Labelled, answers: Values, volumes: Values, decided: Decision, seed: int) -> Evaluation:
    """Score answers for volumes, which may have other gaps than those of the data, by the classes that they name."""
    data = given.data
    found = scored(
        predictions=answers,
        threshold=decided.threshold,
        groups=data.groups,
        seed=seed,
        **data.truth(volumes),
    )
    return Evaluation(given.split, found, decided, given.known, data.classes, given.notes)


def _cases_of(
    data: Dataset, answers: Any, decided: Decision, known: Sequence[str] = ()
) -> tuple[tuple[Row, ...], list[int]]:
    """Score each case on the grid that it was drawn on, the one with the least Dice first and those without last.

    Where it is known what each was to the network, `split` says it. The second is the places of the cases in the data.
    """
    if data.task != "segmentation":
        raise VoxgapError(
            f"{data.name}: cases are scored where label maps are; voxgap predict has a row for each answer"
        )
    found = [named(answer, decided.threshold) for answer in answers]
    rows: list[Row] = []
    parts = list(known)
    if parts and not data.unsplit:  # new to the network, and said to be its test
        parts = [
            "test" if part == "new" and said == "test" else part
            for part, said in zip(parts, data.split, strict=True)
        ]
    about = zip(case_names(data), data.own_spacings(), data.on_own_grids(found), strict=True)
    for index, (name, spacing, (truth, there)) in enumerate(about):
        group = {} if data.groups is None else {"group": str(data.groups[index])}
        split = {"split": parts[index]} if parts else {}
        rows.append({"case": name, **group, **split, **case_scores(truth, there, data.classes, spacing)})
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["dice"] != rows[i]["dice"], rows[i]["dice"]))
    return tuple(rows[i] for i in order), order


def _with_classes(part: Dataset, classes: Sequence[str], learnt: Sequence[int] | None = None) -> Dataset:
    """Return the same samples, their targets counted among the network's classes."""
    if part.task == "regression":
        return part
    targets = as_classes(part.targets, part.classes, classes, part.label_values, learnt)
    if targets is None:
        raise VoxgapError(
            f"{part.name}: classes {', '.join(part.classes)} are not the bundle's: {', '.join(classes)}"
        )
    maps = {"label_maps": targets} if part.task == "segmentation" else {}
    if part.drawn is not None:
        places = class_places(part.classes, classes, True, part.label_values, learnt) or []
        maps["drawn"] = part.drawn.renamed(part.classes, [classes[place] for place in places])
    return replace(part, targets=targets, classes=tuple(classes), label_values=None, **maps)


def known_to(bundle: Bundle) -> dict[str, list[str]] | None:
    """Return the cases that a network was trained and chosen on, by part; None where nobody knows."""
    entry = bundle.manifest.cases
    if entry is None or not (bundle.folder / entry.path).is_file():
        return None
    return read_cases(bundle.verified(entry, "cases"))
