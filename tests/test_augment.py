"""Augmentation: records, seeds, batches, threads, intensity, gaps, and what a user meets."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from augment_cases import AXES, EVERY, POINTWISE, SHAPE, TURNED, affine, gapped, same_bits
from voxgap import augment as va
from voxgap.augment.transform import _kinds
from voxgap.errors import VoxgapError

# --- intensity


@pytest.mark.parametrize("name", POINTWISE)
def test_intensity_never_touches_what_is_missing_nor_reads_it(name: str) -> None:
    volume = gapped()
    changed = EVERY[name](volume, 3)
    np.testing.assert_array_equal(np.isnan(changed), np.isnan(volume))
    assert not np.array_equal(changed, volume, equal_nan=True)
    empty = np.full(SHAPE, np.nan, np.float32)
    assert np.isnan(EVERY[name](empty, 3)).all()


def test_blur_equals_scipy_on_complete_data_and_its_definition_with_gaps() -> None:
    record = {"transform": "blur", "sigmas": [0.8, 0.5, 1.0]}
    volume = np.random.default_rng(0).random((10, 11, 12, 1), dtype=np.float32)
    theirs = ndimage.gaussian_filter(volume[..., 0], (0.8, 0.5, 1.0), mode="nearest")
    np.testing.assert_allclose(va.apply(volume, record)[..., 0], theirs, atol=1e-6)
    volume[4:6, 3:9] = np.nan
    observed = ~np.isnan(volume[..., 0])
    # The response to each observed voxel alone, summed: the weights of one output voxel.
    at = (5, 10, 6)
    response = np.zeros(observed.shape)
    response[at] = 1
    weights = ndimage.gaussian_filter(response, (0.8, 0.5, 1.0), mode="constant") * observed
    expected = (weights * np.nan_to_num(volume[..., 0])).sum() / weights.sum()
    interior = np.pad(volume[..., 0], 8, constant_values=np.nan)[..., None]
    assert va.apply(interior, record)[tuple(i + 8 for i in at)][0] == pytest.approx(expected, abs=1e-4)


def test_gamma_keeps_the_range_and_noise_its_relative_size() -> None:
    volume = gapped((20, 20, 20, 1)) * 50 - 20
    bent = va.apply(volume, {"transform": "gamma", "exponent": 2.0})
    assert np.nanmin(bent) == pytest.approx(np.nanmin(volume))
    assert np.nanmax(bent) == pytest.approx(np.nanmax(volume))
    noisy = va.apply(volume, {"transform": "noise", "deviation": 0.1, "seed": 1})
    assert np.nanstd(noisy - volume) == pytest.approx(0.1 * np.nanstd(volume), rel=0.05)


def test_bias_field_is_the_polynomial() -> None:
    record = va.BiasField(0.3, order=2).sample(np.random.default_rng(0), SHAPE)
    ones = np.ones(SHAPE, np.float32)
    axes = [np.linspace(-1, 1, size) for size in SHAPE[:3]]
    expected = np.exp(np.polynomial.polynomial.polygrid3d(*axes, np.array(record["coefficients"])))
    np.testing.assert_allclose(va.apply(ones, record)[..., 1], expected, rtol=1e-5)


# --- gaps


def test_extra_gaps_come_on_top_at_their_rate() -> None:
    volume = gapped((10, 10, 10, 1))
    for seed in range(5):
        transform = va.ExtraGaps(("voxels",), (0.2, 0.4))
        record = transform.sample(np.random.default_rng(seed), volume.shape)
        more = transform.apply(volume, record)
        assert np.isnan(more[np.isnan(volume)]).all()
        lost = np.isnan(more).sum() - np.isnan(volume).sum()
        assert lost == pytest.approx(record["missing_rate"] * (~np.isnan(volume)).sum(), abs=1)


def test_channel_dropout_keeps_one_observed_channel() -> None:
    volume = np.ones((3, 3, 3, 4), np.float32)
    volume[..., 2] = np.nan
    kept = []
    for seed in range(30):
        dropped = va.ChannelDropout(1.0)(volume, seed)
        observed = ~np.isnan(dropped).all(axis=(0, 1, 2))
        assert observed.sum() == 1
        kept.append(int(observed.argmax()))
    assert set(kept) == {0, 1, 3}


def test_each_channel_is_dropped_at_its_own_rate() -> None:
    transform = va.from_text("channel_dropout:0.5/0/0.1")
    assert transform.transforms == (va.ChannelDropout((0.5, 0.0, 0.1)),)
    dropped = np.stack([np.isnan(transform(np.ones((1, 1, 1, 3), np.float32), seed)) for seed in range(3000)])
    assert dropped.mean(axis=(0, 1, 2, 3)) == pytest.approx([0.5, 0, 0.1], abs=0.03)
    with pytest.raises(VoxgapError, match="3 rates for 2 channels"):
        transform(np.ones((1, 1, 1, 2), np.float32), 0)
    with pytest.raises(VoxgapError, match=r"write channel_dropout:0\.5/0\.1, a rate for each channel"):
        va.from_text("channel_dropout:0.5/")
    for wrong in ("channel_dropout:0.5/x", "channel_dropout:0.5/1.1", "flip:0.5/0.1"):
        with pytest.raises(VoxgapError):
            va.from_text(wrong)


# --- records, seeds, batches, threads


def test_every_transform_is_covered() -> None:
    assert set(EVERY) == set(_kinds)


@pytest.mark.parametrize("name", EVERY)
def test_a_record_is_json_and_replays(name: str) -> None:
    volume, transform = gapped(), EVERY[name]
    for seed in range(4):
        record = transform.sample(np.random.default_rng(seed), SHAPE, (1.0, 1.5, 2.0))
        again = json.loads(json.dumps(record))
        assert again == record
        first = transform.apply(volume, record)
        assert first.dtype == np.float32
        assert same_bits(first, va.apply(volume, again))


@pytest.mark.parametrize("name", EVERY)
def test_a_batch_equals_its_volumes_whatever_the_threads(name: str) -> None:
    transform = EVERY[name]
    batch = np.stack([gapped(seed=seed) for seed in range(3)])
    before = batch.copy()
    labels = np.random.default_rng(0).integers(0, 5, batch.shape[:4])
    values, moved = transform(batch, (7, 1, 2), labels=labels)
    assert same_bits(batch, before)
    for index in range(3):
        alone, label = transform(batch[index], (7, 1, 2, index), labels=labels[index])
        assert same_bits(values[index], alone)
        np.testing.assert_array_equal(moved[index], label)
    for threads in (2, 3, 5):
        shared, shared_labels = transform(batch, (7, 1, 2), labels=labels, threads=threads)
        assert same_bits(values, shared)
        np.testing.assert_array_equal(moved, shared_labels)
        assert same_bits(transform(batch[0], 1, threads=threads), transform(batch[0], 1))


def test_seeds_decide_and_generators_go_on() -> None:
    volume, transform = gapped(), va.preset("scan", "strong")
    assert same_bits(transform(volume, (1, 2, 3)), transform(volume, (1, 2, 3)))
    assert not np.array_equal(transform(volume, (1, 2, 3)), transform(volume, (1, 2, 4)), equal_nan=True)
    rng = np.random.default_rng(5)
    assert va.Rotate().sample(rng, SHAPE) != va.Rotate().sample(rng, SHAPE)


def test_loader_threads_may_call_it_at_once() -> None:
    batch, transform = np.stack([gapped()] * 2), va.preset("scan", "strong")
    alone = [transform(batch, (0, 0, index), threads=2) for index in range(12)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda index: transform(batch, (0, 0, index), threads=2), range(12)))
    assert all(same_bits(a, b) for a, b in zip(alone, together, strict=True))


def test_one_volume_may_be_shared_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voxgap.augment.resample.PART", 1)
    volume, labels = gapped(), np.arange(math.prod(SHAPE[:3])).reshape(SHAPE[:3])
    transform = va.Compose([va.Rotate(30), va.Elastic(0.05)])
    alone, label = transform(volume, 3, labels=labels)
    for threads in (2, 3, 20):
        shared, shared_label = transform(volume, 3, labels=labels, threads=threads)
        assert same_bits(shared, alone)
        np.testing.assert_array_equal(shared_label, label)


def test_read_only_and_strided_volumes_are_taken() -> None:
    volume = gapped()
    expected = va.apply(volume, affine(TURNED))
    fixed = volume.copy()
    fixed.flags.writeable = False
    strided = np.asfortranarray(volume)
    assert same_bits(va.apply(fixed, affine(TURNED)), expected)
    assert same_bits(va.apply(strided, affine(TURNED)), expected)


def test_probability_zero_changes_nothing_and_half_half_of_them() -> None:
    volume = gapped()
    assert same_bits(va.Noise(p=0)(volume, 0), volume)
    records = va.Noise(p=0.5).sample_batch(400, SHAPE, 0)
    assert 150 < sum(record["transform"] == "noise" for record in records) < 250


def test_compose_follows_the_changing_shape() -> None:
    transform = va.Compose(
        [va.Rotate90(("depth", "width"), (1,), keep_shape=False), va.Crop((11, 12, 4), centre=True)]
    )
    volume = gapped()
    moved = transform(volume, 0)
    assert same_bits(moved, np.ascontiguousarray(np.rot90(volume, 1, (0, 2))[:, :, 2:6]))


@given(
    st.lists(
        st.sampled_from(["flip", "rotate90", "translate"]),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 10**6),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_exact_transforms_compose_exactly(names: list[str], seed: int) -> None:
    chosen = {
        "flip": va.Flip(AXES),
        "rotate90": va.Rotate90(keep_shape=False),
        "translate": va.Translate(2, unit="voxels", whole=True),
    }
    rng, volume = np.random.default_rng(seed), gapped()
    shape: tuple[int, ...] = SHAPE
    steps, several = [], volume
    for name in names:
        steps.append(chosen[name].sample(rng, shape))
        several = va.apply(several, steps[-1])
        shape = several.shape
    one = va.apply(volume, affine(steps))
    # What a shift pushed out is lost in sequence, and may still be there in one step.
    present = ~np.isnan(several)
    np.testing.assert_array_equal(one[present], several[present])


@given(
    st.sampled_from(["flip", "rotate90", "rotate", "scale", "translate", "shear", "pad"]),
    st.integers(0, 10**6),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_undone_is_where_it_was(name: str, seed: int) -> None:
    record = EVERY[name].sample(np.random.default_rng(seed), SHAPE, (1.0, 1.5, 2.0))
    undone = va.invert(record)
    assert va.invert(undone) in (record, {**record, "inverse": False})
    volume = gapped()
    assert same_bits(va.apply(volume, affine([record, undone])), volume)


# --- what a user meets


def test_errors_are_one_line() -> None:
    volume = gapped()
    cases = [
        lambda: va.Rotate(axes="depth"),
        lambda: va.Rotate(degrees=math.nan),
        lambda: va.Flip(("time",)),
        lambda: va.Noise((-1, 0)),
        lambda: va.Scale((0, 1)),
        lambda: va.Rotate(p=2),
        lambda: va.Elastic(points=(2, 7, 7)),
        lambda: va.Crop((0, 3, 3)),
        lambda: va.OneOf(()),
        lambda: va.ExtraGaps(("holes",)),
        lambda: va.Border("mirror"),
        lambda: va.Border(threshold=0),
        lambda: va.preset("cat"),
        lambda: va.from_text("rotate:fast"),
        lambda: va.from_text("spin"),
        lambda: va.Translate(3, unit="mm")(volume, 0),
        lambda: va.Rotate()(volume[0], 0),
        lambda: va.Rotate()(volume, 0, labels=np.zeros((2, 2, 2), int)),
        lambda: va.Rotate()(volume, 0, threads=0),
        lambda: va.apply(volume, {"transform": "spatial"}),
        lambda: va.apply(volume, {"transform": "rotate"}),
        lambda: va.apply(volume[None], []),
        lambda: va.invert({"transform": "noise"}),
        lambda: va.invert({"transform": "elastic"}),
        lambda: va.Compose([va.Elastic(), va.Elastic()])(volume, 0),
        lambda: va.apply(
            np.stack([volume] * 2), [{"transform": "nothing"}, EVERY["crop"].sample(_rng(), SHAPE)]
        ),
    ]
    for index, case in enumerate(cases):
        with pytest.raises(VoxgapError) as caught:
            case()
        assert "\n" not in str(caught.value), index
        assert len(str(caught.value)) > 20, index


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("kind", ["scan", "video", "grid"])
@pytest.mark.parametrize("strength", ["none", "default", "strong"])
def test_presets_keep_the_shape_and_something_observed(kind: str, strength: str) -> None:
    batch = np.stack([gapped((8, 12, 12, 2))] * 8)
    moved = va.preset(kind, strength)(batch, 0)
    assert moved.shape == batch.shape
    assert (~np.isnan(moved)).any(axis=(1, 2, 3, 4)).all()
    assert same_bits(moved, batch) == (strength == "none")


def test_text_names_transforms() -> None:
    read = va.from_text("flip, rotate:10,scale:0.9..1.1,extra_gaps:0..0.3")
    assert read.transforms == (
        va.Flip(),
        va.Rotate(10.0),
        va.Scale((0.9, 1.1)),
        va.ExtraGaps(missing_rate=(0.0, 0.3)),
    )
    assert va.from_text("strong", "video") == va.preset("video", "strong")


def test_import_is_light() -> None:
    code = "import sys, voxgap.augment; print({'numba', 'scipy', 'keras', 'matplotlib'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@pytest.mark.full
def test_kernels_work_where_nothing_can_be_cached(tmp_path: Any) -> None:
    code = (
        "import numpy as np, numba.core.caching as c\n"
        "c.CacheImpl._locator_classes = []\n"
        "import voxgap.augment as va\n"
        "print(va.Rotate(10)(np.ones((4, 4, 4, 1), np.float32), 0).shape)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "(4, 4, 4, 1)", run.stderr[-500:]


def test_command_draws_a_picture_and_saves(tmp_path: Any) -> None:
    import typer
    from typer.testing import CliRunner

    from voxgap.cli.augment import augment
    from voxgap.io import read

    app = typer.Typer()
    app.command()(augment)
    source, picture, saved = tmp_path / "scan.npy", tmp_path / "scan.png", tmp_path / "turned.npz"
    np.save(source, gapped())
    options = ["--transform", "flip,rotate:20", "--out", str(picture), "--save", str(saved), "--json"]
    run = CliRunner().invoke(app, [str(source), *options])
    assert run.exit_code == 0, run.output
    records = json.loads(run.stdout)
    assert len(records) == 3
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert same_bits(read(saved).values, va.apply(gapped(), records[0]))
    refused = CliRunner().invoke(app, [str(source), "--transform", "spin", "--out", str(picture)])
    assert isinstance(refused.exception, VoxgapError)
    refused = CliRunner().invoke(app, [str(source), "--save", str(source)])
    assert "scan.npy is there already" in str(refused.exception)
    assert same_bits(read(source).values, gapped())
