"""bfloat16 where the processor has it and computes it right; float32 everywhere else."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from voxgap.errors import VoxgapError
from voxgap.layers import ObservedNormalization
from voxgap.recipe import Precision

_BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16")
# Largest error of bfloat16 against float32 that rounding explains, as a share of the norm: up to 0.10 was
# measured on the named networks, and 1.4 or more where a kernel is wrong.
_TOLERANCE = 0.3
# Gradients that cancel to nearly nothing may differ by more than their size, but not by more than this share
# of all gradients together.
_ALLOWANCE = 0.05


def with_policy(model: keras.Model, policy: str) -> keras.Model:
    """Rebuild a model under another dtype policy, with the same weights.

    Layers that give an answer stay in float32, and so do those which are float32 under every policy: splitting,
    filling, normalising.

    Args:
        model: a built Functional model, its layers registered with Keras.
        policy: `float32` or `mixed_bfloat16`.

    Returns:
        A new model; optimizer and losses are not copied.
    """
    config = copy.deepcopy(keras.saving.serialize_keras_object(model))
    config.pop("compile_config", None)
    config["config"].pop("compile_config", None)
    _set_policy(config, policy)
    twin = keras.saving.deserialize_keras_object(config, safe_mode=True)
    twin.set_weights(model.get_weights())
    return twin


def _set_policy(config: dict[str, Any], policy: str) -> None:
    """Change the policy of the layers of a serialised model, in place."""
    # A regression's "output" is followed by its return to the targets' units.
    outputs = {"output", *(str(o[0]) for o in _flat_outputs(config["config"].get("output_layers", [])))}
    for layer in config["config"].get("layers", []):
        inner = layer["config"]
        if "layers" in inner:
            _set_policy(layer, policy)
        elif policy == "float32" or layer.get("name", inner.get("name")) not in outputs:
            dtype = inner.get("dtype")
            if isinstance(dtype, dict) and dtype.get("class_name") == "DTypePolicy":
                dtype["config"]["name"] = policy


def _flat_outputs(outputs: Any) -> list[Any]:
    """List outputs alike: Keras writes one as `[name, 0, 0]` and several as a list of those."""
    return [outputs] if outputs and isinstance(outputs[0], str) else list(outputs)


def check_name(precision: str) -> None:
    """Refuse what is no precision.

    Raises:
        VoxgapError: it is none.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise VoxgapError(f"precision must be auto, float32 or bfloat16, got {precision!r}")


def choose(model: keras.Model, precision: Precision, batch_size: int = 16) -> str:
    """Return the dtype policy to train a float32 model under.

    Args:
        model: a built model that takes NaN volumes.
        precision: `auto`, `float32` or `bfloat16`. `auto` takes bfloat16 if the processor multiplies it in
            hardware and this network, tried both ways, computes the same within rounding and is faster.
        batch_size: volumes a training step.

    Returns:
        `float32` or `mixed_bfloat16`.

    Raises:
        VoxgapError: no such precision, or bfloat16 was asked for and the network computes wrong in it.
    """
    check_name(precision)
    if precision == "float32" or (precision == "auto" and not has_bfloat16()):
        return "float32"
    if not agrees(model):
        if precision == "auto":
            return "float32"
        raise VoxgapError(
            "precision bfloat16: this network computes wrong in it on this machine; use float32"
        )
    return "mixed_bfloat16" if precision == "bfloat16" or faster(model, batch_size) else "float32"


def has_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16 in hardware, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if keras.backend.backend() != "tensorflow" or not cpuinfo.exists():
        return False
    flags = set(cpuinfo.read_text(errors="replace").split())
    return any(flag in flags for flag in _BFLOAT16_FLAGS)


def agrees(model: keras.Model) -> bool:
    """Return whether the network computes the same in bfloat16 as in float32: its answer and its gradients.

    Some oneDNN versions convolve wrong in bfloat16 at an output width of 1, so the network itself is tried, on
    two random volumes.
    """
    import tensorflow as tf

    try:
        twin = with_policy(model, "mixed_bfloat16")
    except (TypeError, ValueError):
        return False  # a layer that Keras can't rebuild: nothing to compare
    volumes = _trial_volumes(model)

    def evaluate(network: keras.Model) -> list[np.ndarray]:
        with tf.GradientTape() as tape:
            answer = network(volumes, training=False)
            loss = tf.reduce_sum(answer * tf.range(1.0, answer.shape[-1] + 1.0))
        return [
            answer.numpy(),
            *(g.numpy() for g in tape.gradient(loss, network.trainable_weights) if g is not None),
        ]

    def close(exact: np.ndarray, rounded: np.ndarray, allowance: float) -> bool:
        error = np.linalg.norm(rounded - exact)
        return bool(error <= _TOLERANCE * (np.linalg.norm(exact) + allowance))  # False for NaN

    answers, *gradients = zip(evaluate(model), evaluate(twin), strict=True)
    allowance = _ALLOWANCE * float(np.sqrt(sum(np.linalg.norm(exact) ** 2 for exact, _ in gradients)))
    return close(*answers, 0.0) and all(close(*pair, allowance) for pair in gradients)


def faster(model: keras.Model, batch_size: int) -> bool:
    """Return whether this network trains faster in bfloat16: few filters gain nothing and pay for the conversions."""
    import tensorflow as tf

    volumes = _trial_volumes(model, batch_size)

    def seconds(policy: str) -> float:
        network = with_policy(model, policy)  # a copy: batch normalisation learns from what it is shown

        def step() -> float:
            started = time.perf_counter()
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(network(volumes, training=True))
            for gradient in tape.gradient(loss, network.trainable_weights):
                gradient.numpy()  # wait for it
            return time.perf_counter() - started

        step()
        return min(step(), step())

    return seconds("mixed_bfloat16") < seconds("float32")


def _trial_volumes(model: keras.Model, count: int = 2) -> np.ndarray:
    """Draw random volumes in the units that the model is adapted to; others saturate it and hide errors."""
    volumes = np.random.default_rng(0).normal(size=(count, *model.input_shape[1:]))
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, ObservedNormalization) and not layer.invert:
            mean, variance = (keras.ops.convert_to_numpy(w) for w in (layer.mean, layer.variance))
            volumes = volumes * np.sqrt(variance) + mean
    return volumes.astype("float32")
