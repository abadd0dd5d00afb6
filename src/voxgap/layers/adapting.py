"""Layers that learn from data before a network is trained: they know whether they have, and answer only then."""

from __future__ import annotations

from typing import Any

import keras
from keras.src.backend import in_stateless_scope

from voxgap.errors import VoxgapError


class Adapts:
    """What layers with an `adapt` share: without it, they refuse to be trained with and to answer.

    A child has a weight that is positive once it is adapted, in the model's file too, and begins its `call` with
    `refuse_unless_adapted`.

    Attributes:
        learns: whether there is anything to learn.
    """

    learns: bool = True
    name: str
    built: bool
    _known = False

    def _learnt(self) -> Any:
        raise NotImplementedError

    @property
    def adapted(self) -> bool:
        """Whether `adapt` was called, in this process or before the layer was saved; True where nothing is learnt."""
        if not self._known:
            self._known = not self.learns or (self.built and _positive(self._learnt()))
        return self._known

    def refuse_unless_adapted(self) -> None:
        """Refuse to compute with statistics that nobody has learnt.

        A network is traced once and then runs without this: what is not traced can't run.

        Raises:
            VoxgapError: `adapt` was not called.
        """
        # While a graph is only drawn, or a function of its state made, there is no weight to look at.
        if not self._known and not in_stateless_scope() and not _is_exported() and not self.adapted:
            raise VoxgapError(
                f"{self.name} has learnt nothing yet: call adapt(training volumes) first, or train the model with "
                "vg.train"
            )


def _positive(variable: Any) -> bool:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.init_scope():  # out of the function that is traced; what it makes itself has no value yet
            return bool(variable.value.is_initialized()) and bool((variable.numpy() > 0).all())
    return bool((keras.ops.convert_to_numpy(variable) > 0).all())


def _is_exported() -> bool:
    """Return whether PyTorch follows the layer with tensors that hold no values."""
    if keras.backend.backend() != "torch":
        return False
    import torch

    return bool(torch.compiler.is_compiling())
