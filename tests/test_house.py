"""The house: who may import whom, how large a file may be, what `import voxgap` costs, the public names."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import voxgap

ROOT = Path(voxgap.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MAX_LINES = 500

# The parts that a part may import, beside itself; `cli` may import all. A part is a module or a package.
BASE = {
    *("registry", "errors", "files", "arrays", "ragged"),
    *("observed", "process", "names", "doubts", "progress"),
}
NUMPY_SIDE = {
    "errors": set(),
    "registry": {"errors"},
    "doubts": set(),
    "progress": set(),
    "files": {"errors", "process"},
    "arrays": {"errors"},
    "ragged": {"arrays", "errors"},
    "observed": {"arrays", "ragged", "errors"},
    "process": set(),
    "names": {"errors"},
    "shapes": BASE,
    "volume": BASE,
    "decision": BASE,
    "promises": BASE,
    "acquire": BASE,
    "drift": {"missingness", *BASE},
    "io": {"volume", *BASE},
    "table": {"io", *BASE},
    "paths": {"io", *BASE},
    "subjects": {"io", "paths", *BASE},
    "align": {"volume", *BASE},
    "resample": {"align", "volume", *BASE},
    "missingness": {"metrics", "volume", *BASE},
    "augment": {"missingness", "volume", *BASE},
    "patches": BASE,
    "grid": {"io", "resample", "volume", *BASE},
    "samples": {"missingness", "augment", "volume", *BASE},
    "dataset": {
        "grid",
        "table",
        "paths",
        "subjects",
        "samples",
        "missingness",
        "augment",
        "patches",
        "resample",
        "volume",
        "io",
        *BASE,
    },
    "trust": {"dataset", "decision", "promises", "metrics", "missingness", "volume", *BASE},
    "intensity": BASE,
    "recipe": {"intensity", *BASE},
    "metrics": {"decision", "volume", *BASE},
    "evidence": {"dataset", "decision", "metrics", "table", *BASE},
    # It is drawn by `report`, once somebody wants a picture.
    "inspection": {"patches", "dataset", "missingness", "intensity", "grid", "io", "volume", "report", *BASE},
}
KERAS_SIDE = {
    "backend": set(),
    "layers": {"backend", *BASE},
    "fill": {"backend", "layers", "recipe", *BASE},
    "models": {"backend", "recipe", "fill", "layers", "shapes", "intensity", *BASE},
    "history": {"table", *BASE},
    # What is augmented are arrays: training knows no Volume.
    "training": {
        *("backend", "patches", "models", "history", "augment", "recipe", "fill", "layers"),
        *BASE,
    },
}
# Where the two meet. `runtime` names the layers so that Keras knows them, and nothing that trains.
MEETING = {
    "runtime": {
        "backend",
        "decision",
        "promises",
        "acquire",
        "drift",
        "cluster",
        "patches",
        "table",
        "paths",
        "subjects",
        "missingness",
        "grid",
        "volume",
        "io",
        "resample",
        "layers",
        "fill",
        *BASE,
    },
    "cluster": BASE,
    "distributed": {"backend", "cluster", "experiment", "dataset", *BASE},
    "experiment": {
        *KERAS_SIDE,
        "recipe",
        "intensity",
        "table",
        "patches",
        "dataset",
        "decision",
        "missingness",
        "metrics",
        "trust",
        "volume",
        *BASE,
    },
    # It trains and scores one network, and tries an export before that: it builds, and adapts, the untrained one.
    "bundle": {
        *KERAS_SIDE,
        "experiment",
        "recipe",
        "grid",
        "table",
        "patches",
        "runtime",
        "dataset",
        "decision",
        "missingness",
        "metrics",
        "evidence",
        "promises",
        "drift",
        "trust",
        "report",
        "web",
        "volume",
        *BASE,
    },
    "filling": {
        "dataset",
        "missingness",
        "pictures",
        "table",
        "grid",
        "io",
        "volume",
        "recipe",
        "fill",
        "backend",
        "metrics",
        # A filler is trained here, and becomes a bundle.
        "patches",
        "history",
        "training",
        "models",
        "runtime",
        "bundle",
        *BASE,
    },
    "web": {"runtime", *BASE},
    "server": {"drift", "runtime", "grid", "volume", "io", "resample", "layers", "fill", *BASE},
    "pictures": {"history", "volume", *BASE},
    "report": {
        "promises",
        "trust",
        "pictures",
        "history",
        "metrics",
        "evidence",
        "missingness",
        "volume",
        *BASE,
    },
}
ALLOWED = NUMPY_SIDE | KERAS_SIDE | MEETING
HEAVY = {"keras", "tensorflow", "torch", "jax"}
# Packages that only the functions that need them import, except in the parts that are about nothing else.
LAZY = {"scipy", "matplotlib", "rich", "nibabel", "jinja2"}
OWN = {"cli": {"rich", "jinja2"}, "pictures": {"matplotlib"}, "report": {"matplotlib", "jinja2"}}


def part_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(file: Path) -> set[tuple[str, bool]]:
    """`(dotted name, at the top)` of all that a file imports, but for type checking only."""
    found: set[tuple[str, bool]] = set()

    def visit(node: ast.AST, top: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update((alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ["voxgap", *file.relative_to(ROOT).parts[:-1]]
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from voxgap import io` imports a module; `from voxgap.io import read` a name in one.
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "voxgap" else [module]
            found.update((name, top) for name in names)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, top and not inside)

    visit(ast.parse(file.read_text()), True)
    return found


def test_modules_import_only_what_the_design_allows() -> None:
    broken = []
    for file in FILES:
        part = part_of(file)
        if part in ("__init__", "cli"):
            continue
        own = {name.split(".")[1] for name, _ in imports(file) if name.startswith("voxgap.")}
        # Names of the package itself, such as `from voxgap import __version__`, are no module.
        own = {name for name in own if (ROOT / name).is_dir() or (ROOT / f"{name}.py").exists()}
        assert part in ALLOWED, f"{part} is new: say in tests/test_house.py what it may import"
        broken += [
            f"{file.relative_to(ROOT)} imports {name}" for name in sorted(own - ALLOWED[part] - {part})
        ]
    assert not broken, "\n".join(broken)


def test_the_numpy_side_never_imports_keras() -> None:
    broken = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in FILES
        if part_of(file) in NUMPY_SIDE
        for name, _ in sorted(imports(file))
        if name.split(".")[0] in HEAVY
    ]
    assert not broken, "\n".join(broken)


def test_slow_packages_are_imported_where_they_are_needed() -> None:
    broken = [
        f"{file.relative_to(ROOT)} imports {name} at the top"
        for file in FILES
        for name, top in sorted(imports(file))
        if top and name.split(".")[0] in LAZY - OWN.get(part_of(file), set())
    ]
    assert not broken, "\n".join(broken)


def test_the_import_graph_has_no_cycle() -> None:
    below: dict[str, set[str]] = {}

    def all_below(part: str, path: tuple[str, ...]) -> set[str]:
        assert part not in path, f"a cycle: {' <- '.join([*path, part])}"
        if part not in below:
            below[part] = set().union(*({p} | all_below(p, (*path, part)) for p in ALLOWED[part]))
        return below[part]

    for part in ALLOWED:
        all_below(part, ())


def test_no_file_is_too_long() -> None:
    long = {str(f): n for f in FILES if (n := len(f.read_text().splitlines())) > MAX_LINES}
    assert not long, f"over {MAX_LINES} lines: {long}"


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-1500:]
    return done.stdout


def test_importing_voxgap_is_light() -> None:
    loaded = run("import sys, voxgap; print(*sorted({name.split('.')[0] for name in sys.modules}))").split()
    assert "voxgap" in loaded
    heavy = HEAVY | LAZY | {"numpy", "sklearn", "pandas", "h5py", "typer"}
    assert not heavy & set(loaded)


def test_help_needs_no_numpy() -> None:
    """Names, defaults and plans are known without it."""
    code = """
        import contextlib, sys
        from voxgap.cli import main
        sys.argv = ["voxgap", "--help"]
        with contextlib.suppress(SystemExit):
            main()
        print()
        print(*sorted({name.split(".")[0] for name in sys.modules}))
    """
    loaded = run(textwrap.dedent(code)).splitlines()[-1].split()
    assert "typer" in loaded
    assert not (HEAVY | {"numpy", "scipy", "matplotlib", "nibabel", "jinja2"}) & set(loaded)


def test_the_numpy_side_loads_no_keras() -> None:
    parts = ", ".join(f"voxgap.{part}" for part in NUMPY_SIDE)
    loaded = run(f"import sys, {parts}; print(*sorted({{n.split('.')[0] for n in sys.modules}}))").split()
    assert not (HEAVY | {"scipy", "matplotlib"}) & set(loaded)


# Their `__init__` imports `backend`, so that their modules may import Keras as everybody does.
KERAS_ROOMS = {"layers", "fill", "training"}


def test_keras_comes_through_the_one_door_that_is_quiet() -> None:
    loud = [
        str(file.relative_to(ROOT))
        for file in FILES
        if part_of(file) not in KERAS_ROOMS | {"backend"}
        and any(name == "keras" for name, _ in imports(file))
    ]
    # These come after another room.
    inner = {"models/blocks.py", "bundle/pooling.py", "bundle/locate.py", "filling/learn.py"}
    assert set(loud) <= inner


def _with_keras(found: str, then: str) -> subprocess.CompletedProcess[str]:
    """Run code in which looking for Keras prints as TensorFlow does, and is answered as `found` says."""
    code = f"""
import os, sys, types
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "keras":
            os.write(2, b"I0000 00:00:1.1 1 stub.cc:31] Could not find cuda drivers" + bytes([10]))
            os.write(2, b"no log" + bytes([10]))
            {found}
sys.meta_path.insert(0, Finder())
os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)
{textwrap.dedent(then)}
"""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )


FAILS = "raise ModuleNotFoundError('no Keras', name='keras')"


def test_importing_keras_hands_on_what_is_no_log_and_all_of_it_if_it_fails() -> None:
    loader = (
        "Finder.create_module = lambda *_: None; Finder.exec_module = lambda *_: None; import voxgap.backend"
    )
    found = "import importlib.machinery as m; return m.ModuleSpec(name, self)"
    assert _with_keras(found, loader).stderr == "no log\n"
    wanted = "os.environ['TF_CPP_MIN_LOG_LEVEL'] = '1'; " + loader
    assert "cuda drivers" in _with_keras(found, wanted).stderr
    failed = _with_keras(FAILS, "import voxgap.backend").stderr
    assert "cuda drivers" in failed
    assert failed.endswith("ModuleNotFoundError: no Keras\n")


def test_every_door_to_keras_is_the_quiet_one() -> None:
    """Wherever it is imported, file descriptor 2 is another one than the process began with."""
    found = "print(door, os.fstat(2).st_ino != first); " + FAILS
    doors = ["vg.build_model", "vg.fill", "vg.layers", "vg.models", "vg.train"]
    doors += [
        "voxgap.fill.knn",
        "voxgap.layers.missing",
        "voxgap.models.blocks",
        "voxgap.training.fit",
        *(f"voxgap.experiment.{name}" for name in ("single", "execute", "cost")),
    ]
    done = _with_keras(
        found,
        f"""
        import contextlib, importlib, voxgap as vg
        first = os.fstat(2).st_ino
        for door in {doors!r}:
            with contextlib.suppress(ModuleNotFoundError):
                getattr(vg, door[3:]) if door.startswith("vg.") else importlib.import_module(door)
        """,
    )
    assert done.stdout.splitlines() == [f"{door} True" for door in doors], done.stderr


def test_the_public_names() -> None:
    assert len(set(voxgap.__all__)) == len(voxgap.__all__)
    promised = {
        *(
            "read",
            "write",
            "load_data",
            "simulate",
            "build_model",
            "train",
            "load",
            "save_bundle",
            "output_shape",
        ),
        *("fill", "layers", "models", "samples", "shapes"),
        *("Dataset", "History", "Predictor", "Strategy", "Volume", "VoxgapError"),
    }
    assert promised <= set(voxgap.__all__)


def test_every_public_name_is_there_and_documented() -> None:
    for name in voxgap.__all__:
        thing = getattr(voxgap, name)
        assert thing.__doc__, f"{name} has no docstring"
        assert "\n\n" not in thing.__doc__.split("\n")[0]
    assert {name for name in dir(voxgap) if not name.startswith("__")} == set(voxgap.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = voxgap.nothing


@pytest.mark.full
def test_the_public_train_is_a_function_whatever_was_imported_first() -> None:
    assert (
        run("import voxgap.training, voxgap.experiment, voxgap as vg; print(callable(vg.train))").strip()
        == "True"
    )


def test_every_part_of_the_house_is_described() -> None:
    undocumented = [
        str(f.relative_to(ROOT)) for f in FILES if not ast.get_docstring(ast.parse(f.read_text()))
    ]
    assert not undocumented


def test_a_missing_extra_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    code = f"""
        import sys
        class Without:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("keras", "tensorflow"):
                    raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        sys.meta_path.insert(0, Without())
        sys.argv = ["voxgap", "train", "sample:brain", "--out", {str(tmp_path / "bundle")!r}]
        from voxgap.cli import main
        main()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "Error: this needs keras: pip install 'voxgap[train]'"


def test_a_manifest_is_parsed_where_a_bundle_is_opened_or_written() -> None:
    parsing = re.compile(r"\b(Decision|Calibration|Guarantee|Profile)\.of\(|\bManifest\.from_json\(")
    found = {file.relative_to(ROOT).as_posix() for file in FILES if parsing.search(file.read_text())}
    inside = {f"runtime/{name}.py" for name in ("manifest", "bundle", "loading")}
    assert found == {*inside, "bundle/placing.py"}


def test_model_files_are_opened_at_one_place() -> None:
    """Which checks them first; the example for a device runs without voxgap."""
    opening = re.compile(
        r"\b(load_model|saved_model\.load|read_model|InferenceSession|torch\.export\.load|Interpreter)\("
    )
    found = {file.relative_to(ROOT).as_posix() for file in FILES if opening.search(file.read_text())}
    assert found == {"runtime/engines.py", "bundle/edge_example.py"}


def test_a_public_function_takes_at_most_12_arguments() -> None:
    """But for those whose arguments are the fields of one value: see `voxgap.recipe`."""
    many = {}
    for name in voxgap.__all__:
        thing = getattr(voxgap, name)
        own = [thing]
        if inspect.isclass(thing):
            own = [*vars(thing).values()]
        elif inspect.ismodule(thing):
            own = [getattr(thing, one) for one in thing.__all__]
        functions = [getattr(one, "__func__", one) for one in own]
        for one in filter(inspect.isfunction, functions):
            taken = set(inspect.signature(one).parameters) - {"self", "cls"}
            if len(taken) > 12 and not one.__name__.startswith("_"):
                many[f"{name}.{one.__name__}"] = len(taken)
    assert set(many) == {"train.train", "train_filler.train_filler", "compare.compare"}


def test_every_public_module_says_what_is_public() -> None:
    for name in voxgap.__all__:
        module = getattr(voxgap, name)
        if inspect.ismodule(module):
            missing = [one for one in module.__all__ if not hasattr(module, one)]
            assert not missing, f"{name}: {missing}"
            assert len(set(module.__all__)) == len(module.__all__)
