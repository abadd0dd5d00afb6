"""Which frames make one volume: series, and within one of them echoes, times, b-values at the same places.

No identifier is trusted alone. What is dropped as a copy lies at the same place and has the same pixels; what
lies at one place and differs is told apart by what its header says, or refused.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations, groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.io.dicom_files import files_in, is_dicom
from voxgap.io.dicom_header import TELLING_APART, Frame, NoImageError, Telling, read_frames
from voxgap.io.dicom_pixels import fill_in
from voxgap.io.source import one_line

SAME_PLACE = 1e-3
"""Slices closer than this lie at one place, in mm."""
MAX_TOGETHER = 3
"""So many things at most are taken together to tell images apart."""
MAX_TELLING = 12


class Series(NamedTuple):
    """Frames that may make one volume, and words for them."""

    frames: list[Frame]
    words: str

    @property
    def names(self) -> tuple[str, ...]:
        """What it may be called: its words, these without the description, its UID, its description."""
        first = self.frames[0]
        return self.words, self.words.removeprefix(first.label).strip(), first.series, first.label


def all_series(path: Path) -> list[Series]:
    """Read the headers of a file or folder, and part its frames into series.

    Raises:
        VoxgapError: There is no image, a file is damaged, or two images with one identifier contradict.
    """
    frames = _frames(path)

    def key(frame: Frame) -> tuple[Any, ...]:
        turned = tuple(np.round(frame.orientation, 3).tolist())
        return frame.number, frame.series, turned, frame.size, tuple(np.round(frame.spacing, 4).tolist())

    groups = [list(group) for _, group in groupby(sorted(frames, key=key), key)]
    return [series for group in groups for series in _told_apart(_without_copies(group))]


def chosen(series: list[Series], path: Path, item: str | None) -> list[Frame]:
    """Return the frames of the series that a caller names, or of the only one there is.

    Args:
        series: What there is.
        path: Where.
        item: Its number from 1, its UID or its words.

    Raises:
        VoxgapError: There are several and none is named, or there is no such series.
    """
    if item is None and len(series) == 1:
        return series[0].frames
    held = ", ".join(
        f"{number} = {words} ({len(frames)} image{'s' * (len(frames) > 1)})"
        for number, (frames, words) in enumerate(series[:20], 1)
    )
    held += f", and {len(series) - 20} more" if len(series) > 20 else ""
    if item is None:
        raise VoxgapError(f"{path}: holds {len(series)} series: {held}; choose one with {path.name}::1")
    matches = [one for one in series if item in one.names]
    if item.isdecimal() and 1 <= int(item) <= len(series):
        matches = [series[int(item) - 1]]
    if len(matches) != 1:
        what = "no" if not matches else "more than one"
        raise VoxgapError(f"{path}: {what} series is {item!r}; it holds {held}")
    return matches[0].frames


def _frames(path: Path) -> list[Frame]:
    if not path.is_dir():
        return list(read_frames(path))
    frames: list[Frame] = []
    for file in files_in(path):
        if file.is_file() and is_dicom(file):
            try:
                with one_line(file):
                    frames += read_frames(file)
            except NoImageError:  # A report or a plan beside the images of a study.
                continue
    if not frames:
        raise VoxgapError(f"{path}: is a folder without DICOM images; name one file in it")
    return frames


def _without_copies(frames: list[Frame]) -> list[Frame]:
    """Drop what is there twice: at one place, with one identifier or header, and the same pixels."""
    places = _places(frames)
    suspects: dict[Hashable, list[int]] = defaultdict(list)
    for index, frame in enumerate(frames):
        place = None if places is None else (int(places[index]), *np.round(frame.position, 3).tolist())
        if frame.uid:
            suspects[place, frame.uid].append(index)
        if place is not None:
            suspects[place, tuple(frame.apart.items())].append(index)
    dropped: set[int] = set()
    digests: dict[int, bytes] = {}
    for (place, _), indices in suspects.items():  # type: ignore[misc]
        first: dict[bytes, int] = {}
        for index in indices if len(indices) > 1 else ():
            if index not in digests:
                digests[index] = _digest(frames[index])
            if first.setdefault(digests[index], index) != index:
                dropped.add(index)
        if place is None and len(first) > 1:
            one, other = (frames[index].file for index in list(first.values())[:2])
            raise VoxgapError(
                f"{one} and {other}: have one SOPInstanceUID and different pixels; "
                "remove the wrong one, or keep each in a folder of its own"
            )
    return [frame for index, frame in enumerate(frames) if index not in dropped]


def _digest(frame: Frame) -> bytes:
    values = np.empty(frame.size, np.float32)
    fill_in([frame], [values], tuple(slice(0, size) for size in frame.size))
    return hashlib.sha256(values.tobytes()).digest()


def _places(frames: Sequence[Frame]) -> NDArray[np.int_] | None:
    """Give a number to each place at which frames lie along their normal; None where they don't say."""
    if not all(frame.position and frame.orientation for frame in frames):
        return None
    turn = frames[0].orientation
    heights = np.array([frame.position for frame in frames]) @ np.cross(turn[:3], turn[3:])
    order = np.argsort(heights, kind="stable")
    numbers = np.empty(len(frames), int)
    numbers[order] = np.cumsum(np.diff(heights[order], prepend=heights[order[0]]) >= SAME_PLACE)
    return numbers


def _told_apart(frames: list[Frame]) -> list[Series]:
    """Separate images that lie at one place by what their headers say, if that tells them apart."""
    places = _places(frames)
    label = frames[0].label
    most = 1 if places is None else int(np.bincount(places).max())
    if places is None or most == 1:
        return _stacks(frames)
    codes = _codes(frames, places)
    chosen_codes = _by_values(codes, places, most) or _by_order(codes, places, most)
    if not chosen_codes:
        return [Series(frames, label)]
    parts, rows = _together([code.numbers for code in chosen_codes])
    # What else is one in each part says more of it: an acquisition has a b-value, too.
    also = [code for code in codes if _count(parts, code.numbers) == len(rows)][:MAX_TOGETHER]
    said = {id(code): code for code in (*also, *chosen_codes)}.values()
    found: dict[int, list[int]] = defaultdict(list)
    for index, part in enumerate(parts.tolist()):
        found[part].append(index)
    return [
        Series(
            [frames[i] for i in found[part]],
            f"{label} {', '.join(code.text(found[part][0]) for code in said)}",
        )
        for part in sorted(found)
    ]


def _stacks(frames: list[Frame]) -> list[Series]:
    """Separate frames of an enhanced image that lie in stacks of their own, with the same direction."""
    stacks: dict[str, list[Frame]] = defaultdict(list)
    for frame in frames:
        stacks[frame.apart.get("StackID", "")].append(frame)
    if len(stacks) == 1 or min(map(len, stacks.values())) == 1:
        return [Series(frames, frames[0].label)]
    return [Series(stacks[name], f"{frames[0].label} stack {name}") for name in sorted(stacks, key=_in_order)]


class _Code(NamedTuple):
    """One thing that differs between images at one place: the number of its value for each frame."""

    words: str
    numbers: NDArray[np.int_]
    values: list[str]
    in_time: bool

    @property
    def name(self) -> str:
        return self.words.partition("{}")[0].strip() or "type"

    def text(self, index: int) -> str:
        value = self.values[self.numbers[index]]
        return self.words.format(value) if value else f"without {self.name}"


def _codes(frames: list[Frame], places: NDArray[np.int_]) -> list[_Code]:
    tellings = {telling.fields[0]: telling for telling in TELLING_APART}
    tellings |= {
        name: Telling(f"{name} {{}}", ()) for frame in frames for name in frame.apart if name not in tellings
    }
    found: dict[bytes, _Code] = {}
    for name, telling in tellings.items():
        texts = [frame.apart.get(name, "") for frame in frames]
        values = sorted(set(texts), key=_in_order)
        number_of = {text: number for number, text in enumerate(values)}
        numbers = np.array([number_of[text] for text in texts])
        if _count(places, numbers) > places.max() + 1:
            # What tells the same images apart as another does needs no second look.
            code = _Code(telling.words, numbers, values, telling.in_time)
            found.setdefault(_first_seen(numbers).tobytes(), code)
    return list(found.values())


def _in_order(text: str) -> tuple[Any, ...]:
    try:
        return (0, [float(part) for part in text.split("\\")], text)
    except ValueError:
        return (1, [], text)


def _count(*numbers: NDArray[np.int_]) -> int:
    return len(_together(numbers)[1])


def _together(numbers: Iterable[NDArray[np.int_]]) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Give a number to each combination that occurs, in order; return them too, one in a row."""
    rows, inverse = np.unique(np.stack(list(numbers), axis=1), axis=0, return_inverse=True)
    return inverse.reshape(-1), rows


def _first_seen(numbers: NDArray[np.int_]) -> NDArray[np.int_]:
    return np.unique(numbers, return_index=True, return_inverse=True)[1][numbers]


def _by_values(codes: list[_Code], places: NDArray[np.int_], most: int) -> tuple[_Code, ...]:
    """Find as few things as possible of which the values tell all images at each place apart."""
    spare: tuple[_Code, ...] = ()
    fewest = 2 * most + 1
    for size in range(1, MAX_TOGETHER + 1):
        for some in combinations(codes[:MAX_TELLING], size):
            parts, rows = _together([code.numbers for code in some])
            if len(rows) >= fewest or _count(places, parts) < len(places):
                continue
            if len(rows) == most:
                return some
            # More parts than images at a place: stations that overlap, and no image alone.
            spare, fewest = some, len(rows)
    return spare


def _by_order(codes: list[_Code], places: NDArray[np.int_], most: int) -> tuple[_Code, ...]:
    """Find a time by whose order images that were taken as often at each place are told apart."""
    if len(places) != most * (places.max() + 1):
        return ()
    still = [code for code in codes[:MAX_TELLING] if not code.in_time]
    for code in (code for code in codes if code.in_time):
        for size in range(MAX_TOGETHER):
            for some in combinations(still, size):
                groups, rows = _together([places, *(other.numbers for other in some)])
                if _count(groups, code.numbers) < len(places) or len(set(np.bincount(groups))) > 1:
                    continue
                times = len(places) // len(rows)
                ranks = np.empty(len(places), int)
                ranks[np.lexsort((code.numbers, groups))] = np.tile(np.arange(times), len(rows))
                of_times = [f"{number} of {times}" for number in range(1, times + 1)]
                return *some, _Code(f"{code.name} {{}}", ranks, of_times, True)
    return ()
