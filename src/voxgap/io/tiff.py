"""TIFF stacks, OME-TIFF and ImageJ hyperstacks through tifffile: a plane never stored is NaN."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.arrays import planes
from voxgap.errors import VoxgapError
from voxgap.io import cf
from voxgap.io.colours import RGB, Say, say_palette, say_transparency, shown
from voxgap.io.keeping import settled
from voxgap.io.optional import need
from voxgap.io.rules import Axis
from voxgap.io.source import Box, Options, Source, Stored, arrange, one_line, too_large
from voxgap.volume import AXES, Volume, times

# What tifffile logs where the chain of pages breaks.
_BROKEN = ("corrupted", "circular", "invalid page offset")
# What a byte may expand to: not at all, by deflate, by anything else.
_EXPANSION = {1: 1.01, 8: 1040, 32946: 1040}
_MAX_EXPANSION = 50_000
_PLANE = ("YX", "YXS", "SYX")
# Tags ExtraSamples and PhotometricInterpretation, TIFF 6.0.
_ALPHA, _PALETTE, _COLOURED = (1, 2), 3, (2, 6)
_GDAL = {42112, 42113}
_KINDS = {"Z": "z", "T": "z", "I": "z", "Y": "y", "X": "x", "C": "c", "S": "c"}
# Where OME keeps sizes, and in which unit they are where it doesn't say (OME schema 2016-06).
_OME_SIZES = {axis: (f"PhysicalSize{axis}", "µm") for axis in "XYZ"} | {"T": ("TimeIncrement", "s")}


def scan_tiff(path: Path, options: Options) -> Source:
    """Describe a series of pages; `item` chooses one of several by its number from 1."""
    tifffile = need("tifffile", path)
    with _opened(tifffile, path) as file:
        index = _chosen(file, path, options.item)
        series = file.series[index]
        shape, axes = tuple(series.shape), str(series.axes)
        dtype = np.dtype(series.dtype)
        page = series.keyframe
        said, channels, kept = _ome_facts(file, index, axes) or _other_facts(file, axes, shape)
        lost = bool(kept) and not {"Z", "T"} & set(axes)
        if lost:  # A series leaves out an axis of length 1; a file of our own is known to have a depth.
            shape, axes = (1, *shape), f"{'T' if kept['axes'][0] == 'time' else 'Z'}{axes}"
            said, channels, kept = _ome_facts(file, index, axes) or (said, channels, kept)
        sentinels = {"_FillValue": page.tags[42113].value} if 42113 in page.tags else {}
        look = _look(file, series.pages, axes, options)

    def load(box: Box) -> NDArray[Any]:
        with _opened(tifffile, path) as file:
            inner = box[1:] if lost else box
            values = _planes(file.series[index], inner, path, sentinels, options.max_bytes)
            return values[np.newaxis] if lost else values

    if len(shape) < 3:
        raise VoxgapError(f"{path}: holds one plane of {times(shape)}; voxgap reads stacks of three axes")
    for say in look.doubts:
        say(path)
    stored = _as_shown(Stored(shape, dtype, load, said), look)
    source = arrange(stored, path, options, channels=channels)
    if look.coloured and not channels and source.shape[3] == 3:
        source = replace(source, channels=RGB)
    geometry: dict[str, Any] = {"axes": _plain_axes(axes), **kept}
    return replace(source, **geometry)


def holds_plane(path: Path) -> bool | None:
    """Tell whether a file has one page of two axes, and perhaps samples; None where it can't be read."""
    try:
        with one_line(path), _opened(need("tifffile", path), path) as file:
            images = (file.imagej_metadata or {}).get("images", 1)
            return len(file.pages) == 1 and file.pages[0].axes in _PLANE and images == 1
    except VoxgapError:
        return None


def scan_plane(path: Path, options: Options) -> tuple[Source, tuple[Say, ...]]:
    """Describe the page of a file as a volume of one slice, whatever other files an OME header names.

    Returns:
        It, and what says of its folder what is left out.
    """
    tifffile = need("tifffile", path)
    with _opened(tifffile, path) as file:
        page = file.pages[0]
        if len(file.pages) > 1 or page.axes not in _PLANE:
            raise VoxgapError(f"{path}: holds more than one plane; read it alone, or move it")
        shape, axes, dtype = (1, *page.shape), f"Z{page.axes}", np.dtype(page.dtype)
        said, _, _ = _ome_facts(file, 0, axes) or _other_facts(file, axes, shape)
        look = _look(file, [page], axes, options)
        sentinels = {"_FillValue": page.tags[42113].value} if 42113 in page.tags else {}

    def load(box: Box) -> NDArray[Any]:
        with _opened(tifffile, path) as file:
            _check_page(file.pages[0], path, options.max_bytes)
            return cf.decode(file.pages[0].asarray()[np.newaxis][box], sentinels)

    return arrange(_as_shown(Stored(shape, dtype, load, said), look), path, options), look.doubts


class _Look(NamedTuple):
    """How the samples of a page are shown.

    Attributes:
        axis: Of the samples; None where there is one.
        kept: Those that are no transparency.
        seen_through: Whether some are.
        palette: Colours of the numbers, where these are no grey, `(n, 3)`, or `(pages, n, 3)` where they differ.
        coloured: Whether it has red, green and blue.
        doubts: What says that something is left out.
    """

    axis: int | None
    kept: tuple[int, ...]
    seen_through: bool
    palette: NDArray[np.uint8] | None
    coloured: bool
    doubts: tuple[Say, ...] = ()


def _look(file: Any, pages: Sequence[Any], axes: str, options: Options) -> _Look:
    """Return which samples of pages of one kind are values, and whether their palette is what is shown.

    In OME-TIFF, in ImageJ and by GDAL a palette colours what was measured, and so it does what has more than 8 bits
    or several samples: numbers stay.
    """
    if options.rules < 4:
        return _Look(None, (), False, None, False)
    page = next(page for page in pages if page is not None).keyframe
    count = int(page.samplesperpixel)
    extra = tuple(map(int, page.extrasamples))
    kept = tuple(i for i in range(count) if i < count - len(extra) or extra[i - count] not in _ALPHA)
    measured = options.labels or file.is_ome or file.is_imagej or page.is_geotiff
    measured = measured or bool(_GDAL & {tag.code for tag in page.tags})
    mapped = int(page.photometric) == _PALETTE and page.colormap is not None and not measured
    indexed = mapped and len(kept) == 1 and int(page.bitspersample) <= 8
    table = _palette(pages) if indexed else None
    coloured = table is not None or int(page.photometric) in _COLOURED
    axis = axes.index("S") if "S" in axes and len(kept) < count else None
    doubts = (say_transparency,) * (axis is not None) + (say_palette,) * (mapped and not indexed)
    return _Look(axis, kept, axis is not None, table, coloured, doubts)


def _palette(pages: Sequence[Any]) -> NDArray[np.uint8]:
    maps = [None if page is None else np.asarray(page.aspage().colormap).T for page in pages]
    first = next(table for table in maps if table is not None)
    found = [first if table is None else table for table in maps]
    if all(np.array_equal(table, first) for table in found):
        found = [first]
    # Some write 8 bits where 16 are meant (libtiff, checkcmap).
    tables = np.stack([table if table.max() < 256 else table >> 8 for table in found]).astype(np.uint8)
    return tables if len(tables) > 1 else tables[0]


def _as_shown(stored: Stored, look: _Look) -> Stored:
    """Leave out transparency, and put the colours of a palette where its numbers are."""
    axis, table, load = look.axis, look.palette, stored.load
    if axis is not None:
        places, whole = np.array(look.kept), slice(0, stored.shape[axis])
        around = stored.shape[:axis], stored.shape[axis + 1 :]
        if table is None:
            return stored._replace(
                shape=(*around[0], len(places), *around[1]),
                load=lambda box: np.take(
                    load((*box[:axis], whole, *box[axis + 1 :])), places[box[axis]], axis
                ),
            )
        said = (*stored.axes[:axis], *stored.axes[axis + 1 :])
        numbers = stored._replace(
            shape=(*around[0], *around[1]),
            load=lambda box: np.take(load((*box[:axis], whole, *box[axis:])), look.kept[0], axis),
            said=said,
        )
        return _as_shown(numbers, look._replace(axis=None))
    if table is None:
        return stored

    def coloured(box: Box) -> NDArray[np.float32]:
        numbers, colours = load(box[:-1]), box[-1]
        if table.ndim == 2:
            return shown(numbers, table[:, colours])
        of_pages = table.reshape(*stored.shape[:-2], -1, 3)[(*box[:-3], slice(None), colours)]
        found = np.empty((*numbers.shape, of_pages.shape[-1]), np.float32)
        for page in np.ndindex(numbers.shape[:-2]):
            found[page] = shown(numbers[page], of_pages[page])
        return found

    return stored._replace(
        shape=(*stored.shape, 3),
        dtype=table.dtype,
        load=coloured,
        said=(*stored.axes, _axis("S", None)),
    )


def write_tiff(stream: BinaryIO, volume: Volume, dtype: Any = np.float32) -> None:
    """Write an OME-TIFF, deflated, that keeps spacing and channel names."""
    tifffile = need("tifffile", "TIFF")
    depth = "T" if volume.axes[0] == "time" else "Z"
    metadata: dict[str, Any] = {
        "axes": f"{depth}CYX" if depth == "T" else "CZYX",
        "Channel": {"Name": list(volume.channels)},
    }
    if volume.spacing is not None:
        for axis, size in zip((depth, "Y", "X"), volume.spacing, strict=True):
            name = "TimeIncrement" if axis == "T" else f"PhysicalSize{axis}"
            metadata[name] = size
            metadata[f"{name}Unit"] = "s" if axis == "T" else "mm"
    kept = {"axes": json.dumps(volume.axes)}
    if volume.affine is not None:
        kept["affine"] = json.dumps(volume.affine.tolist())
    metadata["MapAnnotation"] = {"Namespace": "voxgap", **kept}
    order = (0, 3, 1, 2) if depth == "T" else (3, 0, 1, 2)
    laid = volume.values.transpose(order)
    tifffile.imwrite(
        stream,
        (np.ascontiguousarray(page, dtype) for outer in laid for page in planes(outer)),
        shape=laid.shape,
        dtype=np.dtype(dtype),
        ome=True,
        metadata=metadata,
        photometric="minisblack",
        compression="zlib",
        compressionargs={"level": 4},
        bigtiff=volume.values.nbytes > 2**31,
    )


def write_tiff_like(stream: BinaryIO, volume: Volume, source: Source) -> None:
    """Write a stack with the OME or ImageJ header, description and resolution of the original."""
    tifffile = need("tifffile", "TIFF")
    path = source.path
    with _opened(tifffile, path) as file:
        page, series = file.series[0].keyframe, file.series[0]
        if len(file.series) > 1:
            # The header speaks of all of them: one alone has a header of its own.
            return write_tiff(stream, volume)
        look = _look(file, series.pages, series.axes, source.options)
        if look.palette is not None:  # Colours between those of a palette have no number in it.
            return write_tiff(stream, volume)
        sentinels = {"_FillValue": page.tags[42113].value} if 42113 in page.tags else {}
        values = _rewritten(series, source, volume, sentinels, look)
        about: dict[str, Any] = {"photometric": "minisblack", "compression": "zlib", "metadata": None}
        about["byteorder"] = file.byteorder
        if page.samplesperpixel > 1:
            about["planarconfig"] = int(page.planarconfig)
            colours = page.samplesperpixel == 3 or look.coloured
            about["photometric"] = "rgb" if series.axes.endswith("S") and colours else "minisblack"
            if look.seen_through:
                about["photometric"] = "rgb" if look.coloured else "minisblack"
                about["extrasamples"] = tuple(map(int, page.extrasamples))
        for name in ("XResolution", "YResolution"):
            if name in page.tags:
                about["resolution"] = [
                    page.tags[n].value for n in ("XResolution", "YResolution") if n in page.tags
                ]
        if file.is_imagej:
            about |= {"imagej": True, "metadata": {**(file.imagej_metadata or {}), "axes": series.axes}}
            about |= {"compression": None}
        elif file.is_ome:
            about["description"] = _ome_of(file.ome_metadata, values.dtype)
        elif page.description:
            about["description"] = page.description
        unit = page.tags.get("ResolutionUnit")
        if unit is not None:
            about["resolutionunit"] = int(unit.value)
        if 42113 in page.tags:
            nodata = page.tags[42113].value if values.dtype == np.dtype(page.dtype) else "nan"
            about["extratags"] = [(42113, "s", 0, nodata, True)]
    if file.is_imagej:
        values = values.reshape(_imagej_shape(series.axes, values.shape))
        about["metadata"].pop("axes")
    tifffile.imwrite(stream, values, bigtiff=values.nbytes > 2**31, **about)


def _rewritten(
    series: Any, source: Source, volume: Volume, sentinels: dict[str, Any], look: _Look
) -> NDArray[Any]:
    whole = _whole(series, source.path, source.options.max_bytes)
    stored = whole if look.axis is None else np.take(whole, look.kept, look.axis)
    if stored.dtype.kind == "b":  # Deflated, tifffile packs no bits.
        stored = stored.astype(np.uint8)
    decode = partial(cf.decode, attributes=sentinels, dtype=np.float64)
    lost = np.isnan(source.restore(source.load(tuple(slice(0, size) for size in source.shape))))
    if (lost & ~np.isnan(decode(stored))).any():  # A plane that was never stored has no bits to keep.
        stored = np.where(lost, np.nan, stored.astype(np.result_type(stored, np.float32)))
    new = settled(stored, source.restore(volume.values), decode).new
    if look.axis is None:
        return np.ascontiguousarray(new)
    whole = np.ascontiguousarray(whole, new.dtype)
    np.moveaxis(whole, look.axis, 0)[list(look.kept)] = np.moveaxis(new, look.axis, 0)
    return whole


def _imagej_shape(axes: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the six axes of a hyperstack, T Z C Y X S, of which a series names those longer than 1."""
    sizes = dict(zip(axes.replace("I", "Z"), shape, strict=True))
    return tuple(sizes.get(axis, 1) for axis in "TZCYXS")


def _ome_of(text: str, dtype: np.dtype[Any]) -> bytes:
    """Return an OME header whose planes are of one type, one after the other, in this file."""
    kind = {"float32": "float", "float64": "double"}.get(dtype.name, dtype.name)
    text = re.sub(r"(<(?:\w+:)?Pixels\b[^>]*?\bType=\")[^\"]*", rf"\1{kind}", text)
    text = re.sub(r"\s(?:SignificantBits|BigEndian|Interleaved)=\"[^\"]*\"", "", text)
    one = iter(["<TiffData/>"])
    text = re.sub(
        r"<((?:\w+:)?)TiffData\b(?:[^>]*/>|.*?</\1TiffData>)", lambda _: next(one, ""), text, flags=re.DOTALL
    )
    return text.encode()


@contextlib.contextmanager
def _opened(tifffile: Any, path: Path) -> Iterator[Any]:
    """Open this file only, since an OME header may name others, anywhere; refuse a broken chain of pages.

    tifffile logs that a page is corrupt and goes on with those before it: a volume would lose its end.
    """
    logger, thread = logging.getLogger("tifffile"), threading.get_ident()
    damage: list[str] = []

    def note(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if record.thread == thread and any(word in text for word in _BROKEN):
            damage.append(text)
        return record.thread != thread

    logger.addFilter(note)
    try:
        with tifffile.TiffFile(path, _multifile=False) as file:
            len(file.pages)
            if damage:
                raise VoxgapError(f"{path}: damaged ({damage[0][:120]}); copy it again")
            yield file
    finally:
        logger.removeFilter(note)


def _chosen(file: Any, path: Path, item: str | None) -> int:
    count = len(file.series)
    if not count:
        raise VoxgapError(f"{path}: holds no image, damaged; copy it again")
    if item is not None and item.isdecimal() and 1 <= int(item) <= count:
        return int(item) - 1
    if item is None and count == 1:
        return 0
    held = ", ".join(f"{number} = {times(tuple(s.shape))}" for number, s in enumerate(file.series[:20], 1))
    raise VoxgapError(f"{path}: holds {count} series: {held}; choose one with {path.name}::1")


def _planes(
    series: Any, box: Box, path: Path, sentinels: dict[str, Any], max_bytes: int
) -> NDArray[np.float32]:
    page = series.keyframe
    inner = tuple(page.shape)
    outer = tuple(series.shape[: len(series.shape) - len(inner)])
    if tuple(series.shape[len(outer) :]) != inner or math.prod(outer) not in (len(series), len(series.pages)):
        whole = cf.decode(_whole(series, path, max_bytes)[box], sentinels)
        return np.asarray(whole.astype(np.float32, copy=False))
    values = np.full([part.stop - part.start for part in box], np.nan, np.float32)
    for place in product(*(range(part.start, part.stop) for part in box[: len(outer)])):
        plane = series.pages[int(np.ravel_multi_index(place, outer)) if outer else 0]
        target = tuple(index - part.start for index, part in zip(place, box, strict=False))
        if plane is not None:
            _check_page(plane, path, max_bytes)
            values[target] = cf.decode(plane.asarray().reshape(inner)[box[len(outer) :]], sentinels)
    return values


def _whole(series: Any, path: Path, max_bytes: int) -> NDArray[Any]:
    """Read a series whose pages are no planes of it, such as one page with a whole volume in it."""
    size = 4 * math.prod(series.shape)
    if size > max_bytes:
        raise VoxgapError(too_large(f"{path}: shape {times(tuple(series.shape))}", size, max_bytes))
    if series.dataoffset is not None and series.dataoffset + series.nbytes > path.stat().st_size:
        raise VoxgapError(f"{path}: ends before its last plane; copy it again")
    for page in series.pages:
        if page is not None:
            _check_page(page, path, max_bytes)
    return np.asarray(series.asarray())


def _check_page(page: Any, path: Path, max_bytes: int) -> None:
    page = page.keyframe if not hasattr(page, "nbytes") else page
    if page.nbytes > max_bytes:
        raise VoxgapError(too_large(f"{path}: one page", page.nbytes, max_bytes))
    held = min(sum(page.databytecounts), path.stat().st_size)
    # `nbytes` counts bits that are packed as whole bytes.
    form = page.keyframe
    together, apart = (form.samplesperpixel, 1) if form.planarconfig == 1 else (1, form.samplesperpixel)
    row = -(-form.imagewidth * together * form.bitspersample // 8)
    packed = form.imagelength * form.imagedepth * apart * row
    if min(packed, page.nbytes) > held * _EXPANSION.get(int(page.compression), _MAX_EXPANSION) + 1:
        raise VoxgapError(f"{path}: a page claims {page.nbytes} bytes, more than it holds; copy it again")


Facts = tuple[tuple[Axis, ...], tuple[str, ...], dict[str, Any]]
"""What is said of each axis, the names of the channels, and what `write_tiff` kept for itself."""


def _ome_facts(file: Any, index: int, axes: str) -> Facts | None:
    """Return what an OME header says."""
    text = file.ome_metadata if file.is_ome else None
    if not text:
        return None
    from tifffile import xml2dict

    header = xml2dict(text).get("OME", {})
    images = header.get("Image", {})
    image = images[index] if isinstance(images, list) else images
    pixels = image.get("Pixels", {})
    said = tuple(
        _axis(axis, _positive(pixels.get(key)), str(pixels.get(f"{key}Unit", unit)))
        for axis, (key, unit) in ((axis, _OME_SIZES.get(axis, ("", ""))) for axis in axes)
    )
    found = pixels.get("Channel", [])
    channels = [str(c.get("Name", "")) for c in (found if isinstance(found, list) else [found])]
    counts = [pixels.get("SizeC"), len(set(channels))]
    named = all(channels) and counts[0] == counts[1] == len(channels)
    return said, tuple(channels) if named else (), _kept(header.get("StructuredAnnotations", {}))


def _kept(annotations: Any) -> dict[str, Any]:
    found = annotations.get("MapAnnotation", {})
    own = [
        note for note in (found if isinstance(found, list) else [found]) if note.get("Namespace") == "voxgap"
    ]
    if len(own) != 1:
        return {}
    entries = own[0]["Value"]["M"]
    texts = {entry["K"]: entry["value"] for entry in (entries if isinstance(entries, list) else [entries])}
    kept: dict[str, Any] = {"axes": tuple(map(str, json.loads(texts["axes"])))}
    if "affine" in texts:
        kept["affine"] = np.array(json.loads(texts["affine"]), np.float64)
    return kept


def _other_facts(file: Any, axes: str, shape: tuple[int, ...]) -> Facts:
    """Return what ImageJ, the resolution tags, or those of GeoTIFF say of the axes."""
    imagej, page = file.imagej_metadata or {}, file.series[0].keyframe
    depth = _positive(imagej.get("spacing"))
    if depth is None:
        backwards = [axis for axis, turned in zip("XY", _turned(page), strict=True) if turned]
        places = {axis: [-float(place) for place in range(shape[axes.index(axis)])] for axis in backwards}
        return tuple(_axis(axis, None)._replace(places=places.get(axis)) for axis in axes), (), {}
    plane = [_per_unit(page.tags.get(name)) for name in ("YResolution", "XResolution")]
    known = {"Z": depth, "Y": plane[0], "X": plane[1]}
    # ImageJ writes the Greek letter of micrometres as Java does.
    unit = str(imagej.get("unit", "")).replace("\\u00B5", "µ")
    return tuple(_axis(axis, known.get(axis), unit) for axis in axes), (), {}


def _axis(letter: str, step: float | None, unit: str = "") -> Axis:
    return Axis(letter.lower(), _KINDS.get(letter, ""), step, unit)


def _turned(page: Any) -> tuple[bool, bool]:
    """Tell whether columns run from east to west, and rows from north to south, as in nearly every GeoTIFF.

    Source: ModelPixelScaleTag and ModelTransformationTag, OGC 19-008r4.
    """
    scale, matrix = (page.tags.get(code) for code in (33550, 34264))
    if matrix is not None:
        whole = len(matrix.value) == 16
        return whole and matrix.value[0] < 0, whole and matrix.value[5] < 0
    return False, scale is not None and len(scale.value) == 3 and scale.value[1] > 0


def _per_unit(tag: Any) -> float | None:
    if tag is None or not tag.value[0]:
        return None
    return _positive(tag.value[1] / tag.value[0])


def _positive(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 < value < math.inf else None


def _plain_axes(axes: str) -> tuple[str, str, str]:
    return ("time" if "T" in axes and "Z" not in axes else AXES[0], AXES[1], AXES[2])
