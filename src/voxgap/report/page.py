"""One self-contained HTML page from sections of text, tables and pictures."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
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
    """A part of the page; pictures are pairs of figure and caption; `folded` shows the title until clicked."""

    title: str
    paragraphs: Sequence[str] = ()
    table: Table | None = None
    figures: Sequence[tuple[Figure, str]] = ()
    code: str = ""
    folded: bool = False

    @property
    def pictures(self) -> list[dict[str, str]]:
        """The figures with their captions, as the template shows them: SVG where it is one, else a PNG."""
        return [
            {"caption": caption, "svg": drawing(figure), "base64": ""}
            if is_drawing(figure)
            else {"caption": caption, "svg": "", "base64": base64.b64encode(png(figure)).decode()}
            for figure, caption in self.figures
        ]


def write_page(path: str | Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write the page; it needs no other file and no network, and appears whole."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("voxgap.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html").render(title=title, lead=lead, sections=sections)
    write_bytes(path, page.encode())


def is_drawing(figure: Figure) -> bool:
    """Tell lines, bars and words from pictures of volumes, which stay pixels."""
    return not any(axes.images for axes in figure.axes)


def drawing(figure: Figure) -> str:
    """Return a figure as an SVG element in the colours of the page: black becomes the colour of its text."""
    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "voxgap"}):
        figure.savefig(text, format="svg", transparent=True)
    element = text.getvalue().partition("<svg")[2]
    element = re.sub(r"<metadata>.*?</metadata>| xmlns(:xlink)?=\"[^\"]*\"", "", element, flags=re.DOTALL)
    # The size comes from the page: it is as wide as there is room for, and keeps its proportions.
    element = re.sub(r'width="([\d.]+)pt" height="[\d.]+pt"', r'style="max-width:\1pt"', element, count=1)
    return f'<svg fill="currentColor" role="img"{element}'.replace("#000000", "currentColor")
