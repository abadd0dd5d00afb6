"""The one exception for what a user can mend."""

from __future__ import annotations

import errno
import os
from pathlib import Path


class VoxgapError(ValueError):
    """Bad input, said in one line that names the file or field and the remedy; several of them are a line each.

    The command line prints it without a traceback and exits with code 2. What a file name, a cell or a header brings
    of control bytes is made visible, so that it moves no terminal and forges no line of a log.

    Example:
        >>> import voxgap as vg
        >>> vg.read("scan.nii")
        Traceback (most recent call last):
        voxgap.errors.VoxgapError: scan.nii: no such file; check the path
    """

    # Keras adds what a layer was called with to each error that passes it, unless that was done already.
    _keras_call_info_injected = True

    def __init__(self, *parts: object) -> None:
        super().__init__(*(visible(part) if isinstance(part, str) else part for part in parts))

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class DiskError(VoxgapError, OSError):
    """What the disk refused: `VoxgapError` for who prints it, `OSError` for who can do without the file."""


def visible(text: str) -> str:
    r"""Write what does not print as Python does: an escape becomes `\x1b`, a line end `\n`, a bidi override `\u202e`.

    Half of a surrogate pair, as in a file name that is not UTF-8, is such a character: it can't be printed either.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )


def on_disk(error: OSError, place: str | os.PathLike[str] = "") -> DiskError:
    """Say in one line what the system refused, of which file, and what to do.

    Args:
        error: of the system.
        place: that was asked for; by default the file that the error names.
    """
    if isinstance(error, DiskError):
        return error
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    remedy = _REMEDIES.get(error.errno or 0, "check the path and the disk")
    named = place or error.filename
    where = (
        _meant(Path(os.fsdecode(named)), error.errno)
        if isinstance(named, str | bytes | os.PathLike)
        else "disk"
    )
    made = DiskError(f"{where}: {reason}; {remedy}")
    made.errno, made.strerror = error.errno, f"{reason}; {remedy}"
    return made


def _meant(place: Path, number: int | None) -> Path:
    """Return the file that a person knows: no temporary one, and of a path that can't be, the file in its way."""
    for folder in reversed(place.parents):
        if place.relative_to(folder).parts[0].startswith((".writing-", ".replaced-")):
            return folder
    if number in (errno.ENOTDIR, errno.EEXIST):
        return next((path for path in (place, *place.parents) if path.is_file()), place)
    return place


_REMEDIES = {
    errno.ENOSPC: "make room, or choose another place",
    errno.EDQUOT: "make room, or choose another place",
    errno.EFBIG: "a file may not be as large here: choose another place, or raise the limit (ulimit -f)",
    errno.EACCES: "choose a place that you may read and write, or change its permissions",
    errno.EPERM: "choose a place that you may read and write, or change its permissions",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "it is in the way: choose another path",
    errno.EEXIST: "it is in the way: choose another path, or remove it",
    errno.ENOTEMPTY: "something of that name is in the way: choose another path, or remove it",
    errno.EISDIR: "it is a folder: name a file",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "links go in a circle: choose another path",
    errno.EMFILE: "raise the number of open files (ulimit -n), or close other programs",
    errno.ENFILE: "raise the number of open files (ulimit -n), or close other programs",
    errno.EIO: "the disk fails: choose another one",
    errno.EPIPE: "who read this has ended: write to a file",
    errno.ESTALE: "the network drive has gone: connect it again",
}
