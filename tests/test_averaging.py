"""Averaged weights are those of a loop, they are what is watched and kept; and a refit learns from all there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import tiny
from voxgap.bundle import Origin, save_bundle
from voxgap.errors import VoxgapError
from voxgap.experiment import train_and_score
from voxgap.recipe import Recipe, Training, strategy_of
from voxgap.training import Examples, adapt_model, refit, train
from voxgap.training.averaging import ema_momentum

DATA = tiny.dataset()
QUICK: dict[str, Any] = {"precision": "float32", "batch_size": 8, "learning_rate": 0.03}


class Steps(keras.callbacks.Callback):
    """Keeps the weights after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[np.ndarray]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append(self.model.get_weights())


def test_the_momentum_reaches_back_over_epochs() -> None:
    assert ema_momentum(Training(batch_size=8), 32) is None
    assert ema_momentum(Training(batch_size=8, ema=2.5), 33) == pytest.approx(1 - 1 / 12.5)
    assert ema_momentum(Training(batch_size=8, ema=0.1), 8) == 0


@pytest.mark.filterwarnings("ignore:.*never names")
def test_averages_are_those_of_a_loop_and_what_is_watched_and_kept() -> None:
    model, steps = tiny.model(strategy="mean"), Steps()
    history = train(model, DATA, epochs=3, ema=1, callbacks=steps, verbose=False, **QUICK)
    momentum, count = ema_momentum(Training(batch_size=8, ema=1), len(DATA.part("train"))), history.steps
    assert momentum is not None
    assert count is not None
    average, at_epochs = steps.seen[0], []
    for number, weights in enumerate(steps.seen[1:], start=2):
        average = [momentum * a + (1 - momentum) * w for a, w in zip(average, weights, strict=True)]
        if number % count == 0:
            at_epochs.append(average)
    for found, expected in zip(model.get_weights(), at_epochs[history.best_epoch], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    part = DATA.part("validation")
    answers = model.predict(part.volumes, verbose=0)
    loss = -np.log(answers[np.arange(len(part)), part.targets]).mean()
    assert loss == pytest.approx(history.best["val_loss"], rel=1e-4)


def test_a_number_that_is_none_is_refused() -> None:
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(VoxgapError, match="ema must be a number of epochs"):
            train(tiny.model(), DATA, ema=wrong)


@pytest.mark.filterwarnings("ignore:.*never names")
@pytest.mark.full
def test_a_refit_is_a_training_on_all_at_the_same_rates(tmp_path: Path) -> None:
    recipe = Recipe(tiny.network, strategy_of("mean"), training=Training(epochs=2, **QUICK))
    result = train_and_score(DATA, recipe, refit=True, seed=3)
    again = tiny.model(strategy="mean", seed=3)
    rates = [epoch["learning_rate"] for epoch in result.history.epochs[: result.history.best_epoch + 1]]
    refit(again, Examples.of(DATA), recipe.training, rates, seed=3)
    assert result.refitted is not None
    for found, expected in zip(result.refitted.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    adapted = tiny.model(strategy="mean", seed=3)
    adapt_model(adapted, Examples.of(DATA))
    for layer in ("fill", "normalize"):
        learnt, all_of_it = (m.get_layer("prepare").get_layer(layer).get_weights() for m in (again, adapted))
        assert [np.allclose(*pair) for pair in zip(learnt, all_of_it, strict=True)] == [True] * len(learnt)

    folder = save_bundle(
        tmp_path / "b",
        result.refitted,
        DATA,
        recipe=result.recipe,
        history=result.history,
        scored=result.scored,
        origin=Origin(judged=result.model),
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["arguments"]["refitted_on"] == len(DATA)
    assert manifest["calibration"] == {}
    assert manifest["scores"]["test"] == result.scores["test"]
    page = (folder / "evidence" / "report.html").read_text()
    assert f"trained like it, on all {len(DATA)} volumes" in page
    answers = result.model.predict(DATA.part("test").volumes, verbose=0)
    told = (folder / "evidence" / "predictions.csv").read_text()
    assert f"{answers[0].max():.4f}"[:5] in told
