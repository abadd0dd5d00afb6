"""Names that a user chooses by, known without Keras, so that a wrong one is refused before anything is read."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from voxgap.errors import VoxgapError

EMBEDDED = ("sample:", "medmnist:")
"""How DATA begins that lies in no file of the user's."""
NETWORKS = ("cnn3d", "resnet3d", "resnet2d", "resnet2plus1d", "unet3d", "resunet3d")
NORMALIZATIONS = ("auto", "dataset", "volume", "percentile", "window:LOW,HIGH", "none")
GAP_PATTERNS = ("voxels", "slices", "blocks", "channels")
CERTIFIED_PATTERNS = ("slices", "frames", "blocks")
CERTIFIED_RATES = (0.25, 0.5, 0.75)
"""Gaps that a certificate makes where nobody asks for others."""
COVERAGE = 0.9
"""Of what is guaranteed, where nobody asks for another."""
VALIDATION_SHARE = TEST_SHARE = 0.2
"""Of samples that are dealt out to parts, where nobody asks for others."""
# Of Keras, with its abbreviations; classes go by their names in capitals, too. The last are voxgap's own.
LOSSES = (
    *("binary_crossentropy", "binary_focal_crossentropy", "categorical_crossentropy"),
    *("categorical_focal_crossentropy", "categorical_hinge", "circle", "cosine_similarity", "ctc", "dice"),
    *("hinge", "huber", "kl_divergence", "log_cosh", "mean_absolute_error"),
    *("mean_absolute_percentage_error", "mean_squared_error", "mean_squared_logarithmic_error", "poisson"),
    *("sparse_categorical_crossentropy", "squared_hinge", "tversky"),
    *("bce", "kld", "mae", "mape", "mse", "msle"),
    *("dice_cross_entropy", "batch_dice_cross_entropy"),
)
OPTIMIZERS = (
    *("adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw", "ftrl", "lion", "muon", "nadam"),
    *("rmsprop", "schedulefreeadamw", "sgd"),
)
SCHEDULES = ("plateau", "cosine")
"""How a learning rate falls."""
ACTIVATIONS = (
    *("celu", "elu", "exponential", "gelu", "glu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish"),
    *("hard_tanh", "leaky_relu", "linear", "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu"),
    *("sigmoid", "silu", "soft_shrink", "softmax", "softplus", "softsign", "sparse_plus", "sparse_sigmoid"),
    *("sparsemax", "squareplus", "swish", "tanh", "tanh_shrink", "threshold"),
)


def check(what: str, name: str, known: Sequence[str]) -> None:
    """Refuse a name that nothing goes by; the nearest one is named.

    Args:
        what: it is the name of: `model`, `loss`.
        name: as the user wrote it; capitals and underscores don't matter, as for Keras.
        known: all that there are.

    Raises:
        VoxgapError: there is none of that name.
    """
    if _plain(name) in map(_plain, known):
        return
    near = difflib.get_close_matches(name.lower(), known, 1)
    hint = f"did you mean {near[0]}? There are" if near else "choose one of"
    raise VoxgapError(f"no {what} {name!r}: {hint} {', '.join(known)}")


def check_seed(seed: Any) -> None:
    """Refuse what no draw can begin with, before anything is computed.

    Raises:
        VoxgapError: it is no whole number from 0 on.
    """
    if not isinstance(seed, Integral) or seed < 0:
        raise VoxgapError(f"seed must be a whole number from 0 on, got {seed!r}")


def metric_words(name: str, classes: Sequence[str] = ()) -> str:
    """Say a metric in words: `dice_2` is the Dice score of the class of that index, said by the name of that class."""
    index = name.removeprefix("dice_")
    if index != name and index.isdecimal() and int(index) < len(classes):
        return f"dice of {classes[int(index)]}"
    return name.replace("_", " ")


def metric_called(name: str, classes: Sequence[str]) -> str:
    """Return the metric that a user means: `dice_tumour` is `dice_2` where tumour is the class of that index."""
    called = name.removeprefix("dice_")
    if called != name and called in classes and not (called.isdecimal() and int(called) < len(classes)):
        return f"dice_{list(classes).index(called)}"
    return name


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def normalization(method: str) -> str:
    """Return a method that is known, `auto` among them.

    Raises:
        VoxgapError: it is none of `NORMALIZATIONS`.
    """
    name, _, ends = method.partition(":")
    if method in NORMALIZATIONS and name != "window":
        return method
    try:
        low, high = map(float, ends.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if name == "window" and math.isfinite(low) and math.isfinite(high) and low < high:
        return method
    raise VoxgapError(f"normalize must be one of {', '.join(NORMALIZATIONS)} with LOW < HIGH, got {method!r}")
