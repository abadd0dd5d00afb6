"""A plan from the data: how large a patch, how deep and wide a network, how many patches a step, and why.

Source: the fingerprint and rules of nnU-Net (Isensee et al., Nature Methods 18, 2021), for few processors as well as
for a GPU. What differs: volumes that fit are trained on whole, since each can then be normalised
by itself; and a stage halves the same axes as the others do.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from voxgap import patches
from voxgap.dataset import Dataset
from voxgap.errors import VoxgapError
from voxgap.patches import GPU, PROCESSORS, Machine
from voxgap.ragged import shapes_of
from voxgap.recipe import Architecture, Axes, Plain, Training, axes

COARSEST = 4  # voxels along an axis that may be halved no more
ANISOTROPIC = 3  # a voxel so many times as long along one axis as along another
MOST_FILTERS = 320
RATE = 3e-3
"""That networks with instance normalisation learn by: after 940 steps on hippocampus the Dice of validation volumes was
0.007 and 0.010 better by 2e-3 and 4e-3 than by 1e-3."""


@dataclass(frozen=True)
class Plan(Plain):
    """What is proposed for a data set.

    Attributes:
        spacing: size of a voxel that the network sees; None where nobody knows.
        patch_size, filters, strides, norm, deep_supervision, batch_size, patches_per_volume, loss, learning_rate: as
            `Architecture` and `Training` have them.
        why: a line each.
    """

    spacing: tuple[float, float, float] | None
    patch_size: Axes
    filters: tuple[int, ...]
    strides: int | Axes
    norm: str
    deep_supervision: bool
    batch_size: int
    patches_per_volume: int
    loss: str | None
    learning_rate: float
    why: tuple[str, ...]

    def _of(self, kind: type[Plain]) -> dict[str, Any]:
        names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        return {name: value for name, value in self.arguments().items() if name in names}

    @property
    def architecture(self) -> dict[str, Any]:
        """Those of its numbers that `build_model` takes."""
        return self._of(Architecture)

    @property
    def training(self) -> dict[str, Any]:
        """Those of its numbers that `train` takes."""
        return self._of(Training)


PLANNED = ("patch_size", "filters", "strides", "norm", "deep_supervision", "batch_size", "patches_per_volume")
"""What the data decides together; who gives one of these by hand has a plan of their own."""
BESIDE = ("learning_rate", "loss")
"""What a plan has besides."""


def plan(dataset: Dataset, *, gpu: bool | None = None, **given: Any) -> Plan:
    """Propose how a segmentation of a data set is to be trained.

    Args:
        dataset: its training part counts.
        gpu: whether it is trained on one; None: whether there is one.
        **given: numbers that stand already, by their names in the plan; the others follow from them.

    Raises:
        VoxgapError: the data is no segmentation, or one of `given` is no number of a plan.

    Example:
        >>> import voxgap as vg
        >>> proposed = vg.plan(vg.load_data("sample:brain-tissue"), gpu=False)
        >>> proposed.patch_size, proposed.filters, proposed.batch_size
        ((20, 20, 20), (16, 32, 64), 2)
    """
    if dataset.task != "segmentation":
        raise VoxgapError(f"{dataset.name}: a plan is for label maps, and these are of a {dataset.task}")
    part = dataset.part("train")
    shapes = [shape[:3] for shape in shapes_of(part.volumes if len(part) else dataset.volumes)]
    spacing = dataset.grid.spacing or dataset.spacing
    if gpu is None:
        from voxgap.backend import has_gpu

        gpu = has_gpu()
    machine = GPU if gpu else PROCESSORS
    return proposed(shapes, spacing, machine, memory=patches.memory(), **given)


def proposed(
    shapes: Sequence[tuple[int, ...]],
    spacing: Sequence[float] | None = None,
    machine: Machine = PROCESSORS,
    *,
    memory: int = 2**33,
    **given: Any,
) -> Plan:
    """Propose numbers by the shapes of the training volumes; see `plan`.

    Args:
        shapes: `(depth, height, width)` of each.
        spacing: size of a voxel.
        machine: that trains.
        memory: bytes that there are, of processors.
        **given: see `plan`.
    """
    unknown = sorted({*given} - {*PLANNED, *BESIDE})
    if unknown:
        raise VoxgapError(f"plan: no number {unknown[0]!r}; there are {', '.join(PLANNED)}")
    said = {name: value for name, value in given.items() if value is not None}
    why = []
    if spacing is not None:
        why.append(
            f"spacing {_by([f'{one:g}' for one in spacing])}: that of the volumes, or what they were brought to"
        )
    size, reason = patches.planned(shapes, machine, memory)
    size = axes(said.get("patch_size", size), "patch_size")
    whole = bool((np.array(shapes) <= size).all())
    why.append(f"patches of {_by(size)}: {_given('patch_size', said) or reason}")
    strides, halvings = _strides(size, spacing, machine)
    strides = said.get("strides", strides)
    filters = tuple(min(MOST_FILTERS, machine.filters * 2**level) for level in range(halvings + 1))
    filters = tuple(said.get("filters", filters))
    steps = axes(strides, "strides")
    smallest = [math.ceil(edge / step ** (len(filters) - 1)) for edge, step in zip(size, steps, strict=True)]
    why.append(
        f"{len(filters)} stages, filters {','.join(map(str, filters))}: "
        + (
            _given("filters", said)
            or f"halved down to {_by(smallest)}; {filters[0]} to begin with, for {machine.name}"
        )
    )
    batch = said.get("batch_size", _batch(size, shapes, machine))
    each = said.get("patches_per_volume", max(1, math.ceil(machine.steps * batch / len(shapes))))
    count = math.ceil(each * len(shapes) / batch)
    why.append(f"batches of {batch}, {each} a volume: {count} steps an epoch")
    norm = said.get("norm", "instance")
    if "norm" not in said:
        why.append("instance normalisation: a batch of few volumes has no statistics worth learning")
    rate = said.get("learning_rate", RATE if norm == "instance" else Training.learning_rate)
    why.append(
        f"learning rate {rate:g}: " + (_given("learning_rate", said) or f"what {norm} normalisation bears")
    )
    deep = len(filters) > 2
    return Plan(
        spacing=None if spacing is None else (spacing[0], spacing[1], spacing[2]),
        patch_size=size,
        filters=filters,
        strides=strides,
        norm=norm,
        deep_supervision=said.get("deep_supervision", deep),
        batch_size=batch,
        patches_per_volume=each,
        loss=said.get("loss", None if whole else "batch_dice_cross_entropy"),
        learning_rate=rate,
        why=tuple(why),
    )


def _strides(size: Axes, spacing: Sequence[float] | None, machine: Machine) -> tuple[int | Axes, int]:
    """Return the steps between stages, and how many there are: axes of few or of long voxels are not halved."""
    long = [spacing is not None and one >= ANISOTROPIC * min(spacing) for one in (spacing or (1.0,) * 3)]
    can = [0 if no else int(math.log2(max(1, edge / COARSEST))) for edge, no in zip(size, long, strict=True)]
    deepest = max(1, min(machine.halvings, max(can)))

    def halved(halvings: int) -> list[bool]:
        return [not no and edge / 2**halvings > 1 for edge, no in zip(size, long, strict=True)]

    # All stages halve the same axes: more of them count for more stages.
    halvings = max(range(1, deepest + 1), key=lambda count: (count * sum(halved(count)), count))
    steps = [2 if yes else 1 for yes in halved(halvings)]
    return (2 if min(steps) == 2 else axes(tuple(steps), "strides")), halvings


def _batch(size: Axes, shapes: Sequence[Sequence[int]], machine: Machine) -> int:
    """Return two, or what keeps the machine busy; not more than a twentieth of the data."""
    voxels, all_voxels = math.prod(size), sum(math.prod(shape) for shape in shapes)
    room = min(2 * machine.voxels // voxels, all_voxels // (20 * voxels)) if machine.fill else 2
    return max(1, min(len(shapes), max(2, room)))


def _given(name: str, said: dict[str, Any]) -> str:
    return "as asked for" if name in said else ""


def _by(numbers: Sequence[Any]) -> str:
    return "×".join(map(str, numbers))
