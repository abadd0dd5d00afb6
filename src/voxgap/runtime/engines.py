"""The programs that run a network: one function each, from a model's file to `batch -> answers`.

Each engine imports its own package when it is opened and no other, so that a machine that predicts needs
neither TensorFlow nor Keras. All answer the same in float32: that is what an export proves through them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import queue
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from voxgap.errors import VoxgapError
from voxgap.registry import Registry
from voxgap.runtime import hostile
from voxgap.volume import Values

Engine = Callable[[Values], Values]
"""`(batch, depth, height, width, channels)` float32 with NaN -> `(batch, ...)` float32; from any thread."""
Precision = Literal["float32", "fast"]

PRECISIONS = ("float32", "fast")
_PIECE_VOXELS = 2**18


def open_engine(
    kind: str, file: str | Path, *, threads: int | None = None, precision: Precision = "float32"
) -> Engine:
    """Open a model's file with the engine of its kind.

    Args:
        kind: `keras`, `h5`, `openvino` (which takes an .onnx file too), `onnx`, `litert`, `savedmodel`, `pt2`.
        file: the model; for `savedmodel` its folder, for `openvino` the .xml beside its .bin.
        threads: processor cores to use; all by default.
        precision: `fast` lets `openvino` compute in the half precision that the processor has.

    Returns:
        A callable: `(batch, depth, height, width, channels)` float32 with NaN -> `(batch, outputs)` or, of a
        segmentation, `(batch, depth, height, width, classes)`, float32. Any batch size, from any thread.

    Raises:
        VoxgapError: the kind is unknown, its package is not installed, or the file can't be loaded.
    """
    if kind not in RUNTIMES:
        raise VoxgapError(f"no engine {kind!r}: choose one of {', '.join(RUNTIMES)}")
    if precision not in PRECISIONS:
        raise VoxgapError(f"no precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if precision == "fast" and kind != "openvino":
        raise VoxgapError(f"precision fast needs the engine openvino, {kind} has float32 only")
    if threads is not None and threads < 1:
        raise VoxgapError(f"threads must be at least 1, got {threads}")
    if not installed(kind):
        raise VoxgapError(
            f"the engine {kind} needs {RUNTIMES[kind].package}: install it, or choose another --engine"
        )
    file = Path(file)
    with _one_line(file):
        hostile.check(kind, file)
        return RUNTIMES[kind].open(file, threads, precision)


def load_keras(file: str | Path) -> Any:
    """Load a Keras model from its file, once it was found to hold nothing that could do more than compute.

    Every model of Keras that voxgap loads comes through here.

    Args:
        file: `.keras`, or `.h5`.

    Returns:
        The `keras.Model`, not compiled.

    Raises:
        VoxgapError: it holds something else, is damaged, or names a layer that is not registered.
    """
    file = Path(file)
    with _one_line(file):
        hostile.check("h5" if file.suffix == ".h5" else "keras", file)
        return _keras_model(file)


@contextlib.contextmanager
def _one_line(file: Path) -> Iterator[None]:
    """Say whatever a damaged or hostile file makes an engine raise in one line that names it."""
    try:
        yield
    except (VoxgapError, ImportError):
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = lines[0][:200] if lines else type(error).__name__
        raise VoxgapError(f"{file}: can't be loaded ({reason}); train or export it again") from None


def installed(kind: str) -> bool:
    """Return whether the package of an engine is there; it is not imported to find out."""
    return importlib.util.find_spec(RUNTIMES[kind].package) is not None


def half_precision() -> str | None:
    """Return the half precision that this processor computes in, `bf16` or `f16`, or None."""
    import openvino

    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return next((name.lower() for name in ("BF16", "FP16") if name in able), None)


def _openvino(file: Path, threads: int | None, precision: str) -> Engine:
    import openvino

    half = half_precision() if precision == "fast" else None
    options: dict[str, Any] = {
        # Its own default is bfloat16 wherever the processor has it.
        "INFERENCE_PRECISION_HINT": half or "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    core = openvino.Core()
    model = core.read_model(file)

    # Compiled for a shape, what surrounds the convolutions is fused: 5 % quicker in float32, 15 % in bfloat16.
    @functools.lru_cache(maxsize=8)
    def compiled(shape: tuple[int, ...]) -> tuple[Any, queue.LifoQueue[Any]]:
        fixed = model.clone()
        fixed.reshape(list(shape))
        return core.compile_model(fixed, "CPU", options), queue.LifoQueue()

    compiling = threading.Lock()

    def run(piece: Values) -> Values:
        with compiling:  # many threads that meet a new shape compile it once
            program, idle = compiled(piece.shape)
        # A request holds the buffers of one call: one for each thread that is inside.
        try:
            request = idle.get_nowait()
        except queue.Empty:
            request = program.create_infer_request()
        try:
            answer = request.infer([piece], share_inputs=True, share_outputs=True)[0]
            return np.array(answer, np.float32)
        finally:
            idle.put(request)

    def run_all(batch: Values) -> Values:
        batch = np.ascontiguousarray(batch, np.float32)
        answers, start = [], 0
        for size in _pieces(len(batch), int(np.prod(batch.shape[1:4]))):
            answers.append(run(batch[start : start + size]))
            start += size
        return answers[0] if len(answers) == 1 else np.concatenate(answers)

    return run_all


def _pieces(count: int, voxels: int) -> list[int]:
    """Cut a batch into pieces of few different sizes, so that few programs serve every batch: 21 = 16 + 4 + 1."""
    # Beyond the caches, larger pieces are slower: 16 of 28³ at once by a sixth.
    largest = 1 << max(0, min(16, _PIECE_VOXELS // voxels).bit_length() - 1)
    sizes = [largest] * (count // largest)
    sizes += [1 << bit for bit in range(largest.bit_length(), -1, -1) if (count % largest) >> bit & 1]
    return sizes


def _onnx(file: Path, threads: int | None, _: str) -> Engine:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(os.fspath(file), options, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: np.asarray(session.run(None, {name: batch})[0], np.float32)


def _litert(file: Path, threads: int | None, _: str) -> Engine:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(os.fspath(file), num_threads=threads or os.cpu_count())
    entry = interpreter.get_input_details()[0]["index"]
    exit_ = interpreter.get_output_details()[0]["index"]
    shape: tuple[int, ...] | None = None
    lock = threading.Lock()

    def run(batch: Values) -> Values:
        nonlocal shape
        with lock:  # an interpreter has one set of tensors
            if batch.shape != shape:
                interpreter.resize_tensor_input(entry, batch.shape)
                interpreter.allocate_tensors()
                shape = batch.shape
            interpreter.set_tensor(entry, batch)
            interpreter.invoke()
            return np.asarray(interpreter.get_tensor(exit_), np.float32)

    return run


def _keras(file: Path, threads: int | None, _: str) -> Engine:
    _limit_threads(threads)
    model = _keras_model(file)
    return lambda batch: np.asarray(model.predict_on_batch(batch), np.float32)


def _keras_model(file: Path) -> Any:
    import voxgap.fill
    import voxgap.layers  # noqa: F401  (both register the layers that the file names)
    from voxgap.backend import keras

    # The older format warns that it is old: it is what was asked for.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return keras.saving.load_model(file, compile=False, safe_mode=True)


def _savedmodel(folder: Path, threads: int | None, _: str) -> Engine:
    import tensorflow as tf

    _limit_threads(threads)
    loaded = tf.saved_model.load(os.fspath(folder))
    serve = loaded.signatures["serving_default"]
    hostile.check_graph(serve.graph.as_graph_def())
    (name,) = serve.structured_input_signature[1]

    def run(batch: Values) -> Values:
        (answer,) = serve(**{name: tf.constant(batch)}).values()
        return np.asarray(answer.numpy(), np.float32)

    run.keep = loaded  # type: ignore[attr-defined]  # its variables live as long as the object does
    return run


def _pt2(file: Path, threads: int | None, _: str) -> Engine:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    with _weights_only():
        module = torch.export.load(file).module()

    def run(batch: Values) -> Values:
        with torch.inference_mode():
            # A copy: torch wants memory that it may write to.
            answer = module(torch.from_numpy(np.array(batch)))
        return np.asarray(answer[0] if isinstance(answer, tuple | list) else answer, np.float32)

    return run


@contextlib.contextmanager
def _weights_only() -> Iterator[None]:
    """Read tensors only: left alone, `torch.export.load` falls back to unpickling whatever it finds."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _limit_threads(threads: int | None) -> None:
    if threads is None:
        return
    if importlib.util.find_spec("tensorflow") is None:
        return
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError:
        warnings.warn("TensorFlow runs already: its number of threads stays as it is", stacklevel=4)


class Runtime(NamedTuple):
    """How models of one kind are run.

    Args:
        package: that it imports, by the name in `import`.
        open: takes the model's file, the number of processor cores (None: all) and `float32` or `fast`.
    """

    package: str
    open: Callable[[Path, int | None, str], Engine]


RUNTIMES = Registry(
    "engines",
    {
        "openvino": Runtime("openvino", _openvino),
        "onnx": Runtime("onnxruntime", _onnx),
        "litert": Runtime("ai_edge_litert", _litert),
        "savedmodel": Runtime("tensorflow", _savedmodel),
        "keras": Runtime("keras", _keras),
        "h5": Runtime("keras", _keras),
        "pt2": Runtime("torch", _pt2),
    },
)
"""What each engine runs on, quickest to import first. An installed package adds its own: see docs/design.md."""
