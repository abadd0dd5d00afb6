"""Video against PyAV: frames in their places, dropped ones missing."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from voxgap.errors import VoxgapError
from voxgap.io import read, scan, write
from voxgap.volume import Volume

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
) -> Path:
    """Write a clip with PyAV alone; dropped frames leave a hole in the time stamps."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], form
        stream.codec_context.time_base = 1 / rate
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


@pytest.mark.parametrize(
    "rate", [Fraction(25), Fraction(30000, 1001), Fraction(24), Fraction(60), Fraction(1)]
)
@pytest.mark.parametrize(
    ("suffix", "codec", "form"),
    [
        (".mkv", "ffv1", "bgr0"),
        (".mp4", "mpeg4", "yuv420p"),
        (".mov", "mjpeg", "yuvj420p"),
        (".avi", "ffv1", "bgr0"),
        (".mp4", "libx264", "yuv420p"),
    ],
)
def test_frames_are_those_of_pyav(suffix: str, codec: str, form: str, rate: Fraction, tmp_path: Path) -> None:
    path = clip(tmp_path / f"v{suffix}", codec=codec, form=form, rate=rate)
    volume = read(path)
    assert np.array_equal(volume.values, decoded(path))
    assert volume.channels == ("red", "green", "blue")
    assert volume.axes == ("time", "height", "width")
    assert volume.spacing is not None
    assert volume.spacing[0] == pytest.approx(float(1 / rate), rel=0.01)


@pytest.mark.parametrize("lost", range(1, 8))
@pytest.mark.parametrize(("suffix", "codec", "form"), [(".mkv", "ffv1", "bgr0"), (".mov", "png", "rgb24")])
def test_any_dropped_frame_is_missing_in_its_place(
    lost: int, suffix: str, codec: str, form: str, tmp_path: Path
) -> None:
    whole = read(clip(tmp_path / f"w{suffix}", codec=codec, form=form)).values
    found = read(clip(tmp_path / f"v{suffix}", codec=codec, form=form, drop=(lost,))).values
    wanted = whole.copy()
    wanted[lost] = np.nan
    assert np.array_equal(found, wanted, equal_nan=True)


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001), Fraction(60)])
def test_several_dropped_frames_and_a_late_start(rate: Fraction, tmp_path: Path) -> None:
    path = clip(tmp_path / "v.mkv", rate=rate, drop=(2, 3, 6), start=50)
    missing = np.isnan(read(path).values).all(axis=(1, 2, 3))
    assert np.flatnonzero(missing).tolist() == [2, 3, 6]
    assert read(path).missing_rate == pytest.approx(3 / 9)


@pytest.mark.parametrize("codec", ["ffv1", "libx264"])
def test_a_region_holds_its_frames_only(codec: str, tmp_path: Path) -> None:
    frames = (
        np.repeat(np.arange(60, dtype=np.uint8)[:, None, None], 32, 1).repeat(32, 2)[..., None].repeat(3, -1)
    )
    path = clip(
        tmp_path / "v.mkv", frames, codec=codec, form="bgr0" if codec == "ffv1" else "yuv420p", drop=(41,)
    )
    whole = read(path).values
    part = scan(path).read([(38, 45), (4, 10), (0, 5), (1, 2)])
    assert np.array_equal(part.values, whole[38:45, 4:10, :5, 1:2], equal_nan=True)
    assert np.isnan(part.values[3]).all()
    assert part.channels == ("green",)


def test_grey_clips_and_grey_from_colour(tmp_path: Path) -> None:
    grey = FRAMES[..., 0]
    path = clip(tmp_path / "v.mkv", grey, form="gray")
    assert np.array_equal(read(path).values[..., 0], grey)
    assert read(path).channels == ("grey",)
    assert read(f"{path}::rgb").shape[3] == 3
    assert read(clip(tmp_path / "c.mkv"), item="grey").shape[3] == 1
    with pytest.raises(VoxgapError, match="neither grey nor rgb"):
        read(path, item="blue")


def test_a_damaged_packet_is_a_dropped_frame(tmp_path: Path) -> None:
    path = clip(tmp_path / "v.mov", codec="png", form="rgb24")
    with av.open(str(path)) as container:
        packets = [(bytes(packet), packet.pts) for packet in container.demux(video=0) if packet.size]
    content = path.read_bytes()
    place = content.index(packets[4][0])
    path.write_bytes(content[:place] + b"\xff" * len(packets[4][0]) + content[place + len(packets[4][0]) :])
    values = read(path).values
    assert np.array_equal(values[[3, 5]], FRAMES[[3, 5]])
    assert np.isnan(values[4]).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_written_here_is_read_by_pyav(channels: int, tmp_path: Path) -> None:
    values = FRAMES[..., :channels].astype(np.float32)
    values[[2, 5]] = np.nan
    write(tmp_path / "v.mkv", Volume(values, spacing=(1 / 30, 1, 1)))
    with av.open(str(tmp_path / "v.mkv")) as container:
        form = "gray" if channels == 1 else "rgb24"
        found = np.stack([frame.to_ndarray(format=form) for frame in container.decode(video=0)])
    kept = [i for i in range(9) if i not in (2, 5)]
    assert np.array_equal(found.reshape(7, 16, 24, channels), FRAMES[kept][..., :channels])
    assert np.array_equal(read(tmp_path / "v.mkv").values, values, equal_nan=True)


def test_what_a_clip_cannot_hold(tmp_path: Path) -> None:
    partly = np.zeros((3, 4, 4), np.float32)
    partly[1, 1] = np.nan
    for values, words in [
        (partly, "not parts of them"),
        (np.full((3, 4, 4), np.nan), "nor all"),
        (np.full((3, 4, 4), 0.5), "whole numbers"),
        (np.full((3, 4, 4), 300), "whole numbers"),
        (np.zeros((3, 4, 4, 2)), "1 or 3 channels"),
    ]:
        with pytest.raises(VoxgapError, match=words):
            write(tmp_path / "v.mkv", Volume(values))
    with pytest.raises(VoxgapError, match="only read; write one of"):
        write(tmp_path / "v.mp4", Volume(np.zeros((3, 4, 4))))
    assert not list(tmp_path.iterdir())


def test_files_that_lie(tmp_path: Path) -> None:
    good = clip(tmp_path / "v.mkv").read_bytes()
    # A playlist could name other files or addresses.
    (tmp_path / "secret.mkv").write_bytes(good)
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mkv\n#EXT-X-ENDLIST\n"
    concat = b"ffconcat version 1.0\nfile secret.mkv\n"
    path = tmp_path / "bad.mp4"
    for content in (good[:200], b"hello" * 50, playlist, concat):
        path.write_bytes(content)
        with pytest.raises(VoxgapError) as error:
            read(path)
        assert "\n" not in str(error.value)
    path.write_bytes(good[: len(good) // 2])
    assert 0 < read(path).shape[0] < 9
