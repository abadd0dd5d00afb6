"""Zip archives of a folder that is a volume, a Zarr store or one file: bounded, and unpacked under harmless names."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path, PurePosixPath

from voxgap import io
from voxgap.errors import VoxgapError
from voxgap.io.zarr import MARKS

_BLOCK = 2**20
# The words that Zarr itself puts into paths, and plain names of arrays; nothing that a file system could take
# for anything else.
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")
_HEADERS = (".mhd", ".nhdr")
_ZARR_PART = re.compile(r"zarr\.json|\.z(?:array|group|attrs|metadata)|[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")


def unpack(archive: Path, folder: Path, *, max_bytes: int, max_files: int) -> Path:
    """Unpack an archive into a new folder.

    Args:
        archive: The zip file.
        folder: Where to; made here.
        max_bytes: Most bytes of all files together, unpacked; headers are not believed.
        max_files: Most files.

    Returns:
        What to read: the folder, the header in it, or the one file that was in it.

    Raises:
        VoxgapError: It is no zip archive, is encrypted, too large, or holds something else.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = [entry for entry in opened.infolist() if _wanted(entry)]
            if not entries:
                raise VoxgapError(f"{archive}: holds no file; put a DICOM series or one volume into it")
            if len(entries) > max_files:
                raise VoxgapError(
                    f"{archive}: holds {len(entries)} files, the limit is {max_files}; send fewer"
                )
            folder.mkdir()
            names = [PurePosixPath(entry.filename) for entry in entries]
            targets = _targets(archive, names)
            left = max_bytes
            for entry, target in zip(entries, targets, strict=True):
                left -= _extract(opened, entry, folder / target, left, archive)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        if isinstance(error, VoxgapError):
            raise
        raise VoxgapError(f"{archive}: can't be unpacked ({str(error)[:120]}); pack it again") from None
    # A header names the file beside it that holds its values.
    heads = [target for target in targets if len(targets) == 1 or target.lower().endswith(_HEADERS)]
    return folder / heads[0] if len(heads) == 1 and "." in heads[0] else folder


def _wanted(entry: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(entry.filename)
    # What systems add beside each file is no file of the user's; Zarr's own begin with a dot, too.
    hidden = path.name.startswith(".") and not path.name.startswith(".z")
    return not (entry.is_dir() or hidden or "__MACOSX" in path.parts or path.name == "Thumbs.db")


def _targets(archive: Path, names: list[PurePosixPath]) -> list[str]:
    """Return a safe relative path for each entry: its plain name, in which order and suffix lie, or else a number."""
    roots = sorted((name.parent for name in names if name.name in MARKS), key=lambda root: len(root.parts))
    if roots:
        return [_zarr_path(archive, name, roots[0]) for name in names]
    if len(names) == 1 and names[0].name.lower().endswith(tuple(io.FORMATS)):
        return [f"volume{io.suffix(Path(names[0].name))}"]
    alike = len({name.parent for name in names}) == 1 and len({name.name.lower() for name in names}) == len(
        names
    )
    if alike and all(_PLAIN.fullmatch(name.name) for name in names):
        return [name.name for name in names]
    return [f"{number:06d}" for number in range(len(names))]


def _zarr_path(archive: Path, name: PurePosixPath, root: PurePosixPath) -> str:
    if not name.is_relative_to(root):
        raise VoxgapError(f"{archive}: holds files beside its Zarr store; pack the store alone")
    parts = name.relative_to(root).parts
    if not all(_ZARR_PART.fullmatch(part) for part in parts):
        raise VoxgapError(
            f"{archive}: a name in its Zarr store is none of Zarr's; use letters, digits, _ and -"
        )
    return "/".join(parts)


def _extract(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, left: int, archive: Path) -> int:
    """Write one file, and stop as soon as it is larger than what is left."""
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with opened.open(entry) as source, target.open("xb") as stream:
        while block := source.read(_BLOCK):
            written += len(block)
            if written > left:
                raise VoxgapError(f"{archive}: unpacks to more than the limit; send a smaller volume")
            stream.write(block)
    return written
