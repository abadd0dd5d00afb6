"""Video through PyAV: frames stand where their time stamps put them, a dropped frame is NaN.

A frame lost before the first or after the last one leaves no trace in the time stamps.
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.io.grid import regular_grid
from voxgap.io.optional import need
from voxgap.io.source import Box, Options, Source, too_large
from voxgap.volume import Volume

MAX_FRAMES = 10_000_000
_GREY, _RGB = ("grey",), ("red", "green", "blue")


def scan_video(path: Path, options: Options) -> Source:
    """Describe the first video stream; `item` is `grey` or `rgb`, by default what is stored."""
    av = need("av", path)
    if options.item not in (None, "grey", "rgb"):
        raise VoxgapError(f"{path}: {options.item!r} is neither grey nor rgb; choose one of them")
    with _opened(av, path) as container:
        stream = _stream(container, path)
        height, width = stream.height, stream.width
        grey = options.item == "grey" or (options.item is None and _is_grey(stream))
        stamps = _stamps(container, stream, path)
        base = float(stream.time_base or 0)
    grid = regular_grid(np.array(stamps) * base) if len(stamps) > 1 else None
    if grid is None and len(stamps) > 1:
        raise VoxgapError(f"{path}: its frames follow no regular rate; convert it to a constant frame rate")
    places = {stamp: 0 if grid is None else int(grid.indices[i]) for i, stamp in enumerate(stamps)}
    count = max(places.values()) + 1

    def load(box: Box) -> NDArray[Any]:
        values = np.full([part.stop - part.start for part in box], np.nan, np.float32)
        wanted = {stamp: place for stamp, place in places.items() if box[0].start <= place < box[0].stop}
        plane = 3 * height * width
        if plane > options.max_bytes:
            raise VoxgapError(too_large(f"{path}: one frame", plane, options.max_bytes))
        for stamp, pixels in _frames(av, path, wanted, "gray" if grey else "rgb24", (height, width)):
            values[places[stamp] - box[0].start] = pixels[box[1:]]
        return values

    return Source(
        path,
        (count, height, width, 1 if grey else 3),
        np.dtype(np.uint8),
        load,
        spacing=None if grid is None else (grid.step, 1.0, 1.0),
        channels=_GREY if grey else _RGB,
        axes=("time", "height", "width"),
        options=options,
    )


def write_video(stream: BinaryIO, volume: Volume) -> None:
    """Write a lossless clip of whole numbers from 0 to 255, without the missing frames.

    Raises:
        VoxgapError: The values or channels don't fit, or a frame is missing in part.
    """
    av = need("av", "video")
    present = _writable(volume)
    step = volume.spacing[0] if volume.spacing else 0.04
    grey = volume.shape[3] == 1
    with av.open(stream, "w", format="matroska") as container:
        # The container counts milliseconds: the codec's own clock must be as fine.
        out = container.add_stream("ffv1", rate=Fraction(1 / step).limit_denominator(1001))
        out.height, out.width = volume.shape[1:3]
        out.pix_fmt = "gray" if grey else "bgr0"
        out.codec_context.time_base = Fraction(1, 1000)
        last = -1
        for index in np.flatnonzero(present).tolist():
            pixels = volume.values[index].astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(pixels[..., 0] if grey else pixels), format="gray" if grey else "rgb24"
            )
            frame.pts, frame.time_base = max(round(index * step * 1000), last + 1), Fraction(1, 1000)
            last = frame.pts
            container.mux(out.encode(frame))
        container.mux(out.encode())


def _writable(volume: Volume) -> NDArray[np.bool_]:
    observed = volume.observed.reshape(volume.shape[0], -1)
    if volume.shape[3] not in (1, 3):
        raise VoxgapError(f"a clip holds 1 or 3 channels, not {volume.shape[3]}; write .npz")
    if (observed.any(axis=1) != observed.all(axis=1)).any() or not observed.any():
        raise VoxgapError("a clip can leave out whole frames, not parts of them, nor all; write .npz")
    values = volume.values[observed.all(axis=1)]
    if values.min() < 0 or values.max() > 255 or (values != np.rint(values)).any():
        raise VoxgapError("a clip holds whole numbers from 0 to 255; scale the values, or write .npz")
    if volume.spacing and volume.spacing[0] < 0.004:
        raise VoxgapError("a clip's frames are at least 4 ms apart; scale its spacing, or write .npz")
    return np.asarray(observed.all(axis=1))


def _opened(av: Any, path: Path) -> Any:
    # Without a protocol of its own, a file could name other files or addresses as parts of it.
    return av.open(path.open("rb"), metadata_errors="ignore", options={"protocol_whitelist": ""})


def _stream(container: Any, path: Path) -> Any:
    if not container.streams.video:
        raise VoxgapError(f"{path}: holds no video; check its name and source")
    stream = container.streams.video[0]
    if not (stream.width and stream.height):
        raise VoxgapError(f"{path}: its video has no size, damaged; copy it again")
    return stream


def _is_grey(stream: Any) -> bool:
    return str(stream.codec_context.pix_fmt or "").startswith(("gray", "mono", "ya"))


def _stamps(container: Any, stream: Any, path: Path) -> list[int]:
    """Return the time stamps of all frames, without decoding any."""
    stamps = set()
    for packet in container.demux(stream):
        stamp = packet.pts if packet.pts is not None else packet.dts
        # AVI keeps an empty packet where a frame was dropped.
        if stamp is not None and packet.size:
            stamps.add(stamp)
        if len(stamps) > MAX_FRAMES:
            raise VoxgapError(f"{path}: holds more than {MAX_FRAMES} frames; cut it")
    if not stamps:
        raise VoxgapError(f"{path}: holds no frame with a time stamp; convert it to .mkv or .mp4")
    return sorted(stamps)


def _frames(av: Any, path: Path, wanted: dict[int, int], form: str, size: tuple[int, int]) -> Any:
    """Yield the time stamp and pixels of each wanted frame that can be decoded."""
    if not wanted:
        return
    last = max(wanted)
    with _opened(av, path) as container:
        stream = container.streams.video[0]
        if min(wanted) > 0:
            container.seek(min(wanted), stream=stream)
        decoded = 0
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                continue  # A damaged packet is a dropped frame.
            for frame in frames:
                decoded += 1
                if frame.pts in wanted and not frame.is_corrupt and (frame.height, frame.width) == size:
                    pixels = frame.to_ndarray(format=form)
                    yield frame.pts, pixels[..., np.newaxis] if form == "gray" else pixels
            if packet.dts is not None and packet.dts > last + _slack(stream):
                break
        if not decoded:
            raise VoxgapError(f"{path}: none of its frames can be decoded; copy it again")


def _slack(stream: Any) -> int:
    # Frames come out of order: a second more is beyond any reordering.
    return math.ceil(1 / float(stream.time_base or 1))
