"""`build_model`: a Keras model that takes volumes with NaN, by name or around a user's own network.

Example:
    >>> import voxgap as vg
    >>> sorted(vg.models.NETWORKS)
    ['cnn3d', 'resnet2d', 'resnet2plus1d', 'resnet3d', 'resunet3d', 'unet3d']
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

from voxgap import fill, shapes
from voxgap.backend import keras
from voxgap.errors import VoxgapError
from voxgap.layers import GapDropout, ObservedNormalization, SplitMissing, VolumeNormalization
from voxgap.layers.intensity import INTENSITY, Method
from voxgap.models.blocks import Blocks
from voxgap.models.networks import NETWORKS
from voxgap.names import normalization
from voxgap.recipe import Architecture, Strategy, strategy_of

Task = Literal["classification", "regression", "segmentation"]
UserNetwork = Callable[[Any, Any], Any]


__all__ = ["NETWORKS", "build_model"]


def build_model(
    network: str | UserNetwork,
    input_shape: tuple[int, int, int, int],
    outputs: int,
    task: Task = "classification",
    strategy: str | Strategy = "mean",
    *,
    normalize: str = Architecture.normalize,
    seed: int = 0,
    **arguments: Any,
) -> keras.Model:
    """Build a model of raw volumes: `prepare` (NaN -> finite values), then `network` (values -> answer).

    Args:
        network: one of `NETWORKS`, or a callable `(values, observed) -> features` of Keras tensors, which gets
            the strategy's fill and channels and is followed by global averaging (not for segmentation) and an
            output layer. Both its
            arguments are `(batch, depth, height, width, channels)`, with twice the channels of the volumes
            where the strategy has `mask_channel`.
        input_shape: `(depth, height, width, channels)` in voxels: of a volume, or of the patches of volumes.
        outputs: number of classes, or of regression values.
        task: `classification` (softmax probabilities), `regression` (values) or `segmentation` (softmax
            probabilities of each voxel). Segmentation takes a network whose features keep the grid of the
            volume: `unet3d`, `resunet3d`, or another with strides 1 and padding `same`.
        strategy: a preset's name or a `Strategy`.
        normalize: `dataset` shifts and scales each channel by mean and standard deviation of the training data;
            `volume` first does so to each volume by its own observed voxels, `percentile` brings the range between
            its percentiles 0.5 and 99.5 to 0 and 1, `window:LOW,HIGH` the range between two values of the data's
            own units; `none` leaves values as they are.
        seed: of the initial weights, dropout and gap dropout.
        **arguments: filters, kernel_size, strides, padding, activation, dropout, norm, deep_supervision: see
            `Architecture`.

    Returns:
        An unadapted `keras.Model`: float32 `(batch, *input_shape)` with NaN -> `(batch, outputs)`, for
        segmentation `(batch, depth, height, width, outputs)`. `train` adapts it; so does `adapt_model`.

    Raises:
        VoxgapError: an argument is not possible, or the volume is too small for the network.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> model = vg.build_model("cnn3d", (8, 8, 8, 1), 3, strategy="mask_channel", filters=(4, 8))
        >>> model.output_shape
        (None, 3)
        >>> model.get_layer("network").count_params()
        1155
    """
    strategy = strategy_of(strategy)
    _check(input_shape, outputs, task)
    architecture = Architecture.of({**arguments, "normalize": normalize}, "build_model")
    own = callable(network)
    if not own and network not in NETWORKS:
        raise VoxgapError(f"no model {network!r}: choose one of {', '.join(NETWORKS)}, or pass a callable")
    if own and (strategy.conv != "plain" or strategy.attention):
        raise VoxgapError(
            "your own network brings its own convolutions and attention: choose a strategy with conv='plain' "
            "and no attention, and use voxgap.layers inside the network"
        )

    observed_too = own or strategy.needs_observed

    def answer(shape: tuple[int | None, ...]) -> keras.Model:
        return _network(network, architecture, strategy, shape, observed_too, outputs, task, seed)

    if not own:
        # A clear line that names the layer, instead of Keras's at the first negative size.
        shapes.trace(shapes.from_keras(answer((None, None, None, input_shape[-1]))), input_shape)
    volumes = keras.Input(input_shape, dtype="float32", name="volumes")
    prepare = _prepare(strategy, input_shape, observed_too, normalize, seed)
    name = getattr(network, "__name__", "own") if own else network
    return keras.Model(volumes, answer(input_shape)(prepare(volumes)), name=name)


def _check(input_shape: tuple[int, ...], outputs: int, task: str) -> None:
    four = isinstance(input_shape, tuple | list) and len(input_shape) == 4
    if not four or any(not isinstance(n, int) or n < 1 for n in input_shape):
        raise VoxgapError(
            f"input_shape must be (depth, height, width, channels), four positive integers, got {input_shape}"
        )
    if task not in get_args(Task):
        raise VoxgapError(f"task must be one of {', '.join(get_args(Task))}, got {task!r}")
    least = 1 if task == "regression" else 2
    if outputs < least:
        raise VoxgapError(f"outputs: {task} needs at least {least}, got {outputs}")


def _prepare(
    strategy: Strategy, shape: tuple[int, ...], observed_too: bool, normalize: str, seed: int
) -> keras.Model:
    volumes = keras.Input(shape, dtype="float32", name="volumes")
    x = volumes
    if strategy.gap_dropout:
        x = GapDropout(strategy.gap_dropout, strategy.gap_pattern, seed=seed, name="gap_dropout")(volumes)
    intensity = _intensity(normalize)
    filler = fill.make(strategy.fill, strategy.fill_options)
    values = filler(x if intensity is None else intensity(x)[0])
    values = ObservedNormalization(learns=normalize != "none", name="normalize")(values)
    if not observed_too:
        return keras.Model(volumes, values, name="prepare")
    _, observed = SplitMissing(name="observed")(x)
    return keras.Model(volumes, [values, observed], name="prepare")


def _intensity(normalize: str) -> VolumeNormalization | None:
    """Return the layer that gives each volume units of its own, None where the data's are common ones."""
    if normalization(normalize) == "auto":
        raise VoxgapError("normalize='auto' is chosen by data: voxgap.intensity.choose(volumes) says which")
    known: dict[str, Method] = {"volume": "volume", "percentile": "percentile"}
    if normalize in known:
        return VolumeNormalization(known[normalize], name=INTENSITY)
    if normalize.startswith("window:"):
        low, high = map(float, normalize.removeprefix("window:").split(","))
        return VolumeNormalization("window", low, high, name=INTENSITY)
    return None


def _network(
    network: str | UserNetwork,
    architecture: Architecture,
    strategy: Strategy,
    shape: tuple[int | None, ...],
    observed_too: bool,
    outputs: int,
    task: Task,
    seed: int,
) -> keras.Model:
    values = keras.Input(shape, dtype="float32", name="values")
    observed = keras.Input(shape, dtype="float32", name="observed") if observed_too else None
    inputs = values if observed is None else [values, observed]
    x, seen = values, observed
    if strategy.mask_channel:
        x = keras.layers.Concatenate(name="values_and_observed")([values, observed])
        if callable(network) or strategy.conv != "plain":
            # The observed channels are themselves always observed: 0 * observed + 1.
            ones = keras.layers.Rescaling(0.0, 1.0, name="always_observed")(observed)
            seen = keras.layers.Concatenate(name="observed_of_both")([observed, ones])
    blocks = Blocks(architecture, strategy.conv, strategy.attention, seed)
    features = network(x, seen) if callable(network) else NETWORKS[network](blocks, x, seen)
    if task == "segmentation":
        _check_grid(network, features.shape[1:-1], shape[:3])
    return keras.Model(inputs, blocks.head(features, outputs, task), name="network")


def _check_grid(
    network: str | UserNetwork, grid: tuple[int | None, ...], wanted: tuple[int | None, ...]
) -> None:
    if grid == wanted:
        return
    name = network if isinstance(network, str) else "your own network"
    wanted_text, found = (" × ".join(map(str, sizes)) for sizes in (wanted, grid))
    raise VoxgapError(
        f"segmentation needs features of all {wanted_text} voxels, {name} has them for {found or 'none'}: "
        "use unet3d, or strides=1 and padding='same'"
    )
