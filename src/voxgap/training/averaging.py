"""Weights averaged over the last epochs, by Keras's own optimizers: watched and kept in place of those of a step.

Source: Polyak and Juditsky, Acceleration of stochastic approximation by averaging, SIAM J. Control 30, 1992; as a
moving average, Morales-Brotons et al., Exponential moving average of weights in deep learning, TMLR 2024.
"""

from __future__ import annotations

import keras
import numpy as np

from voxgap.recipe import Training


def ema_momentum(asked: Training, samples: int) -> float | None:
    """Return the momentum of the moving average that reaches back over so many epochs; None where none is asked for.

    Args:
        asked: its `ema`, in epochs, and its batch size.
        samples: of an epoch.
    """
    if not asked.ema:
        return None
    steps = asked.ema * max(1, -(-samples // asked.batch_size))
    return 1 - 1 / max(1.0, steps)


def swapping(network: keras.Model) -> list[keras.callbacks.Callback]:
    """Return the callbacks by which the averages are what is validated, where the optimizer makes some."""
    return [keras.callbacks.SwapEMAWeights()] if network.optimizer.use_ema else []


def kept_weights(network: keras.Model) -> list[np.ndarray]:
    """Return the weights that an epoch is worth keeping for: the averages, where the optimizer makes some."""
    if not network.optimizer.use_ema:
        return network.get_weights()
    own = network.get_weights()
    network.optimizer.finalize_variable_values(network.trainable_variables)
    averaged = network.get_weights()
    network.set_weights(own)
    return averaged
