"""What several test files use."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from voxgap.cli import main

# Of the cases of one test, in the default run; `make check` runs all.
REPRESENTATIVES = 3


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the first, the last and one between of many cases of a test to the default run: the others are `full`.

    Files that train come first, so that the processes that share the files end together.
    """
    items.sort(key=lambda item: not hasattr(getattr(item, "module", None), "tiny"))
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("full") is None:
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for alike in cases.values():
        last = len(alike) - 1
        kept = {round(place * last / (REPRESENTATIVES - 1)) for place in range(REPRESENTATIVES)}
        for place, item in enumerate(alike):
            if place not in kept and len(alike) > REPRESENTATIVES:
                item.add_marker(pytest.mark.full)


class Run(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def voxgap(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command line in this process; warnings and errors come as a user sees them."""
    from voxgap.cli import console

    monkeypatch.setattr(console, "import_keras", lambda: None)

    def run(*arguments: object) -> Run:
        monkeypatch.setattr(sys, "argv", ["voxgap", *map(str, arguments)])
        # A console writes to the stream of its first use; under pytest there is one a test.
        monkeypatch.setattr(console.out, "_file", sys.stdout)
        monkeypatch.setattr(console.err, "_file", sys.stderr)
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Run(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    import web_cases

    with web_cases.chromium() as running:
        yield running


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """Serves a folder until the test's page is closed: a server that goes first resets what still loads."""
    import web_cases

    with contextlib.ExitStack() as running:
        yield lambda folder: running.enter_context(web_cases.serving(folder))


@pytest.fixture
def page(browser: Any, serve: Callable[[Path], str]) -> Iterator[Any]:
    """A page that may load from one place only, and complain of nothing."""
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    origins: set[str] = set()
    opened.on("request", lambda request: origins.add("/".join(request.url.split("/")[:3])))
    yield opened
    opened.close()
    assert not complaints
    assert len({origin for origin in origins if origin.startswith("http")}) <= 1


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network that labels voxels."""
    import web_cases
    from voxgap.runtime import Bundle, Manifest
    from voxgap.web import write_web

    folder = tmp_path_factory.mktemp("labels")
    web_cases.segmenting(folder / "model.onnx")
    manifest = web_cases.manifest("segmentation", (*web_cases.SHAPE[:3], 1), ["background", "positive"])
    return write_web(folder / "page", Bundle(folder, Manifest.from_json(manifest)), folder / "model.onnx")
