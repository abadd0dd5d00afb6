"""Video through PyAV: frames stand where their time stamps put them, a dropped frame is NaN.

Time stamps are believed where all frames have one of their own; where a container knows none, or the same for
two frames, the order in which frames are decoded counts. A frame lost before the first or after the last one
leaves no trace in the time stamps.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.io.grid import Grid, regular_grid
from voxgap.io.optional import need
from voxgap.io.pixels import Pixels, pixels_of, values_of
from voxgap.io.source import Box, Options, Source, too_large
from voxgap.volume import Volume

MAX_FRAMES = 10_000_000
_GREY, _RGB = ("grey",), ("red", "green", "blue")
_ATTACHED = 0x400 | 0x800
"""FFmpeg's dispositions of a cover and of thumbnails."""
JITTER = 0.25
"""How far off the grid a frame may be, as a share of the step: many files round times to milliseconds."""
COARSE = 0.25
"""Where a tick of the clock is longer than this share of a frame, time stamps lie off the grid by rounding."""


class Clip(NamedTuple):
    """One stream of a file, of which packets have been counted and nothing decoded.

    `stream` is its index in the file, `clock` the length of a tick in seconds, `rate` in frames per second (0:
    unknown), `stamps` the presentation and decoding time of each packet in ticks, in file order. `delay` is
    by how many frames the order of storing differs from that of showing, `ratio` the width of a pixel over its
    height, `seconds` how long the header says that the frames are shown (0: unknown).
    """

    path: Path
    stream: int
    clock: float
    rate: float
    stamps: list[tuple[int | None, int | None]]
    delay: int
    ratio: float
    seconds: float


class Timeline(NamedTuple):
    """The place of each frame along the depth of the volume, by its time stamp, or by its number if `counted`."""

    places: dict[int, int]
    step: float | None
    counted: bool = False


class Look(NamedTuple):
    """What all frames of a clip share: their size as stored, quarter turns to the left, and their pixels."""

    height: int
    width: int
    turns: int
    pixels: Pixels

    @property
    def shown(self) -> tuple[int, int]:
        """Height and width as a player shows them."""
        return (self.width, self.height) if self.turns % 2 else (self.height, self.width)


def scan_video(path: Path, options: Options) -> Source:
    """Describe a video stream; `item` is its number, `grey`, `rgb`, or both: `2,grey`.

    Raises:
        VoxgapError: There are several streams and none is chosen, frames follow no constant rate, or are
            mirrored or turned by another angle than a right one.
    """
    av = need("av", path)
    number, colour = _said(path, options.item)
    with _opened(av, path) as container:
        stream = _chosen(container, number, path)
        _check_size(stream, path, options.max_bytes)
        clip = _clip(container, stream, path)
    first = next((frame for _, frame in _decoded(av, clip)), None)
    if first is None:
        raise VoxgapError(f"{path}: none of its frames can be decoded; copy it again")
    _check_size(first, path, options.max_bytes)
    look = _look(first, colour, path)
    timeline = _timeline(av, clip, first.pts)
    _warn_of_end(clip, timeline)
    height, width = look.shown
    channels = _GREY if look.pixels.grey else _RGB

    def load(box: Box) -> NDArray[Any]:
        values = np.full([part.stop - part.start for part in box], np.nan, np.float32)
        reformatter = av.video.reformatter.VideoReformatter()
        wanted = {key for key, place in timeline.places.items() if box[0].start <= place < box[0].stop}
        for key, frame in _frames(av, clip, timeline, wanted):
            place = timeline.places[key]
            _check_same(_look(frame, colour, path), look, place, path)
            pixels = np.rot90(values_of(frame, look.pixels, reformatter, path), look.turns)
            values[place - box[0].start] = pixels[box[1:]]
        return values

    return Source(
        path,
        (max(timeline.places.values()) + 1, height, width, len(channels)),
        look.pixels.dtype,
        load,
        spacing=_spacing(timeline.step, clip.ratio, look.turns),
        channels=channels,
        axes=("time", "height", "width"),
        options=options,
        by_part=False,
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


@contextlib.contextmanager
def _opened(av: Any, path: Path) -> Iterator[Any]:
    # Without a protocol of its own, a file could name other files or addresses as parts of it.
    options = {"protocol_whitelist": ""}
    with path.open("rb") as stream, av.open(stream, metadata_errors="ignore", options=options) as container:
        yield container


def _said(path: Path, item: str | None) -> tuple[int | None, str | None]:
    """Return the number of a stream and the colours that an item names."""
    number, colour = None, None
    for word in (item or "").split(",") if item else ():
        word = word.strip()
        if word.isdecimal() and number is None:
            number = int(word)
        elif word in ("grey", "rgb") and colour is None:
            colour = word
        else:
            raise VoxgapError(
                f"{path}: {item!r} is neither grey nor rgb, nor the number of a stream; choose one of them, "
                f"or both: {path.name}::1,grey"
            )
    return number, colour


def _chosen(container: Any, number: int | None, path: Path) -> Any:
    streams = [stream for stream in container.streams.video if not int(stream.disposition) & _ATTACHED]
    if not streams:
        raise VoxgapError(f"{path}: holds no video; check its name and source")
    chosen = int(len(streams) == 1) if number is None else number
    if not 1 <= chosen <= len(streams):
        held = ", ".join(
            f"{count} = {stream.width}×{stream.height} {stream.codec_context.name}"
            for count, stream in enumerate(streams[:20], 1)
        )
        raise VoxgapError(
            f"{path}: holds {len(streams)} video stream{'s' * (len(streams) > 1)}: {held}; "
            f"choose one with {path.name}::1"
        )
    stream = streams[chosen - 1]
    if not (stream.width and stream.height):
        raise VoxgapError(f"{path}: its video has no size, damaged; copy it again")
    return stream


def _check_size(stored: Any, path: Path, max_bytes: int) -> None:
    """Refuse a stream, or a frame, that is too large to be decoded."""
    plane = 4 * 3 * stored.height * stored.width
    if plane > max_bytes:
        raise VoxgapError(too_large(f"{path}: one frame", plane, max_bytes))


def _clip(container: Any, stream: Any, path: Path) -> Clip:
    """Return the facts of a stream, and the time stamps of all packets, without decoding any."""
    stamps: list[tuple[int | None, int | None]] = []
    left_out = False
    for packet in container.demux(stream):
        # AVI keeps an empty packet where a frame was dropped; an edit list leaves packets out.
        left_out |= packet.is_discard
        if packet.size and not packet.is_discard:
            stamps.append((packet.pts, packet.dts))
        if len(stamps) > MAX_FRAMES:
            raise VoxgapError(f"{path}: holds more than {MAX_FRAMES} frames; cut it")
    if not stamps:
        raise VoxgapError(f"{path}: none of its frames can be decoded; copy it again")
    return Clip(
        path,
        stream.index,
        float(stream.time_base or 0),
        float(stream.average_rate or stream.guessed_rate or 0),
        stamps,
        int(getattr(stream.codec_context, "reorder_depth", stream.codec_context.has_b_frames)),
        float(stream.sample_aspect_ratio or 1),
        0.0 if left_out else _announced(container, stream),
    )


def _announced(container: Any, stream: Any) -> float:
    """Return how long a file says that its frames are shown, in seconds; 0 where other streams may be longer."""
    if len(container.streams) > 1 or not container.duration:
        return 0.0
    return float(container.duration / 1e6 - (stream.start_time or 0) * (stream.time_base or 0))


def _warn_of_end(clip: Clip, timeline: Timeline) -> None:
    """Warn where a file announces more frames than it holds, as one that was cut does."""
    count, step = max(timeline.places.values()) + 1, timeline.step or 0.0
    # The last frame may be shown for as long as the header's own rate says.
    last = max(step, 1 / clip.rate if clip.rate > 0 else 0.0)
    if step and clip.seconds > (count + 0.5) * step + last:
        warnings.warn(
            f"{clip.path}: holds {count} frames, and its header says {clip.seconds:g} s, which are "
            f"{round(clip.seconds / step)}: it may have been cut; copy it again",
            stacklevel=4,
        )


def _look(frame: Any, colour: str | None, path: Path) -> Look:
    return Look(frame.height, frame.width, _turns(frame, path), pixels_of(frame.format, colour, path))


def _turns(frame: Any, path: Path) -> int:
    """Return how many quarter turns to the left bring a frame upright, by its display matrix (ISO 14496-12)."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 0
    matrix = np.frombuffer(bytes(data), np.int32).reshape(3, 3)[:2, :2].astype(float)
    lengths = np.hypot(matrix[0], matrix[1])
    if not lengths.all():
        return 0
    # (x, y) is shown at (x, y) @ matrix, with y downwards: a quarter to the left takes right to up.
    unit = matrix / lengths
    for turns, upright in enumerate(
        ([[1, 0], [0, 1]], [[0, -1], [1, 0]], [[-1, 0], [0, -1]], [[0, 1], [-1, 0]])
    ):
        if np.allclose(unit, upright, atol=0.01):
            return turns
    raise VoxgapError(
        f"{path}: its frames are shown mirrored, or turned by another angle than a right one; "
        f"store them so: ffmpeg -i {path.name} -c:v ffv1 upright.mkv"
    )


def _check_same(found: Look, first: Look, place: int, path: Path) -> None:
    same = found.shown == first.shown and found.turns == first.turns
    if same and found.pixels[1:] == first.pixels[1:]:
        return
    ends = [f"{look.shown[1]}×{look.shown[0]} of {look.pixels.bits} bits" for look in (first, found)]
    raise VoxgapError(
        f"{path}: its frames change from {ends[0]} to {ends[1]} at frame {place}; cut it there, or make them "
        f"alike: ffmpeg -i {path.name} -vf scale={first.shown[1]}:{first.shown[0]} -c:v ffv1 alike.mkv"
    )


def _spacing(step: float | None, ratio: float, turns: int) -> tuple[float, float, float] | None:
    """Return seconds per frame, and the size of a pixel in units of its shorter stored side's height."""
    if step is None:
        return None
    return (step, ratio, 1.0) if turns % 2 else (step, 1.0, ratio)


def _timeline(av: Any, clip: Clip, first: int | None) -> Timeline:
    """Find the place of each frame: from packets where they say it, by decoding them all otherwise."""
    shown = [pts for pts, _ in clip.stamps if pts is not None]
    stored = [dts for _, dts in clip.stamps if dts is not None]
    own = len(set(shown)) == len(clip.stamps) and first in set(shown)
    in_file_order = shown == sorted(shown)
    if own and not in_file_order:
        return _stamped(clip, sorted(shown))
    # AVI knows the times of storing only; what FFmpeg takes for those of showing is late after a dropped frame,
    # and wrong where frames are stored in another order.
    if own and not clip.delay:
        return _stamped(clip, shown, stored if len(set(stored)) == len(shown) else shown)
    decoded = [frame.pts for _, frame in _decoded(av, clip)]
    if None not in decoded and all(a < b for a, b in pairwise(decoded)):
        return _stamped(clip, decoded)
    return _counted(clip, len(decoded))


def _counted(clip: Clip, count: int) -> Timeline:
    """Place frames in the order in which they are decoded; dropped ones by the times of storing, if there are any."""
    known = sorted({dts for _, dts in clip.stamps if dts is not None})
    grid = _grid(clip, known) if len(known) == count else None
    if grid is None:
        step = 1 / clip.rate if clip.rate > 0 else None
        return Timeline({number: number for number in range(count)}, step, counted=True)
    # An encoder stores a packet when it takes in the frame that is shown `delay` frames later.
    places = grid.indices[clip.delay :] - grid.indices[clip.delay] if clip.delay < count else grid.indices[:0]
    rest = np.arange(1, count - len(places) + 1) + (places[-1] if len(places) else -1)
    return Timeline(dict(enumerate([*places.tolist(), *rest.tolist()])), grid.step, counted=True)


def _stamped(clip: Clip, keys: list[int], stamps: list[int] | None = None) -> Timeline:
    grid = _grid(clip, stamps or keys)
    if grid is None:
        raise VoxgapError(
            f"{clip.path}: its frames follow no regular rate; convert it to a constant frame rate: "
            f"ffmpeg -i {clip.path.name} -vf fps={clip.rate or 25:g} -c:v ffv1 constant.mkv"
        )
    return Timeline(dict(zip(keys, grid.indices.tolist(), strict=True)), grid.step)


def _grid(clip: Clip, stamps: Sequence[int]) -> Grid | None:
    """Return the regular grid that ascending stamps lie on, None where there is none."""
    times = np.array(stamps, np.float64) * clip.clock
    if len(times) < 2:
        return Grid(1 / clip.rate if clip.rate > 0 else 1.0, np.zeros(len(times), int))
    if clip.clock * clip.rate > COARSE:
        # Such stamps are always on the grid of the clock itself: the frames' own is the one that they round to.
        indices = np.rint((times - times[0]) * clip.rate)
        off = times - indices / clip.rate
        if np.ptp(off) <= 1.02 * clip.clock and (np.diff(indices) > 0).all():
            return Grid(1 / clip.rate, indices.astype(int))
    return regular_grid(times, JITTER)


def _frames(av: Any, clip: Clip, timeline: Timeline, wanted: set[int]) -> Iterator[tuple[int, Any]]:
    """Yield each wanted frame that can be decoded, with what it goes by in the timeline."""
    if not wanted:
        return
    left, last = set(wanted), max(wanted)
    for start in _starts(clip, timeline, min(wanted)):
        for number, frame in _decoded(av, clip, start):
            key = number if timeline.counted else frame.pts
            if key not in timeline.places:
                raise VoxgapError(
                    f"{clip.path}: its time stamps are not those of its frames; write them anew: "
                    f"ffmpeg -fflags +genpts -i {clip.path.name} -c copy stamped.mkv"
                )
            if key in left and not frame.is_corrupt:
                left.remove(key)
                yield key, frame
            if key >= last:
                break
        if not left:
            return


def _starts(clip: Clip, timeline: Timeline, first: int) -> list[tuple[int, int] | None]:
    """Return where to begin: a second early, since frames come out of order; then at the beginning of the file.

    What can't be decoded after a leap is looked for a second time: a container's index may lie, and the frames
    after a key frame may need some that stand before it.
    """
    early = first - math.ceil(1 / clip.clock) if clip.clock else first
    if timeline.counted or early <= min(timeline.places):
        return [None]
    return [(early, first), None]


def _decoded(av: Any, clip: Clip, start: tuple[int, int] | None = None) -> Iterator[tuple[int, Any]]:
    """Yield number and frame of all that can be decoded, from a time at which to look and one to be before."""
    number = -1
    with _opened(av, clip.path) as container:
        stream = container.streams[clip.stream]
        if start is not None:
            try:
                container.seek(start[0], stream=stream)
            except av.FFmpegError:
                return
        for packet in container.demux(stream):
            if start is not None and (packet.pts is None or packet.pts > start[1] or not packet.is_keyframe):
                return
            start = None
            try:
                frames = packet.decode()
            except av.FFmpegError:
                continue  # A damaged packet is a dropped frame.
            for frame in frames:
                number += 1
                yield number, frame
