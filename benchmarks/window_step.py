"""A label map of a 256³ volume by a sliding window, drawn to a file: voxgap's, or MONAI's with the same weights.

`python window_step.py WHAT FOLDER` with WHAT one of `make` (the bundle of four classes, patches of 64, and the volume),
`voxgap`, `fast`, `monai`; prints JSON: seconds, bytes of memory above what was held once a patch had been predicted,
and the file. `compare` prints how far the probabilities of the two are apart.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path

import numpy as np

from untrained import segmenting

EDGE, SIZE, BATCH = 256, 64, 2


def held(field: str) -> int:
    """Return what this process holds, or has held at most, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def make(folder: Path) -> None:
    """Save an untrained network as a bundle, exported for both sides, and a volume with lost slices."""
    segmenting(folder / "bundle", SIZE, (8, 16))
    from voxgap.bundle import export

    export(folder / "bundle", ["openvino", "pt2"])
    scan = np.random.default_rng(1).normal(1.5, 1, (EDGE, EDGE, EDGE)).astype("f4")
    scan[::9] = np.nan
    np.save(folder / "scan.npy", scan)


def voxgap(folder: Path, precision: str) -> Path:
    """Draw the label map as `voxgap predict` does."""
    from voxgap.runtime import job, load
    from voxgap.runtime.inputs import list_items

    predictor = load(folder / "bundle", precision, "openvino")
    predictor.predict(np.zeros((BATCH, SIZE, SIZE, SIZE, 1), "f4"))
    file = folder / "scan.npy"
    wanted = job.Wanted(maps=str(folder / f"maps-{precision}"), overwrite=True)
    measured(lambda: next(iter(job.local(predictor, wanted)(list_items([file], ["ct"]))))["label_map"])
    return file


def network(folder: Path):  # torch is imported by its own side only
    """Return the exported network as a function of PyTorch, channels first, as MONAI has them."""
    import torch

    module = torch.export.load(next((folder / "bundle").rglob("*.pt2"))).module()

    def answer(patches: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            found = module(patches.permute(0, 2, 3, 4, 1))
            return (found[0] if isinstance(found, list | tuple) else found).permute(0, 4, 1, 2, 3)

    return answer


def blended(folder: Path, volume: np.ndarray):
    """Return the probabilities that MONAI's inferer makes of a volume."""
    import torch
    from monai.inferers import SlidingWindowInferer

    inferer = SlidingWindowInferer((SIZE,) * 3, BATCH, 0.5, "gaussian", sigma_scale=0.125)
    with torch.no_grad():
        return inferer(torch.from_numpy(volume)[None, None], network(folder))[0]


def monai(folder: Path) -> None:
    """Draw the label map as a script of MONAI does."""
    import torch
    from monai.inferers import SlidingWindowInferer

    answer = network(folder)
    answer(torch.zeros(BATCH, 1, SIZE, SIZE, SIZE))
    inferer = SlidingWindowInferer((SIZE,) * 3, BATCH, 0.5, "gaussian", sigma_scale=0.125)

    def draw() -> str:
        with torch.no_grad():
            found = inferer(torch.from_numpy(np.load(folder / "scan.npy"))[None, None], answer)
        file = folder / "maps-monai.npy"
        np.save(file, found[0].argmax(0).to(torch.uint8).numpy())
        return str(file)

    measured(draw)


def measured(draw) -> None:
    """Print how long it takes, and how much memory."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before, started = held("VmRSS"), time.perf_counter()
    file = draw()
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "memory": held("VmHWM") - before, "file": file}))


def main() -> None:
    what, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    if what == "make":
        make(folder)
    elif what == "monai":
        monai(folder)
    elif what == "probabilities":
        scan = np.load(folder / "scan.npy")[:96, :96, :96]
        np.save(folder / "monai-probabilities.npy", blended(folder, scan).permute(1, 2, 3, 0).numpy())
    elif what == "compare":
        from voxgap.runtime import load

        scan = np.load(folder / "scan.npy")[:96, :96, :96]
        ours = load(folder / "bundle", engine="openvino").predict(scan[None, ..., None])[0]
        apart = float(np.abs(ours - np.load(folder / "monai-probabilities.npy")).max())
        print(json.dumps({"largest difference": apart}))
    else:
        voxgap(folder, "fast" if what == "fast" else "float32")


if __name__ == "__main__":
    main()
