"""Strategies: the presets, composing one, and saying what is wrong with one."""

from __future__ import annotations

import json

import keras
import pytest

from voxgap import fill, strategies
from voxgap.errors import VoxgapError
from voxgap.strategies import PRESETS, Strategy

# The interface that DESIGN fixes: scripts and manifests hold these words.
NAMES = (
    *("zero", "mean", "median", "mode", "nearest", "linear", "kriging", "knn", "matrix_factorization"),
    *("mask_channel", "masked_conv", "gated_conv", "gap_dropout", "attention"),
)


def test_the_presets_are_those_of_the_interface() -> None:
    assert tuple(PRESETS) == NAMES


@pytest.mark.parametrize(
    ("name", "needs_observed", "conv", "gap_dropout"),
    [
        *((name, False, "plain", False) for name in NAMES[:9]),
        ("mask_channel", True, "plain", False),
        ("masked_conv", True, "masked", False),
        ("gated_conv", True, "gated", False),
        ("gap_dropout", True, "plain", True),
        ("attention", True, "plain", False),
    ],
)
def test_presets_mean_what_they_say(name: str, needs_observed: bool, conv: str, gap_dropout: bool) -> None:
    strategy = strategies.get(name)
    assert strategy.needs_observed is needs_observed
    assert strategy.conv == conv
    assert (strategy.gap_dropout_layer(0) is not None) is gap_dropout
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
    assert type(strategies.get(name).fill_layer()) is layer


def test_options_reach_the_fill_layer_and_the_gap_dropout() -> None:
    strategy = Strategy("knn", {"n_neighbors": 3, "max_donors": 9}, gap_dropout=0.25, gap_pattern="blocks")
    filler, dropout = strategy.fill_layer(), strategy.gap_dropout_layer(7)
    assert (filler.n_neighbors, filler.max_donors) == (3, 9)
    assert (dropout.rate, dropout.pattern, dropout.seed) == (0.25, "blocks", 7)


@pytest.mark.parametrize(
    "strategy", [*PRESETS.values(), Strategy("knn", {"n_neighbors": 3}, True, "masked", 0.1)]
)
def test_json_and_back(strategy: Strategy) -> None:
    assert Strategy(**json.loads(json.dumps(strategy.to_json()))) == strategy


def test_strategies_are_values() -> None:
    assert strategies.get("mean") == Strategy()
    assert hash(Strategy(fill_options={"per": "voxel"})) == hash(Strategy(fill_options={"per": "voxel"}))
    assert strategies.get(Strategy("zero")) == Strategy("zero")
    assert isinstance(Strategy().fill_layer(), keras.layers.Layer)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"fill": "spline"}, "fill must be one of zero, mean"),
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
        Strategy("knn", options).fill_layer()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["none", "", "MEAN", None, "complete", "drop"])
def test_an_unknown_name_is_answered_with_the_known_ones(name: object) -> None:
    with pytest.raises(VoxgapError, match="choose one of zero, mean"):
        strategies.get(name)
