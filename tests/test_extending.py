"""What others add: a fill, a file format, a network, an export with its runtime, each from a package beside voxgap.

The package is a folder on the path with the metadata that pip would write. Everything is done through the command
line or in processes that nobody told of it: it is enough that it is installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from voxgap import registry

FILL = '''
import keras
import numpy as np
from voxgap.fill import FillLayer

@keras.saving.register_keras_serializable("theirs")
class Highest(FillLayer):
    """Fills with the highest value of the training data."""

    def build(self, input_shape):
        super().build(input_shape)
        self.highest = self._statistic("highest", ())

    def _fit(self, volumes):
        self.highest.assign(np.nanmax(volumes))

    def _estimate(self, values, observed, training):
        return 0 * values + self.highest
'''

FORMAT = '''
import numpy as np
from voxgap.io import Format, Source

def scan(path, options):
    """Three sizes, then the values, NaN as `nan`: one volume in words."""
    words = path.read_text().split()
    shape = (*map(int, words[:3]), 1)
    values = np.array(words[3:], np.float32).reshape(shape)
    return Source(path, shape, values.dtype, lambda box: values[box], options=options)

def write(stream, volume):
    words = [*volume.shape[:3], *volume.values.ravel()]
    stream.write(" ".join(map(str, words)).encode())

WORDS = Format(scan, write)
'''

NETWORK = '''
import keras

def small(values, observed):
    """One convolution over the values and what is observed."""
    both = keras.layers.Concatenate()([values, observed])
    return keras.layers.Conv3D(4, 3, padding="same", activation="relu")(both)
'''

EXPORT = """
import shutil
import numpy as np
from voxgap.bundle.formats import Format
from voxgap.runtime.engines import Runtime, load_keras

def convert(model, file, precision, samples):
    model.save(file.with_suffix(".keras"))
    file.with_suffix(".keras").rename(file)

def open_(file, threads, precision):
    (copy := file.with_suffix(".keras")).write_bytes(file.read_bytes())
    model = load_keras(copy)
    return lambda batch: np.asarray(model(batch), np.float32)

TWIN = Format(".twin", convert=convert)
ENGINE = Runtime("keras", open_)
"""

POINTS = """
[voxgap.fills]
highest = theirs.fill:Highest
[voxgap.formats]
.words = theirs.format:WORDS
[voxgap.exports]
twin = theirs.export:TWIN
[voxgap.engines]
twin = theirs.export:ENGINE
"""
COMMAND = "from voxgap.cli import main; main()"
PARTS = {"fill": FILL, "format": FORMAT, "network": NETWORK, "export": EXPORT}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an installed package."""
    site = tmp_path_factory.mktemp("site")
    (site / "theirs").mkdir()
    for name, code in PARTS.items():
        (site / "theirs" / f"{name}.py").write_text(code)
    (site / "theirs-1.0.dist-info").mkdir()
    (site / "theirs-1.0.dist-info" / "METADATA").write_text("Name: theirs\nVersion: 1.0\n")
    (site / "theirs-1.0.dist-info" / "entry_points.txt").write_text(POINTS)
    return site


@pytest.fixture
def at(installed: Path, tmp_path: Path):
    """Runs Python, or the command line, in an empty folder of a machine that has the package."""

    def run(code: str | None = None, *, command: str = "", fails: bool = False) -> str:
        call = [textwrap.dedent(code)] if code else [COMMAND, *command.split()]
        path = os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-c", *call],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == (2 if fails else 0), done.stderr[-3000:]
        return done.stderr if fails else done.stdout

    return run


def test_each_part_is_small() -> None:
    assert max(len(code.strip().splitlines()) for code in PARTS.values()) < 40


def test_a_file_format_is_read_and_written(at, tmp_path: Path) -> None:
    (tmp_path / "scan.words").write_text("2 2 2 1 2 3 4 5 6 7 nan")
    (tmp_path / "table.csv").write_text(
        "path,label,split\n" + "".join(f"scan.words,{i % 2},{part}\n" for i, part in enumerate(["train"] * 2))
    )
    said = at("""
        import voxgap as vg
        volume = vg.read("scan.words")
        print(volume.shape, volume.missing_rate)
        vg.write("copy.words", volume)
        print(open("copy.words").read())
        print(len(vg.load_data("table.csv", scoring=True)))
        assert [*vg.io.FORMATS][-1] == ".words"
        assert len(vg.io.FORMATS) == len([*vg.io.FORMATS])
    """)
    assert said.splitlines() == ["(2, 2, 2, 1) 0.125", "2 2 2 1.0 2.0 3.0 4.0 5.0 6.0 7.0 nan", "2"]


def test_a_package_that_cannot_be_imported_is_named_and_stops_nothing_else(
    at, installed: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "site"
    (broken / "broken-1.0.dist-info").mkdir(parents=True)
    (broken / "broken-1.0.dist-info" / "METADATA").write_text("Name: broken\nVersion: 1.0\n")
    (broken / "broken-1.0.dist-info" / "entry_points.txt").write_text("[voxgap.formats]\n.gone = nowhere:X\n")
    (tmp_path / "scan.gone").write_text("1")
    said = at("""
        import sys
        sys.path.append("site")
        import numpy as np, voxgap as vg
        vg.write("scan.npy", vg.Volume(np.ones((2, 2, 2))))
        print(vg.read("scan.npy").shape)
        try:
            vg.read("scan.gone")
        except vg.VoxgapError as error:
            print(error)
    """)
    first, second = said.splitlines()
    assert first == "(2, 2, 2, 1)"
    assert second.startswith(".gone: can't be loaded from the package broken (No module named 'nowhere')")


def test_names_of_its_own_are_never_looked_for_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    known = registry.Registry("fills", {"mean": "ours"})
    monkeypatch.setattr(registry.importlib, "import_module", lambda name: pytest.fail(f"looked in {name}"))
    assert known["mean"] == "ours"
    assert "mean" in known
    assert [*known.data] == ["mean"]


@pytest.mark.full
def test_a_fill_works_at_every_door(at, tmp_path: Path) -> None:
    values = np.ones((4, 4, 4))
    values[1:3], values[3, 3, 3] = np.nan, 5
    at("""
        import numpy as np, voxgap as vg
        values = np.ones((4, 4, 4))
        values[1:3], values[3, 3, 3] = np.nan, 5
        vg.write("scan.npy", vg.Volume(values))
    """)
    at(command="fill scan.npy --strategy highest --out filled --everywhere")
    assert (np.load(tmp_path / "filled" / "scan.npy")[1:3] == 5).all()
    assert "highest" in at(command="fill scan.npy --strategy lowest --out other", fails=True)
    at("""
        import voxgap as vg
        data = vg.load_data("sample:brain")
        few = data.take(range(0, len(data), 40))
        found = vg.compare(few, ["mean", "highest"], models="cnn3d", architecture={"filters": [2]}, epochs=1,
                           folds=2, processes=1, pattern="slices")
        assert sorted(place.strategy for place in found.overall.places) == ["highest", "mean"]
    """)


@pytest.mark.full
def test_a_network_a_fill_and_a_runtime_go_through_a_bundle(at) -> None:
    at("""
        import voxgap as vg
        from theirs.network import small
        data = vg.load_data("sample:brain")
        few = data.take(range(0, len(data), 40))
        model = vg.build_model(small, few.volumes.shape[1:], 3, strategy=vg.Strategy(fill="highest"))
        vg.train(model, few, epochs=1, verbose=False)
        vg.save_bundle("bundle", model, few, strategy=vg.Strategy(fill="highest"))
        vg.write("scan.npy", vg.Volume(few.volumes[0]))
    """)
    at(command="export bundle --to twin")
    answers = [at(command=f"predict bundle scan.npy --engine {name}") for name in ("keras", "twin")]
    assert "grey matter" in answers[0]
    assert answers[0].splitlines()[-3:] == answers[1].splitlines()[-3:]


@pytest.mark.full
def test_a_bundle_names_nothing_that_is_not_installed(at, tmp_path: Path) -> None:
    """Without the package, neither its fill nor its runtime is looked for anywhere else."""
    at("""
        import numpy as np, voxgap as vg
        from voxgap.training import Examples, adapt_model
        rng = np.random.default_rng(0)
        data = vg.Dataset.from_arrays(rng.normal(size=(20, 4, 4, 4)), [0, 1] * 10)
        strategy = vg.Strategy(fill="highest")
        model = vg.build_model("cnn3d", (4, 4, 4, 1), 2, strategy=strategy, filters=(2,))
        adapt_model(model, Examples.of(data.part("train")))
        vg.save_bundle("bundle", model, data, strategy=strategy)
    """)
    alone = subprocess.run(
        [sys.executable, "-c", "import voxgap as vg; vg.load('bundle', engine='keras')"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert "is not registered" in alone.stderr.splitlines()[-1]
