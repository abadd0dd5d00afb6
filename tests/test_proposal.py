"""The plan from the data: what it proposes for shapes of every kind, and what it leaves as it was asked for."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from voxgap.dataset import Dataset
from voxgap.errors import VoxgapError
from voxgap.experiment.proposal import plan, proposed
from voxgap.patches import GPU, PROCESSORS
from voxgap.recipe import Architecture, Training, axes

HIPPOCAMPUS = [(35, 50, 36)] * 150 + [(43, 59, 47), (31, 40, 24)] * 5


def test_small_volumes_are_trained_on_whole_in_many_steps() -> None:
    found = proposed(HIPPOCAMPUS, (1.0, 1.0, 1.0))
    assert found.patch_size == (44, 60, 48)
    assert found.filters == (16, 32, 64, 128)
    assert (found.strides, found.norm, found.deep_supervision, found.loss) == (2, "instance", True, None)
    assert len(HIPPOCAMPUS) * found.patches_per_volume / found.batch_size >= PROCESSORS.steps
    few = proposed(HIPPOCAMPUS[:9])
    assert math.ceil(9 * few.patches_per_volume / few.batch_size) >= PROCESSORS.steps


@pytest.mark.parametrize("machine", [PROCESSORS, GPU])
def test_large_volumes_are_cut_in_their_proportions(machine: Any) -> None:
    found = proposed([(155, 240, 200)] * 20, machine=machine)
    assert math.prod(found.patch_size) <= machine.voxels
    shares = np.array(found.patch_size) / (155, 240, 200)
    assert shares.max() / shares.min() < 1.2
    assert found.loss == "batch_dice_cross_entropy"
    assert found.batch_size == 2


def test_a_gpu_gets_more_of_everything() -> None:
    small, large = proposed(HIPPOCAMPUS), proposed(HIPPOCAMPUS, machine=GPU)
    assert large.filters[0] == 2 * small.filters[0]
    assert large.batch_size > small.batch_size
    voxels = sum(map(math.prod, HIPPOCAMPUS))
    assert large.batch_size * math.prod(large.patch_size) <= voxels / 20


def test_long_voxels_are_not_halved() -> None:
    found = proposed([(20, 320, 320)] * 4, (3.6, 0.6, 0.6))
    assert axes(found.strides, "strides") == (1, 2, 2)
    assert axes(proposed([(1, 100, 90)] * 4).strides, "strides")[0] == 1


def test_memory_bounds_the_patch() -> None:
    assert math.prod(proposed([(200, 200, 200)], memory=2**28).patch_size) < 2**16


EDGES = (1, 2, 5, 17, 90, 500)


@pytest.mark.parametrize("shape", [*itertools.combinations_with_replacement(EDGES, 3)])
def test_every_shape_gets_a_network_that_it_can_go_through(shape: tuple[int, int, int]) -> None:
    for machine in (PROCESSORS, GPU):
        found = proposed([shape] * 3, machine=machine)
        architecture, training = Architecture(**found.architecture), Training(**found.training)
        assert training.patch_size == found.patch_size
        assert 1 <= math.prod(found.patch_size) <= machine.voxels
        depth = len(architecture.filters) - 1
        for edge, step in zip(found.patch_size, axes(architecture.strides, "strides"), strict=True):
            assert step == 1 or edge / step**depth > 1 or depth == 1
        assert found.batch_size <= 3
        assert all(len(line) > 10 for line in found.why)


def test_what_is_given_stays_and_the_rest_follows() -> None:
    given: dict[str, Any] = {
        "patch_size": (16, 16, 16),
        "filters": (4, 8),
        "batch_size": 5,
        "norm": "batch",
        "patches_per_volume": 3,
        "strides": None,
    }
    found = proposed(HIPPOCAMPUS, **given)
    assert {name: getattr(found, name) for name in given if given[name]} == {
        n: v for n, v in given.items() if v
    }
    assert found.loss == "batch_dice_cross_entropy"  # of parts
    assert not any("halved down" in line for line in found.why)
    with pytest.raises(VoxgapError, match="plan: no number 'epochs'; there are patch_size"):
        proposed(HIPPOCAMPUS, epochs=3)


def test_batch_normalisation_learns_by_the_usual_rate() -> None:
    assert proposed(HIPPOCAMPUS).training["learning_rate"] == 3e-3
    assert proposed(HIPPOCAMPUS, norm="batch").training["learning_rate"] == Training.learning_rate


def test_a_data_set_is_planned_by_its_training_part() -> None:
    volumes = [np.zeros((n, 8, 8), "float32") for n in (5, 6, 40)]
    maps = [np.arange(v.size).reshape(v.shape) % 2 for v in volumes]
    data = Dataset.from_arrays(volumes, label_maps=maps, split=["train", "train", "validation"])
    assert plan(data, gpu=False).patch_size == (8, 8, 8)
    labelled = Dataset.from_arrays(np.zeros((8, 2, 2, 2)), labels=[0, 1] * 4)
    with pytest.raises(VoxgapError, match="a plan is for label maps, and these are of a classification"):
        plan(labelled, gpu=False)


def test_a_plan_says_that_its_shapes_are_those_of_training() -> None:
    whole, part = proposed([(20, 30, 20), (31, 40, 24)]), proposed([(155, 240, 200)] * 20)
    assert any("each training volume whole (20×30×20 to 31×40×24)" in line for line in whole.why)
    assert any("a part of the training volumes (155×240×200)" in line for line in part.why)
