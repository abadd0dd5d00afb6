"""Scores against cost: the front is what a plain search over all pairs finds, and is named."""

from __future__ import annotations

import math

import numpy as np
import pytest

from voxgap.report.pareto import Candidate, against_cost, cost_section, front, words

FOUR = [
    Candidate("zero", 0.90, 3.0, 0.88, 0.92),
    Candidate("linear", 0.95, 4.0),
    Candidate("knn", 0.94, 9.0),
    Candidate("failed", math.nan, 1.0),
]


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_nothing_on_the_front_is_beaten_and_everything_else_is(lower: bool, seed: int) -> None:
    table = np.random.default_rng(seed).integers(0, 5, size=(30, 2)).astype(float)  # with ties
    everyone = [Candidate(str(i), *row) for i, row in enumerate(table.tolist())]
    found = {one.name for one in front(everyone, lower_is_better=lower)}
    gain = -table[:, 0] if lower else table[:, 0]
    for place, (score, cost) in enumerate(zip(gain, table[:, 1], strict=True)):
        no_worse = (gain >= score) & (table[:, 1] <= cost)
        better = (gain > score) | (table[:, 1] < cost)
        assert (str(place) in found) is not bool((no_worse & better).any())


def test_the_front_is_named_the_cheapest_first() -> None:
    assert words(FOUR, "accuracy", "ms a volume") == (
        "By means, the Pareto front is zero (accuracy 0.900, 3.000 ms a volume), linear (accuracy 0.950, 4.000 ms a "
        "volume). The other one is equalled or beaten by one that costs no more."
    )
    assert [one.name for one in front(FOUR, lower_is_better=True)] == ["zero"]
    assert words(FOUR[3:], "accuracy", "ms") == ""


def test_the_picture_has_a_point_for_each_that_has_both() -> None:
    (axes,) = against_cost(FOUR, "accuracy", "ms a volume").axes
    assert {text.get_text() for text in axes.texts} == {"zero", "linear", "knn"}
    assert axes.get_xscale() == "linear"
    wide = [*FOUR, Candidate("huge", 0.96, 400.0)]
    assert against_cost(wide, "accuracy", "ms").axes[0].get_xscale() == "log"


def test_a_section_takes_two_candidates() -> None:
    (section,) = cost_section(FOUR, "accuracy", "time of one volume", "ms")
    assert section.title == "Accuracy against time of one volume"
    assert cost_section(FOUR[2:], "accuracy", "time", "ms") == []
