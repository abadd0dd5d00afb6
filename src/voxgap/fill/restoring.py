"""How a fill is trained on nothing but volumes with gaps: further voxels are hidden, and have to be restored."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from voxgap.fill.trial import punched
from voxgap.layers.missing import split_missing

if TYPE_CHECKING:
    from voxgap.fill.learned import Learned

Array = npt.NDArray[np.float32]
Punch = Callable[[Array, np.random.Generator], tuple[Array, Array]]
"""Hides observed voxels: volumes without them, and them alone; see `voxgap.fill.trial.punched`."""
Look = dict[str, float]
"""What was seen of a training: loss, val_loss, learning_rate, seconds."""


class Kept(Protocol):
    """Where a training is kept from look to look, so that one that was killed goes on as if nothing had happened."""

    def load(self, trainer: Any) -> tuple[list[Look], list[Array]] | None:
        """Set a trainer to where it was, and return all looks and the best weights; None where nothing is kept."""

    def save(self, trainer: Any, looks: list[Look], best: list[Array], better: bool) -> None:
        """Keep a trainer after a look; `better` says whether the best weights are new."""


STEPS = 1800
"""In `adapt`, at most: with half of the slices of `sample:brain` missing, one seed, 1,200 left an error of 0.184 and
1,800 of 0.175."""
EVERY, PATIENCE = 100, 4
"""Steps between two looks at what is held out, and how many looks without gain end a training."""
RATE, LAST = 2e-3, 0.05
"""The learning rate, and the share of it that is left at the end."""
BATCH, HELD = 3 * 2**15, 2**18
"""Values of a training step, and of the volumes that are held out, at most; at least one volume."""


def train(
    layer: Learned,
    volumes: Any,
    *,
    steps: int = STEPS,
    seed: int = 0,
    rate: float = RATE,
    patience: int = PATIENCE,
    punch: Punch = punched,
    held: Array | None = None,
    look: Callable[[Look], None] | None = None,
    kept: Kept | None = None,
) -> list[Look]:
    """Train a layer's network until what it restores of volumes that were held out gets no better.

    The layer is at its best afterwards, which may be where it began, with deviations that hold there.

    Args:
        layer: adapted as far as kriging goes.
        volumes: `(N, D, H, W, C)`, NaN = missing, or what is indexed `[i:j]`.
        steps: at most.
        seed: of what is hidden.
        rate: learning rate at the start; it falls as a cosine.
        patience: looks without gain before the end; one comes every `EVERY` steps.
        punch: hides voxels.
        held: volumes that are held out; by default a tenth of those given.
        look: told of each look, those that are kept among them.
        kept: where it goes on from.

    Returns:
        All looks, the first before anything was learnt.

    Source: Barth et al., DINCAE 2, Geoscientific Model Development 2022, for further gaps in place of complete data.
    """
    generator = np.random.default_rng(seed)
    size = int(np.prod(volumes.shape[1:]))
    places = generator.permutation(len(volumes))
    if held is None:
        count = min(-(-len(places) // 10), max(1, HELD // size))
        held, places = _taken(volumes, places[:count]), places[count:]
    watched = punch(held, generator)
    each = max(1, min(BATCH // size, len(places)))

    def some(step: int) -> tuple[Array, Array]:
        # Of the step alone: a training that goes on draws the same.
        generator = np.random.default_rng((seed, 0, step))
        if not len(places):  # of a single volume it is the rest that is learnt from
            return punch(watched[0], generator)
        return punch(_taken(volumes, generator.choice(places, each, replace=False)), generator)

    layer.network.trainable = True
    trainer = _Trainer(lambda x: ops.concatenate(layer.sure(x), axis=-1), layer.network)
    falling = keras.optimizers.schedules.CosineDecay(rate, steps, alpha=LAST)
    # XLA compiles Conv3D for the CPU into code ten times slower than oneDNN's.
    trainer.compile(
        keras.optimizers.Adam(falling, clipnorm=1.0), HiddenError(layer.scale(*watched)), jit_compile=False
    )
    trainer.optimizer.build(trainer.trainable_variables)
    looks, best = (kept and kept.load(trainer)) or (list[Look](), list[Array]())
    if look is not None:
        for one in looks:
            look(one)
    done = min(steps, EVERY * (len(looks) - 1)) if looks else -1
    losses, started = list[float](), time.perf_counter()
    for step in range(max(done, 0), steps + 1):
        if step > done and (step % EVERY == 0 or step == steps):
            worth = trainer.worth(*watched)
            looks.append(
                {
                    "loss": float(np.mean(losses or [worth])),
                    "val_loss": worth,
                    "learning_rate": float(falling(step)),
                    "seconds": time.perf_counter() - started,
                }
            )
            losses, started = [], time.perf_counter()
            better = _since(looks) == 0
            best = layer.network.get_weights() if better else best
            if kept is not None:
                kept.save(trainer, looks, best, better)
            if look is not None:
                look(looks[-1])
        if _since(looks) >= patience:
            break
        if step < steps:
            losses.append(float(trainer.train_on_batch(*some(step))))
    layer.network.set_weights(best)
    layer.network.trainable = False
    layer.calibrate(*watched)
    return looks


def _since(looks: Sequence[Look]) -> int:
    """Return how many looks ago the best was; what is no number never is, but the first."""
    worths = [look["val_loss"] if np.isfinite(look["val_loss"]) else np.inf for look in looks]
    return len(worths) - 1 - int(np.argmin(worths))


def _taken(volumes: Any, places: Any) -> Array:
    return np.concatenate([np.asarray(volumes[i : i + 1], np.float32) for i in map(int, places)])


class _Trainer(keras.Model):
    """A network as it is trained inside a layer: called on volumes, it answers values and deviations."""

    def __init__(self, answer: Callable[[Any], Any], network: keras.Model) -> None:
        super().__init__(name="trainer", dtype="float32")
        self.answer, self.network = answer, network

    def call(self, x: Any) -> Any:
        return self.answer(x)

    def worth(self, volumes: Array, hidden: Array) -> float:
        """Return the loss, a few volumes at a time."""
        step = max(1, BATCH // volumes[0].size)
        parts = [slice(start, start + step) for start in range(0, len(volumes), step)]
        losses = [float(self.test_on_batch(volumes[part], hidden[part])) for part in parts]
        return float(np.average(losses, weights=[len(volumes[part]) for part in parts]))


@keras.saving.register_keras_serializable(package="voxgap")
class HiddenError(keras.losses.Loss):
    """Squared error of values, and likelihood of deviations, at hidden voxels alone.

    The likelihood doesn't move the values: it would trade those for which a large deviation is cheap.

    Args:
        scale: unit of each channel's errors.

    Called on hidden voxels, NaN elsewhere, `(batch, depth, height, width, channels)`, and values with deviations behind
    them, `(..., 2 * channels)`.

    Source: Stirn et al., Faithful heteroscedastic regression with neural networks, AISTATS 2023.
    """

    def __init__(self, scale: Sequence[float], name: str = "hidden_error") -> None:
        super().__init__(name=name)
        self.scale = [float(one) for one in scale]

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each volume of a batch, `(batch,)`."""
        channels = len(self.scale)
        truth, hidden = split_missing(ops.cast(y_true, "float32"))
        scale = ops.array(self.scale, "float32")
        squared = ops.square((truth - y_pred[..., :channels]) / scale)
        sure = ops.maximum(y_pred[..., channels:] / scale, 1e-3)
        lost = squared + ops.stop_gradient(squared) / ops.square(sure) + 2.0 * ops.log(sure)
        count = ops.maximum(ops.mean(ops.sum(hidden, axis=(1, 2, 3, 4))), 1.0)
        return 0.5 * ops.sum(hidden * lost, axis=(1, 2, 3, 4)) / count

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make the same loss."""
        return {"name": self.name, "scale": self.scale}
