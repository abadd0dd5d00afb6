"""Scores against what they cost: what nothing beats that is as cheap or cheaper, as a picture and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from voxgap.pictures import Figure
from voxgap.report.figures import BEATEN, LEADING, WIDTH, number
from voxgap.report.page import Section

WIDE = 10.0
"""The largest cost in units of the smallest from which on costs are drawn by their logarithm."""


class Candidate(NamedTuple):
    """What may be chosen.

    Attributes:
        name: of a strategy, or of a strategy and a network.
        score: its mean.
        cost: of one kind for all: parameters, multiplications, milliseconds a volume, seconds of training.
        low, high: ends of the interval of the score; NaN without one.
    """

    name: str
    score: float
    cost: float
    low: float = math.nan
    high: float = math.nan


def _known(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return those that have both a score and a cost."""
    return [one for one in candidates if math.isfinite(one.score) and math.isfinite(one.cost)]


def front(candidates: Sequence[Candidate], *, lower_is_better: bool = False) -> list[Candidate]:
    """Return those that no other one equals or beats in score and cost, and beats in one of them: the cheapest first.

    Of equals all are there; what has no score or no cost is left out.
    """
    sign, known = -1 if lower_is_better else 1, _known(candidates)

    def beaten(one: Candidate) -> bool:
        return any(
            other.cost <= one.cost
            and sign * other.score >= sign * one.score
            and (other.cost < one.cost or other.score != one.score)
            for other in known
        )

    return sorted((one for one in known if not beaten(one)), key=lambda one: (one.cost, one.name))


def words(candidates: Sequence[Candidate], metric: str, unit: str, *, lower_is_better: bool = False) -> str:
    """Name the front in a sentence; nothing where nothing has both a score and a cost.

    Args:
        candidates: all there are.
        metric: what the score is called for people.
        unit: of the cost, as it stands behind a number: `ms a volume`.
        lower_is_better: whether the score is.
    """
    best = front(candidates, lower_is_better=lower_is_better)
    if not best:
        return ""
    named = ", ".join(f"{one.name} ({metric} {number(one.score)}, {number(one.cost)} {unit})" for one in best)
    others = len(_known(candidates)) - len(best)
    who = "The other one" if others == 1 else f"Each of the other {others}"
    beaten = f" {who} is equalled or beaten by one that costs no more." if others else ""
    return f"By means, the Pareto front is {named}.{beaten}"


def against_cost(
    candidates: Sequence[Candidate], metric: str, cost: str, *, lower_is_better: bool = False
) -> Figure:
    """Draw a point each with its interval, the front coloured, named and joined by steps.

    Args:
        candidates: at least one has a score and a cost.
        metric, cost: what the axes are called.
        lower_is_better: whether the score is.
    """
    candidates = _known(candidates)
    best = front(candidates, lower_is_better=lower_is_better)
    dearest = max(candidates, key=lambda one: one.cost)
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    for one in candidates:
        colour = LEADING if one in best else BEATEN
        if not math.isnan(one.low):
            axes.plot((one.cost, one.cost), (one.low, one.high), color=colour, linewidth=1.6, alpha=0.6)
        axes.plot(one.cost, one.score, "o", color=colour, markersize=6)
        axes.annotate(
            one.name,
            (one.cost, one.score),
            (-5 if one is dearest else 5, 4),
            textcoords="offset points",
            ha="right" if one is dearest else "left",
            fontsize=8,
            color="#111111" if one in best else BEATEN,
        )
    axes.step(
        [one.cost for one in best],
        [one.score for one in best],
        where="post",
        color=LEADING,
        linewidth=1,
        alpha=0.6,
    )
    costs = [one.cost for one in candidates if one.cost > 0]
    if costs and max(costs) > WIDE * min(costs) and all(one.cost > 0 for one in best):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    direction = "lower" if lower_is_better else "higher"
    axes.set(xlabel=f"{cost} (less is better)", ylabel=f"{metric} ({direction} is better)")
    axes.grid(alpha=0.2, color="#808080")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12, y=0.12)
    return figure


def cost_section(
    candidates: Sequence[Candidate], metric: str, cost: str, unit: str, *, lower_is_better: bool = False
) -> list[Section]:
    """Return the section of a page about scores against one cost; none where fewer than two have both.

    Args:
        candidates, metric, cost, unit, lower_is_better: see `against_cost` and `words`.
    """
    known = _known(candidates)
    if len(known) < 2:
        return []
    said = words(known, metric, unit, lower_is_better=lower_is_better)
    caption = (
        f"{metric} against {cost}: coloured is the front; lines are 95 % intervals, where there are some."
    )
    picture = against_cost(known, metric, cost, lower_is_better=lower_is_better)
    return [Section(f"{metric[:1].upper()}{metric[1:]} against {cost}", [said], figures=[(picture, caption)])]
