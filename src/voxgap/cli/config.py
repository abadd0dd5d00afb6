"""`--config recipe.toml`: the options of a command in a file; and the recipe that a command leaves of itself."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from voxgap.errors import VoxgapError
from voxgap.files import write_bytes
from voxgap.names import EMBEDDED

NAME = "recipe.toml"
MAX_BYTES = 2**20
_DATA = "data"
_PATHS = ("out_folder", "cache", "start_from")
# What says where and how the work is done, and not what is made.
_OF_THIS_RUN = {"out", "config", "overwrite", "resume", "fresh", "retry", "processes", "ray", "cache"} | {
    "cpus-per-run",
    "gpus-per-run",
}


def read_config(context: typer.Context, _: typer.CallbackParam, path: Path | None) -> Path | None:
    """Take what the file says for the defaults of a command, so that the command line wins over it.

    Raises:
        VoxgapError: The file can't be read, or names something that is no option of the command.
    """
    if path is None or (context.resilient_parsing and not path.is_file()):
        return path
    known = {name: param for param in context.command.params for name in _names(param) if name != "config"}
    found: dict[str, Any] = {}
    for key, value in _read(path).items():
        if key == "config":
            raise VoxgapError(
                f"{path}: config is no option that a file can give: it names this file; leave it out"
            )
        param = known.get(key.replace("_", "-"))
        if param is None:
            near = difflib.get_close_matches(key.replace("_", "-"), known, 1)
            remedy = f"did you mean {near[0]}?" if near else f"voxgap {context.info_name} --help lists them"
            raise VoxgapError(f"{path}: {key} is no option of voxgap {context.info_name}; {remedy}")
        if param.name in found:
            raise VoxgapError(f"{path}: {key} stands twice, under two names; keep one")
        found[param.name] = _value(param, f"{path}: {key}", value, path.parent)
    context.default_map = {**(context.default_map or {}), **found}
    return path


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="A TOML file with options under their own names, and data; the command line wins over it.",
        metavar="FILE",
        callback=read_config,
        is_eager=True,
    ),
]


def fields_of(context: typer.Context, plan: type[Any]) -> dict[str, Any]:
    """Return those fields of a plan that are options of a command under the same name, if they were given.

    Args:
        context: Of the command.
        plan: A class of `voxgap.recipe`.
    """
    names = [field.name for field in dataclasses.fields(plan)]
    return {name: context.params[name] for name in names if context.params.get(name) is not None}


def to_toml(context: typer.Context, folder: Path) -> str:
    """Write down how a command was called, so that `--config` calls it again, from wherever the file lies.

    Args:
        context: Of the command.
        folder: Where the file will lie; paths are relative to it.
    """
    lines = [
        f"# voxgap {context.info_name} --config {NAME} --out FOLDER does this again; paths are relative to this file."
    ]
    for param in context.command.params:
        name, value = _names(param)[0], context.params.get(param.name)
        if name in _OF_THIS_RUN or value is None:
            continue
        if name == _DATA or param.name in _PATHS:
            value = _seen_from(folder, str(value))
        lines.append(f"{name} = {_written(value)}")
    return "\n".join(lines) + "\n"


def write_recipe(context: typer.Context, folder: Path) -> None:
    """Leave a recipe beside what a command made; see `to_toml`."""
    write_bytes(folder / NAME, to_toml(context, folder).encode())


def settings(context: typer.Context, folder: Path) -> dict[str, Any]:
    """Return how a command was called, as its recipe in a folder says it."""
    return tomllib.loads(to_toml(context, folder))


def changes(context: typer.Context, recipe: Path) -> dict[str, str]:
    """Compare how a command is called with a recipe that it left.

    Returns:
        For each option that differs, by its name, both values in words, paths as seen from here; nothing where there
        is no recipe.
    """
    if not recipe.is_file():
        return {}
    there, asked = _read(recipe), settings(context, recipe.parent)
    paths = {_names(param)[0] for param in context.command.params if param.name in (_DATA, *_PATHS)}

    def said(name: str, value: Any) -> str:
        path = name in paths and isinstance(value, str)
        return _seen_from(Path(), _from(recipe.parent, value)) if path else _said(value)

    return {
        name: f"{said(name, there.get(name))}, is {said(name, asked.get(name))}"
        for name in (*there, *(set(asked) - set(there)))
        if there.get(name) != asked.get(name)
    }


def _said(value: Any) -> str:
    return "not given" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _names(param: Any) -> list[str]:
    if param.param_type_name == "argument":
        return [str(param.name)]
    return [name.removeprefix("--") for name in param.opts if name.startswith("--")]


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise VoxgapError(
                f"{path}: is no recipe: {path.stat().st_size} bytes; name a TOML file of options"
            )
        return tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise VoxgapError(f"{path}: no such file; check --config") from None
    except (ValueError, RecursionError) as error:
        raise VoxgapError(
            f"{path}: can't be read as TOML ({error}); write one option a line, as in epochs = 20"
        ) from None


def _value(param: Any, where: str, value: Any, folder: Path) -> Any:
    """Return a value as the command line would give it: `[32, 64]` is 32,64, and `{lev = 0}` is lev=0."""
    if getattr(param, "is_flag", False):
        if not isinstance(value, bool):
            raise VoxgapError(f"{where} is {json.dumps(value, default=str)}; give true or false")
        return value
    text = _text(value)
    if text is None:
        raise VoxgapError(f"{where}: give one value, a list, or {{name = number}}")
    if param.name == _DATA:
        return _from(folder, text)
    if param.name in _PATHS:
        return str(folder / os.path.expanduser(text))
    kind = type(param.default)
    if kind in (int, float):
        try:
            kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise VoxgapError(f"{where} is {text!r}; give {what}") from None
    return text


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, list):
        parts = [_text(part) if not isinstance(part, list | dict) else None for part in value]
    elif isinstance(value, dict):
        parts = [f"{key}={index}" if type(index) is int else None for key, index in value.items()]
    else:
        return str(value)
    return None if None in parts else ",".join(part for part in parts if part is not None)


def _from(folder: Path, data: str) -> str:
    return data if data.startswith(EMBEDDED) else os.path.normpath(folder / os.path.expanduser(data))


def _seen_from(folder: Path, data: str) -> str:
    if data.startswith(EMBEDDED):
        return data
    try:
        return Path(os.path.relpath(data, folder)).as_posix()
    except ValueError:  # on another drive
        return os.path.abspath(data)


def _written(value: Any) -> str:
    if isinstance(value, Mapping | Sequence) and not isinstance(value, str):
        return json.dumps(list(value))
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # TOML has them in small letters, JSON has none
    # A string in JSON is one in TOML.
    return (
        json.dumps(value)
        if isinstance(value, bool | int | float)
        else json.dumps(str(value), ensure_ascii=False)
    )
