"""Answers of a network's coarser stages, which its loss sees beside its own while it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="voxgap")
class DeepSupervision(keras.layers.Layer):
    """Put the answers of coarser stages behind a network's own, in training; afterwards pass its own on alone.

    So there is one model, with one output: what is exported knows nothing of it. Lee et al. 2015, as in Isensee et al.
    2021 (nnU-Net), whose coarser answers are compared with coarser label maps; here they are repeated to the grid of
    the network's own, which needs no coarser label maps.

    Args:
        factors: of each coarser stage, how many voxels one of its voxels stands for along each axis.
        seeds: of the initial weights of each stage's answer.

    Called on `[answer, features of a coarser stage, ...]`, the answer `(batch, depth, height, width, classes)`.

    Returns:
        The answer; in training `(batch, depth, height, width, classes * (1 + stages))`, see `DeeplySupervised`.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> answer, coarse = np.ones((1, 5, 5, 6, 3), "float32"), np.ones((1, 3, 3, 3, 8), "float32")
        >>> layer = vg.layers.DeepSupervision([(2, 2, 2)])
        >>> tuple(layer([answer, coarse], training=True).shape), tuple(layer([answer, coarse]).shape)
        ((1, 5, 5, 6, 6), (1, 5, 5, 6, 3))
    """

    def __init__(
        self, factors: Sequence[tuple[int, int, int]], seeds: Sequence[int] = (), **kwargs: Any
    ) -> None:
        # An answer is float32 under every policy.
        kwargs["dtype"] = "float32"
        super().__init__(autocast=False, **kwargs)
        self.factors = [tuple(factor) for factor in factors]
        self.seeds = [*seeds] or [*range(len(self.factors))]

    def build(self, input_shape: list[Shape]) -> None:
        """Make what answers from the features of each stage."""
        answer, *coarse = input_shape
        self.heads = []
        for number, (seed, shape) in enumerate(zip(self.seeds, coarse, strict=True)):
            initializer = keras.initializers.GlorotUniform(seed=seed)
            head = keras.layers.Dense(
                answer[-1], "softmax", kernel_initializer=initializer, dtype="float32", name=f"head_{number}"
            )
            head.build(shape)
            self.heads.append(head)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the first of the inputs; in training the answers of the others behind it."""
        answer, *coarse = inputs
        if not training:
            return answer
        answers = [ops.cast(answer, "float32")]
        depth, height, width = ops.shape(answer)[1:4]
        for head, factor, features in zip(self.heads, self.factors, coarse, strict=True):
            found = head(ops.cast(features, "float32"))
            for axis, times in enumerate(factor, start=1):
                found = ops.repeat(found, times, axis=axis) if times > 1 else found
            answers.append(found[:, :depth, :height, :width])
        return ops.concatenate(answers, axis=-1)

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        """Return the shape of the answer."""
        return tuple(input_shape[0])

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the same for symbolic tensors: what a model says of its output is of after the training."""
        return keras.KerasTensor(inputs[0].shape, dtype="float32")

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make the same layer, for Keras's saved files."""
        return super().get_config() | {"factors": self.factors, "seeds": self.seeds}
