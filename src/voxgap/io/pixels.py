"""What the pixels of a decoded frame are worth: all levels that are stored, never those of a poorer format.

Grey and RGB of any depth are whole numbers as stored, floating point as it is. YUV becomes RGB of the same depth
as FFmpeg converts it, over the full range: black is 0, white the largest number, as a player shows them. What
says how transparent a pixel is is left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError

_DEPTHS = (8, 9, 10, 12, 14, 16)
# Of these PyAV returns all that is stored; FFmpeg's conversions of them lose or clip some of it.
_AS_STORED = re.compile(
    r"(gray(8|9|10|12|14|16)?|(gbrap?|rgba?|bgra?)(9|10|12|14|16|48|64)|gbrp(9|\d\d))(le|be)?"
)
_FLOATS_AS_STORED = re.compile(r"(gray|gbrp|gbrap|rgb|rgba)f32(le|be)|rgbaf16(le|be)")
_FLOAT = re.compile(r".*f(16|32)(le|be)")
_FULL_RANGE = 2
# Luma of ITU-R BT.601.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class Pixels(NamedTuple):
    """How frames of one pixel format become values.

    `form` is what PyAV converts them to; `bits` the depth of a value, 32 for floating point; `stored_grey` and
    `grey` say whether frames, and values, have one channel.
    """

    form: str
    bits: int
    stored_grey: bool
    grey: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest that holds a value."""
        return np.dtype(np.float32 if self.bits == 32 else np.uint16 if self.bits > 8 else np.uint8)


def pixels_of(form: Any, colour: str | None, path: Path) -> Pixels:
    """Return how frames of a pixel format (PyAV's `VideoFormat`) become values.

    Args:
        form: The format that frames are stored in.
        colour: `grey`, `rgb`, or None for what is stored.
        path: The file, for an error message.

    Raises:
        VoxgapError: The format can't be converted without a loss.
    """
    name, parts = form.name, [part for part in form.components if not part.is_alpha]
    bits = max((part.bits for part in parts), default=0)
    grey = len(parts) == 1 and not form.is_rgb and not form.has_palette
    values_grey = colour == "grey" or (grey and colour is None)
    if _FLOATS_AS_STORED.fullmatch(name):
        return Pixels(name, 32, grey, values_grey)
    if _FLOAT.fullmatch(name) or form.is_bayer or not 1 <= bits <= 16:
        raise VoxgapError(_unreadable(name, path))
    depth = next(depth for depth in _DEPTHS if depth >= bits)
    luma_alone = grey or (colour == "grey" and not form.is_rgb and not form.has_palette)
    target = name
    if not _AS_STORED.fullmatch(name):
        wide = "gray" if luma_alone else "gbrp"
        target = f"{wide}{depth}le" if depth > 8 else "gray" if luma_alone else "rgb24"
    return Pixels(target, depth, luma_alone, values_grey)


def values_of(frame: Any, pixels: Pixels, reformatter: Any, path: Path) -> NDArray[Any]:
    """Return the values of one frame, `(height, width, 1 or 3)`.

    Raises:
        VoxgapError: FFmpeg has no conversion from this format.
    """
    stored = frame.format.name
    try:
        if pixels.form != stored:
            # Grey is as stored, whatever range it is said to have; of YUV the range counts.
            kept = {"src_color_range": _FULL_RANGE, "dst_color_range": _FULL_RANGE} if _is_grey(frame) else {}
            frame = reformatter.reformat(frame, format=pixels.form, **kept)
        values = frame.to_ndarray()
    except (OSError, ValueError) as error:
        raise VoxgapError(_unreadable(stored, path)) from error
    if pixels.stored_grey:
        grey = values[..., np.newaxis]
        return grey if pixels.grey else np.repeat(grey, 3, axis=2)
    values = values[..., 2::-1] if pixels.form.startswith("bgr") else values[..., :3]
    if not pixels.grey:
        return values
    luma = (values.astype(np.float32) @ _LUMA)[..., np.newaxis]
    return luma if pixels.bits == 32 else np.rint(luma)


def _is_grey(frame: Any) -> bool:
    return all(part.is_alpha for part in frame.format.components[1:]) and not frame.format.has_palette


def _unreadable(name: str, path: Path) -> str:
    return (
        f"{path}: its pixels are stored as {name}, which can't be converted without a loss; convert it: "
        f"ffmpeg -i {path.name} -pix_fmt gbrp16le -c:v ffv1 converted.mkv"
    )
