"""How files enter a bundle: written beside it, named after their content, and known once the manifest says so.

At every moment the folder holds one whole bundle. Whoever is killed leaves at most files that no manifest names;
the next one who writes takes them away.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from voxgap.bundle.convert import parts, remove
from voxgap.errors import VoxgapError
from voxgap.files import finite, held, naming, sha256, sweep, unfinished, write_bytes
from voxgap.runtime import MANIFEST, Bundle, Manifest

_OURS = re.compile(r"(model|golden|cases|reference|drift)-[0-9a-f]{12}\.\w+")


@contextlib.contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """Yield a folder inside the bundle for files that are not finished, on the same file system; it goes at the end."""
    temporary = folder / unfinished()
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        temporary.mkdir()
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def writing(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Hold a bundle while its files and its manifest change: what one export adds, another one keeps."""
    return held(folder / ".writing.lock", f"{folder} is written", seconds=60)


def place(folder: Path, file: Path, stem: str = "model") -> dict[str, Any]:
    """Move a finished file, or folder, into the bundle under a name made from its content.

    Returns:
        Its entry in the manifest: `path`, and `parts` with `path`, `sha256` and `bytes` of each file.
    """
    found = parts(file)
    digests = [sha256(part) for part in found]
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    for part in found:
        _sync(part)
    target = folder / f"{stem}-{whole[:12]}{file.suffix}"
    if file.is_dir():
        remove(target)  # of the same content: left by someone who was killed
        file.replace(target)
        moved = [target / part.relative_to(file) for part in found]
    else:
        moved = [target.with_suffix(part.suffix) for part in found]
        for part, to in zip(found, moved, strict=True):
            part.replace(to)
    return {
        "path": target.name,
        "parts": [
            {"path": part.relative_to(folder).as_posix(), "sha256": digest, "bytes": part.stat().st_size}
            for part, digest in zip(moved, digests, strict=True)
        ],
    }


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> Bundle:
    """Replace the manifest, by which the files that it names become the bundle, and remove the others.

    Raises:
        VoxgapError: it could not be read again.
    """
    text = json.dumps(finite(manifest), indent=2, allow_nan=False)
    checked = Manifest.from_json(json.loads(text), str(folder / MANIFEST))
    write_bytes(folder / MANIFEST, f"{text}\n".encode())
    _sweep(folder, checked)
    return Bundle(folder, checked)


def current_of(folder: Path, manifest: Manifest, doing: str) -> Manifest:
    """Return the manifest as it is now: an export may have finished meanwhile. The bundle is held by `writing`.

    Args:
        folder: of the bundle.
        manifest: of its network, as it was opened.
        doing: what was done meanwhile, in words: calibrated.

    Raises:
        VoxgapError: it is of another network now.
    """
    current = Bundle.open(folder).manifest
    if _network(current.written) != _network(manifest.written):
        raise VoxgapError(f"{folder}: the model was replaced while it was {doing}; do it again")
    return current


def _network(manifest: Mapping[str, Any]) -> Any:
    return manifest["files"].get("keras", {}).get("path")


def _sweep(folder: Path, manifest: Manifest) -> None:
    kept = (manifest.golden, manifest.cases, manifest.reference)
    entries = [*manifest.files.values(), *filter(None, kept)]
    named = {path.split("/")[0] for entry in entries for path in (entry.path, *(p.path for p in entry.parts))}
    # What a server knows of its stream goes with the reference that the stream is held against.
    named |= {name.replace("reference-", "drift-", 1) for name in named}
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in named:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    sweep(folder)


def _sync(file: Path) -> None:
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
