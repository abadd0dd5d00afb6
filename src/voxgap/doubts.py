"""Warnings of many files, said once for each kind: a thousand label maps with one fault are one line."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

_NAMED = 3
_OF_A_FILE = re.compile(r"(?P<file>[^:]*[./\\].*?): ")
_PATH_OR_NUMBER = re.compile(r"\S*[/\\.]\w\S*|(?<![\w-])-?\d\S*")


def kind(said: str) -> str:
    """Return what a warning has in common with those that differ from it in file names and numbers only."""
    return _PATH_OR_NUMBER.sub("#", _OF_A_FILE.sub("", said, count=1) if _OF_A_FILE.match(said) else said)


@contextlib.contextmanager
def gathered() -> Iterator[list[str]]:
    """Say of each kind of user warning in the block, when it ends: the first, how many more, and of which files.

    Threads that warn meanwhile are heard as well. After an error nothing is said but the error.

    Yields:
        A list, which holds all that was said when the block has ended.
    """
    said: list[str] = []
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", UserWarning)
        yield said
    kinds: dict[tuple[type[Warning], str], dict[str, warnings.WarningMessage]] = {}
    for one in heard:
        kinds.setdefault((one.category, kind(str(one.message))), {})[str(one.message)] = one
    for (category, _), ones in kinds.items():
        first = next(iter(ones.values()))
        text = _in_one(list(ones))
        said.append(text)
        warnings.warn_explicit(text, category, first.filename, first.lineno)


def _in_one(said: list[str]) -> str:
    first, *others = said
    if not others:
        return first
    found = [_OF_A_FILE.match(other) for other in others[:_NAMED]]
    names = ", ".join(Path(match["file"]).name for match in found if match)
    of = f" of {names}{', ...' if len(others) > _NAMED else ''}" if names else ""
    return f"{first} (and {len(others)} more like it{of})"
