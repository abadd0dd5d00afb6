"""Gaps as a signal: a network learns to answer volumes with further gaps as it answers them without.

Source: Sajjadi, Javanmardi and Tasdizen, Regularization with stochastic transformations and perturbations for deep
semi-supervised learning, NeurIPS 2016; Bachman, Alsharif and Precup, Learning with pseudo-ensembles, NeurIPS 2014.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from voxgap.fill.trial import punched


def further_gaps(volumes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return volumes with further gaps, in the shapes of those that the batch has; see `punched`."""
    return punched(volumes, generator)[0]


def as_they_are(volumes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the volumes: a validation has no second draw of gaps, but the network has a second input."""
    return volumes


class Agreeing(keras.Model):
    """A network whose loss also has how far its answer to volumes with further gaps is from that to the volumes.

    The answer to the volumes as they are is the target, through which no gradient goes: it rests on more. Of classes
    the distance is the Kullback-Leibler divergence, of a segmentation its mean over voxels, of numbers the squared
    error in their units. The mean over the batch goes into the loss; class weights have no part in it.

    Args:
        network: of volumes; both have the same layers.
        weight: of the divergence in the loss.
        task: of the network.

    Called on `(volumes, volumes with further gaps)`, `(batch, depth, height, width, channels)` each; it answers the
    first of them, as the network does.
    """

    def __init__(self, network: keras.Model, weight: float, task: str) -> None:
        further = keras.Input(network.input_shape[1:], dtype="float32", name="further_gaps")
        super().__init__([network.inputs[0], further], network.outputs[0], name=network.name)
        self.weight = weight
        squared = task == "regression"
        self.divergence = keras.losses.MeanSquaredError() if squared else keras.losses.KLDivergence()

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the loss of the task, in a training step with that of disagreeing."""
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if x is None or not training:
            return loss
        outputs = self.output_shape[-1]  # what coarser stages answer in training comes behind
        _, further = x
        answer = self([further, further], training=True)[..., :outputs]
        target = keras.ops.stop_gradient(y_pred[..., :outputs])
        return loss + self.weight * self.divergence(target, answer)
