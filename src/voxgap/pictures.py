"""Pictures of volumes with gaps, of training curves and of scores, as PNG bytes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, Normalize
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter, MaxNLocator

from voxgap.history import History

GAP_COLOUR = "#e4572e"
OUTSIDE_COLOUR = "#d9d4cc"
_COLOURS = ("#0b6e8f", "#e0a030", "#6a8d3a", "#8f4b8f", "#c8472f", "#4a5866", "#3aa6a0", "#b5793a")

_DIFFERENCES = {"as drawn": "#5fae3c", "missed": "#ffd23f", "too much": "#2f7fe0", "another class": "#b64bb6"}

LONGEST = 40
"""Letters of a name in a picture; the middle of a longer one is left out."""


class Figure(matplotlib.figure.Figure):
    """A figure whose words stand as they are: a name with two `$` is no formula, and a letter may lack in the font."""

    def draw(self, renderer: Any) -> None:
        """Draw it; only what matplotlib writes itself along a logarithm is a formula."""
        own: set[Text] = set()
        for axis in self.findobj(Axis):
            if isinstance(axis, Axis) and isinstance(axis.get_major_formatter(), LogFormatter):
                ticks = (*axis.get_major_ticks(), *axis.get_minor_ticks())
                own |= {text for tick in ticks for text in (tick.label1, tick.label2)}
        for text in self.findobj(Text):
            if isinstance(text, Text) and text not in own:
                text.set_parse_math(False)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
            super().draw(renderer)


def shortened(name: str) -> str:
    """Return a name without its middle, where it is longer than a picture has room for."""
    half = (LONGEST - 1) // 2
    return name if len(name) <= LONGEST else f"{name[:half]}…{name[-half:]}"


def png(figure: matplotlib.figure.Figure, dpi: int = 120) -> bytes:
    """Render a figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def slices(
    rows: Mapping[str, np.ndarray],
    count: int = 8,
    channel: int = 0,
    *,
    own_scale: bool = False,
    outside: np.ndarray | None = None,
) -> Figure:
    """Draw the same slices of several versions of one volume, one version a row, gaps coloured.

    Args:
        rows: label -> `(depth, height, width, channels)` with NaN, the first row of height above: see
            `voxgap.volume.upright`.
        count: how many slices, evenly spaced along the part of the depth that holds something to see.
        channel: which channel.
        own_scale: each row from black to white by its own values, not by those of the first row.
        outside: where nothing was meant to be observed, `(depth, height, width)`: gaps there are pale.
    """
    shown = _worth_showing([volume[..., channel] for volume in rows.values()])
    chosen = shown[np.unique(np.linspace(0, len(shown) - 1, min(count, len(shown))).round().astype(int))]
    low, high = _range(next(iter(rows.values()))[..., channel])
    figure = Figure(figsize=(1.05 * len(chosen) + 1.5, 1.12 * len(rows) + 0.3), layout="constrained")
    grid = figure.subplots(len(rows), len(chosen), squeeze=False)
    for axes_row, (label, volume) in zip(grid, rows.items(), strict=True):
        if own_scale:
            low, high = _range(volume[..., channel])
        for axes, index in zip(axes_row, chosen, strict=True):
            draw_slice(axes, volume[index, ..., channel], low, high)
            if outside is not None:
                pale = np.ma.masked_where(
                    ~outside[index] | ~np.isnan(volume[index, ..., channel]), outside[index]
                )
                axes.imshow(pale, cmap=ListedColormap([OUTSIDE_COLOUR]), interpolation="nearest")
        axes_row[0].set_ylabel(shortened(label), rotation=0, ha="right", va="center", fontsize=9)
    for axes, index in zip(grid[0], chosen, strict=True):
        axes.set_title(f"slice {index}", fontsize=8)
    return figure


def draw_slice(axes: Axes, values: np.ndarray, low: float, high: float) -> None:
    """Draw one slice, gaps coloured.

    Args:
        axes: that it fills.
        values: `(height, width)`, NaN = missing.
        low, high: what is black and what is white.
    """
    axes.set_facecolor(GAP_COLOUR)
    # NaN is drawn as nothing, so that the background shows.
    axes.imshow(
        values,
        cmap="gray",
        vmin=low,
        vmax=high,
        interpolation="nearest",
    )
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def differences(
    cases: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]],
    count: int = 6,
    spacing: tuple[float, float, float] | None = None,
) -> Figure:
    """Draw where answers differ from label maps, a case a row, colours over slices of its volume.

    Args:
        cases: what each is called, its volume with NaN, its label map (-1: nobody said) and the answer, each
            `(depth, height, width)`, classes by index, 0 the background.
        count: how many slices at most, evenly spaced along the part of the depth in which either has a class.
        spacing: of the voxels, in their order; None: as if they were cubes.
    """
    chosen = []
    for _, volume, truth, answer in cases:
        held = np.flatnonzero(((truth > 0) | ((answer > 0) & (truth == 0))).any(axis=(1, 2)))
        held = held if len(held) else np.arange(len(volume))
        chosen.append(
            held[np.unique(np.linspace(0, len(held) - 1, min(count, len(held))).round().astype(int))]
        )
    across = max(map(len, chosen))
    figure = Figure(figsize=(1.25 * max(across, 4) + 1.5, 1.3 * len(cases) + 0.5), layout="constrained")
    grid = figure.subplots(len(cases), across, squeeze=False)
    over, gaps = ListedColormap(list(_DIFFERENCES.values())), False
    for axes_row, (name, volume, truth, answer), places in zip(grid, cases, chosen, strict=True):
        low, high = _range(volume)
        for axes in axes_row[len(places) :]:
            axes.set_axis_off()
        for axes, place in zip(axes_row, places, strict=False):
            true, said = truth[place], answer[place]
            kinds = np.select(
                [true < 0, (true == said) & (true > 0), (true > 0) & (said > 0), true > 0, said > 0],
                [0, 1, 4, 2, 3],
                0,
            )
            missing = np.isnan(volume[place])
            gaps |= bool((missing & (kinds == 0)).any())
            # Over the colour of gaps these would look like none of the legend.
            draw_slice(axes, np.where(missing & (kinds > 0), (low + high) / 2, volume[place]), low, high)
            axes.imshow(
                np.ma.masked_equal(kinds, 0), over, vmin=1, vmax=4, alpha=0.65, interpolation="nearest"
            )
            axes.set_aspect(1 if spacing is None else spacing[1] / spacing[2])
            axes.set_title(f"slice {place}", fontsize=7, pad=2)
        axes_row[0].set_ylabel(shortened(name), rotation=0, ha="right", va="center", fontsize=8)
    meant = _DIFFERENCES | ({"gap in the volume": GAP_COLOUR} if gaps else {})
    handles = [Patch(color=colour, label=label) for label, colour in meant.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure


def before_and_after(
    panels: Sequence[np.ndarray], outside: np.ndarray, title: str, named: tuple[str, str]
) -> Figure:
    """Draw one slice before and after it was filled, and how sure that is.

    Args:
        panels: `(height, width)` each: before, after, and perhaps the standard deviation, in the same units.
        outside: what stays missing, pale.
        title: above the first.
        named: what its rows and columns lie along.
    """
    height, width = panels[0].shape
    across = 3.4 * len(panels)
    tall = min(max(3.4 * height / width, 1.6), 6.0)
    figure = Figure(figsize=(across + 1.2, tall + 0.5), layout="constrained")
    low, high = _range(panels[1])
    pale = np.ma.masked_where(~outside, outside)
    for index, (axes, values) in enumerate(
        zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True)
    ):
        sure = index == 2
        if sure:
            most = float(np.nanmax(np.where(np.isfinite(values), values, 0)))
            drawn = axes.imshow(values, cmap="magma", vmin=0, vmax=most or 1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        else:
            draw_slice(axes, values, low, high)
            drawn = axes.images[-1]
        axes.imshow(pale, cmap=ListedColormap([OUTSIDE_COLOUR]), interpolation="nearest")
        axes.set_xlabel(named[1], fontsize=8)
        axes.set_ylabel("" if index else named[0], fontsize=8)
        axes.set_title((f"{title}, before", "after", "standard deviation")[index], fontsize=9)
        if index:
            bar = figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.02)
            bar.ax.tick_params(labelsize=8)
            bar.outline.set_visible(False)
    return figure


def _worth_showing(volumes: Sequence[np.ndarray]) -> np.ndarray:
    """Return the slices in which a value differs from another, or some of a volume is missing."""
    depth = min(len(volume) for volume in volumes)
    shows = np.zeros(depth, bool)
    for volume in volumes:
        flat = volume[:depth].reshape(depth, -1)
        missing = np.isnan(flat)
        if not missing.all():
            shows |= missing.any(axis=1) | (flat != flat[:, :1]).any(axis=1)
    return np.flatnonzero(shows) if shows.any() else np.arange(depth)


def _range(values: np.ndarray) -> tuple[float, float]:
    if np.isnan(values).all():
        return 0.0, 1.0
    low, high = np.nanpercentile(values, (1, 99))
    return (low, high) if high > low else (float(np.nanmin(values)), float(np.nanmax(values)))


def missing_rates(
    rates: Mapping[str, Sequence[Sequence[float]] | np.ndarray], channels: Sequence[str]
) -> Figure:
    """Draw how much is missing at each position along each axis, one line a channel: white 0, full colour 1.

    Args:
        rates: axis -> one list of rates a channel, NaN where nothing is to be drawn.
        channels: their names.
    """
    height = 0.55 + 0.24 * len(channels)
    figure = Figure(figsize=(8.4, height * len(rates) + 0.2), layout="constrained")
    colours = LinearSegmentedColormap.from_list("missing", ["#f4f1ee", GAP_COLOUR, "#5c1606"])
    drawn = ScalarMappable(Normalize(0, 1), colours)
    panels = figure.subplots(len(rates), 1, squeeze=False)[:, 0]
    for axes, (axis, lines) in zip(panels, rates.items(), strict=True):
        axes.imshow(np.asarray(lines), cmap=colours, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axes.set_yticks(
            range(len(channels)) if any(channels) else [], channels if any(channels) else [], fontsize=8
        )
        axes.tick_params(labelsize=8, length=2)
        axes.set_title(f"along {axis}", fontsize=9, loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[:].set_visible(False)
    bar = figure.colorbar(drawn, ax=panels, ticks=[0, 0.5, 1], aspect=12, fraction=0.04, pad=0.02)
    bar.ax.set_yticklabels(["0 %", "50 %", "100 %"], fontsize=8)
    bar.outline.set_visible(False)
    return figure


def histogram(values: Mapping[str, np.ndarray], bins: int = 60) -> Figure:
    """Draw how often each value is observed, one line a channel.

    Args:
        values: channel -> observed values, one-dimensional, without NaN.
        bins: how many.
    """
    figure = Figure(figsize=(7.4, 3.0), layout="constrained")
    axes = figure.subplots()
    low = min(v.min() for v in values.values())
    high = max(v.max() for v in values.values())
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    for (label, observed), colour in zip(values.items(), _COLOURS * len(values), strict=False):
        counts = np.histogram(observed, edges)[0] / len(observed)
        axes.stairs(counts, edges, color=colour, label=label, linewidth=1.5, fill=len(values) == 1)
    axes.set(xlabel="observed value", ylabel="share of the voxels", yscale="log")
    axes.spines[["top", "right"]].set_visible(False)
    if len(values) > 1:
        axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
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


def bars(labels: Sequence[str], values: Sequence[float], quantity: str) -> Figure:
    """Draw one horizontal bar a value, in the given order, with its number.

    Args:
        labels: one a bar.
        values: at least 0.
        quantity: what the bars show, with its unit.
    """
    figure = Figure(figsize=(7.4, 0.42 * len(labels) + 0.9), layout="constrained")
    axes = figure.subplots()
    positions = np.arange(len(labels))[::-1]
    drawn = axes.barh(positions, values, color=_COLOURS[0], height=0.66)
    axes.bar_label(drawn, [f"{v:.3g}" for v in values], padding=4, fontsize=9)
    axes.set_yticks(positions, labels)
    axes.set(xlabel=quantity, xlim=(0, 1.12 * max(values) or 1))
    axes.spines[["top", "right"]].set_visible(False)
    return figure
