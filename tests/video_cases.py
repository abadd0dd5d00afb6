"""Clips that PyAV writes and decodes by itself."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FRAMES = np.random.default_rng(0).integers(0, 256, (9, 16, 24, 3)).astype(np.uint8)


def clip(
    path: Path,
    frames: np.ndarray = FRAMES,
    *,
    rate: Fraction = Fraction(25),
    codec: str = "ffv1",
    form: str = "bgr0",
    drop: tuple[int, ...] = (),
    start: int = 0,
    options: dict[str, str] | None = None,
    ratio: Fraction | None = None,
) -> Path:
    """Write a clip with PyAV alone; dropped frames leave a hole in the time stamps."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], form
        stream.codec_context.time_base = 1 / rate
        if ratio is not None:
            stream.codec_context.sample_aspect_ratio = ratio
        for index, pixels in enumerate(frames):
            if index in drop:
                continue
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24" if pixels.ndim == 3 else "gray")
            frame.pts, frame.time_base = index + start, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def moving(count: int) -> np.ndarray:
    """A pattern that moves, so that frames refer to others, and each is like no other."""
    tiles = np.random.default_rng(1).integers(0, 256, (6, 8, 3)).repeat(8, 0).repeat(8, 1)
    return np.stack([np.roll(tiles, 3 * i, 1) // 2 + i for i in range(count)]).astype(np.uint8)
