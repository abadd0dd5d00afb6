"""Docstrings: every public name has an example that does what it says, and lists of arguments are whole."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

import voxgap
from test_house import FILES, ROOT

# What trains, or exports: in this order, since the later ones open the bundle that `save_bundle` writes.
TRAINING = (
    *("train", "save_bundle", "load", "Predictor", "Answer", "evaluate", "export"),
    *("export_model", "check_exportable", "certify", "compare", "check_fills"),
)
# Rooms whose names are layers: Keras is imported for them, and nothing is trained.
ROOMS = ("fill", "layers")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(name: str, thing: Any) -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(thing, name, module=False, globs={})
    assert example.examples, f"{name} has no example"
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("name", [name for name in voxgap.__all__ if name not in TRAINING])
def test_the_example_of_a_public_name_holds(name: str) -> None:
    run(name, getattr(voxgap, name))


@pytest.mark.parametrize("room", ROOMS)
def test_examples_of_layers_hold(room: str) -> None:
    module = importlib.import_module(f"voxgap.{room}")
    for name in module.__all__:
        run(f"{room}.{name}", getattr(module, name))


@pytest.mark.full
def test_examples_from_training_to_export_hold() -> None:
    for name in TRAINING:
        run(name, getattr(voxgap, name))


def test_a_docstring_that_lists_arguments_lists_each_and_no_other() -> None:
    """Those that mean the same may share a line, `low, high: ...`, which is no line to pydocstyle."""
    wrong = []
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            section = re.search(
                r"^Args:\n(.*?)(?:\n\S|\Z)", ast.get_docstring(node) or "", re.DOTALL | re.MULTILINE
            )
            if section:
                lines = re.findall(r"^    (\*{0,2}\w+(?:, \*{0,2}\w+)*):", section[1], re.MULTILINE)
                told = {name.lstrip("*") for line in lines for name in line.split(", ")}
                own = {name.arg for name in ast.walk(node.args) if isinstance(name, ast.arg)}
                own -= {"self", "cls"}
                if differ := own ^ told:
                    wrong.append(f"{file.relative_to(ROOT)}: {node.name}: {', '.join(sorted(differ))}")
    assert not wrong, "\n".join(wrong)
