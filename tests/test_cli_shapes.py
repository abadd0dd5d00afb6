"""`voxgap shapes`: the grammar of layers, their order, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.main import get_command
from typer.testing import CliRunner

from voxgap.cli import app as voxgap_app
from voxgap.cli.network import FILTERS, PANEL, STRATEGY_PANEL, STRIDES
from voxgap.cli.shapes import OF_A_NAMED_MODEL, InOrder, shapes
from voxgap.errors import VoxgapError
from voxgap.models import build_model
from voxgap.recipe import Strategy
from voxgap.shapes import Layer, smallest_input, trace


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    application = typer.Typer(pretty_exceptions_enable=False)
    application.command("shapes", cls=InOrder)(shapes)
    return application


def run(app: typer.Typer, *arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "120"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_cli_keeps_the_order_of_layers(app: typer.Typer) -> None:
    layers = (
        "--conv 4:k3:same --pool 2 --batch-norm --conv 8:k1x3x3:s2:p1:nobias --upsample 2 --transpose 3:k2:s2"
    )
    layers += " --batch-norm --pad 1 --crop 2 --pool 3:s1:same --global-pool --dense 5"
    answer = json.loads(run(app, "--json", "--input", "9,9,9,2", "--batch", "2", *layers.split()))
    network = [
        Layer("conv", filters=4, kernel_size=3, padding="same"),
        Layer("pool", kernel_size=2),
        Layer("batch_norm"),
        Layer("conv", filters=8, kernel_size=(1, 3, 3), strides=2, padding=1, use_bias=False),
        Layer("upsample", kernel_size=2),
        Layer("transpose", filters=3, kernel_size=2, strides=2),
        Layer("batch_norm"),
        Layer("pad", padding=1),
        Layer("crop", padding=2),
        Layer("pool", kernel_size=3, strides=1, padding="same"),
        Layer("global_pool"),
        Layer("dense", filters=5),
    ]
    rows = trace(network, (9, 9, 9, 2), batch=2)
    assert [layer["kind"] for layer in answer["layers"]] == [row.kind for row in rows]
    assert answer["total"]["parameters"] == sum(row.parameters for row in rows)
    assert answer["total"]["gflops"] == pytest.approx(2e-9 * sum(row.macs for row in rows))
    assert [layer["memory"] for layer in answer["layers"]] == [row.memory for row in rows]
    assert answer["total"]["smallest_input"] == list(smallest_input(network))


def test_cli_prints_a_table(app: typer.Typer) -> None:
    output = run(app, "--input", "32,32,32,3", "--conv", "16:k3:s1:p1", "--pool", "2")
    assert "32×32×32×16" in output
    assert "1,312" in output
    assert "2.625 MiB" in output
    assert "smallest input that fits 2×2×2" in output
    assert "voxgap shapes --input 32,32,32,3" in run(app, "--help")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--input 8,8,8,1 --conv 4", "kernel is missing; write FILTERS:kK"),
        ("--input 8,8,8,1 --conv 4:k3:k3", "is not understood"),
        ("--input 8,8,8,1 --conv 4:k3:same:p1", "is not understood"),
        ("--input 8,8,8,1 --pool 2:d2", "as in --pool 3:s2:p1"),
        ("--input 8,8,8,1 --conv 0:k3", "filters"),
        ("--input 8x8x8 --pool 2", "--input '8x8x8' is not understood"),
        ("--input 8,8,8,1", "give either --model or layers"),
        ("--input 8,8,8,1 --pool 2 --model cnn3d", "give either --model or layers"),
        ("--input 2,8,8,1 --conv 4:k3", "layer 'conv_1' needs 3 voxels along depth and gets 2"),
        ("--input 8,8,8,1 --model none.keras", "no such file"),
        ("--input 8,8,8,1 --model transformer", "transformer"),
    ],
)
def test_cli_errors_are_one_line(app: typer.Typer, arguments: str, message: str) -> None:
    with pytest.raises(VoxgapError) as caught:
        run(app, *arguments.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_cli_reads_a_saved_model(app: typer.Typer, tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 8, 2)),
            layers.Conv3D(4, 3),
            layers.MaxPooling3D(2),
            layers.GlobalAveragePooling3D(),
            layers.Dense(2),
        ]
    )
    model.save(tmp_path / "small.keras")
    answer = json.loads(run(app, "--input", "8,8,8,2", "--model", str(tmp_path / "small.keras"), "--json"))
    assert answer["total"]["parameters"] == model.count_params()
    assert answer["total"]["smallest_input"] == [4, 4, 4]
    (tmp_path / "broken.keras").write_bytes((tmp_path / "small.keras").read_bytes()[:500])
    with pytest.raises(VoxgapError, match="not a Keras model that can be loaded"):
        run(app, "--input", "8,8,8,2", "--model", str(tmp_path / "broken.keras"))


def test_cli_reads_a_named_model(app: typer.Typer) -> None:
    arguments = "--input 8,8,8,1 --model cnn3d --outputs 5 --strategy mask_channel --json"
    answer = json.loads(run(app, *arguments.split()))
    assert answer["layers"][-1]["output_shape"] == [5]


def test_a_named_model_takes_what_train_takes(app: typer.Typer) -> None:
    """The options of a network are the same as those of train, name by name and default by default."""
    ours = {p.name: p.default for p in get_command(app).params}
    theirs = {p.name: (p.default, p) for p in get_command(voxgap_app).commands["train"].params}
    of_a_network = {name for name, (_, p) in theirs.items() if p.rich_help_panel in (PANEL, STRATEGY_PANEL)}
    assert of_a_network == (OF_A_NAMED_MODEL - {"outputs", "task", "strategy"}) | {"conv"}
    planned = {"filters": FILTERS, "strides": STRIDES, "norm": "batch", "deep_supervision": False}
    assert all(theirs[name][0] is None for name in planned)
    for name in of_a_network - {"conv"} | {"strategy"}:
        # What a plan has a say in, train leaves open; without a plan it is what a network is built with anyhow.
        assert ours[name] == (theirs[name][0] if name not in planned else planned[name]), name


@pytest.mark.parametrize("given", ["--filters 8,16", "--dropout 0.5", "--mask-channel", "--outputs 3"])
def test_what_builds_a_named_model_is_refused_without_one(app: typer.Typer, given: str) -> None:
    with pytest.raises(VoxgapError, match=rf"^{given.split()[0]} says how a named network is built"):
        run(app, "--input", "8,8,8,1", "--conv", "4:k3", *given.split())


def test_a_named_model_is_built_as_train_builds_it(app: typer.Typer) -> None:
    options = "--filters 4,6 --kernel-size 1,3,3 --strides 1 --activation elu --conv masked --mask-channel"
    answer = json.loads(
        run(app, "--input", "8,8,8,2", "--model", "cnn3d", "--outputs", "3", "--json", *options.split())
    )
    model = build_model(
        "cnn3d",
        input_shape=(8, 8, 8, 2),
        outputs=3,
        task="classification",
        strategy=Strategy(mask_channel=True, conv="masked"),
        filters=(4, 6),
        kernel_size=(1, 3, 3),
        strides=1,
        activation="elu",
    )
    assert answer["total"]["parameters"] == model.count_params()
    assert [8, 8, 8, 6] in [layer["output_shape"] for layer in answer["layers"]]


def test_shapes_never_import_keras() -> None:
    code = """
import sys
import voxgap.cli.shapes
from voxgap.shapes import Layer, trace
trace([Layer("conv", filters=2, kernel_size=3)], (8, 8, 8, 1))
assert not {"keras", "tensorflow", "torch", "scipy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


DOCS = Path(__file__).parents[1] / "docs"
CONSOLE = re.compile(r"^```console\n\$ voxgap (shapes .*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["output-shape.md", "input-shape.md"])
def test_what_the_docs_show_is_what_the_command_prints(page: str) -> None:
    blocks = CONSOLE.findall((DOCS / page).read_text())
    assert len(blocks) == 2
    for block in blocks:
        command, *expected = block.replace("\\\n", "").splitlines()
        done = subprocess.run(
            [sys.executable, "-c", "from voxgap.cli import main; main()", *command.split()],
            env={**os.environ, "COLUMNS": "96"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == (2 if expected[0].startswith("Error:") else 0), done.stderr
        assert [line.rstrip() for line in (done.stdout + done.stderr).splitlines()] == expected


WORDS = st.sampled_from(
    ["3", "k3", "s2", "p1", "d2", "g2", "o1", "same", "valid", "nobias", "k1x3x3", "k0", "kk"]
)
SPECS = st.one_of(st.text(max_size=12), st.lists(WORDS, min_size=1, max_size=5).map(":".join))
OPTIONS = st.tuples(
    st.sampled_from(["--conv", "--pool", "--transpose", "--upsample", "--pad", "--crop", "--dense"]), SPECS
)


def fuzz(app: typer.Typer, options: list[tuple[str, str]], flags: list[str], size: str) -> None:
    arguments = [f"{name}={value}" for name, value in options]
    try:
        output = run(app, "--json", "--input", size, *arguments, *flags)
    except VoxgapError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert json.loads(output)["total"]["parameters"] >= 0


SIZES = st.one_of(st.just("16,16,16,2"), st.text(max_size=12), st.just("9,30,2"))
FLAGS = st.lists(st.sampled_from(["--flatten", "--global-pool", "--batch-norm"]), max_size=2)
FUZZ = given(options=st.lists(OPTIONS, max_size=4), flags=FLAGS, size=SIZES)


@FUZZ
@settings(max_examples=80, deadline=None)
def test_cli_grammar_fuzz(app: typer.Typer, options: Any, flags: Any, size: str) -> None:
    fuzz(app, options, flags, size)


@pytest.mark.full
@FUZZ
@settings(max_examples=5000, deadline=None)
def test_cli_grammar_fuzz_long(app: typer.Typer, options: Any, flags: Any, size: str) -> None:
    fuzz(app, options, flags, size)
