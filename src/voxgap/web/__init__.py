"""The web page: shows a volume with its gaps and what the network says of it, in the browser or with a server.

The page is the same for both. `voxgap serve` hands it out with the server as its engine; in an exported folder it
reads and predicts in the browser, with ONNX Runtime compiled to WebAssembly.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voxgap.arrays import times
from voxgap.runtime import Bundle
from voxgap.runtime.profile import drift

if TYPE_CHECKING:
    from voxgap.grid import Grid

ASSETS = Path(__file__).parent / "assets"
"""`index.html`, whose engine is the server, and what it loads, under `static/`."""

_RUNTIME = Path("static", "vendor", "onnxruntime-web.wasm")
_PACKED = shutil.ignore_patterns("*.xz")
_STAYS_BEHIND = ("arguments", "files", "golden", "training")
_SAMPLES = {"as_recorded": "as recorded", "complete": "nothing missing", "slices": "with missing slices"}


def write_web(folder: Path, bundle: Bundle, model: Path) -> Path:
    """Write a folder that any static web server can serve: a page on which the network runs in the browser.

    Golden inputs of the bundle, which are volumes of its data, are in it, to try the page with: up to three, of those
    that are like the training data. The page does without them where the folder `samples` is removed.

    Args:
        folder: Made if it is not there; files of the same names are replaced.
        bundle: What only concerns its training and its other files is left out.
        model: The network as ONNX: `(batch, depth, height, width, channels)` with NaN in, answers out.

    Returns:
        The folder.
    """
    shutil.copytree(ASSETS / "static", folder / "static", ignore=_PACKED, dirs_exist_ok=True)
    _unpack_runtime(folder)
    html = (ASSETS / "index.html").read_text(encoding="utf-8")
    (folder / "index.html").write_text(html.replace('data-engine="server"', 'data-engine="browser"'), "utf-8")
    shutil.copyfile(model, folder / "model.onnx")
    published = {n: v for n, v in bundle.manifest.published().items() if n not in _STAYS_BEHIND}
    # The page has the bundle's name, which is no folder of this machine, and how it decides.
    told: dict[str, Any] = {
        "name": bundle.folder.resolve().name,
        "decision": bundle.manifest.decision.to_json(),
    }
    if (guarantee := bundle.manifest.guarantee) is not None:
        sure = guarantee.within(bundle.manifest.strays("onnx"))
        told["guarantee"] = None if sure is None else sure.to_json()
    _write_json(folder / "manifest.json", published | told)
    (folder / "samples").mkdir(exist_ok=True)
    _write_samples(folder / "samples", bundle)
    return folder


def refused(shape: Sequence[int], grid: Grid) -> str | None:
    """Say in a line which files the page will refuse that Python takes; None where it takes the same.

    Args:
        shape: of the network's input.
        grid: how files are brought there.
    """
    if not grid.moves:
        return None
    voxels = f" with voxels of {'×'.join(f'{size:g}' for size in grid.spacing)}" if grid.spacing else ""
    return (
        f"web: the page resamples nothing: it takes {times(tuple(shape))}{voxels}, and refuses other scans, which are "
        "for voxgap serve and voxgap predict"
    )


def _unpack_runtime(folder: Path) -> None:
    """Write the runtime as browsers can read it: as xz, which they can't, it takes a third less of the package."""
    import lzma  # a Python that was built without it does everything else

    binary = lzma.decompress((ASSETS / _RUNTIME).with_suffix(".wasm.xz").read_bytes())
    (folder / _RUNTIME).with_suffix(".wasm.gz").write_bytes(gzip.compress(binary, mtime=0))


def _write_samples(folder: Path, bundle: Bundle) -> None:
    """Write the first golden input of each chosen kind that is no cause for doubt, as a file like people's."""
    index = []
    if (golden := bundle.golden()) is not None:
        # A network that wants a voxel size refuses files without one.
        spacing = bundle.manifest.input.voxel
        geometry: dict[str, Any] = {"spacing": np.array(spacing, np.float64)} if spacing else {}
        for kind, title in _SAMPLES.items():
            plain = (x for x in golden.inputs[golden.gaps == kind] if not drift(x, bundle.manifest.profile))
            values = next(plain, None)
            if values is not None:
                name = f"{kind}.npz"
                np.savez_compressed(folder / name, values=values, **geometry)
                index.append({"name": name, "url": f"samples/{name}", "title": title})
    _write_json(folder / "index.json", index)


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
