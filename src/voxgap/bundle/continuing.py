"""Whether a training goes on from the bundle that is in its folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path

from voxgap.bundle.formats import PACKAGES
from voxgap.errors import VoxgapError
from voxgap.runtime import MANIFEST, Bundle

STATE = "training-state"
"""The folder in a bundle with what its training needs to go on: last and best weights, and those of the optimizer."""

LOCK = ".training.lock"
"""The file in a bundle's folder that a training holds as long as it runs; it stays."""


def goes_on(folder: Path, epochs: int, patience: int) -> bool:
    """Return whether a training goes on from a bundle, or could not have one in its way.

    Args:
        folder: for the bundle.
        epochs, patience: that are asked for.

    Raises:
        VoxgapError: a bundle is there whose training, asked for that much, would do nothing more.
    """
    if not (folder / MANIFEST).is_file() or not (folder / STATE / "state.json").is_file():
        return False
    trained = Bundle.open(folder).manifest.trained
    done, reason = trained.epochs, trained.reason
    had = patience if trained.patience is None else trained.patience
    if epochs > done and reason != "diverged" and (reason != "patience" or patience > had):
        return True
    more = f"--epochs {done + 1} or more goes on from it"
    if trained.schedule == "cosine":
        more = "its learning rate has fallen to the end"
    if reason == "patience":
        more = f"its patience ran out after epoch {done}: --patience {had + 1} or more goes on from it"
    if reason == "diverged":
        more = f"its loss became NaN in epoch {done}"
    raise VoxgapError(
        f"{folder} holds a bundle already, trained for {done} epochs; {more}; or choose another folder, or pass "
        "--overwrite"
    )


def forget(folder: Path) -> None:
    """Remove what a training that has ended would go on from; one that was killed goes on whatever is overwritten."""
    try:
        ended = json.loads((folder / STATE / "state.json").read_bytes()).get("ended")
    except (OSError, ValueError, AttributeError):
        ended = True
    if ended:
        shutil.rmtree(folder / STATE, ignore_errors=True)


def outdated(folder: Path, again: Collection[str] = ()) -> list[str]:
    """Say what was exported of the network that a bundle holds, before another one takes its place.

    Args:
        folder: of the bundle.
        again: formats and packages that are to be exported of the new one anyway.

    Returns:
        A line for each precision of the files in the bundle, which go with the network, and one for the packages
        beside it, which stay; each with the command that makes them again.
    """
    try:
        files = Bundle.open(folder).manifest.files
    except VoxgapError:  # none, or one that is replaced because it is damaged
        return []
    held: dict[str, list[str]] = {}
    for kind, entry in files.items():
        if kind not in ("keras", *again, *(PACKAGES[name] for name in again if name in PACKAGES)):
            held.setdefault(entry.precision, []).append(kind)
    lines = [
        f"removed {', '.join(kinds)}: exported from the network before; to have them of this one: voxgap export "
        f"{folder} --to {','.join(kinds)}" + ("" if precision == "float32" else f" --precision {precision}")
        for precision, kinds in held.items()
    ]
    own = folder.resolve()
    beside = [name for name in PACKAGES if name not in again and own.with_name(f"{own.name}-{name}").is_dir()]
    if beside:
        lines.append(
            f"{', '.join(f'{folder.name}-{name}' for name in beside)} still {'holds' if len(beside) == 1 else 'hold'} "
            f"the network before; to have this one there: voxgap export {folder} --to {','.join(beside)}"
        )
    return lines
