"""Going through things one by one, which somebody may want to see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Progress = Callable[[Sequence[Any], str], Iterable[Any]]
"""Goes through things, under a title."""


def unseen(items: Sequence[Any], _: str) -> Iterable[Any]:
    """Go through things and show nothing."""
    return items
