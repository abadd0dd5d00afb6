"""The pieces that every named network is made of, and the arguments that they share."""

from __future__ import annotations

import collections
import itertools
from typing import Any

import keras

from voxgap.errors import VoxgapError
from voxgap.layers import (
    DeepSupervision,
    FastBatchNormalization,
    GatedConv3D,
    InstanceNormalization,
    MaskedConv3D,
    ObservedNormalization,
    SpatialAttention3D,
    SqueezeExcitation3D,
    UpsampleLike3D,
)
from voxgap.recipe import Architecture, Axes


class Blocks:
    """Builds parts of one network: its kind of convolution, its seeds, and the observed map as it shrinks.

    Each part takes and returns `(features, observed)`; observed is None where the strategy does not need it.
    """

    def __init__(self, architecture: Architecture, conv: str, attention: bool, seed: int) -> None:
        try:
            keras.activations.get(architecture.activation)
        except ValueError:
            raise VoxgapError(
                f"no activation {architecture.activation!r}: use a Keras name such as relu or gelu"
            ) from None
        self.architecture = architecture
        self.conv = conv
        self.attention = attention
        # Same-shaped layers must not start equal, so each initializer has a seed of its own.
        self._seeds = itertools.count(1000 * seed)
        self.coarser: list[tuple[Any, Axes]] = []
        """Features of the stages that answer in training too, and how many voxels one of theirs stands for."""
        self._counts: collections.Counter[str] = collections.Counter()

    def _name(self, kind: str) -> str:
        """Return `conv_1`, `conv_2`, ...: Keras's own names would depend on what else was built in the process."""
        self._counts[kind] += 1
        return f"{kind}_{self._counts[kind]}"

    def _initializer(self) -> keras.initializers.Initializer:
        return keras.initializers.HeNormal(seed=next(self._seeds))

    def convolve(
        self, x: Any, observed: Any, filters: int, kernel_size: Axes, strides: Axes
    ) -> tuple[Any, Any]:
        """Convolve in the strategy's way, without a bias: normalisation follows."""
        arguments = {
            "filters": filters,
            "kernel_size": kernel_size,
            "strides": strides,
            "padding": self.architecture.padding,
            "use_bias": False,
            "kernel_initializer": self._initializer(),
            "name": self._name("conv"),
        }
        if self.conv == "masked":
            return MaskedConv3D(**arguments)([x, observed])
        if self.conv == "gated":
            return GatedConv3D(**arguments)([x, observed])
        if observed is not None:
            pool = keras.layers.MaxPooling3D(
                kernel_size, strides, self.architecture.padding, name=self._name("pool_observed")
            )
            observed = pool(observed)
        return keras.layers.Conv3D(**arguments)(x), observed

    def shortcut(self, x: Any, observed: Any, filters: int, kernel_size: Axes, strides: Axes) -> Any:
        """Return what a residual block adds to its two convolutions: `x` itself where it fits, else projected."""
        if self.architecture.padding == "valid":
            # Two kernels trim (k - 1) and s (k - 1) voxels; trim the shortcut alike, evenly.
            cut = [(k - 1) * (1 + s) for k, s in zip(kernel_size, strides, strict=True)]
            crop = keras.layers.Cropping3D([(c // 2, c - c // 2) for c in cut], name=self._name("crop"))
            x = crop(x)
            observed = None if observed is None else crop(observed)
        if x.shape[-1] == filters and max(strides) == 1:
            return x
        projection = {
            "filters": filters,
            "kernel_size": 1,
            "strides": strides,
            "use_bias": False,
            "kernel_initializer": self._initializer(),
            "name": self._name("shortcut"),
        }
        if self.conv == "masked":
            projected, observed = MaskedConv3D(**projection)([x, observed])
        else:
            projected = keras.layers.Conv3D(**projection)(x)
        return self.normalise(projected, observed)

    def activate(self, x: Any) -> Any:
        """Apply the architecture's activation."""
        return keras.layers.Activation(self.architecture.activation, name=self._name("activation"))(x)

    def normalise(self, x: Any, observed: Any) -> Any:
        """Apply the architecture's normalisation: by volumes, of what is observed where all else is 0."""
        if self.architecture.norm == "batch":
            return FastBatchNormalization(name=self._name("norm"))(x)
        norm = InstanceNormalization(name=self._name("norm"))
        return norm([x, observed] if self.conv == "masked" else x)

    def add(self, x: Any, y: Any) -> Any:
        """Return the sum of two tensors of one shape."""
        return keras.layers.Add(name=self._name("add"))([x, y])

    def attend(self, x: Any, observed: Any, kernel_size: Axes) -> Any:
        """Attend over channels, then over space, where the strategy does."""
        if not self.attention:
            return x
        of_channels, of_space = (keras.initializers.GlorotUniform(seed=next(self._seeds)) for _ in range(2))
        x = SqueezeExcitation3D(kernel_initializer=of_channels, name=self._name("channel_attention"))(x)
        spatial = SpatialAttention3D(
            kernel_size, kernel_initializer=of_space, name=self._name("spatial_attention")
        )
        return spatial([x, observed])

    def reduce(self, x: Any, filters: int) -> Any:
        """Leave fewer features before they are upsampled: each voxel on its own, so that nothing missing spreads."""
        return keras.layers.Conv3D(
            filters, 1, kernel_initializer=self._initializer(), name=self._name("reduce")
        )(x)

    def join(self, x: Any, observed: Any, skip: Any, skip_observed: Any, strides: Axes) -> tuple[Any, Any]:
        """Bring `x` to the finer grid of `skip`, and put the two side by side.

        A voxel is observed afterwards where the skip is or the coarser voxel is. Convolutions that skip what is
        missing get 0 from the one of the two that isn't observed there.
        """
        upsample = UpsampleLike3D(strides, name=self._name("upsample"))
        x = upsample([x, skip])
        if observed is not None:
            observed = UpsampleLike3D(strides, name=self._name("upsample_observed"))(
                [observed, skip_observed]
            )
            if self.conv == "masked":
                x = keras.layers.Multiply(name=self._name("coarse_where_observed"))([x, observed])
                skip = keras.layers.Multiply(name=self._name("skip_where_observed"))([skip, skip_observed])
            observed = keras.layers.Maximum(name=self._name("either_observed"))([observed, skip_observed])
        return keras.layers.Concatenate(name=self._name("skip"))([skip, x]), observed

    def gate(self, skip: Any, x: Any, strides: Axes) -> Any:
        """Weigh the voxels of a skip connection by what the coarser features `x` say, with attention only.

        Additive attention gate: Oktay et al. 2018 (Attention U-Net), with nearest neighbours for its resampling.
        """
        if not self.attention:
            return skip
        middle = max(1, skip.shape[-1] // 2)
        of_skip = keras.layers.Conv3D(
            middle,
            1,
            strides=strides,
            use_bias=False,
            kernel_initializer=self._initializer(),
            name=self._name("gate_skip"),
        )(skip)
        of_coarse = keras.layers.Conv3D(
            middle, 1, kernel_initializer=self._initializer(), name=self._name("gate_coarse")
        )(x)
        both = keras.layers.Activation("relu", name=self._name("gate_relu"))(self.add(of_skip, of_coarse))
        weights = keras.layers.Conv3D(
            1,
            1,
            activation="sigmoid",
            kernel_initializer=keras.initializers.GlorotUniform(seed=next(self._seeds)),
            name=self._name("gate"),
        )(both)
        weights = UpsampleLike3D(strides, name=self._name("upsample_gate"))([weights, skip])
        return keras.layers.Multiply(name=self._name("gated_skip"))([skip, weights])

    def head(self, features: Any, outputs: int, task: str) -> Any:
        """Return probabilities or values from features of a grid, averaged over it, or from a flat vector.

        For segmentation probabilities of each voxel, from features of the volume's own grid.
        """
        if len(features.shape) == 5 and task != "segmentation":
            features = keras.layers.GlobalAveragePooling3D(name="average")(features)
        if self.architecture.dropout:
            dropout = keras.layers.Dropout(self.architecture.dropout, seed=next(self._seeds), name="dropout")
            features = dropout(features)
        answer = keras.layers.Dense(
            outputs,
            activation=None if task == "regression" else "softmax",
            kernel_initializer=keras.initializers.GlorotUniform(seed=next(self._seeds)),
            dtype="float32",
            name="output",
        )(features)
        if task == "regression":
            # The network learns standardised targets and answers in their own units.
            answer = ObservedNormalization(invert=True, name="denormalize")(answer)
        if self.architecture.deep_supervision:
            answer = self._supervised(answer, task)
        return answer

    def _supervised(self, answer: Any, task: str) -> Any:
        """Have the coarser stages answer in training."""
        if task != "segmentation" or not self.coarser:
            raise VoxgapError(
                "deep_supervision is of a segmentation by unet3d or resunet3d with three stages or more: leave it out"
            )
        features, factors = zip(*self.coarser, strict=True)
        seeds = [next(self._seeds) for _ in factors]
        return DeepSupervision(factors, seeds, name="deep_supervision")([answer, *features])
