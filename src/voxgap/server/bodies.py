"""From the body of a request to volumes on the network's grid: uploads, raw values, or JSON."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import math
import re
import shlex
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from starlette.datastructures import UploadFile
from starlette.requests import Request

from voxgap import io
from voxgap.errors import VoxgapError
from voxgap.io.dicom_files import HEAD, begins_dicom
from voxgap.server.limits import MIB, RequestError, Settings
from voxgap.server.live import Loaded
from voxgap.server.nested import from_json
from voxgap.server.parsers import Job, Parsed, Parsers, shown
from voxgap.volume import Values, Volume, as_batch, times

SUFFIXES = (*(name for name in io.FORMATS if name not in (".zarr", ".nhdr", ".mhd")), ".zip")
"""What can be uploaded: formats that are one file, and archives of the others."""
_DICOM = (".dcm", ".dicom")
_SHAPE = re.compile(r"\s*\d{1,7}\s*(,\s*\d{1,7}\s*){3,4}")
INLINE = 2**16
"""Bytes up to which looking at all values takes less than handing them to another thread."""


class Read(NamedTuple):
    """Volumes of a request `(n, depth, height, width, channels)`.

    Attributes:
        files: what was read from files; empty where the body held the values.
    """

    volumes: Values
    files: Sequence[Parsed] = ()

    def placed(self, index: int) -> Parsed:
        """Return one of the volumes, and how it came onto the network's grid; not where the body held the values."""
        return self.files[index] if self.files else (Volume(self.volumes[index]), [])


async def read_volumes(request: Request, loaded: Loaded, parsers: Parsers, settings: Settings) -> Read:
    """Read the volumes that a request brings, in whichever of the three forms.

    Raises:
        RequestError: The body is none of them, is too large, or its values are not what the network takes.
    """
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        raise RequestError(
            415, "the body is compressed; send it without Content-Encoding, a file as .nii.gz or .zip"
        )
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    files: list[Parsed] = []
    if kind == "application/octet-stream":
        values = await _raw(request, loaded, settings)
    elif kind == "application/json":
        values = await _json(request, loaded, settings)
    elif kind == "multipart/form-data":
        files = await _uploads(request, loaded, parsers, settings)
        values = np.stack([volume.values for volume, _ in files])
    else:
        raise RequestError(
            415, "send multipart/form-data (files), application/octet-stream (float32), or application/json"
        )
    try:
        if values.nbytes <= INLINE:
            return Read(as_batch(values, "body"), files)
        return Read(await asyncio.to_thread(as_batch, values, "body"), files)
    except VoxgapError as error:
        raise RequestError(422, str(error)) from None


async def _raw(request: Request, loaded: Loaded, settings: Settings) -> Values:
    header = request.headers.get("x-shape", "")
    if not _SHAPE.fullmatch(header):
        raise RequestError(422, "header X-Shape: give D,H,W,C or N,D,H,W,C, as in X-Shape: 16,16,16,1")
    shape = tuple(int(part) for part in header.split(","))
    batch = shape if len(shape) == 5 else (1, *shape)
    _check_batch(batch, loaded, settings, "header X-Shape")
    size = 4 * math.prod(batch)
    if size > settings.max_upload:
        raise RequestError(
            413, f"{size} bytes, the limit is {settings.max_upload}; send fewer volumes at once"
        )
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > size:
            break
    if len(body) != size:
        held = "more" if len(body) > size else str(len(body))
        raise RequestError(422, f"X-Shape {times(shape)} is {size} bytes of float32, the body holds {held}")
    return np.frombuffer(body, np.dtype("<f4")).reshape(batch)


async def _json(request: Request, loaded: Loaded, settings: Settings) -> Values:
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > settings.max_json:
            raise RequestError(
                413, f"JSON over {settings.max_json // MIB} MiB; send float32 as application/octet-stream"
            )
    large = len(body) > MIB
    try:
        values = await asyncio.to_thread(from_json, bytes(body))
    finally:
        del body
        if large:
            await asyncio.to_thread(_give_back)
    _check_batch(values.shape, loaded, settings, "JSON")
    return values


def _give_back() -> None:
    """Have the C library return to the system what it keeps for next time, where it can be told to."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _check_batch(shape: tuple[int, ...], loaded: Loaded, settings: Settings, where: str) -> None:
    if not loaded.input.fits(shape[1:]):
        raise RequestError(
            422,
            f"{where}: a volume of {times(shape[1:])}, but this network takes {loaded.input.takes}; "
            f"upload a file to have it brought there, as in curl {by_curl(loaded.input.channels)}",
        )
    if not 1 <= shape[0] <= settings.max_volumes:
        raise RequestError(422, f"{where}: {shape[0]} volumes; send 1 to {settings.max_volumes}")


async def _uploads(request: Request, loaded: Loaded, parsers: Parsers, settings: Settings) -> list[Parsed]:
    async with (
        request.form(max_files=settings.max_files, max_fields=16, max_part_size=2**16) as form,
        _folder() as folder,
    ):
        uploads: dict[str, list[UploadFile]] = {}
        for field, upload in form.multi_items():
            if not isinstance(upload, UploadFile):
                raise RequestError(422, f"field {_printable(field)}: holds text; send a file, with its name")
            uploads.setdefault(field, []).append(upload)
        plan = _planned(uploads, loaded, settings)
        names = await asyncio.to_thread(_store, plan, folder)
        grid = loaded.predictor.grid.to_json()
        jobs = [
            Job(str(folder), files, channels, grid, settings.max_files, loaded.input.step)
            for files, channels in plan.volumes
        ]
        reading = [asyncio.ensure_future(parsers.read(job)) for job in jobs]
        try:
            found = await asyncio.gather(*reading)
        except RequestError as error:
            error.detail = shown(error.detail, names)
            raise
        finally:
            for task in reading:  # of the others, if one failed
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)
    for (volume, _), name in zip(found, plan.shown, strict=True):
        if not loaded.input.fits(volume.shape):
            lacking = len(loaded.input.channels) > 1 and volume.shape[-1] != len(loaded.input.channels)
            remedy = (
                f"; send a file for each channel, as in curl {by_curl(loaded.input.channels)}"
                if lacking
                else ""
            )
            raise RequestError(
                422,
                f"{name}: shape {times(volume.shape)}, but this network takes {loaded.input.takes}{remedy}",
            )
    if len({volume.shape for volume, _ in found}) > 1:
        raise RequestError(422, "the volumes differ in shape; send each in a request of its own")
    return found


class _Plan(NamedTuple):
    """Which upload is written under which name, and which of them make a volume."""

    files: list[tuple[str, UploadFile]]
    volumes: list[tuple[list[str | None], list[str]]]
    shown: list[str]


def _planned(uploads: dict[str, list[UploadFile]], loaded: Loaded, settings: Settings) -> _Plan:
    """Tell volumes, series and channels apart by the fields' names."""
    if not uploads:
        raise RequestError(
            422,
            f"no file in the form; send it in a field of its own, as in curl {by_curl(loaded.input.channels)}",
        )
    strange = set(uploads) - {"file", *loaded.input.channels}
    if strange or ("file" in uploads and len(uploads) > 1):
        # Those in the way: what is known is right, unless a file for all channels comes beside it.
        fields = ", ".join(sorted(map(_printable, strange or uploads)))
        raise RequestError(
            422,
            f"form fields {fields}: send a file in the field file, or one for each channel: "
            f"{', '.join(loaded.input.channels)}, as in curl {by_curl(loaded.input.channels)}",
        )
    if "file" not in uploads:
        return _one_per_channel(uploads, loaded)
    given = uploads["file"]
    suffixes = [_suffix(upload) for upload in given]
    if len(given) > 1 and set(suffixes) <= set(_DICOM):
        slices = [(f"series/{number:06d}", upload) for number, upload in enumerate(given)]
        return _Plan(slices, [(["series"], [])], [f"series of {len(given)} files"])
    if len(given) > settings.max_volumes:
        raise RequestError(422, f"{len(given)} volumes; send 1 to {settings.max_volumes}")
    names = [f"{number}{suffix}" for number, suffix in enumerate(suffixes)]
    files = list(zip(names, given, strict=True))
    return _Plan(files, [([name], []) for name in names], [_printable(u.filename) for u in given])


def by_curl(channels: Sequence[str]) -> str:
    """Return how curl sends a volume: in a file for each channel, where there are several."""
    fields = [f"{name}=@{name}.nii.gz" for name in channels] if len(channels) > 1 else ["file=@scan.nii.gz"]
    return " ".join(f"-F {shlex.quote(field)}" for field in fields)


def _one_per_channel(uploads: dict[str, list[UploadFile]], loaded: Loaded) -> _Plan:
    files: list[tuple[str, UploadFile]] = []
    names: list[str | None] = []
    for number, channel in enumerate(loaded.input.channels):
        given: list[UploadFile] = uploads.get(channel, [])
        if len(given) > 1:
            raise RequestError(422, f"field {_printable(channel)}: {len(given)} files; send one a channel")
        names.append(f"{number}{_suffix(given[0])}" if given else None)
        files += [(str(names[-1]), upload) for upload in given]
    return _Plan(files, [(names, list(loaded.input.channels))], ["the channels"])


def _suffix(upload: UploadFile) -> str:
    """Return the suffix that this file gets with us: one that is known, whatever else the client's name says."""
    name = (upload.filename or "").lower()
    found = [suffix for suffix in SUFFIXES if name.endswith(suffix)]
    if found:
        return max(found, key=len)
    # Scanners name DICOM files by number.
    head = upload.file.read(HEAD)
    upload.file.seek(0, 2)
    size = upload.file.tell()
    upload.file.seek(0)
    if begins_dicom(head, size):
        return ".dcm"
    raise RequestError(
        415,
        f"{_printable(upload.filename)}: unknown format; send {', '.join(SUFFIXES)} (a Zarr store as .zip)",
    )


def _store(plan: _Plan, folder: Path) -> dict[Path, str]:
    """Write the uploads under our names; returns what the client calls each."""
    names = {folder / "series": "the series"}
    for name, upload in plan.files:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        with path.open("xb") as stream:
            source: BinaryIO = upload.file
            shutil.copyfileobj(source, stream, MIB)
        names[path] = _printable(upload.filename)
        if path.suffix == ".zip":
            names[path.with_suffix("")] = names[path]
    names[folder] = "upload"
    return names


@contextlib.asynccontextmanager
async def _folder() -> AsyncIterator[Path]:
    """Yield a folder of this request alone, which goes when it ends."""
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="voxgap-"))
    try:
        yield folder
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))


def _printable(name: str | None) -> str:
    """Return a client's name for a file as it may stand in a message: no path, no control characters."""
    last = re.split(r"[/\\]", name or "")[-1]
    return "".join(letter for letter in last if letter.isprintable())[:80] or "the file"
