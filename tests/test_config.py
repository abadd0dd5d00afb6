"""`--config`: a file says what options say, the command line wins, and what a command leaves makes the same again."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import typer
from rich.text import Text
from typer.testing import CliRunner

from voxgap.cli import app
from voxgap.cli.config import Config, changes, write_recipe
from voxgap.errors import VoxgapError

PROBE = typer.Typer()
SEEN: dict[str, Any] = {}


@PROBE.command()
def probe(
    context: typer.Context,
    data: str,
    out_folder: Annotated[Path, typer.Option("--out")],
    epochs: int = 3,
    learning_rate: float = 1e-3,
    filters: Annotated[str, typer.Option("--filters", "--filter")] = "1,2",
    at: str | None = None,
    mask_channel: bool | None = None,
    overwrite: bool = False,
    config: Config = None,
) -> None:
    SEEN.clear()
    SEEN.update(context.params)
    write_recipe(context, out_folder)


def call(folder: Path, text: str, *arguments: str) -> dict[str, Any]:
    (folder / "my.toml").write_text(text)
    result = CliRunner().invoke(PROBE, ["--config", str(folder / "my.toml"), *arguments])
    if isinstance(result.exception, VoxgapError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return dict(SEEN)


def test_a_file_says_what_options_say_and_the_command_line_wins(tmp_path: Path) -> None:
    text = 'data = "d.csv"\nout = "run"\nepochs = 7\nlearning_rate = 1\nfilter = [8, 16]\nat = {lev = 0}\n'
    found = call(tmp_path, text + "mask-channel = false\noverwrite = true")
    assert found == {
        "data": str(tmp_path / "d.csv"),
        "out_folder": tmp_path / "run",
        "epochs": 7,
        "learning_rate": 1.0,
        "filters": "8,16",
        "at": "lev=0",
        "mask_channel": False,
        "overwrite": True,
        "config": tmp_path / "my.toml",
    }
    found = call(tmp_path, text, "e.csv", "--epochs", "9", "--filters", "4", "--mask-channel")
    assert (found["data"], found["epochs"], found["filters"], found["mask_channel"]) == (
        "e.csv",
        9,
        "4",
        True,
    )
    assert call(tmp_path, f'data = "sample:brain"\nout = "{tmp_path}/x"')["data"] == "sample:brain"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epocs = 3", r"my\.toml: epocs is no option of voxgap .*; did you mean epochs\?"),
        ("qqq = 3", r"my\.toml: qqq is no option .*--help lists them"),
        ('config = "x"', "config is no option"),
        ('config = "x"', "config is no option that a file can give: it names this file; leave it out$"),
        ('confg = "x"', "confg is no option .*--help lists them"),
        ("[train]\nepochs = 3", "train is no option"),
        ("epochs = 2.5", r"my\.toml: epochs is '2\.5'; give a whole number"),
        ("epochs = true", "epochs: give one value"),
        ("filters = [[1]]", "filters: give one value"),
        ("at = {lev = 1.5}", "at: give one value"),
        ('learning-rate = "x"', "learning-rate is 'x'; give a number"),
        ("mask-channel = 1", "mask-channel is 1; give true or false"),
        ("filter = 1\nfilters = 2", "filters stands twice, under two names"),
        ("epochs = ", r"can't be read as TOML \(.*\)"),
    ],
)
def test_what_is_no_option_is_refused_with_the_nearest_name(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(VoxgapError, match=words) as error:
        call(tmp_path, f"{text}\n", "d.csv", "--out", str(tmp_path))
    assert "\n" not in str(error.value)
    with pytest.raises(VoxgapError, match="no such file; check --config"):
        CliRunner().invoke(
            PROBE, ["--config", str(tmp_path / "none"), "d", "--out", "o"], catch_exceptions=False
        )


def test_a_recipe_says_all_that_was_chosen_and_nothing_of_the_place(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    first = call(
        tmp_path, "epochs = 7\nfilters = [8]", str(tmp_path / 'a "b".csv'), "--out", str(tmp_path / "runs/1")
    )
    recipe = (tmp_path / "runs/1/recipe.toml").read_text()
    assert str(tmp_path) not in recipe
    assert "overwrite" not in recipe
    assert 'learning-rate = 0.001\nfilters = "8"\n' in recipe
    again = ["--config", str(tmp_path / "runs/1/recipe.toml"), "--out", str(tmp_path / "2")]
    assert CliRunner().invoke(PROBE, again).exit_code == 0
    apart = ("out_folder", "config", "data")
    assert {k: v for k, v in SEEN.items() if k not in apart} == {
        k: v for k, v in first.items() if k not in apart
    }
    assert Path(SEEN["data"]).resolve() == Path(first["data"])


@pytest.mark.full
def test_a_bundle_is_trained_again_by_its_recipe(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", volumes=rng.normal(size=(16, 4, 4, 4)), labels=np.arange(16) % 2)
    options = ["--model", "cnn3d", "--filters", "3", "--epochs", "1", "--precision", "float32", "--seed", "5"]
    options += ["--pattern", "slices"]
    for name, arguments in {
        "one": ["train", str(tmp_path / "d.npz"), *options],
        "two": ["train", "--config", str(tmp_path / "one/recipe.toml")],
    }.items():
        result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / name)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    one, two = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("one", "two"))
    assert one["scores"] == two["scores"]
    held = [
        zipfile.ZipFile(tmp_path / name / about["files"]["keras"]["path"])
        for name, about in (("one", one), ("two", two))
    ]
    weights = [file.read("model.weights.h5") for file in held]
    assert weights[0] == weights[1]
    assert (tmp_path / "one/recipe.toml").read_text() == (tmp_path / "two/recipe.toml").read_text()
    # It names where the data lies, and leaves with nothing that is deployed: no manifest lists it.
    assert "recipe" not in json.dumps(one)


def test_an_experiment_leaves_its_recipe(tmp_path: Path) -> None:
    names = {
        name
        for name, command in typer.main.get_command(app).commands.items()
        if any(p.name == "config" for p in command.params)
    }  # type: ignore[attr-defined]
    assert names == {"train", "compare"}


def test_paths_that_differ_are_named_as_seen_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, str]] = []
    app = typer.Typer()

    @app.command()
    def probe(
        context: typer.Context, data: str, start_from: Annotated[str | None, typer.Option("--from")] = None
    ) -> None:
        recipe = Path("runs/a/training-state")
        recipe.mkdir(parents=True, exist_ok=True)
        told.append(changes(context, recipe / "recipe.toml"))
        write_recipe(context, recipe)

    monkeypatch.chdir(tmp_path)
    for arguments in (["d.csv", "--from", "filler"], ["sample:brain"], ["d.csv", "--from", "new/filler"]):
        assert CliRunner().invoke(app, arguments).exit_code == 0
    first, second = "d.csv", "sample:brain"
    assert told[1:] == [
        {"data": f"{first}, is {second}", "from": "filler, is not given"},
        {"data": f"{second}, is {first}", "from": "not given, is new/filler"},
    ]


def test_no_word_of_a_help_is_taken_for_markup() -> None:
    """Rich reads [default: 3] as a style that nobody knows, and leaves it out."""
    for name, command in typer.main.get_command(app).commands.items():
        for said in (command.help, *(getattr(param, "help", None) for param in command.params)):
            plain = re.sub(r"\[(/|/?bold|/?dim)\]", "", said or "")
            assert Text.from_markup(said or "").plain == plain, name
