"""Video against PyAV: frames in their places, dropped ones missing, one of several streams."""

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from video_cases import FRAMES, clip, decoded, moving
from voxgap.errors import VoxgapError
from voxgap.io import read, scan, write
from voxgap.volume import Volume


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
    with pytest.warns(
        UserWarning, match=r"holds \d frames, and its header says 0\.36 s, which are 9: it may"
    ):
        assert 0 < read(path).shape[0] < 9


CLOSED = {"x264-params": "keyint=12:min-keyint=12:scenecut=0:bframes=3", "preset": "ultrafast"}
OPEN = {"x264-params": "keyint=12:min-keyint=12:scenecut=0:open-gop=1:bframes=3:b-adapt=0"}
REFRESH = {"x264-params": "keyint=30:intra-refresh=1:bframes=0"}
LATE = {"auto-alt-ref": "1", "lag-in-frames": "25", "b": "400k", "g": "12"}
MATRIX = [
    (".avi", "libx264", "yuv420p", OPEN),
    (".mp4", "libx264", "yuv420p", OPEN),
    (".avi", "mpeg4", "yuv420p", {"bf": "2", "g": "12"}),
    (".mov", "mpeg2video", "yuv420p", {"bf": "2", "g": "12"}),
    (".avi", "rawvideo", "bgr24", {}),
    (".webm", "libvpx", "yuv420p", LATE),
    (".mkv", "ffv1", "bgr0", {"g": "5"}),
]
EVERYTHING = [
    (suffix, *codec)
    for suffix in (".mkv", ".mp4", ".mov", ".avi", ".webm")
    for codec in [
        ("libx264", "yuv420p", CLOSED),
        ("libx264", "yuv420p", OPEN),
        ("libx264", "yuv420p", REFRESH),
        ("libx265", "yuv420p", {"x265-params": "keyint=12:open-gop=1:log-level=none"}),
        ("libvpx", "yuv420p", LATE),
        ("libvpx-vp9", "yuv420p", LATE),
        ("libsvtav1", "yuv420p", {"g": "12"}),
        ("mpeg4", "yuv420p", {"g": "12"}),
        ("mpeg4", "yuv420p", {"bf": "2", "g": "12"}),
        ("mpeg2video", "yuv420p", {"bf": "2", "g": "12"}),
        ("ffv1", "bgr0", {"g": "5"}),
        ("mjpeg", "yuvj420p", {}),
        ("rawvideo", "bgr24", {}),
        ("png", "rgb24", {}),
        ("qtrle", "rgb24", {}),
    ]
]


def check_against_a_decoder(
    folder: Path, suffix: str, codec: str, form: str, options: dict[str, str]
) -> bool:
    """Compare whole and regions with a plain loop; False where the container doesn't take the codec."""
    for drop in ((), (17, 18, 30)):
        path = folder / f"v{len(drop)}{suffix}"
        try:
            clip(path, moving(45), codec=codec, form=form, options=options, drop=drop)
        except (av.FFmpegError, ValueError):
            return False
        values = read(path).values
        kept = [index for index in range(45) if index not in drop]
        assert len(values) == 45
        assert np.array_equal(values[kept], decoded(path))
        assert np.isnan(values[list(drop)]).all()
        source = scan(path)
        for begin in range(0, 42, 3):
            part = source.read([(begin, begin + 3)]).values
            assert np.array_equal(part, values[begin : begin + 3], equal_nan=True), begin
    return True


@pytest.mark.parametrize(("suffix", "codec", "form", "options"), MATRIX)
def test_all_that_a_decoder_returns_is_in_its_place(
    suffix: str, codec: str, form: str, options: dict[str, str], tmp_path: Path
) -> None:
    assert check_against_a_decoder(tmp_path, suffix, codec, form, options)


@pytest.mark.full
@pytest.mark.parametrize(("suffix", "codec", "form", "options"), EVERYTHING)
def test_every_codec_in_every_container(
    suffix: str, codec: str, form: str, options: dict[str, str], tmp_path: Path
) -> None:
    if not check_against_a_decoder(tmp_path, suffix, codec, form, options):
        pytest.skip(f"FFmpeg writes no {codec} into {suffix}")


def test_a_stream_without_time_stamps_counts_its_frames(tmp_path: Path) -> None:
    path = tmp_path / "v.avi"
    with av.open(str(path), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=25, options=OPEN)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for pixels in moving(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    volume = read(path)
    assert np.array_equal(volume.values, decoded(path))
    assert volume.spacing == (1 / 25, 1.0, 1.0)
    assert np.array_equal(scan(path).read([(7, 9)]).values, volume.values[7:9])


def remuxed(path: Path, stamps: list[int], source: Path) -> Path:
    """Write the packets of a clip anew, with other time stamps."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        for packet, stamp in zip(packets, stamps, strict=True):
            packet.pts = packet.dts = stamp
            packet.time_base, packet.stream = Fraction(1, 1000), stream
            new.mux(packet)
    return path


def test_two_frames_with_one_time_stamp_are_two_frames(tmp_path: Path) -> None:
    path = remuxed(tmp_path / "d.mkv", [0, 40, 40, 80, 120, 160, 200, 240, 280], clip(tmp_path / "v.mkv"))
    assert np.array_equal(read(path).values, FRAMES)
    assert np.array_equal(scan(path).read([(1, 4)]).values, FRAMES[1:4])


@pytest.mark.parametrize("rate", [700, 2000])
def test_frames_faster_than_the_clock_of_their_container(rate: int, tmp_path: Path) -> None:
    volume = read(clip(tmp_path / "v.mkv", rate=Fraction(rate)))
    assert np.array_equal(volume.values, FRAMES)
    assert volume.spacing is not None
    assert volume.spacing[0] == pytest.approx(1 / rate, rel=0.01)


def test_a_variable_rate_is_refused(tmp_path: Path) -> None:
    stamps = [0, 40, 85, 120, 170, 200, 245, 280, 330]
    path = remuxed(tmp_path / "d.mkv", stamps, clip(tmp_path / "v.mkv"))
    with pytest.raises(VoxgapError, match="follow no regular rate; convert it to a constant"):
        read(path)


def test_frames_that_an_edit_list_leaves_out_are_not_there(tmp_path: Path) -> None:
    path = clip(tmp_path / "v.mp4", moving(30), codec="mpeg4", form="yuv420p", options={"bf": "2", "g": "10"})
    content = bytearray(path.read_bytes())
    place = content.index(b"elst") + 16
    (begin,) = struct.unpack_from(">i", content, place)
    struct.pack_into(">i", content, place, begin + 5 * 512)
    path.write_bytes(content)
    values = read(path).values
    assert len(values) == len(decoded(path)) == 25
    assert np.array_equal(values, decoded(path))
    assert np.array_equal(scan(path).read([(12, 15)]).values, values[12:15])


def several(path: Path, streams: list[tuple[np.ndarray, Any]]) -> Path:
    with av.open(str(path), "w") as container:
        added = []
        for frames, disposition in streams:
            stream = container.add_stream("mjpeg" if disposition else "mpeg4", rate=25)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuvj420p" if disposition else "yuv420p"
            if disposition:
                stream.disposition = disposition
            added.append(stream)
        for stream, (frames, _) in zip(added, streams, strict=True):
            for index, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = index
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


def test_one_of_several_streams_is_chosen(tmp_path: Path) -> None:
    path = several(tmp_path / "v.mp4", [(FRAMES, None), (moving(5), None)])
    with pytest.raises(VoxgapError, match=r"2 video streams: 1 = 24×16 mpeg4, 2 = 64×48 mpeg4; .*v.mp4::1"):
        read(path)
    assert read(f"{path}::1").shape == (9, 16, 24, 3)
    assert read(f"{path}::2").shape == (5, 48, 64, 3)
    assert read(f"{path}::2,grey").shape == read(f"{path}::grey,2").shape == (5, 48, 64, 1)
    for item in ("3", "0", "2,2", "grey,rgb", "1,blue", ","):
        with pytest.raises(VoxgapError, match="choose one"):
            read(path, item=item)


def test_a_cover_is_no_stream(tmp_path: Path) -> None:
    path = several(tmp_path / "v.mp4", [(FRAMES, None), (moving(1), av.stream.Disposition.attached_pic)])
    assert read(path).shape == (9, 16, 24, 3)


def test_frames_that_change_size_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 16, 24, "yuvj420p"
        for index in range(6):
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.height, encoder.width = (16, 24) if index < 4 else (32, 48)
            encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 25)
            frame = av.VideoFrame(encoder.width, encoder.height, "yuvj420p")
            for packet in [*encoder.encode(frame), *encoder.encode()]:
                packet.pts = packet.dts = index
                packet.time_base, packet.stream = Fraction(1, 25), stream
                container.mux(packet)
    with pytest.raises(VoxgapError, match="change from 24×16 of 8 bits to 48×32 of 8 bits at frame 4"):
        read(path)
    assert read(path, region=[(0, 4)]).shape == (4, 16, 24, 3)
