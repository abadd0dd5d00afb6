"""Export: convert a bundle's model, prove each file through its own runtime, and only then let it in."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from voxgap import process
from voxgap.bundle import packages
from voxgap.bundle.formats import FORMATS, PACKAGES, Precision, check_formats
from voxgap.bundle.parity import TOLERANCES, Parity, differences, measure
from voxgap.bundle.placing import place, workspace, write_manifest, writing
from voxgap.bundle.scoring import in_order
from voxgap.dataset import Dataset
from voxgap.errors import VoxgapError
from voxgap.runtime import Bundle, Manifest
from voxgap.runtime.golden import Golden
from voxgap.volume import Values

Report = Callable[[str, str], None]
"""Called with a format, and `converting`, `proving`, `locating` or `done`."""

_MOST = 256  # volumes of `data` that are answered by each format


class ExportError(VoxgapError):
    """A format that was refused, and why."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"{kind}: {reason}")
        self.kind = kind
        self.reason = reason


@dataclass(eq=False)
class _Work:
    """What one export works on.

    `inputs` are the golden ones, and after them the volumes of `labelled`, where there is one.
    """

    folder: Path
    model: Path
    golden: Golden
    inputs: Values
    labelled: Dataset | None
    precision: Precision
    tolerance: float
    report: Report
    answers: dict[str, Values] = field(default_factory=dict)


def export(
    bundle: str | os.PathLike[str],
    formats: Sequence[str],
    *,
    precision: Precision = "float32",
    out: str | os.PathLike[str] | None = None,
    data: Dataset | None = None,
    tolerance: float | None = None,
    report: Report | None = None,
) -> dict[str, dict[str, Any]]:
    """Export a bundle to other formats, each proven through its own runtime.

    All formats of a call are converted and proven before the first enters the bundle: when one is refused, nothing
    has changed. What was exported before in the same format is replaced.

    Args:
        bundle: the folder that `save_bundle` or `voxgap train` made.
        formats: among `keras`, `h5`, `savedmodel`, `pt2`, `onnx`, `openvino`, `litert`; and `web`, `container`,
            `edge`, folders that are deployed as they are.
        precision: of the weights; `float16` for onnx, openvino and litert, `int8` for onnx and openvino.
        out: folder for `web`, `container` or `edge`, one of them at a time; beside the bundle by default. An
            earlier package in it is replaced. Model files enter the bundle all the same.
        data: labelled volumes; what float16 or int8 costs in its scores is measured on its validation part, and
            int8 scales are found on it. Without it, int8 scales come from the golden inputs.
        tolerance: accept a larger difference from Keras than `TOLERANCES` says; it stands in the manifest.
        report: called at each step.

    Returns:
        By format, its entry in the manifest; by package, `{"path": folder}`.

    Raises:
        VoxgapError: a format is unknown, needs a Python package that is not installed, can't be converted, or its
            answers differ from those of Keras by more than the tolerance; the layer where they part is named.

    Example:
        >>> import voxgap as vg
        >>> entries = vg.export("bundle", ["onnx"])
        >>> entries["onnx"]["parity"]["max_difference"] < 1e-5
        True
    """
    opened = Bundle.open(bundle)
    taken, have = opened.manifest.input, opened.manifest.files
    kinds, deployed = check_formats(formats, precision)
    if deployed and opened.manifest.task == "fill":
        raise VoxgapError(
            f"{deployed[0]} shows answers, and {bundle} fills: choose model files, such as onnx"
        )
    folders = packages.targets(opened.folder, deployed, out)
    packages.forewarn(deployed, taken.shape, taken.grid)
    done = {*kinds, *(kind for kind, entry in have.items() if entry.precision == precision)}
    kinds += [PACKAGES[name] for name in deployed if PACKAGES[name] not in done]
    limit = TOLERANCES[precision] if tolerance is None else tolerance
    entries = _export_files(opened, kinds, precision, limit, data, report or _silent) if kinds else {}
    opened = Bundle.open(bundle)
    for name, target in folders.items():
        (report or _silent)(name, "converting")
        packages.write(name, target, opened)
        (report or _silent)(name, "done")
    return entries | {name: {"path": str(target)} for name, target in folders.items()}


def _silent(_: str, __: str) -> None:
    pass


def _export_files(
    bundle: Bundle,
    kinds: list[str],
    precision: Precision,
    tolerance: float,
    data: Dataset | None,
    report: Report,
) -> dict[str, dict[str, Any]]:
    folder, manifest, model = bundle.folder, bundle.manifest, bundle.model("keras")
    proof = bundle.golden()
    if proof is None:
        raise VoxgapError(
            f"{bundle.file}: no golden inputs to prove an export with; save the bundle again with this voxgap"
        )
    labelled = _labelled(data, manifest) if precision != "float32" else None
    inputs = proof.inputs if labelled is None else np.concatenate([proof.inputs, labelled.volumes])
    with workspace(folder) as temporary:
        work = _Work(temporary, model, proof, inputs, labelled, precision, tolerance, report)
        _convert(work, kinds)
        proofs = {
            kind: _prove(work, kind, manifest.task in ("classification", "segmentation")) for kind in kinds
        }
        with writing(folder):
            # Read anew: another export may have finished meanwhile.
            current = Bundle.open(folder).manifest
            if current.files["keras"].path != manifest.files["keras"].path:
                raise VoxgapError(
                    f"{bundle.file}: the model was replaced while it was exported; export again"
                )
            made = {}
            for kind in kinds:
                # The bundle's own model is proven, not written again.
                own = kind == "keras"
                placed = dict(manifest.written["files"][kind]) if own else place(folder, _file(work, kind))
                made[kind] = placed | {"precision": precision, "parity": proofs[kind].to_json()}
                if labelled is not None:
                    made[kind]["scores"] = _scores(work, kind, labelled, manifest)
            write_manifest(folder, {**current.written, "files": {**current.written["files"], **made}})
    return made


def convert_and_prove(
    folder: Path,
    model: Path,
    proof: Golden,
    kinds: list[str],
    precision: Precision,
    tolerance: float | None = None,
    report: Report | None = None,
) -> tuple[dict[str, Path], dict[str, Parity]]:
    """Convert a model's file in a folder that is for nothing else, and return the files and their proofs."""
    limit = TOLERANCES[precision] if tolerance is None else tolerance
    work = _Work(folder, model, proof, proof.inputs, None, precision, limit, report or _silent)
    _convert(work, kinds)
    return {kind: _file(work, kind) for kind in kinds}, {kind: _prove(work, kind, False) for kind in kinds}


def _labelled(data: Dataset | None, manifest: Manifest) -> Dataset | None:
    if data is None:
        return None
    data = in_order(data, manifest.input.channels)
    part = data.part("validation")
    part = part if len(part) else data
    part = part.take(np.arange(min(len(part), _MOST)))
    if (cut := manifest.input.patches) is not None:
        part = part.tiled(cut[0], _MOST)
    if part.volumes.shape[1:] != manifest.input.shape or data.task != manifest.task:
        raise VoxgapError(
            f"{data.name}: not data for this bundle, whose input is {list(manifest.input.shape)}"
        )
    return part


def _file(work: _Work, kind: str) -> Path:
    return work.model if kind == "keras" else work.folder / kind / f"model{FORMATS[kind].suffix}"


def _job(work: _Work, kind: str, **more: Any) -> dict[str, Any]:
    answers = work.folder / f"{kind}.npy"
    return {
        "kind": kind,
        "precision": work.precision,
        "file": str(_file(work, kind)),
        "answers": str(answers),
    } | more


def _convert(work: _Work, kinds: list[str]) -> None:
    """Convert to each format and keep its runtime's answers; one process for each Keras backend."""
    wanted = kinds if work.labelled is None else list(dict.fromkeys(["keras", *kinds]))
    for backend in dict.fromkeys(FORMATS[kind].backend for kind in wanted):
        jobs = [_job(work, kind) for kind in wanted if FORMATS[kind].backend == backend]
        failed = None
        with contextlib.closing(_replies(work, backend, jobs)) as replies:
            for reply in replies:
                if reply["state"] == "failed":
                    failed = reply
                    break
                if reply["state"] == "done":
                    answers = work.folder / f"{reply['kind']}.npy"
                    work.answers[reply["kind"]] = np.load(answers, allow_pickle=False)
                work.report(reply["kind"], reply["state"])
        if failed is not None and not failed.get("loaded", True):
            raise ExportError(failed["kind"], f"{failed['reason']}; nothing was changed")
        if failed is not None:
            where = _where(work, failed["kind"], work.golden.inputs[:2], work.tolerance)
            raise ExportError(
                failed["kind"], f"the conversion fails{where} ({failed['reason']}); nothing was changed"
            )


def _prove(work: _Work, kind: str, classes: bool) -> Parity:
    expected = work.golden.outputs
    got = work.answers[kind][: len(expected)]
    proof = measure(expected, got, classes, work.tolerance)
    if proof.holds:
        return proof
    gaps = differences(expected, got)
    worst = int(gaps.argmax())
    where = _where(work, kind, work.golden.inputs[worst : worst + 1], proof.tolerance)
    raise ExportError(
        kind,
        f"the answers differ from those of Keras by {proof.max_difference:.2g}, more than {proof.tolerance:g}, for the "
        f"golden input with gap {str(work.golden.gaps[worst])!r}{where}; nothing was changed{_acceptable(proof)}",
    )


def _acceptable(proof: Parity) -> str:
    """Return the words that say which tolerance would do, none where no number does."""
    if not np.isfinite(proof.max_difference):
        return ""
    unit = 10.0 ** np.floor(np.log10(proof.max_difference))
    return f"; --tolerance {np.ceil(1.001 * proof.max_difference / unit) * unit:g} accepts it"


def _where(work: _Work, kind: str, inputs: Values, tolerance: float) -> str:
    """Return the words that name the layer where a format parts from Keras, or none where no single layer does."""
    work.report(kind, "locating")
    np.save(work.folder / "inputs.npy", inputs)
    (reply,) = _replies(work, FORMATS[kind].backend, [_job(work, kind, tolerance=tolerance)], inputs)
    layer = reply.get("layer")
    return f", from layer {layer} on" if layer else ""


def _scores(work: _Work, kind: str, labelled: Dataset, manifest: Manifest) -> dict[str, Any]:
    """Return what the format is worth on labelled data, beside the model that it was made from."""
    from voxgap import metrics

    skip = len(work.golden.inputs)
    threshold = manifest.decision.threshold

    def of(answers: Values) -> dict[str, float]:
        return metrics.scores(labelled.task, labelled.targets, answers[skip:], threshold=threshold)

    return {
        "inputs": len(labelled),
        "float32": of(work.answers["keras"]),
        work.precision: of(work.answers[kind]),
    }


def _replies(
    work: _Work, backend: str, jobs: list[dict[str, Any]], inputs: Values | None = None
) -> Generator[dict[str, Any]]:
    """Let a child process do jobs, and say what it says."""
    np.save(work.folder / "inputs.npy", work.inputs if inputs is None else inputs)
    skip = 0 if work.labelled is None else len(work.golden.inputs)
    np.save(work.folder / "calibration.npy", work.inputs[skip:])
    request = work.folder / "request.json"
    files = {name: str(work.folder / f"{name}.npy") for name in ("inputs", "calibration")}
    request.write_text(json.dumps({"model": str(work.model), "jobs": jobs} | files))
    environment = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}
    waiting = [job["kind"] for job in jobs]
    log = work.folder / "log.txt"
    with process.start("voxgap.bundle.child", request, log=log, environment=environment) as child:
        try:
            for reply in process.lines(child):
                yield reply
                if reply["state"] in ("done", "failed"):
                    waiting.remove(reply["kind"])
            child.wait()
        finally:
            child.kill()  # it does not outlive whoever stops listening; nothing happens where it has ended
    if waiting:
        raise ExportError(
            waiting[0],
            f"the converter ended with {child.returncode} ({process.last_words(log)}); nothing was changed",
        )
