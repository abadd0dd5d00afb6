"""Figures of what a network answered for single cases: counts, curves, reliability, and the cases themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from voxgap.evidence import Cases, precision_recall, reliability, roc
from voxgap.history import History
from voxgap.pictures import GAP_COLOUR, Figure
from voxgap.report.figures import BEATEN, LEADING, SHADES, WIDTH

COLOURS = (LEADING, "#e0a030", "#6a8d3a", "#8f4b8f", "#c2577a", "#3aa6a0", "#b5793a", "#5b6fb5")
MOST_CURVES = len(COLOURS)
"""Classes that are told apart by colour: of more, those that are told apart from the rest worst."""
_MOST_NUMBERS = 16  # classes whose counts can be read in their squares
_SLICES, _MOST_CHANNELS = 7, 4
_PIXELS = 96  # of a slice, about as many at least
_INCHES = 8.4


def confusion(counts: NDArray[np.int64], classes: Sequence[str], unit: str) -> Figure:
    """Draw counts by true class (rows) and answered class (columns), shaded by the share of the row."""
    count = len(classes)
    side = min(WIDTH, 1.4 + 0.55 * count)
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.pcolormesh(shares, cmap=SHADES, vmin=0, vmax=1, edgecolors="white", linewidth=1)
    for (row, column), number in np.ndenumerate(counts if count <= _MOST_NUMBERS else counts[:0]):
        text = f"{number:,}" if unit == "cases" else f"{shares[row, column]:.1%}"
        colour = "white" if shares[row, column] > 0.6 else "#111111"
        style: dict[str, Any] = {"fontsize": 9 if count < 9 else 7, "ha": "center", "va": "center"}
        axes.text(column + 0.5, row + 0.5, text, color=colour, **style)
    places, turned = np.arange(count) + 0.5, max(map(len, classes)) > 9
    size = 9 if count <= _MOST_NUMBERS else max(3.0, 9 * _MOST_NUMBERS / count)
    axes.set_xticks(
        places, classes, rotation=45 if turned else 0, ha="right" if turned else "center", fontsize=size
    )
    axes.set_yticks(places, classes, fontsize=size)
    axes.set(xlabel="answer", ylabel="truth", aspect="equal")
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def detection(cases: Cases) -> Figure:
    """Draw ROC and precision-recall side by side: of two classes the second, else each against the rest."""
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    found = _told_apart(cases)
    for (label, positive, scores, _), colour in zip(found, COLOURS, strict=False):
        false, true = roc(positive, scores)
        left.plot(false, true, color=colour, linewidth=1.6, label=label)
        recall, precision, _ = precision_recall(positive, scores)
        right.step(np.append(0, recall), np.append(precision[0], precision), color=colour, linewidth=1.6)
        if len(found) == 1:
            right.axhline(positive.mean(), color=BEATEN, linestyle=":", linewidth=1)
    left.plot((0, 1), (0, 1), color=BEATEN, linestyle=":", linewidth=1)
    left.set(xlabel="false positive rate", ylabel="true positive rate")
    right.set(xlabel="recall", ylabel="precision")
    for axes in (left, right):
        _square(axes)
    if len(found) > 1:
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def areas(cases: Cases) -> list[tuple[str, float, float]]:
    """Return name, area under the ROC curve and average precision of each curve of `detection`."""
    return [
        (label, area, precision_recall(positive, scores)[2])
        for label, positive, scores, area in _told_apart(cases)
    ]


def _told_apart(cases: Cases) -> list[tuple[str, NDArray[np.bool_], NDArray[np.float64], float]]:
    """Return name, truth, scores and area of each class that can be told from others, as many as there are colours."""
    columns = [1] if len(cases.classes) == 2 else range(len(cases.classes))
    found = []
    for column in columns:
        positive, scores = cases.targets == column, cases.answers[:, column]
        if positive.any() and not positive.all():
            false, true = roc(positive, scores)
            found.append((cases.classes[column], positive, scores, float(np.trapezoid(true, false))))
    if len(found) > MOST_CURVES:
        found = sorted(found, key=lambda curve: curve[3])[:MOST_CURVES]
    return found


def calibration(curves: Mapping[str, NDArray[np.float64]], classes: Sequence[str], unit: str) -> Figure:
    """Draw how often answers of each probability came true, and below how many there are.

    Args:
        curves: label -> sureness, see `Cases`.
        classes: names.
        unit: `cases` or `voxels`.
    """
    beside = 0.2 * len(curves) if len(curves) > 1 else 0
    figure = Figure(figsize=(3.9, 3.9 + beside), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot((0, 1), (0, 1), color=BEATEN, linestyle=":", linewidth=1)
    for (label, sureness), colour in zip(curves.items(), COLOURS, strict=False):
        counts, sure, true = reliability(sureness)
        upper.plot(sure, true, "o-", color=colour, markersize=4, linewidth=1.4, label=label)
        lower.bar(sure, counts, width=0.06, color=colour, alpha=0.75)
    of_two = len(classes) == 2
    upper.set(ylabel=f"share that is {classes[1]}" if of_two else "share that came true")
    lower.set(xlabel=f"probability of {classes[1]}" if of_two else "probability of the answer", ylabel=unit)
    _square(upper)
    lower.spines[["top", "right"]].set_visible(False)
    lower.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    if len(curves) > 1:
        # Below: patterns of gaps have long names.
        figure.legend(
            *upper.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center"
        )
    return figure


def against_targets(cases: Cases) -> Figure:
    """Draw the answered number of each case over the true one, a panel an output."""
    outputs = min(cases.targets.shape[1], 6)
    across = min(3, outputs)
    down = -(-outputs // across)
    figure = Figure(
        figsize=(1.87 * across + (2.0 if across == 1 else 0), 2.2 * down + 0.9), layout="constrained"
    )
    for output, axes in enumerate(figure.subplots(down, across, squeeze=False).flat):
        if output >= outputs:
            axes.set_visible(False)
            continue
        true, said = cases.targets[:, output], cases.answers[:, output]
        low, high = min(true.min(), said.min()), max(true.max(), said.max())
        axes.plot((low, high), (low, high), color=BEATEN, linestyle=":", linewidth=1)
        axes.plot(true, said, "o", color=LEADING, markersize=4, alpha=0.6, markeredgewidth=0)
        axes.set(xlabel="target" if outputs == 1 else f"target {output}", ylabel="answer")
        _bare(axes)
    return figure


def dice_by_class(cases: Cases) -> Figure:
    """Draw the Dice score of each case, a row a class, the median marked."""
    names = list(cases.classes[1:])
    figure = Figure(figsize=(WIDTH, 0.42 * len(names) + 0.9), layout="constrained")
    axes = figure.subplots()
    for row, column in enumerate(range(1, len(cases.classes))):
        scores = cases.dice[:, column]
        scores = scores[~np.isnan(scores)]
        # Spread by rank, not by chance: the same cases are always drawn the same.
        spread = np.argsort(np.argsort(scores)) * 0.618 % 1 * 0.4 - 0.2
        axes.plot(scores, row + spread, "o", color=LEADING, markersize=4, alpha=0.55, markeredgewidth=0)
        if len(scores):
            median = float(np.median(scores))
            axes.plot((median, median), (row - 0.32, row + 0.32), color="#e0a030", linewidth=2)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="Dice score of a case", xlim=(-0.02, 1.02), ylim=(len(names) - 0.5, -0.5))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.2, color="#808080")
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def training(history: History) -> Figure:
    """Draw loss and metric of one training by epoch, the epoch that was kept marked."""
    first = history.epochs[0]
    metric = next((name for name in ("dice", "accuracy", "mae") if name in first), None)
    names = ["loss", *([metric] if metric else [])]
    figure = Figure(figsize=(WIDTH, 2.4), layout="constrained")
    numbers = range(1, len(history.epochs) + 1)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for key, label, colour in ((name, "training", BEATEN), (f"val_{name}", "validation", LEADING)):
            if key in first:
                axes.plot(
                    numbers, [e[key] for e in history.epochs], ".-", color=colour, label=label, linewidth=1.6
                )
        axes.axvline(history.best_epoch + 1, color="#e0a030", linestyle="--", linewidth=1, label="kept")
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        _bare(axes)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8
    )
    return figure


def picture(
    volume: NDArray[np.float32],
    channels: Sequence[str],
    maps: Mapping[str, NDArray[Any]],
    classes: Sequence[str],
) -> Figure:
    """Draw slices of one case from its middle outwards, gaps coloured: its channels, and label maps laid over.

    Args:
        volume: `(depth, height, width, channels)`, NaN = missing.
        channels: names; those that are there are drawn, as many as there is room for.
        maps: title -> class indices `(depth, height, width)`, of which the first, the background, and -1 stay bare.
        classes: names.
    """
    chosen = _middle(volume, np.stack([*maps.values()]) if maps else None)
    held = np.flatnonzero(~np.isnan(volume).all(axis=(0, 1, 2)))
    shown = held[:_MOST_CHANNELS].tolist() or [0]
    grey = {index: _grey(volume[chosen, ..., index], volume[..., index]) for index in shown}
    rows = {channels[index] if len(channels) > 1 else "input": image for index, image in grey.items()}
    first = grey[shown[0]]
    for title, label_map in maps.items():
        rows[title] = _laid_over(first, label_map[chosen])
    strips = [np.concatenate(list(_parted(image)), axis=1) for image in rows.values()]
    height, width = strips[0].shape[:2]
    label = 0.35 + 0.075 * max(map(len, rows))  # inches
    strip = (_INCHES - label) * height / width
    above, below, between = 0.22, 0.28 * bool(maps), 0.06
    whole = above + below + len(strips) * (strip + between)
    figure = Figure(figsize=(_INCHES, whole))
    for position, (title, image) in enumerate(zip(rows, strips, strict=True)):
        bottom = whole - above - (position + 1) * strip - position * between
        axes = figure.add_axes((label / _INCHES, bottom / whole, 1 - label / _INCHES, strip / whole))
        axes.imshow(image, interpolation="nearest", aspect="auto")
        ticks = [] if position else list(width / len(chosen) * (np.arange(len(chosen)) + 0.5))
        axes.set_xticks(ticks, [f"slice {index}" for index in chosen] if ticks else [], fontsize=8)
        axes.xaxis.tick_top()
        axes.tick_params(length=0, pad=1)
        axes.set_yticks([])
        axes.set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)
        axes.spines[:].set_visible(False)
    if maps:
        handles = [Patch(color=_colour(i), label=name) for i, name in enumerate(classes[1:], start=1)][:7]
        if any(np.isnan(volume[chosen, ..., index]).any() for index in shown):
            handles.append(Patch(color=GAP_COLOUR, label="not observed"))
        figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=8)
    return figure


def _middle(volume: NDArray[Any], maps: NDArray[Any] | None) -> NDArray[np.intp]:
    """Choose slices, evenly, of those with something to see: of a label map, else values that differ, or a gap."""
    if maps is not None and (maps > 0).any():
        held = np.flatnonzero((maps > 0).any(axis=(0, 2, 3)))
    else:
        flat = volume[..., ~np.isnan(volume).all(axis=(0, 1, 2))].reshape(len(volume), -1)
        held = np.flatnonzero((flat != flat[:, :1]).any(axis=1))  # NaN differs from all
    held = held if len(held) else np.arange(len(volume))
    if len(held) <= _SLICES:
        return held
    # Each of as many equal parts gives its middle one.
    return held[((np.arange(_SLICES) + 0.5) * len(held) / _SLICES).astype(int)]


def _grey(slices: NDArray[Any], volume: NDArray[Any]) -> NDArray[np.float64]:
    """Return `(slices, height, width, 3)`: grey by the values of the whole volume, gaps in their colour."""
    seen = volume[~np.isnan(volume)]
    low, high = np.percentile(seen, (1, 99)) if len(seen) else (0.0, 1.0)
    if high <= low and len(seen):
        low, high = float(seen.min()), float(seen.max())
    shade = np.clip((slices - low) / (high - low if high > low else 1), 0, 1)
    return np.where(np.isnan(slices)[..., np.newaxis], to_rgb(GAP_COLOUR), shade[..., np.newaxis])


def _laid_over(image: NDArray[np.float64], label_map: NDArray[Any]) -> NDArray[np.float64]:
    drawn = image.copy()
    for index in range(1, int(label_map.max(initial=0)) + 1):
        drawn[label_map == index] = 0.4 * drawn[label_map == index] + 0.6 * np.array(to_rgb(_colour(index)))
    return drawn


def _colour(index: int) -> str:
    return COLOURS[(index - 1) % len(COLOURS)]


def _parted(image: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Enlarge slices so that each pixel of a small one stays a square, and part them by white."""
    factor = max(1, _PIXELS // max(image.shape[1:3]))
    large = image.repeat(factor, axis=1).repeat(factor, axis=2)
    edge = max(1, large.shape[2] // 24)
    return list(np.pad(large, ((0, 0), (0, 0), (edge, edge), (0, 0)), constant_values=1.0))


def _square(axes: Axes) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
