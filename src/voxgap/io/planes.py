"""A folder of 2D images as one volume: a slice stands where the number in its name puts it, a lost one is NaN.

Names share one pattern, in which one number runs, or a second one that counts channels. Slices lost before the
first or after the last one leave no trace in the numbers.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.io import tiff
from voxgap.io.colours import RGB, Say, say_transparency
from voxgap.io.optional import need
from voxgap.io.source import Box, Options, Source, one_line, too_large
from voxgap.volume import AXES, times

MAX_FILES = 100_000
MAX_CHANNELS = 16
MAX_SPARSE = 4
"""A stack has at least one image for so many slices: else the numbers in its names mean something else."""

_TIFF = (".tif", ".tiff")
_PILLOW = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".pgm": "PPM"}
# What scanners, cameras and people leave beside images.
_NOTES = (".txt", ".csv", ".json", ".xml", ".ini", ".db", ".log", ".md")
_CHANNEL = ("c", "ch", "chan", "channel", "w")
_TIME = ("t", "tp", "time", "timepoint", "frame", "frames")
_ORIENTATION = 0x0112
# Pillow's modes without a loss, and what each is converted to, if at all.
_GREY = {"1": "L", "L": "", "LA": "", "I;16": "", "I;16B": "", "I;16L": "", "I": ""}
_COLOUR = {"RGB": "", "RGBA": "", "P": "RGB", "PA": "RGB", "RGBX": ""}
_SEEN_THROUGH = ("RGBA", "LA", "PA")


class Layout(NamedTuple):
    """Which file stands where: by slice and channel, from 0; and what the channels are called."""

    files: dict[tuple[int, int], Path]
    depth: int
    channels: tuple[str, ...]
    is_time: bool


def is_planes(path: Path) -> bool:
    """Return True for a folder that holds 2D images and nothing else but notes: such a folder is one volume.

    This is the rule by which a folder in the folder of a class is a volume. A folder whose TIFF files are stacks
    is none: each of them is a volume by itself.
    """
    try:
        entries = [Path(entry.path) for entry in os.scandir(path) if not entry.name.startswith(".")]
    except OSError:
        return False
    images = [entry for entry in entries if entry.suffix.lower() in (*_PILLOW, *_TIFF)]
    others = [entry for entry in entries if entry.suffix.lower() not in (*_PILLOW, *_TIFF, *_NOTES)]
    if not images or others or not all(entry.is_file() for entry in entries):
        return False
    some = sorted(image for image in images if image.suffix.lower() in _TIFF)[:3]
    # A damaged image leaves the word to the next.
    return next((held for held in map(tiff.holds_plane, some) if held is not None), True)


def scan_planes(path: Path, options: Options) -> Source:
    """Describe the volume that the images of a folder make.

    Raises:
        VoxgapError: The names don't say which image is which slice, or images differ in size or kind.
    """
    if options.item is not None:
        raise VoxgapError(f"{path}: is one stack of images; leave out ::{options.item}")
    layout = _layout(path)
    found = {place: _scan_image(file, options) for place, file in layout.files.items()}
    for say in {say: None for _, says in found.values() for say in says}:
        say(path)
    planes = {place: plane for place, (plane, _) in found.items()}
    first = next(iter(planes.values()))
    for plane in planes.values():
        _check_alike(plane, first, path)
    _, height, width, samples = first.shape
    count = max(1, len(layout.channels))

    def load(box: Box) -> NDArray[Any]:
        values = np.full([part.stop - part.start for part in box], np.nan, np.float32)
        for (place, channel), plane in planes.items():
            begin, end = channel * samples, (channel + 1) * samples
            part = slice(max(box[3].start, begin), min(box[3].stop, end))
            if box[0].start <= place < box[0].stop and part.start < part.stop:
                with one_line(plane.path):
                    inner = (slice(0, 1), *box[1:3], slice(part.start - begin, part.stop - begin))
                    target = slice(part.start - box[3].start, part.stop - box[3].start)
                    values[place - box[0].start, ..., target] = plane.load(inner)[0]
        return values

    return replace(
        first,
        path=path,
        shape=(layout.depth, height, width, count * samples),
        load=load,
        channels=_names(layout.channels, samples),
        axes=("time", *AXES[1:]) if layout.is_time else AXES,
    )


def _check_alike(plane: Source, first: Source, path: Path) -> None:
    if (plane.shape, plane.dtype) != (first.shape, first.dtype):
        kinds = [f"{times(one.shape[1:])} {one.dtype} ({one.path.name})" for one in (first, plane)]
        raise VoxgapError(
            f"{path}: its images differ: {kinds[0]}, {kinds[1]}; keep those of one volume in the folder, "
            "or bring all to one size and kind"
        )


def _names(channels: tuple[str, ...], samples: int) -> tuple[str, ...]:
    colours = {1: ("",), 3: RGB}.get(samples)
    if colours is None:
        return ()
    if not channels:
        return ("grey",) if samples == 1 else RGB
    return tuple("_".join(filter(None, (channel, colour))) for channel in channels for colour in colours)


def _layout(path: Path) -> Layout:
    """Find the slice and channel of each image by the numbers in its name."""
    files = sorted(file for file in path.iterdir() if _is_image(file))
    if not 2 <= len(files) <= MAX_FILES:
        raise VoxgapError(
            f"{path}: holds {len(files)} image{'s' * (len(files) != 1)}; a stack has 2 to {MAX_FILES}"
        )
    patterns: dict[str, int] = {}
    for file in files:
        pattern = re.sub(r"\d+", "#", file.name.lower())
        patterns[pattern] = patterns.get(pattern, 0) + 1
    if len(patterns) > 1:
        held = ", ".join(f"{name} ({count})" for name, count in list(patterns.items())[:4])
        raise VoxgapError(
            f"{path}: its images are called in {len(patterns)} ways: {held}{', ...' * (len(patterns) > 4)}; keep "
            "one kind in the folder, and others (masks, channels) in folders of their own"
        )
    numbers = np.array([[int(n[-18:]) for n in re.findall(r"\d+", file.stem)] for file in files], np.int64)
    labels = [label.lower() for label in re.findall(r"([A-Za-z]*)[ _\-=.]*\d+", files[0].stem)]
    running = _running(numbers)
    depth, channel = _roles(numbers, labels, running, path)
    places, length = _places(numbers, depth, path)
    parts, names = _channels(files, numbers, channel)
    found: dict[tuple[int, int], Path] = {}
    for key, file in zip(zip(places, parts, strict=True), files, strict=True):
        if key in found:
            raise VoxgapError(
                f"{path}: {found[key].name} and {file.name} have one number; rename or move one"
            )
        found[key] = file
    is_time = depth is not None and labels[depth] in _TIME
    return Layout(found, length, names, is_time)


def _running(numbers: NDArray[np.int64]) -> list[int]:
    """Return which numbers of a name differ between files; of those that always agree, the first."""
    found: list[int] = []
    for column in range(numbers.shape[1]):
        values = numbers[:, column]
        if np.ptp(values) and not any(np.array_equal(values, numbers[:, other]) for other in found):
            found.append(column)
    return found


def _roles(
    numbers: NDArray[np.int64], labels: Sequence[str], running: Sequence[int], path: Path
) -> tuple[int | None, int | None]:
    """Return which number counts slices (or times), and which channels."""
    channels = [column for column in running if labels[column] in _CHANNEL]
    slices = [column for column in running if column not in channels]
    if len(slices) <= 1 and len(channels) <= 1:
        few = not channels or len(set(numbers[:, channels[0]].tolist())) <= MAX_CHANNELS
        if few:
            return next(iter(slices), None), next(iter(channels), None)
    held = ", ".join(
        f"{labels[column] or 'one without a name'} from {numbers[:, column].min()} to {numbers[:, column].max()}"
        for column in running
    )
    raise VoxgapError(
        f"{path}: of the numbers in its images' names run {held}; a volume has one for slices (z) or times (t), "
        f"and one for up to {MAX_CHANNELS} channels (c): make a folder for each value of the others"
    )


def _places(numbers: NDArray[np.int64], column: int | None, path: Path) -> tuple[list[int], int]:
    """Return the slice that each file is, and how many there are, lost ones among them."""
    if column is None:
        return [0] * len(numbers), 1
    values = numbers[:, column].tolist()
    low, step = min(values), math.gcd(*(value - min(values) for value in values))
    depth = (max(values) - low) // step + 1
    held = len(set(values))
    if depth > MAX_SPARSE * held:
        raise VoxgapError(
            f"{path}: the {held} numbers in its images' names, {low} to {max(values)}, count no slices; "
            "number them one by one"
        )
    return [(value - low) // step for value in values], depth


def _channels(
    files: Sequence[Path], numbers: NDArray[np.int64], column: int | None
) -> tuple[list[int], tuple[str, ...]]:
    if column is None:
        return [0] * len(files), ()
    values = numbers[:, column].tolist()
    known = sorted(set(values))
    spelled: dict[int, str] = {}
    for file, value in zip(files, values, strict=True):
        label, digits = re.findall(r"([A-Za-z]*)[ _\-=.]*(\d+)", file.stem)[column]
        spelled.setdefault(value, f"{label}{digits}")
    return [known.index(value) for value in values], tuple(spelled[value] for value in known)


def _is_image(file: Path) -> bool:
    return not file.name.startswith(".") and file.suffix.lower() in (*_PILLOW, *_TIFF)


def _scan_image(path: Path, options: Options) -> tuple[Source, tuple[Say, ...]]:
    """Describe one image as a volume of one slice, and return what says of its folder what is left out."""
    with one_line(path):
        if path.suffix.lower() in _TIFF:
            return tiff.scan_plane(path, options._replace(axes=(), at={}))
        with _opened(path) as image:
            deep = _is_deep(image)
            kind = np.uint16 if deep or image.mode.startswith("I") else np.uint8
            numbers = options.labels and image.mode in ("P", "PA")
            samples = 1 if numbers or image.mode in _GREY or "LA;" in str(image.tile) else 3
            see_through = image.mode in _SEEN_THROUGH or "LA;" in str(image.tile)
            turn = image.getexif().get(_ORIENTATION, 1)
            width, height = image.size[::-1] if turn >= 5 else image.size
    size = 4 * height * width * samples
    if size > options.max_bytes:
        raise VoxgapError(too_large(f"{path}: one image", size, options.max_bytes))

    def load(box: Box) -> NDArray[Any]:
        return _upright(_pixels(path, samples, numbers), turn)[np.newaxis][box]

    return Source(path, (1, height, width, samples), np.dtype(kind), load, options=options), (
        say_transparency,
    ) * see_through


def _opened(path: Path) -> Any:
    """Open an image with Pillow, which reads its header only."""
    image = need("PIL.Image", path, "pillow")
    try:
        with warnings.catch_warnings():
            # What is large for a web page is not for a microscope; `max_bytes` is the limit here.
            warnings.simplefilter("ignore", image.DecompressionBombWarning)
            opened = image.open(path, formats=tuple(set(_PILLOW.values())))
    except image.DecompressionBombError as error:
        raise VoxgapError(f"{path}: has more pixels than Pillow reads; save it as .tif") from error
    several = opened.format == "PNG" and getattr(opened, "is_animated", False)
    rescaled = opened.tile and opened.tile[0].codec_name == "ppm"
    if opened.mode not in _GREY | _COLOUR or several or rescaled:
        raise VoxgapError(
            f"{path}: is stored as {opened.mode} in a way that isn't read; save it as grey or RGB PNG"
        )
    return opened


def _is_deep(image: Any) -> bool:
    """Return True for colours of 16 bits, of which Pillow keeps 8."""
    return image.format == "PNG" and image.mode in ("RGB", "RGBA") and ";16" in str(image.tile)


def _pixels(path: Path, samples: int, numbers: bool) -> NDArray[Any]:
    """Return all that an image stores, `(height, width, samples)`, without transparency.

    Of a palette these are colours, or the `numbers` of them.
    """
    with _opened(path) as image:
        if _is_deep(image):
            values = need("imagecodecs", path).png_decode(path.read_bytes())
        else:
            mode = "" if numbers else {**_GREY, **_COLOUR}[image.mode]
            values = np.asarray(image.convert(mode) if mode else image)
    return values.reshape(*values.shape[:2], -1)[..., :samples]


def _upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn an image as a viewer shows it, by its orientation (Exif 2.32, tag 0x0112)."""
    turned = pixels.swapaxes(0, 1) if 5 <= orientation <= 8 else pixels
    axes = tuple(axis for axis, those in ((0, (3, 4, 7, 8)), (1, (2, 3, 6, 7))) if orientation in those)
    return np.flip(turned, axes)
