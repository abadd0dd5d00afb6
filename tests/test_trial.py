"""How sure a fill is, measured: what is hidden, and what is learnt from it, of planted fields."""

import numpy as np
import pytest

from test_fill_kriging import arrays, field
from voxgap.fill import Kriging
from voxgap.fill.around import Surroundings
from voxgap.fill.trial import SINGLE, calibrated, trials


def test_calibration_finds_factor_and_exponent() -> None:
    generator = np.random.default_rng(0)
    own = np.exp(generator.uniform(-3, 0, size=(40, 40, 10, 1))).astype(np.float32)
    error = (1.5 * own**1.4 * generator.normal(size=own.shape)).astype(np.float32)
    hidden = np.ones(own.shape, bool)
    found = calibrated(lambda volumes, asked: (error[None], own[None] ** 2), [(0 * own, hidden)])
    assert found == pytest.approx((1.5, 1.4), rel=0.06)


def test_gaps_of_the_data_are_hidden_elsewhere() -> None:
    x = field((8, 10, 10), (1, 1, 1))
    x[2, 3:8, 2:9] = np.nan
    shapes = [hidden for _, hidden in trials([x])]
    assert any(hidden[6, 3:8, 2:9].all() and hidden.sum() == 35 for hidden in shapes)
    assert all((~np.isnan(x))[hidden].all() for hidden in shapes)


def test_a_block_is_hidden_only_where_no_gap_of_the_data_can_be() -> None:
    complete = field((12, 12, 12), (1, 1, 1))
    slices = complete.copy()
    slices[[1, 4, 5, 9]] = np.nan  # along height and width they are where they were
    moved = [hidden for _, hidden in trials([slices]) if hidden.mean() > SINGLE]
    assert [np.unique(np.nonzero(hidden)[0]).tolist() for hidden in moved] == [[3, 7, 10, 11]]
    assert moved[0].sum() == 4 * 12 * 12
    assert [hidden.sum() for _, hidden in trials([complete])][1:] == [4**3]


@pytest.mark.parametrize("files", [False, pytest.param(True, marks=pytest.mark.full)])
def test_of_volumes_that_vary_unalike_the_deviation_holds_for_most_of_errors(files: bool) -> None:
    """Each volume is a field of one kind in a size of its own: errors are, too, and none knows which."""
    generator = np.random.default_rng(0)
    size = np.exp(generator.normal(size=(160, 1, 1, 1, 1)))
    complete = np.stack([field((12, 10, 10), (1.0, 1.5, 1.5), seed) - 5 for seed in range(160)]) * size
    lost = np.array([generator.permutation(12) < 5 for _ in complete])
    x = np.where(lost[:, :, None, None, None], np.nan, complete).astype(np.float32)
    inside = []
    for start in range(0, 160, 40):
        learnt_from, asked = x[start : start + 40], np.delete(x, np.s_[start : start + 40], axis=0)[::4]
        truth = np.delete(complete, np.s_[start : start + 40], axis=0)[::4]
        if files:
            filler = Surroundings.learn(list(learnt_from))
            parts = [next(filler.fill(volume)) for volume in asked]
            value, deviation = (np.stack([part[i] for part in parts]) for i in (1, 2))
        else:
            layer = Kriging()
            layer.adapt(learnt_from)
            value, deviation = arrays(layer, asked)
        inside.append(np.mean((np.abs(value - truth) < deviation)[np.isnan(asked)]))
    # It is 0.68, and of 40 volumes, of which four alone would say 0.64 to 0.91, hardly another.
    assert np.mean(inside) == pytest.approx(0.68, abs=0.03)
    assert 0.6 < min(inside) < max(inside) < 0.77


def test_what_is_all_alike_says_nothing_of_how_sure_the_rest_is() -> None:
    volume = np.random.default_rng(0).normal(size=(4, 16, 16, 2)).astype(np.float32)
    volume[np.random.default_rng(1).random(volume.shape) < 0.3] = np.nan
    constant = np.where(np.isnan(volume), np.nan, np.float32([[[[1, 0]]]]) * volume + np.float32([0, 5]))
    blank = np.zeros_like(volume)
    for volumes in ([constant], [blank, volume, blank, blank, blank]):
        for _, hidden in trials(volumes):
            assert hidden.any()
            assert not hidden[..., 1].any() or volumes[0] is blank
    assert len(list(trials([blank, volume, blank, blank, blank]))) == len(list(trials([volume])))
    assert not list(trials([blank]))
