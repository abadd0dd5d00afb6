"""Figures of an experiment: intervals, heat maps of rates, learning curves of many runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from voxgap.pictures import Figure, draw_slice

if TYPE_CHECKING:
    from voxgap.experiment.ranking import Ranking

LEADING, BEATEN = "#1287b0", "#8a96a1"
SHADES = LinearSegmentedColormap.from_list("scores", ["#f3efe9", "#8cc3d4", "#0b6e8f"])
PANELS_A_ROW = 3
CELLS_A_ROW = 12
SLICES = 7
WIDTH = 5.6
"""Inches: what still can be read when a phone shows it at two thirds of its size."""


def number(value: float) -> str:
    """Return `0.912`, `1.23e+04`, or a dash for NaN: three decimals for scores, three digits for what is large."""
    if math.isnan(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"


def intervals(ranking: Ranking, metric: str) -> Figure:
    """Draw a line a strategy from the low to the high end of its interval, a dot at the mean, baselines below.

    Coloured are the best and all that are not shown to be worse. `metric` is what it is called for people.
    """
    places = [place for place in (*ranking.places, *ranking.baselines) if not math.isnan(place.mean)]
    figure = Figure(figsize=(WIDTH, 0.32 * len(places) + 0.8), layout="constrained")
    axes = figure.subplots()
    baselines = {place.strategy for place in ranking.baselines}
    for height, place in enumerate(reversed(places)):
        beaten = place.verdict is not None and place.verdict.decision == "worse"
        baseline = place.strategy in baselines
        colour = BEATEN if beaten or baseline else LEADING
        if not math.isnan(place.low):
            axes.plot(
                (place.low, place.high), (height, height), color=colour, linewidth=2.4, solid_capstyle="round"
            )
        inside = "white" if baseline else colour
        marker = "D" if baseline else "o"
        axes.plot(place.mean, height, marker, color=colour, markersize=6, markerfacecolor=inside)
    axes.set_yticks(range(len(places)), [place.strategy for place in reversed(places)])
    direction = "lower" if ranking.lower_is_better else "higher"
    axes.set(xlabel=f"{metric} ({direction} is better)", ylim=(-0.6, len(places) - 0.4))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="x", alpha=0.2, color="#808080")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def heat_maps(
    panels: Mapping[str, NDArray[np.float64]],
    train_rates: Sequence[float],
    test_rates: Sequence[float],
    metric: str,
    *,
    lower_is_better: bool = False,
) -> Figure:
    """Draw scores by rate in training (rows) and rate in the test (columns), a panel a strategy, one scale for all.

    Args:
        panels: strategy -> `(train rates, test rates)`, NaN where there is no score.
        train_rates, test_rates: shares that are missing.
        metric: what is shown.
        lower_is_better: the darker, the better, in any case.
    """
    across = min(PANELS_A_ROW, len(panels), max(1, CELLS_A_ROW // len(test_rates)))
    down = math.ceil(len(panels) / across)
    size = (WIDTH, (0.36 * len(train_rates) + 0.75) * down + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    values = np.stack(list(panels.values()))
    scale = Normalize(float(np.nanmin(values)), float(np.nanmax(values)))
    colours = SHADES.reversed() if lower_is_better else SHADES
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (strategy, scores) in zip(grid.flat, panels.items(), strict=False):
        # A mesh of squares, not an image, so that the page can draw it sharply at any size.
        axes.pcolormesh(
            np.ma.masked_invalid(scores), cmap=colours, norm=scale, edgecolors="white", linewidth=1
        )
        for (row, column), score in np.ndenumerate(scores):
            if not math.isnan(score):
                shade = float(scale(score)) if scale.vmax != scale.vmin else 0.0
                dark = (1 - shade if lower_is_better else shade) > 0.75
                text = {
                    "color": "white" if dark else "#111111",
                    "fontsize": 8,
                    "ha": "center",
                    "va": "center",
                }
                axes.text(column + 0.5, row + 0.5, number(score), **text)
        axes.set_title(strategy, fontsize=9)
        axes.set_xticks(np.arange(len(test_rates)) + 0.5, [f"{rate:.0%}" for rate in test_rates], fontsize=8)
        axes.set_yticks(
            np.arange(len(train_rates)) + 0.5, [f"{rate:.0%}" for rate in train_rates], fontsize=8
        )
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    grid[0, 0].invert_yaxis()
    figure.supxlabel("missing in the test", fontsize=9)
    figure.supylabel("missing in training", fontsize=9)
    figure.suptitle(metric, fontsize=9)
    return figure


def learning_curves(runs: Mapping[str, Sequence[tuple[Sequence[float], int]]], quantity: str) -> Figure:
    """Draw the curve of every run, a panel a strategy, the epoch that was kept marked.

    Args:
        runs: strategy -> for each run its values by epoch, and the index of the epoch whose weights were kept.
        quantity: what the values are.
    """
    across = min(PANELS_A_ROW, len(runs))
    down = math.ceil(len(runs) / across)
    size = (WIDTH, 1.5 * down + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(runs) :]:
        axes.set_visible(False)
    for axes, (strategy, curves) in zip(grid.flat, runs.items(), strict=False):
        for values, best in curves:
            axes.plot(range(1, len(values) + 1), values, color=LEADING, linewidth=1, alpha=0.6)
            if 0 <= best < len(values):
                axes.plot(best + 1, values[best], ".", color=LEADING, markersize=6)
        axes.set_title(strategy, fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid.flat[max(0, len(runs) - across) : len(runs)]:
        axes.tick_params(labelbottom=True)  # the last of each column, also above a place that is empty
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel(quantity, fontsize=9)
    return figure


def fills(versions: Mapping[str, NDArray[np.float32]]) -> Figure:
    """Draw the same slices of one channel of a volume, a version a row, gaps coloured; half of the slices have some.

    Args:
        versions: label -> `(depth, height, width)`, NaN = missing; each from black to white by the values of the
            first that has some.
    """
    with_gaps = max(versions.values(), key=lambda volume: int(np.isnan(volume).sum()))
    missing, before = np.isnan(with_gaps), np.isnan(next(iter(versions.values())))
    # What was taken away, where it is shown as it was before: not what lies outside of a scan.
    chosen = _telling_slices(missing & ~before if (missing & ~before).any() else missing)
    seen = next((v for volume in versions.values() if (v := volume[~np.isnan(volume)]).size), np.zeros(1))
    low, high = _ends(seen)
    height, width = with_gaps.shape[1:]
    # A figure of the page's width, in which pixels are squares.
    edge = (WIDTH - 1.0) / len(chosen)
    row = min(max(edge * height / width, 0.25 * edge), 2 * edge)
    figure = Figure(figsize=(WIDTH, (row + 0.06) * len(versions) + 0.35))
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, hspace=0.02, wspace=0.02)
    grid = figure.subplots(len(versions), len(chosen), squeeze=False)
    for axes_row, (label, volume) in zip(grid, versions.items(), strict=True):
        for axes, index in zip(axes_row, chosen, strict=True):
            draw_slice(axes, volume[index], low, high)
        axes_row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    for axes, index in zip(grid[0], chosen, strict=True):
        axes.set_title(f"{index}", fontsize=8)
    return figure


def _ends(values: NDArray[Any]) -> tuple[float, float]:
    """Return what is black and what is white: without the extremes, unless nearly all is one value."""
    low, high = np.percentile(values, (1, 99))
    return (float(low), float(high)) if low < high else (float(values.min()), float(values.max()))


def _telling_slices(missing: NDArray[np.bool_], count: int = SLICES) -> list[int]:
    """Return slices evenly from those with gaps and from those without, as far as there are some of each."""
    hit = missing.any(axis=(1, 2))
    gaps, rest = np.flatnonzero(hit), np.flatnonzero(~hit)
    of_gaps = max(count - len(rest), min(len(gaps), (count + 1) // 2))
    return sorted([*_evenly(gaps, of_gaps), *_evenly(rest, count - of_gaps)])


def _evenly(indices: NDArray[np.intp], count: int) -> list[int]:
    """Return so many of these, or all that there are, from all over."""
    count = min(count, len(indices))
    places = (np.arange(count) + 0.5) * len(indices) / max(count, 1)
    return [int(i) for i in indices[places.astype(int)]]
