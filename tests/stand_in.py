"""Manifests for tests: what a bundle would say of itself as far as a test does not say it, and what one says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from voxgap.runtime import Bundle, Manifest


def manifest(classes: Sequence[str] = ("a", "b"), **fields: Any) -> Manifest:
    """Of a classifier, or of a regression where there is no class."""
    said = {
        "task": "classification" if classes else "regression",
        "classes": list(classes),
        "outputs": len(classes) or 1,
        "input": {"shape": [8, 8, 8, 1], "channels": ["t1"]},
        "network": "",
        "strategy": {},
        "files": {},
    }
    return Manifest.from_json(said | fields)


def written(folder: Path) -> dict[str, Any]:
    """The JSON of a bundle's manifest, once it was found to be one."""
    return dict(Bundle.open(folder).manifest.written)
