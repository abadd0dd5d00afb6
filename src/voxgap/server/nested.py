"""Nested lists of numbers in JSON as an array, without an object for each number.

A JSON library makes one, and a line for each that is wrong: eight million bytes of text became gigabytes, which do
not all come back. Here the text is looked at as text: its brackets say the shape, and what is between them is numbers.
"""

from __future__ import annotations

import re

import numpy as np

from voxgap.server.limits import RequestError
from voxgap.volume import Values

_FIELDS = {b"volume": 4, b"volumes": 5}
"""How deep each is nested."""
_ABSENT = rb'"volumes?"\s*:\s*null\s*'
_OBJECT = re.compile(
    rb'\s*\{\s*(?:%s,\s*)?"(volumes?)"\s*:\s*(\[[^"{}]*\])\s*(?:,\s*%s)?\}\s*' % (_ABSENT, _ABSENT)
)
_FIELD = re.compile(rb'\s*\{\s*"([A-Za-z0-9_-]{1,40})"\s*:')
_NUMBER = rb"(?:null|-?(?:0|[1-9]\d{0,49})(?:\.\d{1,50})?(?:[eE][+-]?\d{1,5})?)"
_NUMBERS = re.compile(rb"(?:%s,)*+" % _NUMBER)
_BROKEN = re.compile(rb"[^\[\],\s]\s+[^\[\],\s]")
_DIGITS = b"0123456789+-.eEnul"
_AS_ONE = bytes.maketrans(_DIGITS, b"0" * len(_DIGITS))


def from_json(body: bytes) -> Values:
    """Read `{"volume": ...}` or `{"volumes": ...}`.

    Args:
        body: JSON: four or five nested lists of numbers; null is missing.

    Returns:
        `(n, depth, height, width, channels)`, NaN where there was null.

    Raises:
        RequestError: 422, it is anything else.
    """
    found = _OBJECT.fullmatch(body)
    if not found:
        named = _FIELD.match(body)
        other = "" if named is None or named[1] in _FIELDS else f"{named[1].decode()}: not known here; "
        raise RequestError(
            422,
            f'JSON: {other}give either "volume" (four nested lists) or "volumes" (five), of numbers and null',
        )
    text = found[2].translate(None, b" \t\r\n")
    if len(text) < len(found[2]) and _BROKEN.search(found[2]):
        raise RequestError(422, "JSON: two numbers without a comma; give nested lists")
    outline = text.translate(_AS_ONE)
    if b"0[" in outline or b"]0" in outline:
        raise RequestError(422, "JSON: a number beside a list; give nested lists")
    shape = _shape(text.translate(None, _DIGITS), _FIELDS[found[1]])
    numbers = text.translate(None, b"[]")
    checked = _NUMBERS.match(numbers + b",")
    if checked is None or checked.end() <= len(numbers):
        wrong = numbers[checked.end() if checked else 0 :].partition(b",")[0][:20].decode(errors="replace")
        raise RequestError(
            422, f"JSON: {wrong!r} is no number; null is missing" if wrong else "JSON: an empty list"
        )
    values = np.fromstring(numbers.replace(b"null", b"nan"), np.float64, sep=",")
    with np.errstate(over="ignore"):
        volumes = values.astype(np.float32).reshape(shape)
    return volumes if len(shape) == 5 else volumes[None]


def _shape(brackets: bytes, depth: int) -> tuple[int, ...]:
    """Return the lengths of lists, from the innermost to the outermost, that the brackets and commas of a text say."""
    sizes: list[int] = []
    block = b""
    for level in range(1, depth + 1):
        start, end = depth - level, brackets.find(b"]" * level) + level
        # A list of n is as long as n blocks, n - 1 commas and two brackets.
        size = (end - start - 1) // (len(block) + 1)
        if not brackets.startswith(b"[" * depth) or size < 1 or end < level:
            raise RequestError(422, f"JSON: give {depth} nested lists")
        sizes.append(size)
        block = b"[" + b",".join([block] * size) + b"]"
    if block != brackets:
        raise RequestError(
            422, "JSON: the lists are of unequal lengths or depths; give one number or null a voxel"
        )
    return tuple(reversed(sizes))
