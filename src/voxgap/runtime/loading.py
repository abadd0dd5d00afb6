"""Loading a bundle: its files checked, the engine chosen, its first answer held against the manifest."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from voxgap.decision import asked
from voxgap.errors import VoxgapError
from voxgap.runtime import choice
from voxgap.runtime.bundle import Bundle
from voxgap.runtime.engines import (
    RUNTIMES,
    Engine,
    Precision,
    half_precision,
    installed,
    open_engine,
)
from voxgap.runtime.manifest import Entry, Manifest
from voxgap.runtime.mirroring import mirrored
from voxgap.runtime.predictor import Predictor, Running
from voxgap.volume import Values, times

LIGHT = ("openvino", "onnx", "litert")
"""Engines whose packages are small and quick to import; the quickest of them is found by measurement."""


def load(
    bundle: str | os.PathLike[str],
    precision: Precision = "float32",
    engine: str = "auto",
    threads: int | None = None,
    threshold: float | None = None,
    mirror: bool = False,
) -> Predictor:
    """Load a bundle for prediction.

    Nothing in it is executed: no pickle, no Lambda layer, every file checked against its SHA-256.

    Args:
        bundle: the folder that `save_bundle` or `voxgap train` made.
        precision: `float32` gives the same answers everywhere. `fast` computes in the half precision of this
            processor; how far that is from float32 on the bundle's golden inputs stands in each answer.
        engine: `openvino`, `onnx`, `litert`, `savedmodel`, `keras`, `h5` or `pt2`. `auto` takes the quickest of
            the first three whose file is in the bundle and whose package is installed, measured on this machine
            when the model is loaded for the first time, and the next one in this order without them.
        threads: processor cores to use; all by default.
        threshold: of two classes, name the second from this probability on, 0.5: the more probable one. By default
            as the bundle's manifest says in `decision`.
        mirror: answer with the mean over a volume and its mirror images along the axes that the training mirrored
            along, for twice as long with each of them. What the bundle guarantees is of single answers, and is left
            out.

    Raises:
        VoxgapError: it is not a bundle, is damaged, was made by a newer voxgap, or has no file for such an engine.

    Example:
        >>> import voxgap as vg
        >>> predictor = vg.load("bundle")
        >>> predictor.input_shape, predictor.classes
        ((16, 16, 16, 1), ('grey matter', 'white matter', 'fluid'))
    """
    opened = Bundle.open(bundle)
    manifest = decided(opened.manifest, threshold)
    if mirror and not manifest.input.mirrors:
        raise VoxgapError(
            f"{opened.folder}: its training saw no mirror images, and it would answer them with nonsense; leave out "
            "mirror, or train with an augmentation that mirrors, such as default or flip"
        )
    kinds = candidates(opened, engine, precision)
    files = {kind: opened.model(kind) for kind in dict.fromkeys(kinds.values())}
    engines: dict[str, Callable[[], Engine]] = {
        name: partial(open_engine, name, files[kind], threads=threads, precision=precision)
        for name, kind in kinds.items()
    }
    shape = manifest.input.shape
    warm_up = np.full((1, *shape), np.nan, np.float32)
    model = "-".join(manifest.files[kind].digest for kind in files)
    try:
        name, run = choice.fastest(engines, f"{model}-{precision}-{threads}", warm_up)
        said = run(warm_up)
    except VoxgapError:
        raise
    except Exception as error:  # each engine has its own way of saying that the shape is another one
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise VoxgapError(
            f"{opened.file}: input.shape {times(shape)} is not the model's ({reason})"
        ) from None
    _check_outputs(said, opened)
    running = _running(name, manifest.files[kinds[name]], precision, run, opened)
    if manifest.guarantee is not None:
        strays = manifest.strays(kinds[name]) if precision != "fast" else running.difference
        manifest = replace(manifest, guarantee=None if mirror else manifest.guarantee.within(strays))
    if mirror:
        run = mirrored(run, manifest.input.mirrors, manifest.task == "segmentation")
    return Predictor(manifest, run, running, opened.folder, mirrored=mirror)


def decided(manifest: Manifest, threshold: float | None) -> Manifest:
    """Return a manifest with the user's threshold in the place of its own: whoever reads it decides alike.

    Raises:
        VoxgapError: it is no number between 0 and 1, or there are not two classes.
    """
    if threshold is None:
        return manifest
    decision = asked(threshold, manifest.task, manifest.outputs)
    if decision is None:
        raise VoxgapError(f"threshold {threshold}: give a number; it is chosen where a network is trained")
    return Manifest.from_json({**manifest.written, "decision": decision.to_json()})


def candidates(bundle: Bundle, engine: str, precision: str) -> dict[str, str]:
    """List engines that could run the bundle, and the file for each: the one asked for, or those to choose among."""
    files, folder = bundle.manifest.files, bundle.folder
    kinds = {name: kind for name in RUNTIMES if (kind := _kind(files, name, engine == "auto"))}
    if engine == "auto":
        able = [name for name in kinds if installed(name) and (precision != "fast" or name == "openvino")]
        names = [name for name in able if name in LIGHT] or able[:1]
    elif engine in RUNTIMES:
        names = [engine] if engine in kinds else []
    else:
        raise VoxgapError(f"no engine {engine!r}: choose auto or one of {', '.join(RUNTIMES)}")
    if names:
        return {name: kinds[name] for name in names}
    have = ", ".join(files) or "nothing"
    if engine != "auto" or precision == "fast":
        name = "openvino" if engine == "auto" else engine
        raise VoxgapError(
            f"{folder}: the bundle has no file for {name}, it has {have}: voxgap export {folder} --to {name}"
        )
    known = [name for name in RUNTIMES if name in files]
    if not known:
        raise VoxgapError(f"{bundle.file}: field files.keras is missing")
    raise VoxgapError(
        f"{folder}: the bundle has files for {', '.join(known)}, and none of their packages is installed: "
        f"pip install {RUNTIMES[known[0]].package.replace('_', '-')}"
    )


def _kind(files: Mapping[str, Entry], engine: str, exact: bool) -> str | None:
    """Find the file for an engine: OpenVINO reads .onnx too. What is not float32 is used only when asked for."""
    for kind in (engine, "onnx") if engine == "openvino" else (engine,):
        if kind in files and (not exact or files[kind].precision == "float32"):
            return kind
    return None


def _check_outputs(said: Values, bundle: Bundle) -> None:
    manifest = bundle.manifest
    size = manifest.input.shape[:3] if manifest.task in ("segmentation", "fill") else ()
    expected = (*size, manifest.outputs)
    if said.shape[1:] != expected:
        raise VoxgapError(
            f"{bundle.file}: outputs {times(expected)} is not the model's {times(said.shape[1:])}"
        )


def _running(name: str, entry: Entry, precision: str, run: Engine, bundle: Bundle) -> Running:
    used = entry.precision
    if precision == "fast":
        half = half_precision()
        if half is None:
            warnings.warn("this processor has no half precision: fast is float32 here", stacklevel=3)
        used = half or used
    exact = used == "float32"
    difference = 0.0 if exact else _difference(run, bundle)
    # The trained network's own digest, whatever it was exported to.
    trained = bundle.manifest.files.get("keras", entry)
    return Running(name, used, difference, trained.digest[:12])


def _difference(run: Engine, bundle: Bundle) -> float | None:
    """Return the largest difference from the trained model's float32 answers, on the bundle's golden inputs."""
    golden = bundle.golden()
    if golden is None:
        return None
    inputs, expected = golden.inputs, golden.outputs
    found = np.concatenate([run(inputs[i : i + 1]) for i in range(len(inputs))])
    if found.shape != expected.shape:
        raise VoxgapError(f"{bundle.file}: golden: not answers of this model; save the bundle again")
    return float(np.abs(found - expected).max())
