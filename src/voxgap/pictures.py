"""Pictures of volumes with gaps, of training curves and of scores, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from voxgap.history import History

GAP_COLOUR = "#e4572e"
_COLOURS = ("#0b6e8f", "#e0a030", "#6a8d3a", "#8f4b8f", "#c8472f", "#4a5866", "#3aa6a0", "#b5793a")


def png(figure: Figure, dpi: int = 120) -> bytes:
    """Render a figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def slices(rows: Mapping[str, np.ndarray], count: int = 8, channel: int = 0) -> Figure:
    """Draw the same slices of several versions of one volume, one version a row, gaps coloured.

    Args:
        rows: label -> `(depth, height, width, channels)` with NaN.
        count: how many slices, evenly spaced along the depth.
        channel: which channel.
    """
    depth = min(len(v) for v in rows.values())
    chosen = np.unique(np.linspace(0, depth - 1, min(count, depth)).round().astype(int))
    first = next(iter(rows.values()))[..., channel]
    low, high = np.nanpercentile(first, (1, 99)) if np.isfinite(first).any() else (0.0, 1.0)
    figure = Figure(figsize=(1.05 * len(chosen) + 1.5, 1.12 * len(rows) + 0.3), layout="constrained")
    grid = figure.subplots(len(rows), len(chosen), squeeze=False)
    for axes_row, (label, volume) in zip(grid, rows.items(), strict=True):
        for axes, index in zip(axes_row, chosen, strict=True):
            axes.set_facecolor(GAP_COLOUR)
            # NaN is drawn as nothing, so that the background shows.
            axes.imshow(
                volume[index, ..., channel], cmap="gray", vmin=low, vmax=high, interpolation="nearest"
            )
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        axes_row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    for axes, index in zip(grid[0], chosen, strict=True):
        axes.set_title(f"slice {index}", fontsize=8)
    return figure


def curves(histories: Mapping[str, History]) -> Figure:
    """Draw the validation loss of several trainings, the best epoch of each marked."""
    figure = Figure(figsize=(7.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for (label, history), colour in zip(histories.items(), _COLOURS * len(histories), strict=False):
        values = [e[history.monitor] for e in history.epochs]
        axes.plot(np.arange(1, len(values) + 1), values, color=colour, label=label, linewidth=1.8)
        axes.plot(history.best_epoch + 1, values[history.best_epoch], "o", color=colour)
    axes.set(xlabel="epoch", ylabel=next(iter(histories.values())).monitor, yscale="log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def bars(labels: Sequence[str], values: Sequence[float], metric: str, chance: float | None = None) -> Figure:
    """Draw one horizontal bar a score, best first as given, with its value."""
    figure = Figure(figsize=(7.4, 0.42 * len(labels) + 0.9), layout="constrained")
    axes = figure.subplots()
    positions = np.arange(len(labels))[::-1]
    drawn = axes.barh(positions, values, color=_COLOURS[0], height=0.66)
    axes.bar_label(drawn, [f"{v:.3f}" for v in values], padding=4, fontsize=9)
    axes.set_yticks(positions, labels)
    axes.set(xlabel=metric, xlim=(min(0.0, *values), max(1.0, *values) * 1.1))
    if chance is not None:
        axes.axvline(chance, color="#4a5866", linestyle=":", linewidth=1.2)
        axes.annotate(
            "chance", (chance, len(labels) - 0.45), fontsize=8, color="#4a5866", annotation_clip=False
        )
    axes.spines[["top", "right"]].set_visible(False)
    return figure
