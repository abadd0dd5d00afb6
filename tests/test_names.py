"""Names that are known without Keras: they are Keras's and voxgap's own."""

from __future__ import annotations

import pytest
from keras.src import activations, losses, optimizers

from voxgap import models, names
from voxgap.errors import VoxgapError


def _functions(registry: dict) -> set[str]:
    return {name for name in registry if name == name.lower()}


def test_the_names_are_those_of_this_keras_and_of_the_models() -> None:
    abstract = {"optimizer", "optimizermap", "multioptimizer", "lossscaleoptimizer"}
    assert set(names.OPTIMIZERS) == _functions(optimizers.ALL_OBJECTS_DICT) - abstract
    assert set(names.LOSSES) == _functions(losses.ALL_OBJECTS_DICT) | {
        "dice_cross_entropy",
        "batch_dice_cross_entropy",
    }
    assert set(names.ACTIVATIONS) == _functions(activations.ALL_OBJECTS_DICT)
    assert tuple(models.NETWORKS) == names.NETWORKS


def test_names_are_taken_as_keras_takes_them_and_the_nearest_is_named() -> None:
    for name in ("mse", "MeanSquaredError", "mean_squared_error", "AdamW", "adamw"):
        names.check("name", name, (*names.LOSSES, *names.OPTIMIZERS))
    with pytest.raises(VoxgapError, match=r"^no optimizer 'adamm': did you mean adam\? There are adadelta, "):
        names.check("optimizer", "adamm", names.OPTIMIZERS)


def test_a_metric_of_a_class_is_said_and_asked_for_by_its_name() -> None:
    classes = ("rest", "2", "left tumour")
    for index, name in enumerate(classes):
        assert names.metric_words(f"dice_{index}", classes) == f"dice of {name}"
    assert names.metric_called("dice_left tumour", classes) == "dice_2"
    assert names.metric_called("dice_2", classes) == "dice_2"  # an index first: as it stands in the tables
    assert names.metric_called("dice_2", ("2", "0")) == "dice_0"
    assert names.metric_called("dice", classes) == "dice"
    assert names.metric_called("dice_rest", ()) == "dice_rest"
