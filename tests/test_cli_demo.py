"""`voxgap demo`: as much of it as a machine does in minutes."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import pytest

import tiny

demo = importlib.import_module("voxgap.cli.demo")  # the package has a function of that name

PLAN = demo.PLANS["brain"]


@pytest.mark.parametrize(
    ("seconds", "filters", "epochs"),
    [
        (100.0, PLAN.filters, PLAN.epochs),
        (210.0, PLAN.filters, PLAN.epochs),
        (230.0, PLAN.filters, 3),
        (400.0, (8, 16, 32), 7),
        (600.0, (8, 16, 32), 5),
        (1e9, (8, 16, 32), demo.FEWEST_EPOCHS),
    ],
)
def test_a_slow_machine_trains_less_and_that_is_said(
    seconds: float, filters: tuple[int, ...], epochs: int, monkeypatch: Any, capsys: Any
) -> None:
    """Half the filters take a fourth of the time, here."""
    times = {PLAN.filters: seconds, (8, 16, 32): seconds / 4}
    monkeypatch.setattr(demo, "_seconds", lambda plan, _: times[plan.filters])
    found = demo.fitting(PLAN, tiny.dataset(), budget=210.0)
    assert (found.filters, found.epochs) == (filters, epochs)
    assert ("slow" in capsys.readouterr().out) == ((filters, epochs) != (PLAN.filters, PLAN.epochs))


def test_the_time_of_a_plan_is_that_of_its_networks() -> None:
    small = dataclasses.replace(PLAN, filters=(2,), strategies=("zero",), epochs=2)
    data = tiny.dataset()
    one, many = (demo._seconds(dataclasses.replace(small, epochs=n), data) for n in (2, 2000))
    assert 0 < one < many
