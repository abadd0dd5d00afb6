"""What a model's file may not hold, looked for before the engine that would act on it sees the file.

A checksum says that a file is the one that the manifest names; it says nothing of who wrote both. What is refused
here would run code, read or write other files, or unpack to many times its size. What remains is arithmetic, done
by the engines' own parsers: keep them up to date.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

_GROWTH = 10
_SLACK = 2**20
_MAX_MEMBERS = 100_000
_MAX_CONFIG = 64 * 2**20
_KERAS_MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}
_KERAS_MODULES = re.compile(
    r"keras|keras\.(layers|initializers|regularizers|constraints|activations|dtype_policies)"
    r"|keras\.src\.models\.(functional|sequential|model)"
)
# Layers that run code of their own, or read files.
_FOREIGN_LAYERS = re.compile(
    r"(?i).*(lambda|TFSMLayer|TorchModuleWrapper|JaxLayer|FlaxLayer|StringLookup|IntegerLookup|TextVectorization).*"
)
_PLAIN = {"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__slice__", "__ellipsis__"}
_FOREIGN_OPS = re.compile(
    r"ReadFile|WriteFile|MatchingFiles|.*PyFunc.*|Print.*|.*Dataset.*|.*Iterator.*|.*Reader.*|.*Summary.*|Debug.*|"
    r"InitializeTableFromTextFile.*|Rpc.*|_?Send|_?Recv|Collective.*|Copy(Host)?|.*TPU.*|Batch(Function)?|.*Library.*"
)
_WRITING_OPS = re.compile(r"Save.*|MergeV2Checkpoints|Restore.*")
_SHAPE_WORDS = re.compile(
    r"[suz]f?\d+|Symbol|Integer|Rational|Add|Mul|Pow|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|Max|Min|"
    r"Eq|Ne|Ge|Gt|Le|Lt|And|Or|Not|positive|nonnegative|integer|True|False"
)
_SHAPE_CHARACTERS = re.compile(r"[\w\s+\-*/%(),<>=&|~']{1,1000}")


def check(kind: str, file: Path) -> None:
    """Refuse a model's file that could do more than compute.

    Args:
        kind: of the engine that it is for.
        file: the model's file, or folder.

    Raises:
        ValueError: what it holds.
        Exception: whatever its parser raises where it is damaged.
    """
    if kind == "openvino" and file.suffix == ".onnx":
        kind = "onnx"
    if kind in _CHECKS:
        _CHECKS[kind](file)


def check_graph(graph: Any) -> None:
    """Refuse a TensorFlow graph (`GraphDef`) that writes files when it is run, such as a checkpoint's."""
    for operation in _operations(graph):
        if _WRITING_OPS.fullmatch(operation):
            raise ValueError(f"it holds the operation {operation}, which reaches for files")


def _keras(file: Path) -> None:
    with _archive(file) as archive:
        names = set(archive.namelist())
        if names != _KERAS_MEMBERS:
            wrong = sorted(names ^ _KERAS_MEMBERS)[0]
            raise ValueError(f"its members are not those of a Keras model: {wrong!r}")
        _check_config(json.loads(_read(archive, "config.json")))
        size = archive.getinfo("model.weights.h5").file_size
        with archive.open("model.weights.h5") as weights:
            _check_hdf5(weights, size)


def _h5(file: Path) -> None:
    import h5py

    _check_hdf5(file, file.stat().st_size)
    with h5py.File(file, "r") as stored:
        config = stored.attrs["model_config"]
    if len(config) > _MAX_CONFIG:
        raise ValueError("its configuration is too large")
    _check_config(json.loads(config))


def _pt2(file: Path) -> None:
    with _archive(file) as archive:
        for name in archive.namelist():
            inner = name.partition("/")[2]
            if (
                inner.startswith("data/aotinductor")
                or name.endswith((".so", ".cpp", ".pte"))
                or "custom_obj" in name
            ):
                raise ValueError(f"it holds compiled code or objects, {name!r}")
            if inner.startswith("models/"):
                for expression in _values(json.loads(_read(archive, name)), "expr_str"):
                    # It would be evaluated.
                    if not _is_shape(expression):
                        raise ValueError("it holds an expression that is no shape")


def _onnx(file: Path) -> None:
    # The key under which a tensor names a file of its own, after the length that it is stored with.
    if re.search(rb"[\x00\x08]location", file.read_bytes()):
        raise ValueError("it reads its weights from another file")


def _savedmodel(folder: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    model.ParseFromString((folder / "saved_model.pb").read_bytes())
    for meta in model.meta_graphs:
        for operation in _operations(meta.graph_def):
            if _FOREIGN_OPS.fullmatch(operation):
                raise ValueError(f"it holds the operation {operation}, which does more than compute")


_CHECKS: dict[str, Callable[[Path], None]] = {
    "keras": _keras,
    "h5": _h5,
    "pt2": _pt2,
    "onnx": _onnx,
    "savedmodel": _savedmodel,
}


def _is_shape(expression: Any) -> bool:
    """Return whether a text is arithmetic of sizes: no word but those of such, and no dot to reach further."""
    if not isinstance(expression, str) or not _SHAPE_CHARACTERS.fullmatch(expression):
        return False
    return all(_SHAPE_WORDS.fullmatch(word) for word in re.findall(r"[A-Za-z_]\w*", expression))


def _operations(graph: Any) -> Iterator[str]:
    yield from (node.op for node in graph.node)
    for function in graph.library.function:
        yield from (node.op for node in function.node_def)


def _archive(file: Path) -> zipfile.ZipFile:
    """Open a zip file whose members are few, plainly named, and no larger than such a file can hold."""
    size = file.stat().st_size
    archive = zipfile.ZipFile(file)
    members = archive.infolist()
    names = [member.filename for member in members]
    if len(names) > _MAX_MEMBERS or len(set(names)) != len(names):
        raise ValueError("it has too many members, or two of one name")
    if any(name.startswith("/") or ".." in name.split("/") or "\\" in name for name in names):
        raise ValueError("a member is named as if it were elsewhere")
    if sum(member.file_size for member in members) > _GROWTH * size + _SLACK:
        raise ValueError("it would unpack to many times its size")
    return archive


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _MAX_CONFIG:
        raise ValueError(f"{name} is too large")
    return archive.read(name)


def _check_config(config: Any) -> None:
    """Refuse a Keras configuration that names other than Keras's own or registered classes."""
    for entry in _dictionaries(config):
        name = entry.get("class_name")
        if name is None:
            continue
        if not isinstance(name, str) or _FOREIGN_LAYERS.fullmatch(name):
            raise ValueError(f"it holds a layer {str(name)[:40]!r}, which could run code or read files")
        module, registered = entry.get("module"), entry.get("registered_name")
        if name == "function":
            registered = entry.get("config")
        own = name in _PLAIN if name.startswith("__") else name != "function"
        if own and (module is None or (isinstance(module, str) and _KERAS_MODULES.fullmatch(module))):
            continue
        if not isinstance(registered, str) or not _is_registered(registered):
            raise ValueError(
                f"it names {f'{module}.{name}'[:80]!r}, which is not registered: import the module that "
                "registers it first"
            )


def _is_registered(name: str) -> bool:
    import voxgap.layers  # noqa: F401  (it registers its own)
    from voxgap.backend import keras
    from voxgap.fill import FILLS

    if keras.saving.get_registered_object(name) is None:
        FILLS.import_all()
    return keras.saving.get_registered_object(name) is not None


def _check_hdf5(file: Path | IO[bytes], size: int) -> None:
    """Refuse an HDF5 file that links to others, or whose arrays are many times its size."""
    import h5py

    total, seen = 0, set()
    with h5py.File(file, "r") as stored:
        groups = [stored]
        while groups:
            group = groups.pop()
            for name in group:
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise ValueError("it links to another file or place")
                item = group[name]
                address = h5py.h5o.get_info(item.id).addr
                if address in seen:
                    continue
                seen.add(address)
                if isinstance(item, h5py.Group):
                    groups.append(item)
                    continue
                plain = isinstance(item, h5py.Dataset) and not item.external and not item.is_virtual
                if not plain or item.dtype.kind not in "biuf":
                    raise ValueError(f"{name!r} is no plain array")
                total += int(item.size) * item.dtype.itemsize
    if total > _GROWTH * size + _SLACK:
        raise ValueError("its arrays are many times its size")


def _dictionaries(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all dictionaries in a JSON value, without recursion: nesting is the file's to choose."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            yield found
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found


def _values(value: Any, key: str) -> Iterator[Any]:
    return (entry[key] for entry in _dictionaries(value) if key in entry)
