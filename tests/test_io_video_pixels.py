"""Pixels of video against PyAV: all stored levels, of YUV and deeper ones too, turned as a player shows them."""

import struct
from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest

from video_cases import clip, decoded
from voxgap.errors import VoxgapError
from voxgap.io import read, scan


def native(path: Path) -> np.ndarray:
    """All that is stored of each frame, as PyAV returns it without a conversion."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    if frames[0].format.name == "ya8":
        rows = [np.frombuffer(bytes(f.planes[0]), np.uint8).reshape(f.height, -1) for f in frames]
        return np.stack([row[:, : 2 * f.width : 2] for row, f in zip(rows, frames, strict=True)])[..., None]
    values = np.stack([frame.to_ndarray() for frame in frames])
    if frames[0].format.name == "bgra":
        return values[..., 2::-1]
    return values[..., None] if values.ndim == 3 else values[..., :3]


def deep(path: Path, form: str) -> Path:
    """Write frames of random bits in a pixel format, losslessly."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25, options={"strict": "experimental"})
        stream.height, stream.width, stream.pix_fmt = 20, 24, form
        bits = max(part.bits for part in av.VideoFormat(form, 24, 20).components)
        kind = np.float32 if "f32" in form else np.uint8 if bits == 8 else np.uint16
        for index in range(4):
            frame = av.VideoFrame(24, 20, form)
            for plane in frame.planes:
                size = plane.buffer_size // np.dtype(kind).itemsize
                values = rng.random(size) * 3 - 1 if kind is np.float32 else rng.integers(0, 2**bits, size)
                plane.update(values.astype(kind).tobytes())
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


DEEP = ["gray10le", "gray16le", "gbrp12le", "gbrap10le", "rgb48le", "ya8", "bgra", "gbrpf32le"]
DEEPER = ["gray", "gray9le", "gray12le", "gray14le", "gbrp9le", "gbrp10le", "gbrp14le", "gbrp16le"]


@pytest.mark.parametrize(
    "form",
    [
        *DEEP,
        *(
            pytest.param(form, marks=pytest.mark.full)
            for form in (*DEEPER, "gbrap12le", "gbrap16le", "rgba64le")
        ),
    ],
)
def test_all_stored_levels_are_kept(form: str, tmp_path: Path) -> None:
    path = deep(tmp_path / "v.mkv", form)
    source, stored = scan(path), native(path)
    values = source.read().values
    assert source.dtype == stored.dtype
    assert np.array_equal(values, stored)
    assert np.array_equal(source.read([None, (3, 9), (5, 7)]).values, stored[:, 3:9, 5:7])
    grey, colours = read(path, item="grey").values, read(path, item="rgb").values
    assert np.array_equal(colours, np.broadcast_to(stored, colours.shape))
    luma = stored[..., 0] if stored.shape[3] == 1 else stored @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[..., 0] - luma).max() <= (1e-6 if "f32" in form else 0.51)


@pytest.mark.parametrize(
    ("form", "bits", "full"), [("yuv420p", 8, 0), ("yuv420p10le", 10, 0), ("yuv422p12le", 12, 1)]
)
def test_yuv_is_as_deep_as_it_is_stored_over_the_full_range(
    form: str, bits: int, full: int, tmp_path: Path
) -> None:
    path, top = tmp_path / "v.mkv", 2**bits - 1
    luma = np.linspace(0, top, 40 * 64).astype(np.uint16).reshape(40, 64)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 40, 64, form
        stream.codec_context.color_range = 2 if full else 1
        for index in range(2):
            frame = av.VideoFrame(64, 40, form)
            for plane in frame.planes:
                kind = np.uint8 if bits == 8 else np.uint16
                values = np.full((plane.height, plane.line_size // kind().itemsize), (top + 1) // 2, kind)
                if plane.height == 40 and plane.width == 64:
                    values[:, :64] = luma
                plane.update(values.tobytes())
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    low, high = (0, top) if full else (16 << (bits - 8), 235 << (bits - 8))
    wanted = ((luma.astype(float) - low) / (high - low) * top).clip(0, top)
    assert np.abs(read(path, item="grey").values[0, ..., 0] - wanted).max() <= 1
    colours = read(path).values[0]
    # FFmpeg reckons colours of more than 8 bits in steps of four of the last place.
    assert np.abs(colours - wanted[..., None]).max() <= 1 + (top >> 8)
    assert len(np.unique(colours)) > 2 ** (bits - 1) * (0.8 if bits < 12 else 0.5)


def with_matrix(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """Write a display matrix into the track header of an .mp4 file (ISO 14496-12, 8.3.2)."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd")
    place += 8 + (20 if content[place + 4] == 0 else 32) + 16
    unit = 65536
    terms = (int(a * unit), int(b * unit), 0, int(c * unit), int(d * unit), 0, 0, 0, 1 << 30)
    content[place : place + 36] = struct.pack(">9i", *terms)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("matrix", [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
def test_frames_are_turned_as_a_player_shows_them(matrix: tuple[int, ...], tmp_path: Path) -> None:
    a, b, c, d = matrix
    path = clip(tmp_path / "v.mp4", codec="mpeg4", form="yuv420p", ratio=Fraction(4, 3))
    stored = decoded(path)
    height, width = stored.shape[1:3]
    shape = (height, width) if a else (width, height)
    wanted = np.zeros((9, *shape, 3), np.float32)
    for y, x in product(range(height), range(width)):
        right, down = a * x + c * y, b * x + d * y
        wanted[:, down % shape[0], right % shape[1]] = stored[:, y, x]
    if (a, d) == (
        -1,
        -1,
    ) or not a:  # A negative index counts from the end, where 0 is the last, not the first.
        shift = [axis for axis, sign in ((1, min(b, d)), (2, min(a, c))) if sign < 0]
        wanted = np.roll(wanted, -1, shift) if shift else wanted
    found = read(with_matrix(path, *matrix))
    assert np.array_equal(found.values, wanted)
    assert np.array_equal(scan(path).read([(2, 4), (3, 9), (5, 8)]).values, wanted[2:4, 3:9, 5:8])
    assert found.spacing is not None
    assert found.spacing[1:] == pytest.approx((1, 4 / 3) if a else (4 / 3, 1))


@pytest.mark.parametrize("matrix", [(-1, 0, 0, 1), (0, 1, 1, 0), (0.8, 0.6, -0.6, 0.8)])
def test_other_turns_and_mirrors_are_refused(matrix: tuple[float, ...], tmp_path: Path) -> None:
    path = with_matrix(clip(tmp_path / "v.mp4", codec="mpeg4", form="yuv420p"), *matrix)
    with pytest.raises(VoxgapError, match=r"mirrored, or turned .* ffmpeg -i v.mp4"):
        read(path)
