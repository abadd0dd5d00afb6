"""One layer of a network as a record: what it does to a shape, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from voxgap.errors import VoxgapError
from voxgap.shapes.axis import Ints, Padding, Step, pairs_per_axis, per_axis, positive, steps

CONVOLUTIONS = ("conv", "gated_conv", "transpose")
WINDOWS = (*CONVOLUTIONS, "coverage", "pool", "upsample", "pad", "crop")
SHAPELESS = ("merge", "concatenate", "global_pool", "flatten", "dense", "batch_norm", "cut", "other")
KINDS = ("input", *WINDOWS, *SHAPELESS)


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a network.

    Args:
        kind: `conv`, `transpose` (transposed convolution), `gated_conv`, `coverage` (the count of observed
            voxels under a kernel), `pool`, `global_pool`, `upsample`, `pad`, `crop`, `batch_norm`, `merge`
            (sum or product of equal shapes), `concatenate` (channels), `cut` (the first input, cut to the size
            of the second), `flatten`, `dense`, `input`, or `other` (keeps the shape).
        name: unique in the network; the default is the kind and a number, `conv_1`.
        inputs: names of layers; the default is the layer before. The network's input is called `input`.
        filters: output channels, or units of a dense layer.
        kernel_size: voxels, one number or one per axis; of a pool its size, of `upsample` its factor.
        strides: voxels; the default is 1, and the kernel size for a pool.
        padding: as in `output_shape`; for `pad` and `crop` the voxels to add or remove.
        dilation_rate: voxels between two taps of the kernel.
        output_padding: voxels added at the end of a transposed convolution.
        groups: as in `keras.layers.Conv3D`.
        use_bias: one more parameter per filter.
        keepdims: a global pool that gives `(1, 1, 1, channels)` instead of `(channels,)`.
        parameters: their number, where it doesn't follow from the rest.
        shape: for `input`, the sizes it is restricted to, None where it is free.

    Raises:
        VoxgapError: the kind is unknown, or a layer with kernels lacks `filters`.
    """

    kind: str
    name: str = ""
    inputs: tuple[str, ...] = ()
    filters: int | None = None
    kernel_size: Ints = 1
    strides: Ints | None = None
    padding: Padding = "valid"
    dilation_rate: Ints = 1
    output_padding: Ints | None = None
    groups: int = 1
    use_bias: bool = True
    keepdims: bool = False
    parameters: int | None = None
    shape: tuple[int | None, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise VoxgapError(f"layer kind {self.kind!r} is unknown: use one of {', '.join(KINDS)}")
        if self.kind in (*CONVOLUTIONS, "dense"):
            positive(self.filters, f"filters of layer {self.name or self.kind!r}")
            positive(self.groups, f"groups of layer {self.name or self.kind!r}")

    def steps(self, axes: int) -> tuple[Step, ...]:
        """Return what the layer does along each of `axes` spatial axes.

        Raises:
            VoxgapError: an argument is malformed or made for another number of axes.
        """
        try:
            return self._steps(axes)
        except VoxgapError as error:
            raise VoxgapError(f"layer {self.name!r}: {error}") from None

    def _steps(self, axes: int) -> tuple[Step, ...]:
        if self.kind == "upsample":
            factor = per_axis(self.kernel_size, axes, "factor")
            return steps(axes, factor, factor, transposed=True)
        if self.kind in ("pad", "crop"):
            sign = 1 if self.kind == "pad" else -1
            sides = pairs_per_axis(self.padding, axes)
            return tuple(Step(1, padding=(sign * before, sign * after)) for before, after in sides)
        strides = self.strides
        if strides is None:
            strides = self.kernel_size if self.kind == "pool" else 1
        transposed = self.kind == "transpose"
        return steps(
            axes,
            self.kernel_size,
            strides,
            self.padding,
            self.dilation_rate,
            transposed,
            self.output_padding,
        )

    def channels(self, inputs: list[int], voxels: int) -> int:
        """Return the output channels for the channels of each input; `voxels` is the number of them in an input."""
        if self.kind == "coverage":
            return 1
        if self.kind == "cut":
            return inputs[0]
        if self.kind == "flatten":
            return inputs[0] * voxels
        if self.kind == "concatenate":
            return sum(inputs)
        if self.filters is not None:
            return self.filters
        return max(inputs)

    def cost(self, inputs: list[int], axes: int, voxels_in: int, voxels_out: int) -> tuple[int, int]:
        """Count parameters and multiply-adds.

        Args:
            inputs: channels of each input; a convolution takes them concatenated.
            axes: spatial axes.
            voxels_in: voxels of an input, all axes multiplied.
            voxels_out: voxels of the output.

        Returns:
            `(parameters, multiply-adds)`; only kernels count as multiply-adds, padding included.

        Raises:
            VoxgapError: groups don't divide the channels.
        """
        weights = biases = macs = 0
        if self.kind in CONVOLUTIONS:
            filters = (self.filters or 0) * (2 if self.kind == "gated_conv" else 1)
            if sum(inputs) % self.groups or filters % self.groups:
                raise VoxgapError(
                    f"layer {self.name!r}: groups={self.groups} must divide its {sum(inputs)} input channels "
                    f"and {filters} filters"
                )
            kernel = prod(per_axis(self.kernel_size, axes, "kernel_size"))
            weights, biases = kernel * sum(inputs) // self.groups * filters, filters
            # A transposed convolution spreads each input voxel; the others gather for each output voxel.
            macs = weights * (voxels_in if self.kind == "transpose" else voxels_out)
        elif self.kind == "coverage":
            macs = prod(per_axis(self.kernel_size, axes, "kernel_size")) * voxels_out
        elif self.kind == "dense":
            weights, biases = inputs[0] * (self.filters or 0), self.filters or 0
            macs = weights * voxels_out
        elif self.kind == "batch_norm":
            weights = 4 * inputs[0]
        if self.parameters is not None:
            return self.parameters, macs
        return weights + (biases if self.use_bias else 0), macs
