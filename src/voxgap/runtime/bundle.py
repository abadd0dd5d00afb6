"""The one door to a bundle: its manifest is checked when it is opened, each file before anyone reads it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from voxgap.drift import Watch, read_watch
from voxgap.errors import VoxgapError
from voxgap.files import sha256
from voxgap.runtime.engines import load_keras
from voxgap.runtime.golden import Golden, read_golden
from voxgap.runtime.manifest import Entry, Manifest, Part

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
_MAX_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Bundle:
    """A folder that `save_bundle` wrote, and the manifest that vouches for the files in it.

    Args:
        folder: of the bundle.
        manifest: what it said when it was opened.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: str | os.PathLike[str], how: str = "") -> Bundle:
        """Open a bundle; nothing but its manifest is read yet.

        Args:
            folder: of the bundle.
            how: options of `voxgap train` that make one as it is wanted, where there is none.

        Raises:
            VoxgapError: it is missing, too large, not JSON, of another schema, or a field is not what it must be.
        """
        return cls(Path(folder), _read(Path(folder), how))

    @property
    def file(self) -> Path:
        """Its manifest.json, which messages name."""
        return self.folder / MANIFEST

    def model(self, kind: str) -> Path:
        """Return the path of one of its models, once every part of it is what the manifest says.

        Raises:
            VoxgapError: there is no such model, a part is missing, changed or elsewhere, or one is too many.
        """
        if kind not in self.manifest.files:
            raise VoxgapError(f"{self.file}: field files.{kind} is missing")
        return self.verified(self.manifest.files[kind], f"files.{kind}")

    def keras_model(self) -> Any:
        """Load its trained `keras.Model`, not compiled, once its file is known to hold nothing but what computes.

        Raises:
            VoxgapError: it has none, or its file is not what the manifest says, or holds something else.
        """
        return load_keras(self.model("keras"))

    def golden(self) -> Golden | None:
        """Return its golden inputs; None where it has none.

        Raises:
            VoxgapError: they are not what the manifest says.
        """
        entry = self.manifest.golden
        return None if entry is None else read_golden(self.verified(entry, "golden"))

    def watch(self) -> Watch | None:
        """Begin a watch over scans that are to be like those of its training; None where it has no reference.

        Raises:
            VoxgapError: that is not what the manifest says.
        """
        entry = self.manifest.reference
        return None if entry is None else read_watch(self.verified(entry, "reference"))

    def verified(self, entry: Entry, name: str) -> Path:
        """Return the path of a file or folder of the bundle, once every part of it is what the manifest says.

        Args:
            entry: of the manifest.
            name: of its field, for messages.

        Raises:
            VoxgapError: a part is missing, changed or elsewhere, or one is too many.
        """
        main = self._inside(entry.path, name)
        files = {self._inside(part.path, name): part for part in entry.parts}
        for file, part in files.items():
            _check(file, part)
        if main.is_dir():
            # Whatever lies in the folder is read by whoever opens it.
            foreign = [
                path
                for path in main.rglob("*")
                if path.is_symlink() or (path.is_file() and path not in files)
            ]
            if foreign:
                raise VoxgapError(f"{foreign[0]}: not a file that the manifest describes; remove it")
        elif main not in files:
            raise VoxgapError(
                f"{self.file}: {name}.path {entry.path!r} is not among its parts; export the bundle again"
            )
        return main

    def _inside(self, name: str, field: str) -> Path:
        pieces = PurePosixPath(name).parts
        plain = bool(pieces) and "/".join(pieces) == name and not {"..", "/"} & set(pieces)
        if not plain or any(character in name for character in "\\:\0"):
            raise VoxgapError(f"{self.file}: {field} must name a file inside the bundle, got {name!r}")
        file = self.folder
        for piece in pieces:
            file /= piece
            if file.is_symlink():
                raise VoxgapError(
                    f"{self.file}: {field} must name a file inside the bundle, but {file} is a link"
                )
        return file


def _read(folder: Path, how: str) -> Manifest:
    file = folder / MANIFEST
    if not file.is_file():
        if folder.exists() and not folder.is_dir():
            raise VoxgapError(f"{folder}: no bundle here, but a file; name the folder of a bundle")
        raise VoxgapError(
            f"{folder}: no bundle here ({MANIFEST} is missing); make one with "
            f"{' '.join(['voxgap train', *how.split(), f'--out {folder}'])}"
        )
    if file.stat().st_size > _MAX_BYTES:
        raise VoxgapError(f"{file}: larger than {_MAX_BYTES // 2**20} MiB, which no manifest is")
    try:
        data = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise VoxgapError(f"{file}: not valid JSON; train or export the bundle again") from None
    if not isinstance(data, dict):
        raise VoxgapError(f"{file}: not a manifest; train or export the bundle again")
    version = data.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise VoxgapError(
            f"{file}: schema_version is {version!r}, this voxgap reads {SCHEMA_VERSION}; update voxgap"
        )
    return Manifest.from_json(data, str(file))


def _check(file: Path, part: Part) -> None:
    if not file.is_file():
        raise VoxgapError(f"{file}: the manifest names this file, but it is missing")
    # The size first: a wrong file of any length is refused at once.
    if part.size not in (None, file.stat().st_size) or sha256(file) != part.sha256:
        raise VoxgapError(
            f"{file}: not the file that the manifest describes (SHA-256 differs); it was changed or damaged"
        )
