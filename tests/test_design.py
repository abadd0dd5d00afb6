"""The page for whoever carries on: the picture is that of the house, and the files that it names are there."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import test_house

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "design.md").read_text()
HOUSE = runpy.run_path(str(ROOT / "docs" / "images" / "house.py"))
PLACES = {
    room: (row, place)
    for row, (_, groups) in enumerate(HOUSE["ROWS"])
    for place, room in enumerate(room for _, _, rooms in groups for room in rooms)
}


def test_the_picture_is_as_it_was_drawn() -> None:
    assert (ROOT / "docs" / "images" / "house.svg").read_text() == HOUSE["drawing"]()


def test_the_picture_has_every_room_and_no_other() -> None:
    assert set(PLACES) == {test_house.part_of(file) for file in test_house.FILES} - {"__init__"}


def test_a_room_imports_what_is_below_it_or_to_its_right() -> None:
    allowed = ((room, other) for room, below in test_house.ALLOWED.items() for other in below)
    wrong = [f"{room} imports {other}" for room, other in allowed if PLACES[other] <= PLACES[room]]
    assert not wrong, "\n".join(wrong)


def test_the_files_that_it_names_are_there() -> None:
    named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", PAGE))
    assert len(named) > 20
    named -= {"fill/NAME.py", "io/NAME.py"}
    missing = [
        name for name in named if not ((ROOT / "src" / "voxgap" / name).is_file() or (ROOT / name).is_file())
    ]
    assert not missing


def test_at_most_three_files_are_touched_to_add_something() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| a")]
    assert len(rows) == 4
    assert all(1 <= len(set(re.findall(r"`([\w/]+\.py)`", row))) <= 3 for row in rows)
