"""The examples in docstrings: every public name has one, and it does what it says."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path
from typing import Any

import pytest

import voxgap

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
