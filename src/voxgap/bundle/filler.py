"""Writing a trained filler as a bundle: what it takes and gives, its model, and the proof for its exports."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voxgap.bundle import golden
from voxgap.bundle.evidence import remove_evidence
from voxgap.bundle.placing import place, workspace, write_manifest, writing
from voxgap.bundle.saving import _versions, check_free
from voxgap.grid import Grid
from voxgap.history import History
from voxgap.missingness.diagnosis import describe
from voxgap.patches import OVERLAP
from voxgap.recipe import Strategy
from voxgap.runtime import SCHEMA_VERSION
from voxgap.runtime.profile import profile
from voxgap.volume import Values


def save_filler(
    folder: Path,
    model: Any,
    volumes: Values,
    *,
    name: str,
    channels: tuple[str, ...],
    spacing: tuple[float, float, float] | None,
    grid: Grid,
    history: History,
    scores: Mapping[str, Mapping[str, float]],
    arguments: Mapping[str, Any],
    cases: Mapping[str, list[str]],
) -> None:
    """Write a model of `voxgap.fill.Deviating` as a bundle of task `fill`, which fills volumes of any size by patches.

    Args:
        folder: made if it is not there.
        model: trained.
        volumes: that it was trained on, `(n, depth, height, width, channels)`, as large as its input.
        name, channels, spacing, grid: of the data, as in a `Dataset`.
        history: of its training.
        scores: errors at hidden voxels, by part.
        arguments: that it was trained by, as plain values.
        cases: `known_cases` of `voxgap.metrics.overlap`, of whole volumes.

    Raises:
        VoxgapError: a file is in the way.
    """
    check_free(folder, overwrite=True)
    answered = golden.make(model, None, volumes)
    size = list(model.input_shape[1:])
    manifest: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
        "task": "fill",
        "classes": [],
        "input": {
            "shape": size,
            "channels": list(channels),
            "spacing": list(spacing) if spacing else None,
            "missing": "NaN",
            "grid": grid.to_json(),
            "patches": {"size": size[:3], "overlap": OVERLAP},
        },
        "outputs": model.output_shape[-1],
        "network": model.name,
        "strategy": Strategy(fill="learned").to_json(),
        "arguments": dict(arguments),
        "data": {
            "name": name,
            "missingness": describe(volumes).to_json(),
            "profile": profile(volumes, channels).to_json(),
        },
        "training": history.to_json(),
        "scores": {part: dict(found) for part, found in scores.items()},
        "decision": {},
    }
    with workspace(folder) as temporary, writing(folder):
        model.save(temporary / "model.keras")
        (temporary / "golden.npz").write_bytes(golden.to_bytes(answered))
        manifest["golden"] = place(folder, temporary / "golden.npz", "golden")["parts"][0]
        (temporary / "cases.json").write_text(json.dumps(cases))
        manifest["cases"] = place(folder, temporary / "cases.json", "cases")["parts"][0]
        file = place(folder, temporary / "model.keras")
        manifest["files"] = {"keras": file | file["parts"][0] | {"precision": "float32"}}
        remove_evidence(folder)
        write_manifest(folder, manifest)
    history.to_csv(folder / "history.csv")
    history.plot(folder / "history.png")
