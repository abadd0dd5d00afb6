"""Several transforms as one: in sequence, one of several, and the presets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from voxgap.augment.gaps import ChannelDropout, ExtraGaps
from voxgap.augment.intensity import BiasField, Blur, Gamma, Noise
from voxgap.augment.resample import Border
from voxgap.augment.spatial import Elastic, Flip, Rotate, Rotate90, Scale, Shear, Translate
from voxgap.augment.transform import AXES, Axis, Record, Shape, Spacing, Spatial, Transform, kind, steps
from voxgap.errors import VoxgapError

KINDS = ("scan", "video", "grid")
DEFAULT_BORDER = Border()
STRENGTHS = ("none", "default", "strong")
PLANE: tuple[Literal["height"], Literal["width"]] = ("height", "width")


@dataclass(frozen=True)
class Compose(Transform):
    """Apply several transforms: all spatial ones as one resampling first, then the others, in order.

    Args:
        transforms: What is applied.
        border: What stands beyond the border of a volume, and how much of a voxel has to be observed.
        p: Probability that anything happens at all.
    """

    transforms: Sequence[Transform]
    border: Border = DEFAULT_BORDER

    def _draw(self, rng: np.random.Generator, shape: Shape, spacing: Spacing | None) -> Record:
        drawn = []
        for transform in self.transforms:
            record = transform.sample(rng, shape, spacing)
            drawn.append(record)
            for step in steps(record):
                shape, spacing = _afterwards(step, shape, spacing)
        return {"steps": drawn, "border": asdict(self.border)}


@dataclass(frozen=True)
class OneOf(Transform):
    """Apply one of several transforms.

    Args:
        transforms: What is drawn from.
        weights: How often each is drawn, relative to the others; equally often when not given.
        p: Probability that anything happens at all.
    """

    transforms: Sequence[Transform]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = np.ones(len(self.transforms)) if self.weights is None else np.asarray(self.weights, float)
        if not self.transforms or weights.shape != (len(self.transforms),):
            raise VoxgapError("OneOf: give at least one transform, and as many weights as transforms")
        if not np.isfinite(weights).all() or weights.min() < 0 or weights.sum() == 0:
            raise VoxgapError(f"OneOf: weights {self.weights} are not shares; give numbers of 0 or more")

    def _draw(self, rng: np.random.Generator, shape: Shape, spacing: Spacing | None) -> Record:
        weights = np.ones(len(self.transforms)) if self.weights is None else np.asarray(self.weights, float)
        chosen = self.transforms[int(rng.choice(len(weights), p=weights / weights.sum()))]
        # The chosen one's own record: a replay needs to know nothing of the choice.
        return chosen.sample(rng, shape, spacing)


def preset(kind: str = "scan", strength: str = "default", border: Border = DEFAULT_BORDER) -> Compose:
    """Return the transforms that suit a kind of data.

    Args:
        kind: `"scan"` (a body: turns, scales, coil and contrast vary), `"video"` (frames never mix: all
            move alike, in their own plane) or `"grid"` (axes have a meaning of their own: shifts and noise,
            no turns, no mirrors).
        strength: `"none"`, `"default"` or `"strong"`; strong adds deformation and extra gaps.
        border: As for `Compose`.

    Raises:
        VoxgapError: There is no such preset.
    """
    for name, value, known in (("kind", kind, KINDS), ("strength", strength, STRENGTHS)):
        if value not in known:
            raise VoxgapError(f"{name} {value!r} is unknown; choose one of {', '.join(known)}")
    strong = strength == "strong"
    chosen: list[Transform] = []
    if strength != "none":
        chosen = {"scan": _scan, "video": _video, "grid": _grid}[kind](strong)
    return Compose(tuple(chosen), border)


def from_text(text: str, kind: str = "scan") -> Compose:
    """Read transforms as they are written on a command line.

    Args:
        text: `none`, `default`, `strong`, or names separated by commas, each with its main number or range:
            `flip,rotate:10,scale:0.9..1.1,extra_gaps:0..0.3`; of channel_dropout also one for each channel:
            `channel_dropout:0.5/0.1/0.1`.
        kind: The kind of data that a preset is for.

    Raises:
        VoxgapError: A name or a number is not understood.
    """
    if text in STRENGTHS:
        return preset(kind, text)
    return Compose(tuple(_named(part.strip()) for part in text.split(",")))


def mirrors(augment: Any) -> tuple[Axis, ...]:
    """Return the axes along which an augmentation mirrors volumes, in order; none where it is no transform of these."""
    if not isinstance(augment, Flip | Compose | OneOf) or not augment.p:
        return ()
    each = (mirrors(part) for part in augment.transforms) if not isinstance(augment, Flip) else [augment.axes]
    found = {axis for axes in each for axis in axes}
    return tuple(axis for axis in AXES if axis in found)


_NAMED: dict[str, tuple[Callable[..., Transform], str]] = {
    "flip": (Flip, ""),
    "rotate90": (Rotate90, ""),
    "rotate": (Rotate, "degrees"),
    "scale": (Scale, "factor"),
    "translate": (Translate, "distance"),
    "shear": (Shear, "amount"),
    "elastic": (Elastic, "distance"),
    "noise": (Noise, "deviation"),
    "blur": (Blur, "sigma"),
    "gamma": (Gamma, "exponent"),
    "bias_field": (BiasField, "strength"),
    "extra_gaps": (ExtraGaps, "missing_rate"),
    "channel_dropout": (ChannelDropout, "rate"),
}
"""Names on a command line -> the transform and its main number, where it has one."""
_RANGES = ("scale", "noise", "blur", "gamma", "extra_gaps")
_NUMBERS = ("elastic", "bias_field", "channel_dropout")


def _named(text: str) -> Transform:
    name, colon, value = text.partition(":")
    if name not in _NAMED:
        raise VoxgapError(f"transform {name!r} is unknown; choose from {', '.join((*STRENGTHS, *_NAMED))}")
    transform, main = _NAMED[name]
    if not colon:
        return transform()
    if not main:
        raise VoxgapError(f"transform {text!r}: {name} takes no number; write {name}")
    return transform(**{main: _value(text, name, value)})


def _value(text: str, name: str, value: str) -> float | tuple[float, ...]:
    each = name == "channel_dropout" and "/" in value
    try:
        numbers = tuple(float(part) for part in value.split("/" if each else ".."))
    except ValueError:
        numbers = ()
    if (each and numbers) or (len(numbers) == 2 and name not in _NUMBERS):
        return numbers
    if len(numbers) == 1 and name not in _RANGES:
        return numbers[0]
    example = "0.5/0.1, a rate for each channel" if each else "0.2..0.4" if name in _RANGES else "0.2"
    raise VoxgapError(f"transform {text!r} is not understood; write {name}:{example}")


def _afterwards(step: Record, shape: Shape, spacing: Spacing | None) -> tuple[Shape, Spacing | None]:
    spatial = kind(step)
    if not issubclass(spatial, Spatial):
        return shape, spacing
    size = spatial.geometry(step, shape[:3]).size
    return (*size, shape[3]), spatial.spacing(step, spacing) if spacing else None


def _scan(strong: bool) -> list[Transform]:
    chosen: list[Transform] = [
        Flip(("width",)),
        Rotate(25.0 if strong else 12.0, p=0.7),
        Scale((0.75, 1.33) if strong else (0.87, 1.15), p=0.7),
        Translate(0.1 if strong else 0.05, p=0.7),
        Gamma((0.6, 1.6) if strong else (0.8, 1.25), p=0.5),
        BiasField(0.4 if strong else 0.2, p=0.3),
        Noise((0.0, 0.15) if strong else (0.0, 0.07), p=0.5),
    ]
    if strong:
        chosen[4:4] = [Elastic(0.04, p=0.3)]
        chosen += [Blur((0.3, 1.2), p=0.2), ExtraGaps(p=0.5), ChannelDropout(0.25, p=0.5)]
    return chosen


def _video(strong: bool) -> list[Transform]:
    chosen: list[Transform] = [
        Flip(("width",)),
        Rotate(20.0 if strong else 8.0, axes=("depth",), p=0.7),
        Scale((0.75, 1.33) if strong else (0.87, 1.15), axes=PLANE, p=0.7),
        Translate(0.15 if strong else 0.07, axes=PLANE, p=0.7),
        Gamma((0.6, 1.6) if strong else (0.8, 1.25), p=0.5),
        Noise((0.0, 0.15) if strong else (0.0, 0.07), p=0.5),
    ]
    if strong:
        chosen[4:4] = [Elastic(0.04, points=(1, 7, 7), axes=PLANE, p=0.3)]
        chosen += [
            Blur((0.3, 1.2), axes=PLANE, p=0.2),
            ExtraGaps(("frames", "blocks", "voxels"), p=0.5),
            ChannelDropout(0.25, p=0.3),
        ]
    return chosen


def _grid(strong: bool) -> list[Transform]:
    chosen: list[Transform] = [
        Translate(0.12 if strong else 0.06, whole=True, p=0.7),
        Noise((0.0, 0.15) if strong else (0.0, 0.07), p=0.7),
    ]
    if strong:
        chosen[1:1] = [Scale((0.8, 1.25), same=False, p=0.5), Elastic(0.03, p=0.3)]
        chosen += [
            Blur((0.3, 1.0), p=0.2),
            ExtraGaps(("blocks", "slices", "voxels"), p=0.5),
            ChannelDropout(0.25, p=0.5),
        ]
    return chosen
