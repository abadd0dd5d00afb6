"""The process that converts: `python -m voxgap.bundle.child REQUEST`, with the format's backend in KERAS_BACKEND.

Converters print, keep memory, need a backend that the caller may not run on, and crash; the caller sees none of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from voxgap.bundle.convert import convert
from voxgap.bundle.locate import first_parting
from voxgap.errors import VoxgapError
from voxgap.fill.base import FillLayer
from voxgap.layers.adapting import Adapts
from voxgap.process import Tell, tell_parent
from voxgap.runtime.engines import load_keras, open_engine
from voxgap.volume import Values

_BATCH = 16


def main(request_file: str) -> None:
    """Do what a request says, one line of JSON on standard output for each step.

    Args:
        request_file: JSON: `model`, `inputs` (.npy), `jobs` and, of each, `kind`, `precision`, `file`, `answers`;
            `calibration` (.npy); a job with `tolerance` is asked for the layer that parts.
    """
    tell = tell_parent()
    request = json.loads(Path(request_file).read_bytes())
    inputs = np.load(request["inputs"], allow_pickle=False)
    calibration = np.load(request["calibration"], allow_pickle=False)
    try:
        model = _load(Path(request["model"]))
    except Exception as error:
        for job in request["jobs"]:
            tell(kind=job["kind"], state="failed", reason=_reason(error), loaded=False)
        return
    for job in request["jobs"]:
        try:
            if "tolerance" in job:
                layer = _locate(model, job, inputs)
                tell(kind=job["kind"], state="done", layer=layer)
            else:
                _convert(model, job, inputs, calibration, tell)
                tell(kind=job["kind"], state="done")
        except Exception as error:  # whatever a converter or runtime raises is why this format is refused
            print(f"{job['kind']}: {error!r}", file=sys.stderr)
            tell(kind=job["kind"], state="failed", reason=_reason(error))


def _load(file: Path) -> Any:
    model = load_keras(file)
    # What fills comes first: of a model that was never trained, it is what a person chose.
    layers = model._flatten_layers(include_self=False)
    for layer in sorted(layers, key=lambda layer: not isinstance(layer, FillLayer)):
        if isinstance(layer, Adapts) and not layer.adapted:
            kind = "fill layer" if isinstance(layer, FillLayer) else "layer"
            raise VoxgapError(
                f"the {kind} {layer.name} ({type(layer).__name__}) has learnt nothing: train the model, or adapt it"
            )
    return model


def _convert(model: Any, job: dict[str, Any], inputs: Values, calibration: Values, tell: Tell) -> None:
    file = Path(job["file"])
    if job["kind"] != "keras":  # which the model is in already
        tell(kind=job["kind"], state="converting")
        convert(job["kind"], model, file, job["precision"], calibration)
    tell(kind=job["kind"], state="proving")
    engine = open_engine(job["kind"], file)
    # The first one alone: a batch of fixed size shows.
    batches = [inputs[:1], *(inputs[i : i + _BATCH] for i in range(1, len(inputs), _BATCH))]
    np.save(job["answers"], np.concatenate([engine(batch) for batch in batches]), allow_pickle=False)


def _locate(model: Any, job: dict[str, Any], inputs: Values) -> str | None:
    return first_parting(
        model,
        job["kind"],
        inputs,
        precision=job["precision"],
        tolerance=job["tolerance"],
        folder=Path(job["file"]).parent,
    )


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


if __name__ == "__main__":
    main(sys.argv[1])
