"""`voxgap train --plan`: when a plan is made, and which numbers of the command stay."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from voxgap.cli import plan
from voxgap.cli.network import architecture
from voxgap.dataset import Dataset
from voxgap.errors import VoxgapError
from voxgap.experiment.proposal import PLANNED
from voxgap.recipe import Architecture

MAPS = np.arange(8 * 6**3).reshape(8, 6, 6, 6) % 3
DATA = Dataset.from_arrays(np.zeros((8, 6, 6, 6)), label_maps=MAPS)
LABELLED = Dataset.from_arrays(np.zeros((8, 2, 2, 2)), labels=[0, 1] * 4)


def given(**options: Any) -> dict[str, Any]:
    """What the command makes of its options, those that nobody gave being None."""
    context: Any = SimpleNamespace(params=dict.fromkeys(PLANNED) | options)
    Architecture.of(architecture(context))
    return plan.given(context)


def test_a_plan_is_made_for_label_maps_where_no_number_of_it_is_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = plan.made(None, DATA, "unet3d", given())
    assert found is not None
    assert found.patch_size == (8, 8, 8)
    assert "plan: patches of 8×8×8" in capsys.readouterr().err
    assert plan.made(None, DATA, "unet3d", given(filters="4,8")) is None
    assert plan.made(None, DATA, "unet3d", given(batch_size=3)) is None
    assert plan.made("none", DATA, "unet3d", given()) is None
    assert plan.made(None, DATA, "cnn3d", given()) is None
    assert plan.made(None, LABELLED, "resnet3d", given()) is None


def test_a_plan_that_is_asked_for_keeps_what_is_given() -> None:
    numbers = given(filters="4,8", patch_size="4,4,4", batch_size=3, norm="batch")
    found = plan.made("auto", DATA, "resunet3d", numbers)
    assert found is not None
    assert (found.filters, found.patch_size, found.batch_size, found.norm) == ((4, 8), (4, 4, 4), 3, "batch")


def test_a_learning_rate_of_one_s_own_is_no_reason_to_make_no_plan(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = plan.made(None, DATA, "unet3d", given(learning_rate=0.02, loss="dice_cross_entropy"))
    assert found is not None
    assert (found.learning_rate, found.loss) == (0.02, "dice_cross_entropy")
    assert "plan: learning rate 0.02: as asked for" in capsys.readouterr().err


def test_a_plan_that_is_not_possible_is_one_line() -> None:
    with pytest.raises(VoxgapError, match="--plan auto is for label maps"):
        plan.made("auto", LABELLED, "resnet3d", given())
    with pytest.raises(VoxgapError, match="no plan 'automatic'"):
        plan.made("automatic", DATA, "unet3d", given())
    with pytest.raises(VoxgapError, match="--filters takes integers"):
        given(filters="many")
    with pytest.raises(VoxgapError, match="norm must be batch or instance, got 'layer'"):
        given(norm="layer")
