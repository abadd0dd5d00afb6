"""What a predictor is, in a few lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voxgap.grid import Grid
    from voxgap.runtime.predictor import Predictor

_MOST_CLASSES = 10


def in_lines(predictor: Predictor) -> str:
    """Return task, input, classes, network and strategy, how classes are named, and what computes them."""
    manifest, running = predictor.manifest, predictor.running
    facts = {
        "takes": manifest.input.takes + _brought(manifest.input.grid),
        "classes": _some(predictor.classes),
        "network": manifest.network,
        "strategy": _strategy(manifest.strategy),
        "decision": predictor.decision.words(predictor.classes).removeprefix("decision: ")
        if predictor.classes
        else "",
        "promises": manifest.guarantee.words().removeprefix("guarantee: ") if manifest.guarantee else "",
        "engine": f"{running.engine}, {running.precision}" if running.engine else "",
    }
    lines = [f"{name:<8}  {text}" for name, text in facts.items() if text]
    return "\n".join([f"Predictor for {predictor.task}", *lines])


def _brought(grid: Grid) -> str:
    """Return how files come onto the input's grid, where anything is done to them."""
    steps = [
        "cropped to what is observed" if grid.crop else "",
        f"resampled to voxels of {' × '.join(f'{size:.4g}' for size in grid.spacing)}"
        if grid.spacing
        else "",
        "brought to that size" if grid.size else "",
    ]
    done = ", ".join(filter(None, steps))
    return f"; files are {done}" if done else ""


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _MOST_CLASSES} more" if len(names) > _MOST_CLASSES else ""
    return ", ".join(names[:_MOST_CLASSES]) + more


def _strategy(settings: Mapping[str, Any]) -> str:
    """Return what is set of a strategy: `fill mean, mask_channel`, with no word of what it leaves out."""
    pattern = {} if settings.get("gap_dropout") else {"gap_pattern": None}
    given = {name: value for name, value in {**settings, **pattern}.items() if value and value != "plain"}
    return ", ".join(name if value is True else f"{name} {value}" for name, value in given.items())
