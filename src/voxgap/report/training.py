"""The page of one trained network: what it is worth on cases that it was not trained on, and where it fails."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.evidence import NO_TEST, Cases, precision_and_recall
from voxgap.history import ON_ITS_GRID, History
from voxgap.metrics import without_interval
from voxgap.metrics.metrics import dice_of
from voxgap.names import metric_words
from voxgap.pictures import Figure
from voxgap.promises import Pattern
from voxgap.report import cases as drawn
from voxgap.report.audit import audit_section
from voxgap.report.figures import number
from voxgap.report.page import Section, Table, write_page

if TYPE_CHECKING:
    from voxgap.runtime import Manifest
    from voxgap.trust.audit import Audit

FEWEST_DRAWN, MOST_PATTERNS = 15, 4  # cases of a pattern, and patterns, that have a curve

OF_EACH = (
    "Each pattern of gaps has a temperature of its own, which was better for cases that it was not fitted on."
)
OF_ALL = (
    "All patterns of gaps have one temperature: one for each was not shown to be better for cases that it was not "
    "fitted on."
)
CALIBRATED = "calibrated"
"""Label of the curve of calibrated probabilities."""


class Example(NamedTuple):
    """One case to look at: its volume with gaps `(depth, height, width, channels)`, and label maps to lay over it."""

    volume: NDArray[np.float32]
    maps: Mapping[str, NDArray[Any]] = {}


def write_training_report(
    path: str | Path,
    manifest: Manifest,
    cases: Cases,
    worst: Cases,
    examples: Sequence[Example],
    history: History,
    *,
    calibrated: NDArray[np.float64] | None = None,
    patterns: Sequence[Pattern] = (),
    audit: Audit | None = None,
    command: str = "",
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write the page; it needs no other file and appears whole.

    Args:
        path: of the page.
        manifest: of the bundle.
        cases: all that the network was not trained on, at least one.
        worst: those of the shown part whose answers are most wrong.
        examples: what there is to see of each of them.
        history: of its training.
        calibrated: sureness of the shown part once its probabilities are calibrated; see `Cases`.
        patterns: of the gaps of each case of the shown part.
        audit: what of the score of the shown part comes from what is missing alone; None where nothing could be told.
        command: that was typed to train it.
        settings: options of that command, by name.
    """
    part, shown = shown_part(cases)
    sections = [
        *_scores(manifest, cases),
        *(_numbers(shown, part) if cases.task == "regression" else _classes(shown, part)),
        *_detection(shown),
        *_reliability(manifest, shown, calibrated, patterns),
        *audit_section(audit),
        *_worst(manifest, worst, examples),
        _curves(history),
        _facts(manifest, cases, bool(settings)),
        *_made(command, settings or {}),
    ]
    lead = _lead(shown, part) + ("" if part == "test" else f" {NO_TEST}")
    write_page(path, f"What {manifest.network} is worth on {manifest.dataset}", lead, sections)


def shown_part(cases: Cases) -> tuple[str, Cases]:
    """Return the part whose cases the page shows: the test, and where there is none the validation part."""
    part = "test" if (cases.split == "test").any() else "validation"
    return part, cases.part(part)


def _lead(shown: Cases, part: str) -> str:
    count = f"{len(shown)} {part} case{'s' if len(shown) != 1 else ''}"
    if shown.task == "regression":
        off = np.abs(shown.answers - shown.targets).mean()
        return f"On {count} its answers are off by {number(float(off))} on average."
    if shown.task == "segmentation":
        scores = shown.foreground
        scores = scores[~np.isnan(scores)]
        if not len(scores):
            return f"None of {count} holds anything but background, in truth or in the answer."
        return f"On {count} the median Dice score is {np.median(scores):.3f}, the lowest {scores.min():.3f}."
    right = int(np.trace(shown.confusion))
    never = [
        name for name, asked in zip(shown.classes, shown.confusion.sum(axis=0), strict=True) if not asked
    ]
    lead = f"Of {count} it answers {right} right ({right / len(shown):.1%})."
    return lead + (f" It never answers {', '.join(never[:5])}." if never else "")


def _scores(manifest: Manifest, cases: Cases) -> list[Section]:
    """Return the scores that training printed, a column for each part."""
    scores, rests = manifest.scores, manifest.intervals
    parts = [part for part in scores if scores[part]]
    names = [
        name
        for name in (scores[parts[0]] if parts else ())
        if any(_is_known(scores[part].get(name)) for part in parts)
    ]
    if not names:
        return []
    intervals = {part: rests.get(part, {}).get("intervals") or {} for part in parts}
    rows = [["cases", *(f"{(cases.split == part).sum()}" for part in parts)]]
    for name in names:
        values = [_number(scores[part].get(name), intervals[part].get(name)) for part in parts]
        rows.append([metric_words(name, cases.classes), *values])
    drawn_by = "groups" if cases.groups is not None else "cases"
    words = (
        [f"In brackets the 95 % interval, by a bootstrap over {drawn_by}."] if any(intervals.values()) else []
    )
    reasons = {part: rests.get(part, {}).get("reasons") or {} for part in parts}
    unsure = [
        f"In the {part} part {why}."
        for part in parts
        for why in without_interval(reasons[part], cases.classes)
    ]
    words += [" ".join(unsure)] if unsure else []
    if all_of_it := manifest.arguments.get("refitted_on"):
        words.append(
            "They are of a network that had seen the training part alone; the one in the bundle was trained like it, "
            f"on all {all_of_it} volumes."
        )
    return [Section("Scores", words, Table(["metric", *parts], rows))]


def _is_known(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _number(value: Any, interval: Sequence[Any] | None = None) -> str:
    if not _is_known(value):
        return "–"
    lies = (
        f" ({number(interval[0])} to {number(interval[1])})"
        if interval and all(map(_is_known, interval))
        else ""
    )
    return f"{number(value)}{lies}"


def _classes(shown: Cases, part: str) -> list[Section]:
    counts = shown.confusion
    segmented = shown.task == "segmentation"
    unit = "voxels" if segmented else "cases"
    precision, recall = precision_and_recall(counts)
    scores = dice_of(counts)
    header = ["class", "precision", "recall", "Dice (F1)" if segmented else "F1", unit]
    rows = [
        [name, number(precision[i]), number(recall[i]), number(scores[i]), f"{int(counts[i].sum()):,}"]
        for i, name in enumerate(shown.classes)
    ]
    figures = []
    words = []
    if segmented:
        words.append("Dice of the table is that of all voxels together; a dot in the figure is one case.")
        figures.append((drawn.dice_by_class(shown), "Dice score of each case, medians marked."))
    shares = "Shares of the voxels of a row." if segmented else "A row adds up to the cases of one class."
    figures.append(
        (drawn.confusion(counts, shown.classes, unit), f"Truth and answer in the {part} part. {shares}")
    )
    if shown.threshold is not None:
        words.append(f"The answer is {shown.classes[1]} from a probability of {shown.threshold:.4g} on.")
    return [Section("Classes", words, Table(header, rows), figures)]


def _numbers(shown: Cases, part: str) -> list[Section]:
    caption = f"Answer and truth in the {part} part; on the dotted line they are the same."
    many = shown.targets.shape[1] > 6
    return [
        Section(
            "Answers and targets",
            figures=[(drawn.against_targets(shown), caption + " The first six outputs." * many)],
        )
    ]


def _detection(shown: Cases) -> list[Section]:
    if shown.task != "classification":
        return []
    found = drawn.areas(shown)
    if not found:
        return []
    rows = [[label, number(area), number(average)] for label, area, average in found]
    rest = "" if len(shown.classes) == 2 else ", each class against the rest"
    left_out = len(shown.classes) > len(found) > 1
    caption = f"ROC and precision-recall{rest}. Dotted: guessing." + (
        " The classes that are told apart worst." if left_out else ""
    )
    return [
        Section(
            "Telling classes apart",
            table=Table(["class", "area under ROC", "average precision"], rows),
            figures=[(drawn.detection(shown), caption)],
        )
    ]


def _reliability(
    manifest: Manifest, shown: Cases, calibrated: NDArray[np.float64] | None, patterns: Sequence[Pattern]
) -> list[Section]:
    if shown.task == "regression":
        return []
    curves = {"the network's own": shown.sureness}
    if calibrated is not None:
        curves[CALIBRATED] = calibrated
    unit = "voxels" if shown.task == "segmentation" else "cases"
    caption = (
        "On the dotted line probabilities come true as often as they say; below it they promise too much."
    )
    figures = [(drawn.calibration(curves, shown.classes, unit), caption)]
    words = []
    often = [one for one, count in Counter(patterns).most_common(MOST_PATTERNS) if count >= FEWEST_DRAWN]
    if calibrated is not None and len(often) > 1:
        by_gaps = {
            f"{one.words(manifest.input.channels)}": calibrated[[other == one for other in patterns]]
            for one in often
        }
        figures.append(
            (drawn.calibration(by_gaps, shown.classes, unit), "The calibrated ones, by pattern of gaps.")
        )
        words.append(OF_EACH if manifest.calibration and manifest.calibration.patterns else OF_ALL)
    return [Section("Probabilities", words, figures=figures)]


def _worst(manifest: Manifest, worst: Cases, examples: Sequence[Example]) -> list[Section]:
    if not len(worst):
        return []
    channels = manifest.input.channels
    figures: list[tuple[Figure, str]] = [
        (
            drawn.picture(example.volume, channels, example.maps, worst.classes),
            f"{worst.names[place]}: {_verdict(worst, place)}{_lacking(example, channels)}",
        )
        for place, example in enumerate(examples)
    ]
    how = {
        "classification": "The true class got the least probability here.",
        "regression": "The answers are farthest from their targets here.",
        "segmentation": "The Dice score of all but the background is lowest here.",
    }[worst.task]
    return [Section("Worst cases", [f"{how} Red is missing."], figures=figures)]


def _lacking(example: Example, channels: Sequence[str]) -> str:
    """Name the channels that are missing altogether, and have no picture."""
    names = [name for i, name in enumerate(channels) if np.isnan(example.volume[..., i]).all()]
    return f"; without {', '.join(names)}" if names else ""


def _verdict(worst: Cases, place: int) -> str:
    if worst.task == "segmentation":
        scores = zip(worst.classes[1:], worst.dice[place, 1:], strict=True)
        return "Dice " + ", ".join(f"{name} {number(float(score))}" for name, score in scores)
    if worst.task == "regression":
        said, true = worst.answers[place], worst.targets[place]
        return f"answer {_list(said)}, target {_list(true)}"
    true, named = int(worst.targets[place]), int(worst.named[place])
    p = worst.answers[place]
    if named == true:
        return f"rightly {worst.classes[true]}, with probability {p[true]:.3f}"
    return f"is {worst.classes[true]} ({p[true]:.3f}), answered {worst.classes[named]} ({p[named]:.3f})"


def _list(values: NDArray[Any]) -> str:
    return ", ".join(number(float(value)) for value in values[:6]) + (", ..." if len(values) > 6 else "")


def _curves(history: History) -> Section:
    summary = history.summary()
    caption = "Loss and score by epoch; the dashed line is the epoch whose weights were kept."
    if "dice" in history.epochs[0]:
        caption += f" Dice is counted {ON_ITS_GRID} while it trains, and above on that of each label map."
    return Section(
        "Training", [f"{summary[:1].upper()}{summary[1:]}."], figures=[(drawn.training(history), caption)]
    )


def _made(command: str, settings: Mapping[str, Any]) -> list[Section]:
    """Return what a person types to do it again, and all that it was called with."""
    if not command and not settings:
        return []
    words = ["recipe.toml, in the folder of the bundle, holds all of this: voxgap train --config takes it."]
    of_gaps = () if "pattern" in settings else ("missing-rate", "mechanism")  # which then say nothing
    rows = [(name.replace("-", " "), _plain(v)) for name, v in settings.items() if name not in of_gaps]
    return [Section("How it was made", words, Table(("option", "value"), rows, words=True), code=command)]


def _facts(manifest: Manifest, cases: Cases, said_below: bool) -> Section:
    """Return what the page rests on; the arguments of the training unless they are said below."""
    given = {} if said_below else manifest.arguments
    groups = {"architecture": given.get("architecture"), "training": given.get("training")}
    rows = [
        ("data", manifest.dataset),
        ("task", manifest.task),
        ("network", manifest.network),
        ("strategy", _options(_strategy(manifest.strategy))),
        *((name, _options(options)) for name, options in groups.items() if isinstance(options, Mapping)),
        *([] if said_below else [("simulated gaps", _options(given.get("simulated_gaps") or {}) or "none")]),
        *([] if said_below else [("seed", str(given.get("seed", "–")))]),
        *sorted(manifest.versions.items()),
    ]
    words = [
        f"predictions.csv, beside this page, has a row for each of the {len(cases)} validation and test cases, with "
        "what the network answered. This folder stays behind when the network is exported or served."
    ]
    return Section("What it rests on", words, Table(("what", "value"), rows, words=True))


def _strategy(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a strategy that say something: none of the gaps that are dropped where none are."""
    drops = bool(options.get("gap_dropout"))
    return {name: value for name, value in options.items() if drops or not name.startswith("gap_")}


def _options(options: Mapping[str, Any]) -> str:
    kept = {name: value for name, value in options.items() if value not in (None, {}, [])}
    return ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in kept.items())


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "×".join(map(_plain, value))
    if isinstance(value, Mapping):
        return f"({_options(value)})"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
