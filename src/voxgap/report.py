"""One self-contained HTML page from sections of text, tables and pictures."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from voxgap.files import write_bytes
from voxgap.pictures import png


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells as text; `best` is the row to highlight, `words` says that the columns are not numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: int | None = None
    words: bool = False


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page; pictures are pairs of figure and caption."""

    title: str
    paragraphs: Sequence[str] = ()
    table: Table | None = None
    figures: Sequence[tuple[Figure, str]] = ()
    code: str = ""

    @property
    def pictures(self) -> list[dict[str, str]]:
        return [
            {"base64": base64.b64encode(png(figure)).decode(), "caption": caption}
            for figure, caption in self.figures
        ]


def write_page(path: str | Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write the page; it needs no other file and no network, and appears whole."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("voxgap"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html").render(title=title, lead=lead, sections=sections)
    write_bytes(path, page.encode())
