"""What a network is built, trained and compared by, as frozen values: defaults stand here, and nowhere else.

All are plain data, known without Keras: they can be hashed, kept as JSON and sent anywhere.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from voxgap import names
from voxgap.errors import VoxgapError
from voxgap.registry import Registry

Axes = tuple[int, int, int]
Convolution = Literal["plain", "masked", "gated"]
ClassWeight = Literal["balanced"] | dict[int, float] | None
Precision = Literal["auto", "float32", "bfloat16"]
Norm = Literal["batch", "instance"]
Fall = Literal["plateau", "cosine"]

FILLS: Registry[Any] = Registry(
    "fills",
    {
        "zero": "Zero",
        "mean": "Mean",
        "median": "Median",
        "mode": "Mode",
        "nearest": "Nearest",
        "linear": "LinearInterpolation",
        "kriging": "Kriging",
        "knn": "KNN",
        "matrix_factorization": "MatrixFactorization",
        "learned": "Learned",
    },
)
"""What a fill is called -> its layer in `voxgap.fill`, by name: Keras is not needed before it is made. A fill layer of
your own joins as a class, `FILLS["mine"] = Mine`, or from an installed package: see docs/design.md."""


class Plain:
    """A frozen value that is plain data."""

    def arguments(self) -> dict[str, Any]:
        """Return the fields, as keyword arguments of the function that takes them."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """Return all fields, as JSON takes them; `of` turns them back."""
        return {name: _plain(value) for name, value in self.arguments().items()}

    def unusual(self) -> dict[str, Any]:
        """Return fields that differ from their defaults: what a value is known by, whatever fields are added later."""
        found = {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            plain = value.unusual() if isinstance(value, Plain) else _plain(value)
            if plain != ({} if isinstance(value, Plain) else _plain(_default(field))):
                found[field.name] = plain
        return found

    @classmethod
    def of(cls, fields: Mapping[str, Any], caller: str = "") -> Self:
        """Return the value with these fields, such as those of `to_json` or `unusual`.

        Args:
            fields: by their names.
            caller: what an error names; by default the kind of value.

        Raises:
            VoxgapError: a field is unknown, or its value is not possible.
        """
        try:
            return cls(**fields)
        except TypeError as error:
            raise VoxgapError(f"{caller or cls.__name__.lower()}: {_words(error)}") from None


def _words(error: TypeError) -> str:
    return str(error).partition("() ")[2] or str(error)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()


def _plain(value: Any) -> Any:
    if isinstance(value, Plain):
        return value.to_json()
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, tuple | list) else value


@dataclass(frozen=True)
class Strategy(Plain):
    """One way of handling gaps: fill + missingness channel + kind of convolution + gap dropout + attention.

    Args:
        fill: how missing values are filled, one of `FILLS`; or one for each channel, by name or number:
            `{"temperature": "kriging", "mask": "zero"}`.
        fill_options: arguments of that fill layer, such as `{"n_neighbors": 3}`; of fills for each channel, by channel:
            `{"temperature": {"max_gap": 3}}`.
        mask_channel: feed the observed map along with the values, as further channels.
        conv: `plain`, `masked` (`MaskedConv3D`) or `gated` (`GatedConv3D`).
        gap_dropout: probability in [0, 1) that a unit is dropped at training time.
        gap_pattern: the unit that is dropped: `voxels`, `slices`, `blocks` or `channels`.
        attention: squeeze-and-excitation and spatial attention after each stage of the network,
            and gates on the skip connections of `unet3d`.

    Raises:
        VoxgapError: a value is not one of those above.

    Example:
        >>> import voxgap as vg
        >>> strategy = vg.Strategy(fill="knn", fill_options={"n_neighbors": 3}, mask_channel=True)
        >>> strategy.unusual()
        {'fill': 'knn', 'fill_options': {'n_neighbors': 3}, 'mask_channel': True}
    """

    # What is hashed is what can be: equal strategies have equal hashes all the same.
    fill: str | Mapping[str, str] = dataclasses.field(default="mean", hash=False)
    fill_options: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    mask_channel: bool = False
    conv: Convolution = "plain"
    gap_dropout: float = 0.0
    gap_pattern: str = "slices"
    attention: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "fill", check_fill(self.fill, "strategy fill"))
        if not isinstance(self.fill, str):
            object.__setattr__(self, "fill_options", {str(c): o for c, o in self.fill_options.items()})
        if self.conv not in ("plain", "masked", "gated"):
            raise VoxgapError(f"strategy conv must be plain, masked or gated, got {self.conv!r}")
        if not 0 <= self.gap_dropout < 1:
            raise VoxgapError(f"strategy gap_dropout must be in [0, 1), got {self.gap_dropout}")
        if self.gap_pattern not in names.GAP_PATTERNS:
            choice = ", ".join(names.GAP_PATTERNS)
            raise VoxgapError(f"strategy gap_pattern must be one of {choice}, got {self.gap_pattern!r}")

    @property
    def needs_observed(self) -> bool:
        """Whether the network sees what is observed, not only the filled values."""
        return self.mask_channel or self.attention or self.conv != "plain"

    def of_channels(self, channels: Sequence[str]) -> Strategy:
        """Return the strategy with its fills by numbers of channels, where each channel has one.

        Args:
            channels: names of the data's channels, in their order.

        Raises:
            VoxgapError: a fill or an option is for a channel that is not there, or a channel has none.
        """
        if isinstance(self.fill, str):
            return self
        fills = of_channels(self.fill, channels, "fill")
        return dataclasses.replace(
            self, fill=fills, fill_options=of_channels(self.fill_options, channels, "fill_options", some=True)
        )


def check_fill(fill: Any, what: str = "fill") -> str | dict[str, str]:
    """Return a fill, or fills by channel, from values or from text such as `temperature=kriging,mask=zero`.

    Raises:
        VoxgapError: it is none of `FILLS`; `what` is what the message calls it.
    """
    if isinstance(fill, str) and "=" in fill:
        pairs = [pair.rpartition("=")[::2] for pair in fill.split(",")]
        twice = next((name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1), None)
        if twice is not None:
            raise VoxgapError(f"{what} {fill!r}: channel {twice!r} is there twice; give it one fill")
        fill = {name.strip(): one.strip() for name, one in pairs}
    if isinstance(fill, Mapping):
        for channel, one in fill.items():
            if not isinstance(one, str) or one not in FILLS or not str(channel):
                raise VoxgapError(
                    f"{what} of channel {str(channel)!r} must be one of {', '.join(FILLS)}, got {one!r}"
                )
        if fill:
            return {str(channel): one for channel, one in fill.items()}
    if not isinstance(fill, str) or fill not in FILLS:
        raise VoxgapError(
            f"{what} must be one of {', '.join(FILLS)}, or CHANNEL=FILL for each channel, got {fill!r}"
        )
    return fill


def of_channels(
    said: Mapping[str, Any], channels: Sequence[str], what: str, some: bool = False
) -> dict[str, Any]:
    """Return what is said of channels, by their numbers as text, in their order.

    Args:
        said: by names of channels, or numbers as text where no channel is called so.
        channels: the names.
        what: what messages call it.
        some: whether channels may be left out.

    Raises:
        VoxgapError: there is no such channel, one is said twice, or one is left out.
    """
    places = {str(number): str(number) for number in range(len(channels))}
    places |= {name: str(number) for number, name in enumerate(channels)}
    unknown = next((name for name in said if name not in places), None)
    if unknown is not None:
        raise VoxgapError(f"{what}: no channel {unknown!r}; there are {', '.join(channels)}")
    found = {places[name]: one for name, one in said.items()}
    left = [name for number, name in enumerate(channels) if str(number) not in found]
    if len(found) < len(said) or (left and not some):
        wrong = f"channel {left[0]!r} has none" if left else "a channel has two"
        raise VoxgapError(f"{what}: {wrong}; give each of {', '.join(channels)} one")
    return {number: found[number] for number in sorted(found, key=int)}


def fill_name(fill: str | Mapping[str, str]) -> str:
    """Return a fill, or fills by channel, as a command has them."""
    return fill if isinstance(fill, str) else ",".join(f"{channel}={one}" for channel, one in fill.items())


PRESETS: dict[str, Strategy] = {
    **{name: Strategy(fill=name) for name in FILLS.data},
    "mask_channel": Strategy(mask_channel=True),
    "masked_conv": Strategy(conv="masked"),
    "gated_conv": Strategy(conv="gated"),
    "gap_dropout": Strategy(mask_channel=True, gap_dropout=0.2),
    "attention": Strategy(mask_channel=True, attention=True),
}


def strategy_of(strategy: str | Strategy, **fields: Any) -> Strategy:
    """Return the strategy of that name, or the given one, with those fields changed that are given and not None.

    Raises:
        VoxgapError: there is no preset and no fill of that name, or a field is not possible.
    """
    if not isinstance(strategy, Strategy):
        if strategy not in PRESETS and strategy not in FILLS:
            known = dict.fromkeys([*PRESETS, *FILLS])
            raise VoxgapError(f"no strategy {strategy!r}: choose one of {', '.join(known)}")
        strategy = PRESETS.get(strategy) or Strategy(fill=strategy)
    given = {name: value for name, value in fields.items() if value is not None}
    return dataclasses.replace(strategy, **given)


def name_of(strategy: Strategy) -> str:
    """Return the preset that a strategy is, or `custom`."""
    return next((name for name, preset in PRESETS.items() if preset == strategy), "custom")


@dataclass(frozen=True)
class Gaps(Plain):
    """Gaps that are simulated, see `voxgap.simulate`.

    Args:
        pattern: what goes missing together: `voxels`, `slices`, `frames`, `blocks` or `channels`.
        missing_rate: share of the units that goes missing, in [0, 1].
        mechanism: what it depends on: `mcar`, `mar` or `mnar`.
        axis: that the slices lie along.
        block_size: voxels along each axis of a block; for slices and frames, the length of a run.
        per_channel: whether each channel has gaps of its own.
        strength: of the dependence.
    """

    pattern: str = "slices"
    missing_rate: float = 0.5
    mechanism: str = "mcar"
    axis: str = "depth"
    block_size: int | Axes | None = None
    per_channel: bool = False
    strength: float = 2.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "missing_rate", float(self.missing_rate))
        _as_tuple(self, "block_size")


@dataclass(frozen=True)
class Architecture(Plain):
    """A network's arguments, with Keras's names and meanings, and how its input is normalised.

    Args:
        filters: features of each stage; the number of stages is its length.
        kernel_size: edge of the kernels in voxels, one for all axes or three.
        strides: between one stage and the next, one for all axes or three; the first stage keeps the grid.
        padding: `same` or `valid`.
        activation: name of a Keras activation.
        dropout: rate before the output layer.
        normalize: see `voxgap.build_model`; `auto` is decided by data.
        norm: between layers, `batch` or `instance`: each volume by itself, for batches of few.
        deep_supervision: whether coarser stages of `unet3d` and `resunet3d` are trained to answer, too; a
            segmentation's only.

    Raises:
        VoxgapError: a value is not possible.
    """

    filters: tuple[int, ...] = (32, 64, 128)
    kernel_size: int | Axes = 3
    strides: int | Axes = 2
    padding: Literal["same", "valid"] = "same"
    activation: str = "relu"
    dropout: float = 0.0
    normalize: str = "dataset"
    norm: Norm = "batch"
    deep_supervision: bool = False

    def __post_init__(self) -> None:
        for name in ("filters", "kernel_size", "strides"):
            _as_tuple(self, name)
        if not isinstance(self.filters, tuple) or not self.filters or not all(map(_is_count, self.filters)):
            raise VoxgapError(
                f"filters must be positive whole numbers, one a stage as in (32, 64), got {self.filters!r}"
            )
        for name in ("kernel_size", "strides"):
            if not all(map(_is_count, axes(getattr(self, name), name))):
                raise VoxgapError(f"{name} must be positive whole numbers, got {getattr(self, name)!r}")
        if self.padding not in ("same", "valid"):
            raise VoxgapError(f"padding must be same or valid, got {self.padding!r}")
        if self.norm not in ("batch", "instance"):
            raise VoxgapError(f"norm must be batch or instance, got {self.norm!r}")
        if not isinstance(self.dropout, numbers.Real) or not 0 <= self.dropout < 1:
            raise VoxgapError(f"dropout must be in [0, 1), got {self.dropout!r}")
        names.normalization(self.normalize)


def _is_count(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and int(value) >= 1


def _as_tuple(value: Any, name: str) -> None:
    """Keep a list as a tuple, so that the value stays hashable and equal after JSON."""
    if isinstance(getattr(value, name), list):
        object.__setattr__(value, name, tuple(getattr(value, name)))


def axes(value: int | tuple[int, ...], name: str) -> Axes:
    """Return one number per axis: depth, height, width.

    Raises:
        VoxgapError: there are neither one nor three.
    """
    if not isinstance(value, tuple | list):
        return (value, value, value)
    if len(value) != 3:
        raise VoxgapError(f"{name} takes one number or three (depth, height, width), got {value}")
    depth, height, width = value
    return depth, height, width


@dataclass(frozen=True)
class Training(Plain):
    """How a network is trained: the arguments of `voxgap.train` that change what comes out; see there."""

    loss: str | Callable[..., Any] | None = None
    optimizer: Any = "adam"
    learning_rate: float = 1e-3
    epochs: int = 100
    batch_size: int = 16
    patience: int = 10
    min_delta: float = 0.0
    lr_patience: int | None = None
    monitor: str = "val_loss"
    class_weight: ClassWeight = dataclasses.field(default=None, hash=False)
    augment: Any = None
    augment_kind: str = "scan"
    precision: Precision = "auto"
    patch_size: Any = None
    patches_per_volume: int | None = None
    distribute: bool | Sequence[str] = False
    ema: float = 0.0
    schedule: Fall = "plateau"
    warmup: float = 0.0
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    consistency: float = 0.0

    def __post_init__(self) -> None:
        _as_tuple(self, "distribute")
        if self.patch_size is not None:
            object.__setattr__(self, "patch_size", axes(self.patch_size, "patch_size"))
        for name in ("augment", "class_weight"):  # As the command line says it.
            if getattr(self, name) == "none":
                object.__setattr__(self, name, None)
        if isinstance(self.class_weight, dict):  # JSON has text for keys
            object.__setattr__(self, "class_weight", {int(k): v for k, v in self.class_weight.items()})


COMPARED = Training(epochs=40, batch_size=32, patience=8)
"""How the networks of an experiment are trained: many of them, each a little quicker."""


def network_of(task: str) -> str:
    """Return the network that a task gets where nobody names one: for label maps, one that keeps the grid."""
    return "unet3d" if task == "segmentation" else "resnet3d"


@dataclass(frozen=True)
class Recipe(Plain):
    """All that a trained network depends on, beside its data and its seed.

    Args:
        network: a name among `voxgap.names.NETWORKS`, or a callable; see `voxgap.build_model`.
        strategy: how gaps are handled.
        architecture, training: see there.
        threshold: by which the second of two classes is named, see `voxgap.decision.asked`.
    """

    network: Any = "resnet3d"
    strategy: Strategy = Strategy()
    architecture: Architecture = Architecture()
    training: Training = Training()
    threshold: str = "0.5"

    def __post_init__(self) -> None:
        object.__setattr__(self, "threshold", str(self.threshold).strip())

    def resolved(self, volumes: Any, channels: tuple[str, ...] = ()) -> Recipe:
        """Return the recipe with what `auto` stands for.

        Args:
            volumes: those of the training part.
            channels: their names.

        Raises:
            VoxgapError: its normalisation needs whole volumes, and it trains on patches; or its fills are not for these
                channels.
        """
        from voxgap import intensity  # it needs NumPy, which no plan does

        wanted, size = self.architecture.normalize, self.training.patch_size
        method = intensity.resolve(wanted, volumes, channels, size).method
        return dataclasses.replace(
            self,
            architecture=dataclasses.replace(self.architecture, normalize=method),
            strategy=self.strategy.of_channels(channels) if channels else self.strategy,
        )

    @classmethod
    def of(cls, fields: Mapping[str, Any], caller: str = "") -> Self:
        """Return the recipe with these fields, as plain data or as values."""
        kinds: dict[str, type[Plain]] = {
            "strategy": Strategy,
            "architecture": Architecture,
            "training": Training,
        }
        given = {
            name: kinds[name].of(value) if name in kinds and isinstance(value, Mapping) else value
            for name, value in fields.items()
        }
        return super().of(given, caller)
