"""Folders that are deployed as they are: a web page, a container, an edge device."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import os
import shutil
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import voxgap
from voxgap.bundle.formats import PACKAGES
from voxgap.bundle.placing import workspace
from voxgap.errors import VoxgapError
from voxgap.grid import Grid
from voxgap.runtime import MANIFEST, Bundle

_MARK = ".voxgap-package"


def targets(bundle: Path, names: Sequence[str], out: str | os.PathLike[str] | None = None) -> dict[str, Path]:
    """Say where packages go, and refuse a folder that holds something else.

    Args:
        bundle: that they are made from.
        names: of the packages.
        out: the folder of the one package; by default each goes beside the bundle, named after both.

    Raises:
        VoxgapError: one folder for several packages or none, or it holds other files.
    """
    if out is not None and len(names) != 1:
        raise VoxgapError(
            f"out is the folder of one package, {' or '.join(PACKAGES)}: export them one at a time"
        )
    own = bundle.resolve()
    folders = {name: own.with_name(f"{own.name}-{name}") if out is None else Path(out) for name in names}
    for folder in folders.values():
        if folder.exists() and not folder.is_dir():
            raise VoxgapError(f"{folder} is a file: choose a folder with --out")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / _MARK).is_file():
            raise VoxgapError(f"{folder} holds other files: choose an empty or new folder with --out")
    return folders


def forewarn(names: Sequence[str], shape: Sequence[int], grid: Grid) -> None:
    """Say what packages will not take that the bundle takes, before any work is done.

    Args:
        names: of the packages.
        shape, grid: of the network's input; see `voxgap.web.refused`.
    """
    from voxgap.web import refused

    said = [refused(shape, grid) if "web" in names else None]
    if grid.missing_slices:
        kinds = " or ".join(grid.missing_slices)
        said += [
            f"{name}: it does not look for slices that are {kinds}, as training did: files with such are for voxgap "
            "serve and voxgap predict"
            for name in names
            if name in ("web", "edge")
        ]
    for line in filter(None, said):
        warnings.warn(line, stacklevel=3)


def write(name: str, folder: Path, bundle: Bundle) -> None:
    """Write a package whole, in the place of an earlier one.

    Args:
        name: `web`, `container` or `edge`.
        folder: for it, as `targets` said.
        bundle: that it is made from; it has the format that the package carries.
    """
    file = bundle.model(PACKAGES[name])
    with workspace(folder.parent) as temporary:
        made = temporary / "made"
        made.mkdir(mode=0o755)
        if name == "web":
            from voxgap.web import write_web

            write_web(made, bundle, file)
        elif name == "container":
            _container(made, bundle)
        else:
            _edge(made, bundle, file)
        (made / _MARK).write_text(f"{name}\n")
        if folder.exists():
            folder.rename(temporary / "earlier")
        made.rename(folder)


def _container(folder: Path, bundle: Bundle) -> None:
    kind = PACKAGES["container"]
    inside = folder / "bundle"
    inside.mkdir()
    for part in bundle.manifest.files[kind].parts:
        shutil.copyfile(bundle.folder / part.path, inside / part.path)
    manifest, reference = deployed(bundle, kind), bundle.manifest.reference
    if reference is not None:  # A server in it watches for drift.
        shutil.copyfile(bundle.folder / reference.path, inside / reference.path)
        manifest["reference"] = bundle.manifest.written["reference"]
    _write_json(inside / MANIFEST, manifest)
    wheel = write_wheel(folder)
    dockerfile = Path(__file__).with_name("Dockerfile").read_text()
    (folder / "Dockerfile").write_text(dockerfile.replace("{wheel}", wheel.name))


def _edge(folder: Path, bundle: Bundle, file: Path) -> None:
    shutil.copyfile(file, folder / file.name)
    shutil.copyfile(Path(__file__).with_name("edge_example.py"), folder / "predict.py")
    (folder / "requirements.txt").write_text("ai-edge-litert\nnumpy\n")
    _write_json(folder / MANIFEST, deployed(bundle, PACKAGES["edge"]))


def deployed(bundle: Bundle, kind: str) -> dict[str, Any]:
    """Return the manifest of a copy that holds one format, and no volume of the training data."""
    manifest = bundle.manifest.published()
    return {name: v for name, v in manifest.items() if name != "golden"} | {
        "files": {kind: manifest["files"][kind]}
    }


def write_wheel(folder: Path) -> Path:
    """Pack the voxgap that runs now, so that a container has the very code that made the bundle.

    Returns:
        The wheel, without its dependencies, which it names.
    """
    distribution = importlib.metadata.distribution("voxgap")
    root = Path(voxgap.__file__).parent
    info = f"voxgap-{voxgap.__version__}.dist-info"
    content = {
        f"voxgap/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    for name in ("METADATA", "entry_points.txt"):
        content[f"{info}/{name}"] = (distribution.read_text(name) or "").encode()
    content[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: voxgap\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    rows = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in content.items()]
    content[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,\n"]).encode()
    wheel = folder / f"voxgap-{voxgap.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return wheel


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
