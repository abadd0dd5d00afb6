"""Folders in which a patient has several files: which word of a name says the channel, which words the sample.

The rule: a channel is the word in which the names of one sample differ, and which is there in those of others, too.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from voxgap import paths
from voxgap.errors import VoxgapError

_APART = re.compile(r"[_\-. ]+")
_NNUNET = re.compile(r"\d{4}")
_NUMBER = re.compile(r"\d+")
# What may be counted in names of channels; anything else that is counted may be visits, scans or copies.
_KINDS = {"c", "ch", "chan", "channel", "mod", "modality", "echo", "e", "b", "band", "w", "te", "contrast"}
_WEIGHTED = re.compile(r"t[12]([^0-9]*)")
_TIMES_AND_SIDES = {
    *("left", "right", "l", "r", "lh", "rh", "od", "os", "pre", "post", "before", "after", "baseline", "bl"),
    *("followup", "fu", "first", "second", "last", "early", "late", "raw", "orig", "original", "processed"),
}
_OFTEN = 1 / 3
_FEW = 8
_REPEATED = 3 / 4
CHANNEL, REPEAT, NUMBER = "channel", "repeat", "number"


class File(NamedTuple):
    """A volume below a class: the folders that it lies in, and the words of its name that those don't say."""

    path: Path
    folders: tuple[str, ...]
    words: tuple[str, ...]
    label: str = ""
    part: str = ""

    @property
    def place(self) -> tuple[str, ...]:
        """All folders that it lies in."""
        return self.part, self.label, *self.folders


class Place(NamedTuple):
    """What a file is: the words of its sample, of its patient ("" where none is named), and its channel."""

    sample: tuple[str, ...]
    patient: str
    channel: str


def file_in(path: Path, folder: Path, label: str = "", part: str = "") -> File:
    """Take a name apart; words of it that repeat a folder's name say nothing more.

    Args:
        path: The volume.
        folder: That of its class, or of all files.
        label: The name of the class.
        part: Of the split.
    """
    folders = path.relative_to(folder).parts[:-1]
    words = _words(path)
    for name in reversed(folders):
        said = tuple(filter(None, _APART.split(name)))
        if said and words[: len(said)] == said:
            words = words[len(said) :]
    return File(path, folders, words, label, part)


def places(files: Sequence[File], where: Path) -> list[Place] | None:
    """Say of which sample and channel each file is; None where each is a sample of its own, and of no patient.

    Raises:
        VoxgapError: Names repeat in a way that may be channels, visits, sides or copies.
    """
    found = _by_words(files) or _by_folders(files)
    if found is None and (doubt := _in_doubt(files, where)):
        raise VoxgapError(f"{where}: {doubt}")
    if found is None and all(file.folders for file in files):
        return [Place((str(file.path),), _patient(file), "") for file in files]
    return found


def are_patients(files: Sequence[File]) -> bool:
    """Tell folders of patients from folders of classes: there are more of them than names of what is in them."""
    if not all(file.folders for file in files):
        return False
    first = {file.folders[0] for file in files}
    second = {file.folders[1:2] for file in files}
    if () not in second:
        return len(second) < len(first)
    alike = {file.words for file in files}
    if len(files) == len(first) > 2 and len(alike) == 1:
        return not any(map(str.isdecimal, alike.pop()))  # P1/scan.nii, P2/scan.nii ...
    found = _by_words(files)
    if found is None or any(len(file.folders) > 1 for file in files):
        return False
    count = len({one.channel for one in found})
    # As in BraTS, a file says its folder's name again, and more.
    again = all(len(file.words) < len(_words(file.path)) for file in files)
    return count < len(first) or (again and count <= _FEW)


def in_words(found: Sequence[Place]) -> str:
    """Say how names were read: `read as 2 channels: t1, t2; 30 patients; 4 lack t2`."""
    samples = {one.sample for one in found}
    patients = {one.patient for one in found if one.patient} or samples
    count = f"{len(patients)} patients"
    if len(samples) > len(patients):
        count = f"{len(samples)} samples of {count}"
    channels = sorted({one.channel for one in found})
    if channels == [""]:
        return f"read as {count}, by the names of folders"
    held = Counter(one.channel for one in found)
    lacking = [(name, len(samples) - held[name]) for name in channels if held[name] < len(samples)]
    lacks = ", ".join(f"{number} lack{'s' * (number == 1)} {name}" for name, number in lacking)
    return "; ".join(filter(None, (f"read as {len(channels)} channels: {', '.join(channels)}", count, lacks)))


def _by_words(files: Sequence[File]) -> list[Place] | None:
    """Find the words of names, counted from the end, that say the channel: all words in which samples differ so."""
    lengths = {len(file.words) for file in files}
    inside = all(file.folders for file in files)
    if len(lengths) > 1:
        # Names of channels of one and of two words, t1 and t1_ce, behind names of patients of as many.
        for start in range(min(lengths) - 1, -1 if inside else 0, -1):
            channels = ["_".join(file.words[start:]) for file in files]
            cases = [(*file.place, *file.words[:start]) for file in files]
            if _kind(cases, channels, inside) == CHANNEL:
                return _placed(files, cases, channels, [()] * len(files))
    places = range(-1, -min(lengths) - 1, -1)
    kinds = {
        place: _kind(
            [(*file.place, *_without(file.words, [place])) for file in files],
            [file.words[place] for file in files],
            inside,
        )
        for place in places
    }
    of_channel = sorted(place for place, kind in kinds.items() if kind == CHANNEL)
    apart = len(of_channel) > 1 and of_channel[-1] - of_channel[0] >= len(of_channel)
    if not of_channel or (apart and not inside):
        return None
    again = [place for place, kind in kinds.items() if kind in (REPEAT, NUMBER)]
    channels = ["_".join(file.words[place] for place in of_channel) for file in files]
    cases = [(*file.place, *_without(file.words, of_channel)) for file in files]
    patients = [_without(file.words, [*of_channel, *again]) for file in files]
    if len(set(zip(cases, channels, strict=True))) < len(files):
        return None
    return _placed(files, cases, channels, patients if again else [()] * len(files))


def _by_folders(files: Sequence[File]) -> list[Place] | None:
    """Find the level of folders that says the channel: all below it is one file, whatever its name."""
    depth = min(len(file.folders) for file in files)
    for level in range(1, depth):
        channels = [file.folders[level] for file in files]
        cases = [(file.part, file.label, *file.folders[:level]) for file in files]
        if _kind(cases, channels, True) == CHANNEL:
            return _placed(files, cases, channels, [()] * len(files))
    return None


def _in_doubt(files: Sequence[File], where: Path) -> str:
    """Say which two files may be of one sample, and how to say it; "" where no name repeats.

    Warns:
        UserWarning: Names beside each other differ in a number only, as those of samples do and those of visits.
    """
    inside = all(file.folders for file in files)
    words = [
        (
            [(*file.place, *_without(file.words, [place])) for file in files],
            [file.words[place] for file in files],
        )
        for place in range(-1, -min(len(file.words) for file in files) - 1, -1)
    ]
    kinds = [_kind(cases, of_files, inside) for cases, of_files in words]
    if inside:
        cases = [(file.part, file.label, *file.folders[1:], *file.words) for file in files]
        words.insert(0, (cases, [file.folders[0] for file in files]))
        kinds.insert(0, _kind(*words[0], False))
    for (cases, of_files), kind in zip(words, kinds, strict=True):
        if not kind:
            continue
        case = next(one for one, count in Counter(cases).items() if count > 1)
        held = [(file, word) for file, of, word in zip(files, cases, of_files, strict=True) if of == case][:2]
        (one, two), columns = (
            [str(file.path.relative_to(where)) for file, _ in held],
            [word for _, word in held],
        )
        if kind == NUMBER and not inside:
            warnings.warn(
                f"{where}: {one} and {two} are samples of their own; if they are of one patient, the column `group` of "
                f"a manifest keeps them together: voxgap manifest {where} --out data.csv",
                stacklevel=6,
            )
            return ""
        label, of_class = (",label", f",{held[0][0].label}") if held[0][0].label else ("", "")
        return (
            f"{one} and {two} may be channels of one sample or two samples of one patient; say it in a manifest: "
            f"`{','.join(columns)}{label}` above `{one},{two}{of_class}`, or `path{label},group` above "
            f"`{one}{of_class},PATIENT`"
        )
    return ""


def _kind(cases: Sequence[tuple[str, ...]], channels: Sequence[str], inside: bool) -> str:
    """Say what words are by which the files of cases differ; "" where cases share none.

    Args:
        cases: Of each file, the words that are left.
        channels: The word of each.
        inside: Whether a folder says the patient; else it may be as well the patient that the word says.
    """
    folded = [channel.casefold() for channel in channels]
    if len(set(zip(cases, folded, strict=True))) < len(folded):
        return ""
    held: dict[tuple[str, ...], int] = Counter(cases)
    of_cases = Counter(folded)
    several = sum(count > 1 for count in held.values())
    repeated = sum(count > 1 for count in of_cases.values())
    nameless = not inside and any(len(case) <= 2 for case in held)
    if (
        nameless
        or len(of_cases) < 2
        or several < max(2, _OFTEN * len(held))
        or repeated < _REPEATED * len(of_cases)
    ):
        return ""
    if all(map(str.isdecimal, of_cases)):
        if _is_nnunet(of_cases):
            return CHANNEL
        return NUMBER if inside or len(of_cases) < len(held) else ""
    named = _name_channels(set(of_cases))
    if inside:
        return CHANNEL if named else REPEAT
    # Either of two words may be the patient, unless one is counted as only patients are, or there are many.
    counted = not _name_channels({"_".join(case[2:]).casefold() for case in held})
    if named and (len(of_cases) < len(held) > _FEW or (counted and len(of_cases) <= _FEW)):
        return CHANNEL
    return REPEAT if len(of_cases) <= len(held) else ""


def _words(path: Path) -> tuple[str, ...]:
    return tuple(filter(None, _APART.split(paths.stem(path))))


def _is_nnunet(numbers: Sequence[str] | Counter[str]) -> bool:
    return "0000" in numbers and all(map(_NNUNET.fullmatch, numbers))


def _name_channels(words: set[str]) -> bool:
    """Tell names of channels from visits, sides and copies, which one patient has several of, too."""
    if words <= _TIMES_AND_SIDES or all(map(str.isdecimal, words)):
        return False
    templates = {_NUMBER.sub("#", word) for word in words - _TIMES_AND_SIDES}
    if len(templates) > 1 or not any("#" in one for one in templates):
        return True
    before, _, after = templates.pop().partition("#")
    return "#" not in after and (before.rstrip("-=_ ") in _KINDS or all(map(_WEIGHTED.fullmatch, words)))


def _without(words: Sequence[str], places: Sequence[int]) -> tuple[str, ...]:
    dropped = {place % len(words) for place in places} if words else set()
    return tuple(word for index, word in enumerate(words) if index not in dropped)


def _patient(file: File, words: Sequence[str] = ()) -> str:
    return file.folders[0] if file.folders else "_".join(words)


def _placed(
    files: Sequence[File],
    cases: Sequence[tuple[str, ...]],
    channels: Sequence[str],
    patients: Sequence[Sequence[str]],
) -> list[Place]:
    # Of names that differ in case only, the one that most files have.
    spelt: dict[str, Counter[str]] = defaultdict(Counter)
    for channel in channels:
        spelt[channel.casefold()][channel] += 1
    names = {folded: found.most_common(1)[0][0] for folded, found in spelt.items()}
    return [
        Place(case, _patient(file, words), names[channel.casefold()])
        for file, case, channel, words in zip(files, cases, channels, patients, strict=True)
    ]
