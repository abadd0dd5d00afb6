"""The manifest of a bundle, read and checked, and the files that it vouches for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from voxgap.decision import Decision
from voxgap.errors import VoxgapError
from voxgap.files import sha256
from voxgap.grid import Grid
from voxgap.patches import OVERLAP, corners
from voxgap.runtime.calibration import Calibration
from voxgap.runtime.profile import Profile
from voxgap.volume import times

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
TASKS = ("classification", "regression", "segmentation")
_MAX_MANIFEST_BYTES = 16 * 2**20
_MAX_PARTS = 1000
_MAX_VALUES = 2**36  # of a network's input, beyond what any machine holds
_MAX_OUTPUTS = 2**20
_MAX_SPACING = 1e12
_MAX_LABEL = 2**15 - 1  # of the 16 bits of a label map
_DIGITS = 5  # of the highest one

_FIELDS = {
    "task": str,
    "classes": list,
    "input": dict,
    "outputs": int,
    "network": str,
    "strategy": dict,
    "files": dict,
}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check manifest.json of a bundle.

    Raises:
        VoxgapError: it is missing, too large, not JSON, of another schema, or lacks a field.
    """
    file = folder / MANIFEST
    manifest = _parsed(file, folder)
    for name, kind in _FIELDS.items():
        if not isinstance(manifest.get(name), kind) or isinstance(manifest[name], bool):
            raise VoxgapError(f"{file}: field {name} is missing or not of type {kind.__name__}")
    if manifest["task"] not in TASKS:
        raise VoxgapError(f"{file}: field task must be {', '.join(TASKS[:-1])} or {TASKS[-1]}")
    shape = manifest["input"].get("shape")
    if not isinstance(shape, list) or len(shape) != 4 or not all(type(n) is int and n > 0 for n in shape):
        raise VoxgapError(f"{file}: field input.shape must be four positive integers")
    if math.prod(shape) > _MAX_VALUES or not 0 < manifest["outputs"] <= _MAX_OUTPUTS:
        raise VoxgapError(f"{file}: field input.shape or outputs is larger than any network's")
    _check_optional(manifest, str(file))
    _check_names(manifest["input"].get("channels"), shape[-1], f"{file}: field input.channels")
    grid = Grid.from_json(manifest["input"].get("grid"), f"{file}: field input.grid")
    patches = patches_of(manifest, str(file))
    if patches is None and grid.size is not None and list(grid.size) != shape[:3]:
        raise VoxgapError(f"{file}: field input.grid: size {times(grid.size)} is not that of input.shape")
    classes = 0 if manifest["task"] == "regression" else manifest["outputs"]
    _check_names(manifest["classes"], classes, f"{file}: field classes")
    label_values(manifest, str(file))
    Profile.of(manifest, str(file))
    Calibration.of(manifest, str(file))
    Decision.of(manifest, str(file))
    return manifest


def _check_optional(manifest: dict[str, Any], where: str) -> None:
    """Refuse a field that not every bundle has, where it is there and something else than what is read from it."""
    for name in ("units", "data", "training", "scores", "arguments", "versions", "golden"):
        if not isinstance(manifest.get(name) or {}, dict):
            raise VoxgapError(f"{where}: field {name} must be an object; train or export the bundle again")
    spacing = manifest["input"].get("spacing")
    if spacing is not None and not (
        isinstance(spacing, list)
        and len(spacing) == 3
        and all(isinstance(n, int | float) and 0 < n < _MAX_SPACING for n in spacing)
    ):
        raise VoxgapError(f"{where}: field input.spacing must be three positive sizes, or null")
    for name, entry in manifest["files"].items():
        parts = entry.get("parts", [entry]) if isinstance(entry, dict) else None
        if (
            not isinstance(parts, list)
            or not all(isinstance(part, dict) for part in parts)
            or not isinstance(entry.get("path"), str)
        ):
            raise VoxgapError(f"{where}: field files.{name} must name a path, and its parts; export it again")


def published(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What may leave the house of a manifest, in every package and from every server.

    Its data has a name, but no place, and nothing is said of single cases: a bundle's evidence is no part of it.
    """
    data = manifest.get("data") or {}
    # Where it was made with backslashes, another system takes the whole path for a name.
    name = str(data.get("name", "")).replace("\\", "/").rstrip("/").rpartition("/")[2]
    kept = {name: value for name, value in manifest.items() if name != "cases"}
    return kept | {"data": data | {"name": name}} if "name" in data else kept


def label_values(manifest: Mapping[str, Any], where: str = MANIFEST) -> tuple[int, ...]:
    """What stands for each class in a label map: the value it was learnt from.

    Bundles of earlier versions don't say it: there it is 255, say, where the class is called so, else its place.

    Raises:
        VoxgapError: field label_values is something else than one value of its own for each class.
    """
    given, classes = manifest.get("label_values"), manifest["classes"]
    if given is None:
        return _called(classes)
    if (
        not isinstance(given, list)
        or not all(type(value) is int and 0 <= value <= _MAX_LABEL for value in given)
        or not len({*given}) == len(given) == len(classes)
    ):
        raise VoxgapError(
            f"{where}: field label_values must hold {len(classes)} whole numbers from 0 to {_MAX_LABEL}, each once; "
            "train or export the bundle again"
        )
    return tuple(given)


def _called(classes: Sequence[str]) -> tuple[int, ...]:
    if all(name.isascii() and name.isdecimal() and len(name) <= _DIGITS for name in classes):
        values = tuple(map(int, classes))
        if len({*values}) == len(values) and max(values, default=0) <= _MAX_LABEL:
            return values
    return tuple(range(len(classes)))


def patches_of(manifest: dict[str, Any], where: str) -> tuple[tuple[int, int, int], float] | None:
    """Size and overlap of the patches into which volumes are cut; None for a network of whole volumes.

    Raises:
        VoxgapError: field input.patches is something else, or not of the size of input.shape.
    """
    given = manifest["input"].get("patches")
    if given is None:
        return None
    size, overlap = (given.get("size"), given.get("overlap")) if isinstance(given, dict) else (None, None)
    if size != manifest["input"]["shape"][:3] or not isinstance(overlap, int | float) or not 0 <= overlap < 1:
        raise VoxgapError(
            f"{where}: field input.patches must hold the size of input.shape, and an overlap in [0, 1)"
        )
    return (size[0], size[1], size[2]), float(overlap)


def fits(manifest: dict[str, Any], shape: tuple[int, ...]) -> bool:
    """Whether the network takes volumes of this shape: deeper ones in `windows`; in patches, any size."""
    wanted = tuple(manifest["input"]["shape"])
    if len(shape) != len(wanted):
        return False
    if patches_of(manifest, MANIFEST) is None:
        return shape[0] >= wanted[0] and shape[1:] == wanted[1:]
    return shape[-1] == wanted[-1]


def windows(manifest: dict[str, Any], shape: tuple[int, ...]) -> int:
    """How many windows along depth (time, in a clip) a volume that `fits` is predicted in; 1 where it is not deeper.

    They overlap by half at least. An answer for the volume is the mean over the windows, as clips are judged since
    Wang et al., Non-local Neural Networks, CVPR 2018; one for each voxel is blended as that of patches is.
    """
    size = tuple(manifest["input"]["shape"][:3])
    return 1 if patches_of(manifest, MANIFEST) else len(corners(shape[:3], size, OVERLAP))


def step_of(manifest: dict[str, Any]) -> float | None:
    """Seconds from frame to frame of a network's input, where files are brought to a size; see `Grid.place`."""
    grid = manifest["input"].get("grid") or {}
    spacing = grid.get("spacing") or manifest["input"].get("spacing")
    return float(spacing[0]) if spacing and patches_of(manifest, MANIFEST) is None else None


def takes(manifest: dict[str, Any]) -> str:
    """What the network takes, for messages."""
    shape, channels = manifest["input"]["shape"], ", ".join(manifest["input"]["channels"])
    whole = patches_of(manifest, MANIFEST) is None
    size = f"{times(shape)} or deeper" if whole else f"any size ×{shape[-1]}"
    return f"{size} (depth, height, width, channels: {channels})"


def verified(folder: Path, manifest: dict[str, Any], kind: str) -> Path:
    """The path of one of the bundle's models, once every part of it is what the manifest says.

    Raises:
        VoxgapError: there is no such model, a part is missing, changed or elsewhere, or one is too many.
    """
    entry = manifest["files"].get(kind)
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        raise VoxgapError(f"{folder / MANIFEST}: field files.{kind} is missing")
    return verified_entry(folder, entry, f"files.{kind}")


def verified_entry(folder: Path, entry: dict[str, Any], name: str) -> Path:
    """The path of a file or folder of the bundle, once every part of it is what the manifest says.

    Args:
        folder: of the bundle.
        entry: `path`, and `parts` with `path`, `sha256` and `bytes` each; or the three of one file.
        name: of the field in the manifest.

    Raises:
        VoxgapError: a part is missing, changed or elsewhere, or one is too many.
    """
    field = f"{folder / MANIFEST}: {name}"
    parts = entry.get("parts", [entry])
    if not isinstance(parts, list) or not 0 < len(parts) <= _MAX_PARTS:
        raise VoxgapError(f"{field}.parts must list the model's files")
    if not all(isinstance(part, dict) and isinstance(part.get("path"), str) for part in parts):
        raise VoxgapError(f"{field}.parts must name a path each")
    main = _inside(folder, entry.get("path"), field)
    files = {_inside(folder, part["path"], field): part for part in parts}
    for file, part in files.items():
        _check_part(file, part)
    if main.is_dir():
        # Whatever lies in the folder is read by whoever opens it.
        foreign = [
            path for path in main.rglob("*") if path.is_symlink() or (path.is_file() and path not in files)
        ]
        if foreign:
            raise VoxgapError(f"{foreign[0]}: not a file that the manifest describes; remove it")
    elif main not in files:
        raise VoxgapError(
            f"{field}.path {entry.get('path')!r} is not among its parts; export the bundle again"
        )
    return main


def digest(entry: dict[str, Any]) -> str:
    """What tells one model's content from another's, from an entry of `files`."""
    return "-".join(str(part.get("sha256")) for part in entry.get("parts", [entry]))


def _inside(folder: Path, name: Any, field: str) -> Path:
    pieces = PurePosixPath(name).parts if isinstance(name, str) else ()
    plain = bool(pieces) and "/".join(pieces) == name and not {"..", "/"} & set(pieces)
    if not plain or any(character in name for character in "\\:\0"):
        raise VoxgapError(f"{field} must name a file inside the bundle, got {name!r}")
    file = folder
    for piece in pieces:
        file /= piece
        if file.is_symlink():
            raise VoxgapError(f"{field} must name a file inside the bundle, but {file} is a link")
    return file


def _check_part(file: Path, part: dict[str, Any]) -> None:
    if not file.is_file():
        raise VoxgapError(f"{file}: the manifest names this file, but it is missing")
    # The size first: a wrong file of any length is refused at once.
    if file.stat().st_size != part.get("bytes", file.stat().st_size) or sha256(file) != part.get("sha256"):
        raise VoxgapError(
            f"{file}: not the file that the manifest describes (SHA-256 differs); it was changed or damaged"
        )


def _parsed(file: Path, folder: Path) -> dict[str, Any]:
    if not file.is_file():
        raise VoxgapError(
            f"{folder}: no bundle here ({MANIFEST} is missing); make one with voxgap train --out {folder}"
        )
    if file.stat().st_size > _MAX_MANIFEST_BYTES:
        raise VoxgapError(f"{file}: larger than {_MAX_MANIFEST_BYTES // 2**20} MiB, which no manifest is")
    try:
        manifest = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise VoxgapError(f"{file}: not valid JSON; train or export the bundle again") from None
    if not isinstance(manifest, dict):
        raise VoxgapError(f"{file}: not a manifest; train or export the bundle again")
    version = manifest.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise VoxgapError(
            f"{file}: schema_version is {version!r}, this voxgap reads {SCHEMA_VERSION}; update voxgap"
        )
    return manifest


def _check_names(names: Any, count: int, field: str) -> None:
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        raise VoxgapError(f"{field} must be {count} names; train or export the bundle again")
