"""Compiled networks that one training leaves to the next."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from voxgap.training.metrics import Counts
from voxgap.training.objective import Encode


class Ready(NamedTuple):
    """A compiled network, what encodes its targets and counts its classes, and its dtype policy."""

    network: keras.Model
    encode: Encode
    counts: Counts | None
    policy: str


class Compiled:
    """The networks that trainings of this process have compiled, for trainings of others of the same structure.

    Compiling takes seconds, which is most of what a training of few volumes takes. A network used again begins
    exactly as a new one would: weights, dropout and optimizer.

    Args:
        limit: networks to keep; the one used longest ago goes first.
    """

    def __init__(self, limit: int = 2) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, tuple[Ready, list[np.ndarray]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, model: keras.Model, settings: Sequence[Any], compile_anew: Callable[[], Ready]) -> Ready:
        """Return a compiled twin of a model, in the state of the model.

        Args:
            model: built, and without layers whose `adapt` changes more than weights.
            settings: all that the compiled network depends on, beside the structure of the model.
            compile_anew: makes a compiled twin, where none is kept.
        """
        shapes = [tuple(variable.shape) for variable in model.variables]
        # Once a model has its weights, the seeds that they were drawn with make no difference.
        network = re.sub(r'"seed": \d+', "", structure(model))
        key = repr([network, shapes, *settings])
        if key not in self._kept:
            ready = compile_anew()
            optimizer = ready.network.optimizer
            optimizer.build(ready.network.trainable_variables)
            self._kept[key] = ready, [keras.ops.convert_to_numpy(v) for v in optimizer.variables]
            if len(self._kept) > self._limit:
                self._kept.popitem(last=False)
            return ready
        self._kept.move_to_end(key)
        ready, beginning = self._kept[key]
        pairs = zip(ready.network.variables, model.variables, strict=True)
        optimizer_pairs = zip(ready.network.optimizer.variables, beginning, strict=True)
        for variable, value in (*pairs, *optimizer_pairs):
            variable.assign(value)
        return ready


def structure(model: keras.Model) -> str:
    """Return what a model is, in words that are the same in every process.

    Keras numbers unnamed layers by what the process has built before, which says nothing of the model.
    """
    return re.sub(r'_\d+(?=")', "", model.to_json())
