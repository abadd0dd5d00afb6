"""Recipes: the presets of strategies, composing one, and saying what is wrong with one."""

from __future__ import annotations

import json

import keras
import pytest

from voxgap import fill
from voxgap.errors import VoxgapError
from voxgap.models import build_model
from voxgap.recipe import PRESETS, Strategy, strategy_of

# The interface that DESIGN fixes: scripts and manifests hold these words.
NAMES = (
    *("zero", "mean", "median", "mode", "nearest", "linear", "kriging", "knn", "matrix_factorization"),
    "learned",
    *("mask_channel", "masked_conv", "gated_conv", "gap_dropout", "attention"),
)


def test_the_presets_are_those_of_the_interface() -> None:
    assert tuple(PRESETS) == NAMES


def made(strategy: Strategy) -> keras.layers.Layer:
    return fill.make(strategy.fill, strategy.fill_options)


@pytest.mark.parametrize(
    ("name", "needs_observed", "conv", "gap_dropout"),
    [
        *((name, False, "plain", False) for name in NAMES[:10]),
        ("mask_channel", True, "plain", False),
        ("masked_conv", True, "masked", False),
        ("gated_conv", True, "gated", False),
        ("gap_dropout", True, "plain", True),
        ("attention", True, "plain", False),
    ],
)
def test_presets_mean_what_they_say(name: str, needs_observed: bool, conv: str, gap_dropout: bool) -> None:
    strategy = strategy_of(name)
    assert strategy.needs_observed is needs_observed
    assert strategy.conv == conv
    assert bool(strategy.gap_dropout) is gap_dropout
    assert strategy.attention is (name == "attention")


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("zero", fill.Zero),
        ("mean", fill.Mean),
        ("median", fill.Median),
        ("mode", fill.Mode),
        ("nearest", fill.Nearest),
        ("linear", fill.LinearInterpolation),
        ("kriging", fill.Kriging),
        ("knn", fill.KNN),
        ("matrix_factorization", fill.MatrixFactorization),
        ("mask_channel", fill.Mean),
        ("masked_conv", fill.Mean),
    ],
)
def test_presets_fill_with_their_layer(name: str, layer: type) -> None:
    assert type(made(strategy_of(name))) is layer


def test_options_reach_the_fill_layer_and_the_gap_dropout() -> None:
    strategy = Strategy("knn", {"n_neighbors": 3, "max_donors": 9}, gap_dropout=0.25, gap_pattern="blocks")
    prepare = build_model("cnn3d", (4, 4, 4, 1), 2, strategy=strategy, seed=7, filters=(1,)).get_layer(
        "prepare"
    )
    filler, dropout = prepare.get_layer("fill"), prepare.get_layer("gap_dropout")
    assert (filler.n_neighbors, filler.max_donors) == (3, 9)
    assert (dropout.rate, dropout.pattern, dropout.seed) == (0.25, "blocks", 7)


@pytest.mark.parametrize(
    "strategy",
    [
        *PRESETS.values(),
        Strategy("knn", {"n_neighbors": 3}, True, "masked", 0.1),
        Strategy({"sst": "kriging", "mask": "zero"}, {"sst": {"max_gap": 3}}, conv="masked"),
    ],
)
def test_json_and_back(strategy: Strategy) -> None:
    assert Strategy(**json.loads(json.dumps(strategy.to_json()))) == strategy


def test_strategies_are_values() -> None:
    assert strategy_of("mean") == Strategy()
    assert hash(Strategy(fill_options={"per": "voxel"})) == hash(Strategy(fill_options={"per": "voxel"}))
    assert strategy_of(Strategy("zero")) == Strategy("zero")
    assert isinstance(made(Strategy()), keras.layers.Layer)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"fill": "spline"}, "fill must be one of zero, mean"),
        ({"fill": {"sst": "spline"}}, "fill of channel 'sst' must be one of zero, mean"),
        ({"fill": "sst=mean,sst=zero"}, "channel 'sst' is there twice"),
        ({"fill": {}}, "CHANNEL=FILL for each channel"),
        ({"conv": "partial"}, "plain, masked or gated"),
        ({"gap_dropout": 1.0}, "gap_dropout must be in"),
        ({"gap_dropout": -0.1}, "gap_dropout must be in"),
        ({"gap_pattern": "frames"}, "gap_pattern must be one of"),
    ],
)
def test_a_wrong_value_is_named(arguments: dict, said: str) -> None:
    with pytest.raises(VoxgapError, match=said) as caught:
        Strategy(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"neighbours": 3}, {"n_neighbors": 0}, {"name": "mine"}, {"n_neighbors": "a"}]
)
def test_options_that_do_not_fit_are_named(options: dict) -> None:
    with pytest.raises(VoxgapError, match="fill_options of knn") as caught:
        made(Strategy("knn", options))
    assert "\n" not in str(caught.value)


def test_a_fill_for_each_channel_goes_by_name_number_or_text() -> None:
    wanted = Strategy({"0": "kriging", "1": "zero"}, {"0": {"max_gap": 3.0}})
    options = {"sst": {"max_gap": 3.0}}
    for said in (
        {"mask": "zero", "sst": "kriging"},
        {"0": "kriging", "mask": "zero"},
        "mask=zero, sst=kriging",
    ):
        found = strategy_of("mean", fill=said, fill_options=options).of_channels(("sst", "mask"))
        assert found == wanted
        assert found.of_channels(("sst", "mask")) == found
    assert strategy_of("mean").of_channels(("sst",)) == Strategy()
    assert isinstance(made(wanted), fill.PerChannel)


@pytest.mark.parametrize(
    ("fill", "options", "said"),
    [
        ({"sst": "mean", "msk": "zero"}, {}, "no channel 'msk'; there are sst, mask"),
        ({"sst": "mean"}, {}, "channel 'mask' has none; give each of sst, mask one"),
        ({"sst": "mean", "0": "zero", "mask": "zero"}, {}, "a channel has two"),
        ({"sst": "knn", "mask": "zero"}, {"n_neighbors": 3}, "fill_options: no channel 'n_neighbors'"),
    ],
)
def test_fills_that_do_not_suit_the_channels_are_named(fill: dict, options: dict, said: str) -> None:
    with pytest.raises(VoxgapError, match=said) as caught:
        Strategy(fill, options).of_channels(("sst", "mask"))
    assert "\n" not in str(caught.value)


def test_a_network_knows_channels_by_number_only() -> None:
    with pytest.raises(VoxgapError, match="channel 'sst' is known to data only"):
        build_model("cnn3d", (4, 4, 4, 1), 2, strategy=Strategy({"sst": "mean"}), filters=(1,))
    with pytest.raises(VoxgapError, match="fills for 1 channels, but the volumes have 2"):
        build_model("cnn3d", (4, 4, 4, 2), 2, strategy=Strategy({"0": "mean"}), filters=(1,))


@pytest.mark.parametrize("name", ["none", "", "MEAN", None, "complete", "drop"])
def test_an_unknown_name_is_answered_with_the_known_ones(name: object) -> None:
    with pytest.raises(VoxgapError, match="choose one of zero, mean"):
        strategy_of(name)
