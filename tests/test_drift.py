"""The drift test: what it ranks, that it rarely cries wolf, that it goes on after a restart, and what it watches."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from voxgap.errors import VoxgapError
from voxgap.trust.drift import Watch, _bets, looks


def test_bets_are_fair() -> None:
    grid = (np.arange(10_000) + 0.5) / 10_000
    returns = np.array([_bets(p) for p in grid])
    assert (returns >= 0).all()
    np.testing.assert_allclose(returns.mean(axis=0), 1, atol=1e-7)


def test_it_rarely_cries_wolf_with_a_small_reference_and_sees_one_that_comes() -> None:
    def alarms(moved: float, streams: int) -> int:
        count = 0
        for seed in range(streams):
            rng = np.random.default_rng(seed)
            watch = Watch({"rate": rng.integers(0, 8, 20)}, 0.2, seed)
            for value in rng.integers(0, 8, 40) + moved:
                watch.update({"rate": value})
            count += watch.alarmed
        return count

    false = alarms(0, 50)
    assert false <= 0.2 * 50 + 3 * math.sqrt(0.2 * 0.8 * 50)
    assert false > 0, "a test that never says anything would pass, too"
    assert alarms(4, 10) >= 9


def test_it_goes_on_where_it_was_and_names_what_has_changed() -> None:
    rng = np.random.default_rng(0)
    reference = {"missing rate of t1": rng.random(50), "values of t1": rng.normal(size=50)}
    watch = Watch(reference, 0.01)
    for _ in range(30):
        watch.update({"missing rate of t1": rng.random() + 1, "values of t1": rng.normal()})
    other = Watch.from_json(json.loads(json.dumps(watch.to_json())))
    look = {"missing rate of t1": 1.5, "values of t1": float("nan")}
    assert watch.update(look) == other.update(look)
    assert watch.to_json() == other.to_json()
    assert watch.alarmed
    assert "above all by missing rate of t1" in watch.words()
    assert "no drift found in 0 scans" in Watch(reference).words()
    with pytest.raises(VoxgapError, match="not the state of a watch"):
        Watch.from_json({"seen": {"a": [1]}})
    with pytest.raises(VoxgapError, match="false alarms between 0 and 1"):
        Watch(reference, 1.0)


def test_what_is_watched_of_a_scan() -> None:
    volume = np.array([1.0, np.nan, 3.0, np.nan] * 2, np.float32).reshape(2, 2, 1, 2)
    found = looks(volume, ("t1", "t2"))
    assert found["missing rate of t1"] == 0
    assert found["values of t1"] == 2
    assert found["missing rate of t2"] == 1
    assert math.isnan(found["values of t2"])
