"""What a convolution, pooling, padding or upsampling does along one axis."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm
from typing import Any, Literal, Self

from voxgap.errors import VoxgapError

Ints = int | Sequence[int]
Padding = str | int | Sequence[int | tuple[int, int]]

# A window is a table with one entry per output voxel of a period; no real network upsamples further.
MAX_PERIOD = 4096


@dataclass(frozen=True, slots=True)
class Step:
    """One layer along one axis.

    Args:
        reach: extent of the kernel in voxels, `dilation_rate * (kernel_size - 1) + 1`.
        strides: voxels between two positions of the kernel.
        padding: `"same"` as in Keras, or voxels added before and after (a transposed layer crops them).
        transposed: the step upsamples.
        output_padding: voxels added after a transposed step; None: Keras's default for `"same"`.
    """

    reach: int
    strides: int = 1
    padding: Literal["same"] | tuple[int, int] = (0, 0)
    transposed: bool = False
    output_padding: int | None = None

    def size(self, n: int) -> int:
        """Return the output voxels for `n` input voxels; below 1 where the input is too small."""
        if self.transposed:
            if self.padding != "same":
                return (n - 1) * self.strides + self.reach - sum(self.padding) + (self.output_padding or 0)
            if self.output_padding is None:
                return n * self.strides
            return (n - 1) * self.strides + self.reach % 2 + self.output_padding
        if self.padding == "same":
            return -(-n // self.strides)
        return (n + sum(self.padding) - self.reach) // self.strides + 1

    def least(self, m: int) -> int:
        """Return the fewest input voxels that give at least `m` output voxels."""
        if self.transposed:
            return max(1, 1 - (self.size(1) - m) // self.strides)
        added = self.reach - 1 if self.padding == "same" else sum(self.padding)
        return max(1, (m - 1) * self.strides + self.reach - added)

    def before(self, n: int) -> int:
        """Return the voxels padded (transposed: cropped) before the first of `n` input voxels."""
        if self.padding != "same":
            return self.padding[0]
        small, large = (n, self.size(n)) if self.transposed else (self.size(n), n)
        # The odd voxel goes to the end, as in TensorFlow.
        return max((small - 1) * self.strides + self.reach - large, 0) // 2


@dataclass(frozen=True, slots=True)
class Window:
    """Which input voxels each voxel of a tensor sees along one axis.

    The pattern repeats: voxel `i` sees the inputs `start..stop` of `i % period`, moved by `shift` per period.
    Only transposed steps make a period above 1. Padding counts as input, so that there are no borders.
    """

    start: tuple[int, ...] = (0,)
    stop: tuple[int, ...] = (0,)
    shift: int = 1

    @property
    def extent(self) -> int:
        """The receptive field in input voxels, of the output voxel that sees most."""
        return max(stop - start for start, stop in zip(self.start, self.stop, strict=True)) + 1

    @property
    def jump(self) -> Fraction:
        """Input voxels between two neighbouring output voxels."""
        return Fraction(self.shift, len(self.start))

    def at(self, first: int, last: int) -> tuple[int, int]:
        """Return the inputs that the voxels `first..last` of this tensor see together."""
        period = len(self.start)
        return (
            self.start[first % period] + first // period * self.shift,
            self.stop[last % period] + last // period * self.shift,
        )

    def through(self, step: Step, n: int) -> Self:
        """Return the window after `step`, which takes `n` voxels."""
        period, before, s = len(self.start), step.before(n), step.strides
        if step.transposed:
            repeat, shift = period * s, self.shift
            if repeat > MAX_PERIOD:
                raise VoxgapError(
                    f"upsampling by {repeat} in all is more than {MAX_PERIOD}: use smaller strides"
                )
            # Where the strides exceed the kernel, some voxels see nothing: start > stop, as it should be.
            first = [-((step.reach - 1 - o - before) // s) for o in range(repeat)]
            seen = [self.at(first[o], (o + before) // s) for o in range(repeat)]
        else:
            repeat = period // gcd(period, s)
            shift = self.shift * s * repeat // period
            seen = [self.at(s * o - before, s * o - before + step.reach - 1) for o in range(repeat)]
        start, stop = zip(*seen, strict=True)
        return type(self)(start, stop, shift)

    def join(self, other: Self) -> Self:
        """Return the window of a sum or concatenation: the union, which is the larger one where both are centred."""
        if self.jump != other.jump:  # sizes that broadcast: no common grid to unite on
            return max(self, other, key=lambda window: window.extent)
        period = lcm(len(self.start), len(other.start))
        pairs = [(self.at(o, o), other.at(o, o)) for o in range(period)]
        return type(self)(
            tuple(min(a[0], b[0]) for a, b in pairs),
            tuple(max(a[1], b[1]) for a, b in pairs),
            self.shift * (period // len(self.start)),
        )


def positive(value: Any, name: str, least: int = 1) -> int:
    """Check one integer.

    Raises:
        VoxgapError: not an integer, or below `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise VoxgapError(f"{name} must be an integer from {least}, got {value!r}")
    return number


def _is_many(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str)


def per_axis(value: Any, axes: int, name: str, least: int = 1) -> tuple[int, ...]:
    """Spread an integer, or one integer per axis, over the axes.

    Raises:
        VoxgapError: not integers, fewer or more than `axes`, or below `least`.
    """
    values = tuple(value) if _is_many(value) else (value,) * axes
    if len(values) != axes:
        raise VoxgapError(f"{name} has {len(values)} entries for {axes} spatial axes: {value!r}")
    return tuple(positive(v, name, least) for v in values)


def pairs_per_axis(padding: Any, axes: int, name: str = "padding") -> tuple[tuple[int, int], ...]:
    """Spread voxels to pad, given as a number, one per axis, or `(before, after)` per axis, over the axes."""
    sides = tuple(padding) if _is_many(padding) else (padding,) * axes
    if len(sides) != axes:
        raise VoxgapError(f"{name} has {len(sides)} entries for {axes} spatial axes: {padding!r}")
    result = []
    for side in sides:
        if _is_many(side) and len(tuple(side)) != 2:
            raise VoxgapError(f"{name} takes voxels, or (before, after) for an axis, got {side!r}")
        before, after = per_axis(side, 2, name, least=0)
        result.append((before, after))
    return tuple(result)


def steps(
    axes: int,
    kernel_size: Ints,
    strides: Ints = 1,
    padding: Padding = "valid",
    dilation_rate: Ints = 1,
    transposed: bool = False,
    output_padding: Ints | None = None,
) -> tuple[Step, ...]:
    """Read a layer's arguments as one step per axis; the arguments are those of `output_shape`."""
    kernel = per_axis(kernel_size, axes, "kernel_size")
    stride = per_axis(strides, axes, "strides")
    dilation = per_axis(dilation_rate, axes, "dilation_rate")
    extra: tuple[int | None, ...] = (None,) * axes
    if output_padding is not None:
        extra = per_axis(output_padding, axes, "output_padding", least=0)
    if isinstance(padding, str) and padding not in ("valid", "same"):
        raise VoxgapError(f'padding must be "valid", "same" or voxels per side, got {padding!r}')
    pads: Sequence[Any] = (
        ("same",) * axes
        if padding == "same"
        else pairs_per_axis(0 if isinstance(padding, str) else padding, axes)
    )
    result = []
    for k, s, d, pad, more in zip(kernel, stride, dilation, pads, extra, strict=True):
        reach = d * (k - 1) + 1
        if transposed and padding == "valid" and more is None:
            more = max(s - reach, 0)  # Keras: no input voxel is lost where the strides exceed the kernel
        result.append(Step(reach, s, pad, transposed, more))
    return tuple(result)


def output_shape(
    input_shape: Ints,
    kernel_size: Ints,
    strides: Ints = 1,
    padding: Padding = "valid",
    dilation_rate: Ints = 1,
    *,
    transposed: bool = False,
    output_padding: Ints | None = None,
) -> tuple[int, ...]:
    """Compute the spatial shape after a convolution, pooling or transposed convolution.

    Each axis goes by `floor((input + 2 * padding - dilation_rate * (kernel_size - 1) - 1) / strides) + 1`;
    `"same"` gives `ceil(input / strides)`. Dumoulin and Visin 2016.

    Args:
        input_shape: spatial axes only, voxels, as many as you like: `(depth, height, width)`.
        kernel_size: voxels; one number or one per axis, as are all that follow.
        strides: voxels between two positions of the kernel.
        padding: `"valid"`, `"same"`, or voxels added on each side, `(before, after)` where they differ.
        dilation_rate: voxels between two taps of the kernel.
        transposed: as `keras.layers.Conv3DTranspose`; with padding in voxels, as PyTorch's.
        output_padding: voxels added at the end of a transposed convolution; None is the library's default.

    Returns:
        The spatial output shape.

    Raises:
        VoxgapError: an argument is malformed, or the input is smaller than the kernel.

    Example:
        >>> import voxgap as vg
        >>> vg.output_shape((28, 28, 28), kernel_size=3, strides=2, padding="same")
        (14, 14, 14)
    """
    sizes = tuple(input_shape) if isinstance(input_shape, Iterable) else (input_shape,)
    axes = len(sizes)
    sizes = per_axis(sizes, axes, "input_shape")
    layer = steps(axes, kernel_size, strides, padding, dilation_rate, transposed, output_padding)
    shape = tuple(step.size(n) for step, n in zip(layer, sizes, strict=True))
    if any(n < 1 for n in shape):
        smallest = tuple(step.least(1) for step in layer)
        raise VoxgapError(
            f"input_shape {sizes} is too small for the kernel: the smallest that fits is {smallest}"
        )
    return shape
