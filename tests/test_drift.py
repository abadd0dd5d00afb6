"""The drift test: what it ranks, that it rarely cries wolf, that it goes on after a restart, and what it watches."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from voxgap.drift import SCAN, Bets, Watch, _bets, drifted, looks, read_watch, reference_of
from voxgap.errors import VoxgapError


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
    assert "values of t2" not in found
    assert found["values of t1 where t2 is missing"] == 2
    assert found["share of channels in the gaps"] == 1
    volume[..., 0] = [[[1], [2]], [[3], [np.nan]]]
    beside = looks(volume, ("t1", "t2"))["values beside the gaps of t1"]
    assert beside == pytest.approx((2.5 - 2) / np.std([1, 2, 3]), rel=1e-5)


def naive(reference: np.ndarray, stream: np.ndarray, ties: np.ndarray) -> list[float]:
    """The same martingale, scan by scan and look by look, with nothing forgotten."""
    found, capital = [], np.full((stream.shape[1], 5), 0.2)
    for n, values in enumerate(stream):
        for f, value in enumerate(values):
            if math.isnan(value):
                continue
            bag = [v for v in [*reference[:, f], *stream[:n, f]] if not math.isnan(v)]
            rank = sum(v < value for v in bag) + ties[n, f] * (1 + sum(v == value for v in bag))
            p = rank / (len(bag) + 1)
            bets = np.array([1, 2 * p, 2 - 2 * p, 4 * abs(p - 0.5), 2 - 4 * abs(p - 0.5)])
            capital[f] = (0.99 * capital[f] + 0.01 * capital[f].mean()) * bets
        found.append(float(capital.sum(axis=1).mean()))
    return found


def test_many_streams_at_once_are_each_what_one_is_alone() -> None:
    rng = np.random.default_rng(0)
    reference, stream = rng.integers(0, 9, (3, 12, 2)) * 1.0, rng.integers(0, 9, (3, 15, 2)) * 1.0
    stream[rng.random(stream.shape) < 0.2] = np.nan
    for memory in (100, 14):
        many = Bets(reference, memory)
        ties, forgotten = rng.random((15, 3, 2)), rng.random((15, 3))
        paths = []
        for n in range(15):
            many.update(stream[:, n], ties[n], forgotten[n])
            paths.append(many.evidence)
        for s in range(3):
            one, path = Bets(reference[s], memory), []
            for n in range(15):
                one.update(stream[s, n], ties[n, s], forgotten[n, s])
                path.append(float(one.evidence))
            np.testing.assert_allclose(path, np.array(paths)[:, s], rtol=1e-12)
            np.testing.assert_array_equal(one.seen, many.seen[s])
            if memory == 100:
                np.testing.assert_allclose(path, naive(reference[s], stream[s], ties[:, s]), rtol=1e-12)
    assert many.seen.shape == (3, 2, 14)
    held = np.moveaxis(many.seen, -1, -2).reshape(-1, 2)
    given = np.concatenate([reference, stream], axis=1).reshape(-1, 2)
    assert all(any(np.array_equal(row, one, equal_nan=True) for one in given) for row in held)


def test_p_values_stay_uniform_and_independent_where_scans_are_forgotten() -> None:
    """In 4,000 streams of two looks that depend on each other, with a memory that is soon full."""
    rng = np.random.default_rng(1)
    streams = rng.normal(size=(4000, 12, 1)) + 0.3 * rng.normal(size=(4000, 12, 2))
    bets = Bets(streams[:, :3], memory=4)
    mean = []
    for n in range(3, 12):
        bets.update(streams[:, n], rng.random((4000, 2)), rng.random(4000))
        mean.append(bets.evidence.mean())
    error = bets.evidence.std() / math.sqrt(4000)
    assert abs(mean[-1] - 1) < 4 * error
    assert error < 0.1


def test_a_scan_that_is_sent_again_is_no_news() -> None:
    rng = np.random.default_rng(0)
    watch = Watch({"missing rate of t1": np.zeros(20), "values of t1": rng.normal(size=20)})
    for _ in range(40):
        watch.update({"missing rate of t1": 0.0, "values of t1": 7.0})
    assert watch.scans == 1
    plain = Watch({"missing rate of t1": np.zeros(20)})
    for _ in range(40):
        plain.update({"missing rate of t1": 0.0})
    assert plain.scans == 40
    assert not plain.alarmed


def test_a_scan_is_known_again_where_no_values_are_watched_and_different_complete_scans_all_count() -> None:
    rng = np.random.default_rng(0)
    scans = rng.normal(size=(60, 2, 2, 2, 1)).astype(np.float32)
    train = [looks(scan, ("t1",), values=False) for scan in scans[:20]]
    kept = reference_of(train)
    assert kept is not None
    assert SCAN not in kept["names"]
    watch = Watch({"missing rate of t1": np.linspace(0.2, 0.9, 20)})
    for _ in range(150):
        watch.update(json.loads(json.dumps(looks(scans[20], ("t1",), values=False))))
        watch = Watch.from_json(json.loads(json.dumps(watch.to_json())))
    assert watch.scans == 1
    assert not watch.alarmed
    for scan in scans[20:]:
        watch.update(looks(scan, ("t1",), values=False))
    assert watch.scans == 40
    old = watch.to_json()
    del old["known"]
    assert Watch.from_json(old).scans == 40
    with pytest.raises(VoxgapError, match="not the state of a watch"):
        Watch.from_json(old | {"known": ["a"]})


def test_a_reference_is_kept_and_read_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    found = [{"missing rate of t1": float(rng.random()), "values of t1": float(i)} for i in range(30)]
    found[3]["values of t2"] = 1.0
    kept = reference_of(found)
    file = tmp_path / "reference.json"
    file.write_text(json.dumps(kept))
    watch = read_watch(file)
    assert watch.names == ("missing rate of t1", "values of t1")
    assert "no drift found" in watch.words()
    assert drifted(read_watch(file), found) is None, "the training set itself"
    assert drifted(watch, [{"missing rate of t1": 2.0 + i / 100} for i in range(40)]) is not None
    assert reference_of(found[:9]) is None
    file.write_text('{"names": ["a"], "seen": [[1, 2]]}')
    with pytest.raises(VoxgapError, match="train the bundle again"):
        read_watch(file)
