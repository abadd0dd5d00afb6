"""What the commands share in talking to a terminal: consoles, progress, a quiet import of Keras."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from voxgap.errors import VoxgapError, visible

if TYPE_CHECKING:
    from rich.table import Table

    from voxgap.training import Progress

T = TypeVar("T")


class Plain(Console):
    """A console on which text is only text: control bytes in a name or a cell are shown, and not obeyed."""

    def print(self, *objects: Any, **how: Any) -> None:
        """Print sentences as they are, each a line for whoever reads them; what is no text as any console does."""
        if all(isinstance(one, str | Text) for one in objects):
            how = {"soft_wrap": True, "markup": False} | how
        super().print(*objects, **how)

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """Yield the pieces of text with their control characters made visible."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                lines = "\n".join(map(visible, segment.text.split("\n")))
                yield Segment(lines, segment.style)


out = Plain(highlight=False)
err = Plain(stderr=True, highlight=False)


def say_notes(notes: Iterable[str]) -> None:
    """Print what is to be known of a score beside it, warnings in yellow."""
    for note in notes:
        err.print(Text(note), style="yellow" if note.startswith("Warning") else "")


def table(*names: str) -> Table:
    """Return a table with these columns, `>name` for one of numbers, which stand to the right."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        made.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left")
    return made


def import_keras() -> None:
    """Import Keras and its backend now; quietly, as every door does."""
    from voxgap import backend  # noqa: F401


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Parse `3` or `32,64,128`.

    Raises:
        VoxgapError: a part is not an integer.
    """
    return _parts(text, option, int, "integers", "32,64,128")


def decimals(text: str, option: str) -> tuple[float, ...]:
    """Parse `0.5` or `1,0.7,0.7`.

    Raises:
        VoxgapError: a part is not a number.
    """
    return _parts(text, option, float, "numbers", "1,0.7,0.7")


def _parts(text: str, option: str, kind: Callable[[str], T], what: str, example: str) -> tuple[T, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise VoxgapError(
            f"{option} takes {what} separated by commas, such as {example}; got {text!r}"
        ) from None


def indices(text: str, option: str) -> dict[str, int]:
    """Parse `lev=0,ens=2`."""
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name.strip() and index.strip().isdecimal() for name, _, index in pairs):
        raise VoxgapError(f"{option} takes an index for each axis, such as lev=0,ens=2; got {text!r}")
    return {name.strip(): int(index) for name, _, index in pairs}


def one_or_three(text: str, option: str) -> int | tuple[int, ...]:
    """Parse `3` or `1,3,3`."""
    values = numbers(text, option)
    return values[0] if len(values) == 1 else values


def training_progress(title: str) -> contextlib.AbstractContextManager[Callable[[Progress], None]]:
    """Show a training: a live bar on a terminal, one line at the start and one an epoch elsewhere."""
    from voxgap.training.progress import shown

    return shown(out, title)


@contextlib.contextmanager
def saying_what_is_kept(state: Path) -> Iterator[None]:
    """Say, where Ctrl-C ends a command that has written no bundle yet, what is left of it."""
    try:
        yield
    except KeyboardInterrupt:
        kept = (
            "the epochs that ran are kept; the same command goes on" if state.exists() else "nothing is kept"
        )
        err.print(f"Interrupted: {kept}.")
        raise typer.Exit(130) from None
    finally:
        if not state.exists():
            shutil.rmtree(state.parent, ignore_errors=True)  # a recipe of what never began
