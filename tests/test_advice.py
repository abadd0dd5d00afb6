"""advise: which rule speaks for which gaps."""

import numpy as np
import pytest

from voxgap.cli.fill import FILLS
from voxgap.missingness import simulate
from voxgap.missingness.advice import advise, to_compare
from voxgap.missingness.diagnosis import describe
from voxgap.missingness.mechanism import examine

PRESETS = {*FILLS, "mask_channel", "masked_conv", "gated_conv", "gap_dropout", "attention"}


def smooth(count: int = 60, channels: int = 1) -> np.ndarray:
    steps = np.random.default_rng(0).normal(size=(count, 12, 6, 6, channels))
    return np.cumsum(np.cumsum(steps, axis=1), axis=2).astype(np.float32)


def rough(count: int = 60, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 12, 6, 6, channels)).astype(np.float32)


def names(values: np.ndarray, labels: np.ndarray | None = None) -> tuple[str, ...]:
    advice = advise(describe(values, labels), examine(values, labels, max_draws=499))
    assert advice
    assert {name for one in advice for name in one.strategies} <= PRESETS
    return to_compare(advice)


def test_nothing_missing_needs_nothing() -> None:
    assert names(smooth()) == ("zero", "mean")


def test_slices_of_smooth_volumes_are_interpolated_and_of_rough_ones_not() -> None:
    assert names(simulate(smooth(), "slices", 0.25))[0] == "linear"
    assert "linear" not in names(simulate(rough(), "slices", 0.25))
    assert "knn" in names(simulate(rough(), "slices", 0.25))


def test_missing_channels_are_told_to_the_network() -> None:
    chosen = names(simulate(rough(60, 3), "channels", 0.33))
    assert chosen[0] == "mask_channel"
    assert "linear" not in chosen
    assert "knn" not in names(simulate(rough(20, 3), "channels", 0.33))


def test_gaps_that_tell_about_the_label_are_shown_to_the_network() -> None:
    labels = np.arange(60) % 2
    chosen = names(simulate(smooth(), "slices", 0.3, "mar", given=labels), labels)
    assert chosen[0] == "mask_channel"
    assert "linear" in chosen


def test_much_missing_needs_more_than_a_fill() -> None:
    assert "masked_conv" in names(simulate(rough(), "voxels", 0.7))


def test_what_no_strategy_can_help_is_said() -> None:
    values = simulate(smooth(), "slices", 0.25)
    values[0] = np.nan
    values[:, 3, 0, 0] = np.nan
    whys = [one.why for one in advise(describe(values), examine(values, max_draws=99))]
    assert any(why.startswith("1 volume is wholly missing") for why in whys)
    assert any("missing in every volume" in why for why in whys)


@pytest.mark.parametrize("rate", [0.0, 0.01])
def test_little_missing_takes_the_simplest(rate: float) -> None:
    assert "mean" in names(simulate(rough(), "voxels", rate))
