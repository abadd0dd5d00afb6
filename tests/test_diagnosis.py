"""describe: rates against NumPy, and simulated patterns recognised."""

import json

import numpy as np
import pytest

from voxgap.errors import VoxgapError
from voxgap.missingness import simulate
from voxgap.missingness.diagnosis import bars, describe, pattern_of


def volumes(channels: int = 1, count: int = 12) -> np.ndarray:
    shape = (count, 10, 12, 14, channels)
    return np.random.default_rng(0).normal(5, 2, size=shape).astype(np.float32)


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.8])
@pytest.mark.parametrize(
    ("request_", "looks_like"),
    [
        ({"pattern": "voxels"}, "voxels"),
        ({"pattern": "voxels", "mechanism": "mnar"}, "voxels"),
        ({"pattern": "voxels", "per_channel": True}, "voxels"),
        ({"pattern": "blocks"}, "blocks"),
        ({"pattern": "blocks", "block_size": (1, 6, 6), "per_channel": True}, "blocks"),
        ({"pattern": "slices", "axis": "height"}, "slices along height"),
        ({"pattern": "slices", "axis": "width", "per_channel": True}, "slices along width"),
        ({"pattern": "frames"}, "slices along depth"),
    ],
)
def test_a_simulated_pattern_is_recognised(request_: dict, looks_like: str, rate: float) -> None:
    found = describe(simulate(volumes(3), missing_rate=rate, **request_))
    assert found.pattern == looks_like


def test_missing_channels_are_recognised() -> None:
    assert describe(simulate(volumes(3), "channels", 0.5)).pattern == "channels"
    assert describe(simulate(volumes(3), "channels", 0.9)).pattern == "whole volumes"


def test_different_rates_do_not_look_like_blocks() -> None:
    gapped = simulate(volumes(), "voxels", 0.5, "mar", given=np.arange(12))
    assert describe(gapped).pattern == "voxels"


def test_a_mixture_is_told_apart() -> None:
    gapped = simulate(volumes(2), "slices", 0.3)
    gapped[0] = np.nan
    gapped[1, ..., 0] = np.nan
    gapped[2:, 0, 0, 0] = np.nan
    found = describe(gapped)
    voxels = 10 * 12 * 14
    single = int(np.isnan(gapped[2:, 0, 0, 0]).sum()) - 2 * int(np.isnan(gapped[2:, 0, 1, 1, 0]).sum())
    total = np.isnan(gapped).sum()
    assert found.shares["whole volumes"] == pytest.approx(2 * voxels / total)
    assert found.shares["channels"] == pytest.approx(voxels / total)
    assert found.shares["slices along depth"] == pytest.approx((10 * 2 + 1) * 3 * voxels / 10 / total)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.shares["voxels"] == pytest.approx(single / total)


def test_counts_and_rates_equal_numpy() -> None:
    gapped = simulate(volumes(2), "voxels", 0.3, per_channel=True)
    gapped[3] = np.nan
    gapped[4, ..., 1] = np.nan
    gapped[5:, 2] = np.nan
    gapped[:, 0, 0, 0, 0] = np.nan
    classes = np.arange(12) % 3
    missing = np.isnan(gapped)
    found = describe(gapped, classes, channels=("t1", "t2"), classes=("a", "b", "c"))
    assert found.missing_rate == pytest.approx(missing.mean())
    assert found.with_gaps == 12
    assert found.wholly_missing == 1
    assert found.never_observed == missing.all(axis=0).sum()
    assert any(name == "never observed" for name, _ in found.rows()) == bool(found.never_observed)
    assert not any(name == "never observed" for name, _ in describe(gapped[:1]).rows())
    assert found.missing_channels == {"t1": 1, "t2": 2}
    assert found.missing_slices == {"depth": 14, "height": 0, "width": 0}
    assert list(found.per_channel.values()) == pytest.approx(missing.mean(axis=(0, 1, 2, 3)))
    for axis, index in (("depth", 1), ("height", 2), ("width", 3)):
        others = tuple(i for i in range(5) if i != index)
        assert found.per_axis[axis] == pytest.approx(missing.mean(axis=others))
        for channel, rates in enumerate(found.per_axis_channel[axis]):
            assert rates == pytest.approx(missing[..., channel].mean(axis=others[:-1]))
    for index, name in enumerate("abc"):
        assert found.per_class[name] == pytest.approx(missing[classes == index].mean())
    observed = gapped[~missing].astype(float)
    wanted = {"min": observed.min(), "max": observed.max(), "mean": observed.mean(), "std": observed.std()}
    wanted |= {f"p{q:02}": np.quantile(observed, q / 100) for q in (1, 25, 50, 75, 99)}
    assert found.intensity == pytest.approx(wanted, rel=1e-5)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    gapped = simulate(volumes(2), "blocks", 0.3)
    whole = describe(gapped)
    monkeypatch.setattr("voxgap.observed.BLOCK_VOXELS", 5000)
    monkeypatch.setattr("voxgap.missingness.diagnosis.QUANTILE_VOXELS", 20_000)
    parts = describe(gapped)
    assert parts.shares == whole.shares
    assert parts.never_observed == whole.never_observed
    assert parts.intensity == pytest.approx(whole.intensity, rel=0.02, abs=0.05)


def test_without_gaps_and_without_values() -> None:
    full = describe(volumes())
    assert (full.pattern, full.shares, full.with_gaps) == ("none", {}, 0)
    empty = describe(np.full((2, 3, 3, 3, 1), np.nan))
    assert (empty.pattern, empty.intensity, empty.wholly_missing) == ("whole volumes", {}, 2)
    flat = describe(simulate(volumes()[:, :1], "voxels", 0.3))
    assert flat.pattern == "voxels"


def test_text_and_json() -> None:
    found = describe(simulate(volumes(2), "slices", 0.5), np.zeros(12, int), classes=("all",))
    text = str(found)
    assert "slices along depth" in text
    assert "▄" in text
    assert "class all" in text
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["missing_rate"] == 0.5
    with pytest.raises(VoxgapError, match="give one class for each"):
        describe(volumes(), [1, 2])


def test_bars_are_short_and_never_hide_a_gap() -> None:
    assert bars([0, 0.01, 0.5, 1]) == " ▁▄█"
    assert len(bars(np.zeros(500))) == 56


@pytest.mark.parametrize("pattern", ["voxels", "slices", "blocks", "channels"])
def test_the_pattern_alone_is_that_of_the_description(pattern: str) -> None:
    volumes = np.random.default_rng(0).normal(size=(3, 8, 8, 8, 2)).astype("float32")
    assert pattern_of(volumes) == describe(volumes).pattern == "none"
    gaps = simulate(volumes, pattern, 0.4, seed=1)
    assert pattern_of(gaps) == describe(gaps).pattern
