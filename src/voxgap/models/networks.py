"""The named networks: functions from values and observed to features, of one signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from voxgap.errors import VoxgapError
from voxgap.models.blocks import Blocks
from voxgap.recipe import Axes, axes

Convolve = Callable[[Any, Any, int, Axes], tuple[Any, Any]]
Network = Callable[[Blocks, Any, Any], Any]


def cnn3d(blocks: Blocks, x: Any, observed: Any) -> Any:
    """Build one convolution, normalisation and activation a stage."""
    architecture = blocks.architecture
    kernel_size = axes(architecture.kernel_size, "kernel_size")
    strides: Axes = (1, 1, 1)
    for filters in architecture.filters:
        x, observed = blocks.convolve(x, observed, filters, kernel_size, strides)
        x = blocks.attend(blocks.activate(blocks.normalise(x, observed)), observed, kernel_size)
        strides = axes(architecture.strides, "strides")
    return x


def resnet3d(blocks: Blocks, x: Any, observed: Any) -> Any:
    """Build one residual block of two convolutions a stage. He et al. 2016, in 3D (Hara et al. 2018)."""
    kernel_size = axes(blocks.architecture.kernel_size, "kernel_size")

    def convolve(x: Any, observed: Any, filters: int, strides: Axes) -> tuple[Any, Any]:
        return blocks.convolve(x, observed, filters, kernel_size, strides)

    return _residual(blocks, x, observed, convolve, kernel_size, axes(blocks.architecture.strides, "strides"))


def resnet2d(blocks: Blocks, x: Any, observed: Any) -> Any:
    """Build `resnet3d` with kernels 1 x k x k: each slice on its own, and the average of all at the end."""
    _, *kernel = axes(blocks.architecture.kernel_size, "kernel_size")
    _, *stride = axes(blocks.architecture.strides, "strides")
    kernel_size: Axes = (1, kernel[0], kernel[1])
    strides: Axes = (1, stride[0], stride[1])

    def convolve(x: Any, observed: Any, filters: int, strides: Axes) -> tuple[Any, Any]:
        return blocks.convolve(x, observed, filters, kernel_size, strides)

    return _residual(blocks, x, observed, convolve, kernel_size, strides)


def resnet2plus1d(blocks: Blocks, x: Any, observed: Any) -> Any:
    """Build `resnet3d` with each kernel split into 1 x k x k within slices and k x 1 x 1 across. Tran et al. 2018.

    The number of features between the two keeps the parameters of the 3D kernel.
    """
    depth, height, width = axes(blocks.architecture.kernel_size, "kernel_size")

    def convolve(x: Any, observed: Any, filters: int, strides: Axes) -> tuple[Any, Any]:
        channels, area = x.shape[-1], height * width
        middle = max(1, depth * area * channels * filters // (area * channels + depth * filters))
        x, observed = blocks.convolve(x, observed, middle, (1, height, width), (1, *strides[1:]))
        x = blocks.activate(blocks.normalise(x, observed))
        return blocks.convolve(x, observed, filters, (depth, 1, 1), (strides[0], 1, 1))

    kernel_size = (depth, height, width)
    return _residual(blocks, x, observed, convolve, kernel_size, axes(blocks.architecture.strides, "strides"))


def _residual(
    blocks: Blocks, x: Any, observed: Any, convolve: Convolve, kernel_size: Axes, strides: Axes
) -> Any:
    step: Axes = (1, 1, 1)
    for filters in blocks.architecture.filters:
        x, observed = _residual_stage(blocks, x, observed, filters, convolve, kernel_size, step)
        step = strides
    return x


def _residual_stage(
    blocks: Blocks, x: Any, observed: Any, filters: int, convolve: Convolve, kernel_size: Axes, step: Axes
) -> tuple[Any, Any]:
    shortcut = blocks.shortcut(x, observed, filters, kernel_size, step)
    y, observed = convolve(x, observed, filters, step)
    y, observed = convolve(blocks.activate(blocks.normalise(y, observed)), observed, filters, (1, 1, 1))
    x = blocks.activate(blocks.add(blocks.normalise(y, observed), shortcut))
    return blocks.attend(x, observed, kernel_size), observed


def unet3d(blocks: Blocks, x: Any, observed: Any) -> Any:
    """Go down with two convolutions a stage, up again with one, each stage joined to its equal on the way down.

    Features are reduced, then upsampled by repetition to the size that the stage had, odd or even. Çiçek et al. 2016
    (3D U-Net), with the lighter decoder of Isensee et al. 2024 and, where the strategy has attention, the gates
    of Oktay et al. 2018 on its skip connections.
    """
    kernel_size = axes(blocks.architecture.kernel_size, "kernel_size")

    def stage(x: Any, observed: Any, filters: int, step: Axes) -> tuple[Any, Any]:
        for strides in (step, (1, 1, 1)):
            x, observed = blocks.convolve(x, observed, filters, kernel_size, strides)
            x = blocks.activate(blocks.normalise(x, observed))
        return blocks.attend(x, observed, kernel_size), observed

    return _down_and_up(blocks, x, observed, stage)


def resunet3d(blocks: Blocks, x: Any, observed: Any) -> Any:
    """Build `unet3d` with the stages of `resnet3d` on its way down. Isensee et al. 2024 (residual encoder)."""
    kernel_size = axes(blocks.architecture.kernel_size, "kernel_size")

    def convolve(x: Any, observed: Any, filters: int, strides: Axes) -> tuple[Any, Any]:
        return blocks.convolve(x, observed, filters, kernel_size, strides)

    def stage(x: Any, observed: Any, filters: int, step: Axes) -> tuple[Any, Any]:
        return _residual_stage(blocks, x, observed, filters, convolve, kernel_size, step)

    return _down_and_up(blocks, x, observed, stage)


def _down_and_up(blocks: Blocks, x: Any, observed: Any, stage: Convolve) -> Any:
    architecture = blocks.architecture
    if architecture.padding != "same":
        raise VoxgapError("unet3d and resunet3d answer on the grid of their input: padding must be same")
    kernel_size = axes(architecture.kernel_size, "kernel_size")
    strides = axes(architecture.strides, "strides")
    skips = []
    step: Axes = (1, 1, 1)
    for filters in architecture.filters:
        x, observed = stage(x, observed, filters, step)
        skips.append((filters, x, observed))
        step = strides
    for level, (filters, skip, skip_observed) in reversed([*enumerate(skips[:-1])]):
        skip = blocks.gate(skip, x, strides)
        x = blocks.reduce(x, filters)
        x, observed = blocks.join(x, observed, skip, skip_observed, strides)
        x, observed = blocks.convolve(x, observed, filters, kernel_size, (1, 1, 1))
        x = blocks.activate(blocks.normalise(x, observed))
        if level:
            depth, height, width = (edge**level for edge in strides)
            blocks.coarser.insert(0, (x, (depth, height, width)))
    return x


NETWORKS: Mapping[str, Network] = {
    "cnn3d": cnn3d,
    "resnet3d": resnet3d,
    "resnet2d": resnet2d,
    "resnet2plus1d": resnet2plus1d,
    "unet3d": unet3d,
    "resunet3d": resunet3d,
}
