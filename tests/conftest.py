"""What several test files use."""

from __future__ import annotations

import sys
from typing import NamedTuple

import pytest

from voxgap.cli import main


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
