"""Simulated gaps: exact rates, replay, patterns and mechanisms."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxgap.errors import VoxgapError
from voxgap.missingness import MECHANISMS, PATTERNS, Gaps, sample_gaps, simulate

SHAPE = (6, 5, 6, 7, 3)


def complete(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def units_of(missing: np.ndarray, pattern: str, axis: str) -> np.ndarray:
    """Return the units as `(batch, units)` of bool, and check that each is missing as a whole."""
    index = ("depth", "height", "width").index(axis) + 1
    if pattern in ("voxels", "blocks"):
        parts = missing.reshape(len(missing), -1, missing.shape[-1])
    elif pattern == "channels":
        parts = np.moveaxis(missing, -1, 1).reshape(len(missing), missing.shape[-1], -1)
    else:
        parts = np.moveaxis(missing, index, 1).reshape(len(missing), missing.shape[index], -1)
    assert np.array_equal(parts.all(axis=2), parts.any(axis=2))
    return parts.all(axis=2)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("rate", [0, 0.13, 0.5, 0.9, 1])
def test_the_rate_is_exact(pattern: str, mechanism: str, rate: float) -> None:
    volumes = complete()
    gapped = simulate(volumes, pattern, rate, mechanism, seed=3)
    units = units_of(np.isnan(gapped), pattern, "depth")
    assert units.sum() == np.floor(rate * units.size + 0.5)
    per_volume = units.sum(axis=1)
    assert (np.floor(rate * units.shape[1]) <= per_volume).all()
    assert (per_volume <= np.ceil(rate * units.shape[1])).all()
    assert np.array_equal(gapped[~np.isnan(gapped)], volumes[~np.isnan(gapped)])


@pytest.mark.parametrize("axis", ["depth", "height", "width"])
def test_slices_lie_across_their_axis(axis: str) -> None:
    missing = np.isnan(simulate(complete(), "slices", 0.4, axis=axis))
    length = {"depth": 5, "height": 6, "width": 7}[axis]
    assert units_of(missing, "slices", axis).sum() == round(0.4 * 6 * length)


def test_frames_are_slices_across_depth() -> None:
    frames = simulate(complete(), "frames", 0.4, axis="width", seed=5)
    assert np.array_equal(frames, simulate(complete(), "slices", 0.4, seed=5), equal_nan=True)


@pytest.mark.parametrize("pattern", ["voxels", "slices", "blocks"])
def test_channels_can_have_gaps_of_their_own(pattern: str) -> None:
    missing = np.isnan(simulate(complete(), pattern, 0.4, per_channel=True))
    assert (missing.any(axis=-1) & ~missing.all(axis=-1)).any()
    assert missing.sum() == pytest.approx(0.4 * missing.size, abs=42)


def test_blocks_are_whole_but_for_the_last() -> None:
    """Each missing voxel, but those of the one trimmed block, lies in a cuboid that is wholly missing."""
    shape, size = (12, 14, 16), (3, 4, 2)
    for seed in range(5):
        missing = np.isnan(simulate(complete((*shape, 1)), "blocks", 0.3, block_size=size, seed=seed))[..., 0]
        assert missing.sum() == round(0.3 * missing.size)
        # Blocks may stick out: beyond the border everything counts as missing.
        padded = np.pad(missing, [(s - 1, s - 1) for s in size], constant_values=True)
        covered = np.zeros_like(padded)
        for corner in np.ndindex(*(n - s + 1 for n, s in zip(padded.shape, size, strict=True))):
            block = tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))
            if padded[block].all():
                covered[block] = True
        inner = tuple(slice(s - 1, s - 1 + n) for n, s in zip(shape, size, strict=True))
        assert (missing & ~covered[inner]).sum() < np.prod(size)


def test_blocks_hit_border_and_middle_alike() -> None:
    gapped = simulate(complete((400, 8, 8, 8, 1)), "blocks", 0.2, block_size=4)
    rates = np.isnan(gapped)[..., 0].mean(axis=0)
    assert rates[0, 0, 0] == pytest.approx(0.2, abs=0.08)
    assert rates[3:5, 3:5, 3:5].mean() == pytest.approx(0.2, abs=0.05)


def test_runs_of_frames_are_contiguous() -> None:
    missing = np.isnan(simulate(complete((50, 20, 2, 2, 1)), "frames", 0.25, block_size=5))[:, :, 0, 0, 0]
    starts = (np.diff(missing.astype(int), axis=1, prepend=0) == 1).sum(axis=1)
    assert (missing.sum(axis=1) == 5).all()
    assert starts.mean() < 2.2


def test_a_seed_replays_and_another_differs() -> None:
    one, same, other = (simulate(complete(), seed=seed) for seed in (4, 4, 5))
    assert np.array_equal(one, same, equal_nan=True)
    assert not np.array_equal(one, other, equal_nan=True)
    generator = np.random.default_rng(4)
    assert np.array_equal(one, simulate(complete(), seed=generator), equal_nan=True)
    assert not np.array_equal(one, simulate(complete(), seed=generator), equal_nan=True)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_plan_survives_json(pattern: str) -> None:
    volumes = complete()
    gaps = sample_gaps(volumes, pattern, 0.3, seed=2)
    back = Gaps.from_json(gaps.to_json())
    assert np.array_equal(back.apply(volumes), gaps.apply(volumes), equal_nan=True)
    assert (back.pattern, back.mechanism, back.missing_rate) == (pattern, "mcar", 0.3)
    assert len(gaps.to_json()) < 1000


def test_volumes_are_copied_and_a_single_one_is_fine() -> None:
    volumes = complete()
    gapped = simulate(volumes[0], "slices", 0.4)
    assert gapped.shape == SHAPE[1:]
    assert not np.isnan(volumes).any()
    assert np.array_equal(gapped, simulate(volumes[:1], "slices", 0.4)[0], equal_nan=True)


def test_native_gaps_stay_and_the_rate_counts_what_is_there() -> None:
    volumes = complete()
    volumes[:, 2] = np.nan
    volumes[0] = np.nan
    gapped = simulate(volumes, "slices", 0.5, seed=1)
    gaps = units_of(np.isnan(gapped), "slices", "depth")
    assert gaps[:, 2].all()
    assert gaps[0].all()
    # Of the four slices that were left in each volume, two.
    assert (gaps[1:].sum(axis=1) == 3).all()


def test_few_units_reach_the_rate_over_the_set() -> None:
    """A tenth of four channels is less than one: four volumes in ten lose one."""
    gapped = simulate(complete((100, 2, 2, 2, 4)), "channels", 0.1)
    lost = np.isnan(gapped).all(axis=(1, 2, 3)).sum(axis=1)
    assert np.bincount(lost).tolist() == [60, 40]


def test_mcar_hits_every_voxel_alike() -> None:
    missing = np.isnan(simulate(complete((3000, 2, 3, 2, 1)), "voxels", 0.25))
    assert np.abs(missing.mean(axis=0) - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / 3000)


def test_the_draw_is_weighted_sampling_without_replacement() -> None:
    """Against the exact probabilities of drawing 2 of 4 units one after the other."""
    values = np.array([0.0, 1.0, 2.0, 4.0])
    weights = np.exp(0.7 * (values - values.mean()) / values.std())
    wanted = np.zeros(4)
    for first, second in itertools.permutations(range(4), 2):
        chance = weights[first] / weights.sum() * weights[second] / (weights.sum() - weights[first])
        wanted[[first, second]] += chance
    volumes = np.tile(values.reshape(1, 4, 1, 1, 1), (20_000, 1, 1, 1, 1))
    missing = np.isnan(simulate(volumes, "slices", 0.5, "mnar", strength=0.7))
    assert np.abs(missing.mean(axis=0).ravel() - wanted).max() < 0.015


def test_mnar_loses_bright_values_and_negative_strength_dark_ones() -> None:
    volumes = complete()
    bright = simulate(volumes, "voxels", 0.3, "mnar", per_channel=True)
    dark = simulate(volumes, "voxels", 0.3, "mnar", per_channel=True, strength=-2)
    assert np.nanmean(bright) < np.mean(volumes) - 0.2
    assert np.nanmean(dark) > np.mean(volumes) + 0.2


def test_mnar_compares_channels_on_their_own_scales() -> None:
    volumes = complete((200, 4, 4, 4, 2))
    volumes[..., 1] = 1000 + 50 * volumes[..., 1]
    lost = np.isnan(simulate(volumes, "channels", 0.5, "mnar")).all(axis=(1, 2, 3))
    assert lost.mean(axis=0) == pytest.approx([0.5, 0.5], abs=0.12)


def test_mar_given_the_class_makes_volumes_differ_and_keeps_the_overall_rate() -> None:
    classes = np.arange(40) % 2
    gapped = simulate(complete((40, 10, 4, 4, 1)), "voxels", 0.3, "mar", given=classes, strength=1)
    rates = np.isnan(gapped).mean(axis=(1, 2, 3, 4))
    assert rates.mean() == pytest.approx(0.3, abs=1e-4)
    log_odds = [np.log(r / (1 - r)) for r in (rates[classes == 0].mean(), rates[classes == 1].mean())]
    assert log_odds[1] - log_odds[0] == pytest.approx(2, abs=0.05)


def test_mar_given_another_channel() -> None:
    volumes = complete((20, 6, 6, 6, 1))
    other = complete((20, 6, 6, 6))
    missing = np.isnan(simulate(volumes, "voxels", 0.3, "mar", given=other))[..., 0]
    assert other[missing].mean() > other[~missing].mean() + 0.5
    assert np.isnan(simulate(volumes[0], "voxels", 0.3, "mar", given=other[0])).sum() == round(0.3 * 216)


def test_mar_without_given_loses_what_comes_late() -> None:
    missing = np.isnan(simulate(complete((300, 10, 2, 2, 1)), "frames", 0.4, "mar"))
    profile = missing.mean(axis=(0, 2, 3, 4))
    assert (np.diff(profile) > -0.05).all()
    assert profile[-1] > 0.9 > 0.1 > profile[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pattern": "holes"}, "pattern 'holes' is unknown; choose one of voxels"),
        ({"mechanism": "random"}, "choose one of mcar"),
        ({"axis": 0}, "choose one of depth"),
        ({"missing_rate": 1.1}, "from 0 to 1"),
        ({"missing_rate": float("nan")}, "from 0 to 1"),
        ({"strength": float("inf")}, "not finite"),
        ({"given": [1] * 6}, "by mechanism 'mar' only"),
        ({"mechanism": "mar", "given": [1, 2]}, "one number per volume"),
        ({"mechanism": "mar", "given": [np.nan] * 6}, "must be observed"),
        ({"block_size": 3}, "doesn't go with pattern 'voxels'"),
        ({"pattern": "blocks", "block_size": 0}, "give 1 or more"),
        ({"volumes": np.zeros((2, 2))}, "has rank 2"),
        ({"volumes": np.full(SHAPE, np.inf)}, "infinite"),
    ],
)
def test_bad_requests_are_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(VoxgapError, match=words):
        simulate(**{"volumes": complete(), **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"shape": [1, 2], "grid": [1, 2]}',
        sample_gaps(complete()).to_json().replace("6", "8", 1),
    ],
)
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(VoxgapError, match="not a plan of gaps"):
        Gaps.from_json(text)


def test_a_plan_fits_its_shape_only() -> None:
    with pytest.raises(VoxgapError, match="can't be applied to 6×5×6×7×1"):
        sample_gaps(complete()).apply(complete()[..., :1])


def check_any_request(
    shape: tuple[int, ...], pattern: str, mechanism: str, rate: float, native: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    volumes = rng.normal(size=shape).astype(np.float32)
    volumes[rng.random(shape) < native] = np.nan
    before = np.isnan(volumes)
    gaps = sample_gaps(volumes, pattern, rate, mechanism, seed=seed)
    after = np.isnan(gaps.apply(volumes))
    assert (after | ~before).all()
    assert np.array_equal(after, before | np.broadcast_to(gaps.missing, shape))
    collapsed = tuple(i for i in range(1, 5) if gaps.missing.shape[i] == 1)
    available = (~before).any(axis=collapsed, keepdims=True)
    assert not (gaps.missing & ~available).any()
    assert gaps.missing.sum() == np.floor(round(rate * available.sum(), 6) + 0.5)


SIZES = st.tuples(*[st.integers(1, 6)] * 4, st.integers(1, 3))
REQUESTS = {
    "shape": SIZES,
    "pattern": st.sampled_from(PATTERNS),
    "mechanism": st.sampled_from(MECHANISMS),
    "rate": st.integers(0, 100).map(lambda percent: percent / 100),
    "native": st.sampled_from([0.0, 0.3, 0.95, 1.0]),
    "seed": st.integers(0, 2**32),
}


@settings(max_examples=150, deadline=None)
@given(**REQUESTS)
def test_any_request_is_exact(**request: object) -> None:
    check_any_request(**request)  # type: ignore[arg-type]


@pytest.mark.full
@settings(max_examples=10_000, deadline=None)
@given(**REQUESTS)
def test_any_request_is_exact_many(**request: object) -> None:
    check_any_request(**request)  # type: ignore[arg-type]
