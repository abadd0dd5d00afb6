"""Named ways of handling gaps in a network, and how a user composes another."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from voxgap.errors import VoxgapError
from voxgap.names import GAP_PATTERNS

if TYPE_CHECKING:
    from voxgap.backend import keras

Convolution = Literal["plain", "masked", "gated"]

# The layer of `voxgap.fill` by each name; Keras is not needed before it is made.
FILLS = {
    "zero": "Zero",
    "mean": "Mean",
    "median": "Median",
    "mode": "Mode",
    "nearest": "Nearest",
    "linear": "LinearInterpolation",
    "kriging": "Kriging",
    "knn": "KNN",
    "matrix_factorization": "MatrixFactorization",
}


@dataclasses.dataclass(frozen=True)
class Strategy:
    """One way of handling gaps: fill + missingness channel + kind of convolution + gap dropout + attention.

    Args:
        fill: how missing values are filled, one of `FILLS`.
        fill_options: arguments of that fill layer, such as `{"n_neighbors": 3}`.
        mask_channel: feed the observed map along with the values, as further channels.
        conv: `plain`, `masked` (`MaskedConv3D`) or `gated` (`GatedConv3D`).
        gap_dropout: probability in [0, 1) that a unit is dropped at training time.
        gap_pattern: the unit that is dropped: `voxels`, `slices`, `blocks` or `channels`.
        attention: squeeze-and-excitation and spatial attention after each stage of the network,
            and gates on the skip connections of `unet3d`.

    Raises:
        VoxgapError: a value is not one of those above.
    """

    fill: str = "mean"
    fill_options: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    mask_channel: bool = False
    conv: Convolution = "plain"
    gap_dropout: float = 0.0
    gap_pattern: str = "slices"
    attention: bool = False

    def __post_init__(self) -> None:
        if self.fill not in FILLS:
            raise VoxgapError(f"strategy fill must be one of {', '.join(FILLS)}, got {self.fill!r}")
        if self.conv not in ("plain", "masked", "gated"):
            raise VoxgapError(f"strategy conv must be plain, masked or gated, got {self.conv!r}")
        if not 0 <= self.gap_dropout < 1:
            raise VoxgapError(f"strategy gap_dropout must be in [0, 1), got {self.gap_dropout}")
        if self.gap_pattern not in GAP_PATTERNS:
            raise VoxgapError(
                f"strategy gap_pattern must be one of {', '.join(GAP_PATTERNS)}, got {self.gap_pattern!r}"
            )

    @property
    def needs_observed(self) -> bool:
        """Whether the network sees what is observed, not only the filled values."""
        return self.mask_channel or self.attention or self.conv != "plain"

    def gap_dropout_layer(self, seed: int | None) -> keras.layers.Layer | None:
        """The layer that makes further gaps in training, None where the strategy has none."""
        if not self.gap_dropout:
            return None
        from voxgap.layers import GapDropout

        return GapDropout(self.gap_dropout, self.gap_pattern, seed=seed, name="gap_dropout")

    def fill_layer(self) -> keras.layers.Layer:
        """A new fill layer, not adapted yet.

        Raises:
            VoxgapError: `fill_options` does not fit the layer.
        """
        from voxgap import fill as layers

        try:
            return getattr(layers, FILLS[self.fill])(**self.fill_options, name="fill")
        except (TypeError, ValueError) as error:
            raise VoxgapError(f"fill_options of {self.fill}: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """The strategy as plain data, which `Strategy(**data)` turns back."""
        return dataclasses.asdict(self) | {"fill_options": dict(self.fill_options)}


PRESETS: Mapping[str, Strategy] = {
    **{name: Strategy(fill=name) for name in FILLS},
    "mask_channel": Strategy(mask_channel=True),
    "masked_conv": Strategy(conv="masked"),
    "gated_conv": Strategy(conv="gated"),
    "gap_dropout": Strategy(mask_channel=True, gap_dropout=0.2),
    "attention": Strategy(mask_channel=True, attention=True),
}


def override(strategy: str | Strategy, **fields: Any) -> Strategy:
    """The strategy of that name, with the fields changed that are given and not None.

    Raises:
        VoxgapError: there is no preset of that name, or a field is not possible.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    return dataclasses.replace(get(strategy), **given)


def get(strategy: str | Strategy) -> Strategy:
    """The strategy of that name, or the given one.

    Raises:
        VoxgapError: there is no preset of that name.
    """
    if isinstance(strategy, Strategy):
        return strategy
    if strategy not in PRESETS:
        raise VoxgapError(f"no strategy {strategy!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[strategy]
