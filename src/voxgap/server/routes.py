"""The API: `/v1`, health, metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from io import BytesIO
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Request, Response

from voxgap.io.labels import whole_type
from voxgap.io.medical import write_nifti_gz_labels
from voxgap.resample import Record
from voxgap.runtime import Predictor
from voxgap.runtime.answer import Answer as Judged
from voxgap.server.answers import (
    Advised,
    Answer,
    Drift,
    Failure,
    Guaranteed,
    JsonVolumes,
    Model,
    ModelCard,
    Prediction,
    Sample,
    Timing,
)
from voxgap.server.batching import Outcome
from voxgap.server.bodies import INLINE, SUFFIXES, Read, read_volumes
from voxgap.server.filling import drawn, filled
from voxgap.server.limits import RequestError
from voxgap.server.live import Loaded
from voxgap.server.metrics import CONTENT_TYPE
from voxgap.server.occlusion import occlusion_map
from voxgap.server.samples import list_samples, sample
from voxgap.server.service import Service
from voxgap.volume import Values, Volume

MOST_DRAWS = 100
router = APIRouter()

_SHAPE_HEADER = {
    "name": "X-Shape",
    "in": "header",
    "required": False,
    "description": "Of a raw body: D,H,W,C or N,D,H,W,C.",
    "schema": {"type": "string", "example": "16,16,16,1"},
}
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "description": "One volume a file in the field `file`, which may repeat; several DICOM files there "
                "make one series. Or one file per channel, in fields named like the channels; one left out is missing.",
                "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        },
        "application/octet-stream": {
            "schema": {
                "type": "string",
                "format": "binary",
                "description": "float32, little-endian, NaN = missing, on the network's grid; with X-Shape.",
            }
        },
        "application/json": {"schema": JsonVolumes.model_json_schema()},
    },
}
_TAKES_VOLUMES: dict[str, Any] = {"requestBody": _BODY, "parameters": [_SHAPE_HEADER]}
_REASONS = {
    400: "The body can't be parsed.",
    408: "The body took too long to arrive.",
    413: "Too large.",
    415: "Neither a form, nor raw values, nor JSON; or a file of an unknown format.",
    422: "The volume can't be read, or is not what the network takes.",
    503: "Busy: try again after Retry-After seconds.",
    504: "It took too long.",
}
_FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": Failure, "description": reason} for status, reason in _REASONS.items()
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ARRAY: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Little-endian values; the header X-Shape says their shape.",
        "content": {"application/octet-stream": _BINARY},
        "headers": {"X-Shape": {"schema": {"type": "string"}, "description": "D,H,W,C or D,H,W"}},
    }
}
_MAP: dict[int | str, dict[str, Any]] = {
    200: _ARRAY[200]
    | {
        "description": "int16, little-endian, its shape in the header X-Shape; or a NIfTI file.",
        "content": _ARRAY[200]["content"] | {"application/gzip": _BINARY},
    }
}


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


@router.post(
    "/v1/predict",
    response_model=Answer,
    responses=_FAILURES
    | {501: {"model": Failure, "description": "`draws` of a bundle whose fill says no deviation."}},
    openapi_extra=_TAKES_VOLUMES,
    tags=["predict"],
)
async def predict(
    request: Request,
    draws: Annotated[
        int | None,
        Query(ge=2, le=MOST_DRAWS, description="Of what the gaps may hide, whose answers are pooled."),
    ] = None,
    seed: Annotated[int, Query(ge=0, description="Of the draws.")] = 0,
) -> Response:
    """Predict one volume or several: files of any format, raw float32, or JSON."""
    service = _service(request)
    started = time.perf_counter()
    async with service.admitted(request):
        loaded = service.live.current
        if loaded.predictor.task == "fill":
            raise RequestError(404, "no answer: this network fills; see /v1/fill")
        read = await read_volumes(request, loaded, service.parsers, service.settings)
        arrived = time.perf_counter()
        deviations: Values | None = None
        if draws is None:
            outcome = await service.batcher.predict(loaded, read.volumes)
        else:
            outcome, deviations = await drawn(loaded, read.volumes, draws, seed)
    # Label maps of files are large: nobody waits for their counts.
    if loaded.predictor.task == "segmentation" or read.volumes.nbytes > INLINE:
        predictions, looks = await asyncio.to_thread(_predictions, loaded.predictor, read, outcome)
    else:
        predictions, looks = _predictions(loaded.predictor, read, outcome)
    service.stream.take(looks)
    if deviations is not None and loaded.predictor.task != "segmentation":
        predictions = [
            one.model_copy(update={"fill_deviation": _named(loaded.predictor, deviation)})
            for one, deviation in zip(predictions, deviations, strict=True)
        ]
    for prediction in predictions:
        service.metrics.missing.observe(prediction.missing_rate)
        service.metrics.warnings.inc(bool(prediction.warnings))
    timing = Timing(
        read_ms=_ms(arrived - started),
        queue_ms=_ms(outcome.queue_seconds),
        predict_ms=_ms(outcome.predict_seconds),
        total_ms=_ms(time.perf_counter() - started),
        batch=outcome.batch,
    )
    answer = Answer(
        request_id=request.state.request_id,
        model=_model(loaded),
        predictions=predictions,
        timing=timing,
        drift=service.stream.warning,
    )
    return Response(answer.model_dump_json(by_alias=True, exclude_none=True), media_type="application/json")


@router.post(
    "/v1/view",
    response_class=Response,
    responses=_FAILURES | _ARRAY,
    openapi_extra=_TAKES_VOLUMES,
    tags=["look"],
)
async def view(request: Request) -> Response:
    """Return one volume as the network gets it: float32 on its grid, NaN = missing."""
    service = _service(request)
    async with service.admitted(request):
        read = await _one(request, service, service.live.current)
    return _array(read.volumes[0])


@router.post(
    "/v1/fill",
    response_class=Response,
    responses=_FAILURES
    | _ARRAY
    | {501: {"model": Failure, "description": "The bundle holds no Keras model."}},
    openapi_extra=_TAKES_VOLUMES,
    tags=["look"],
)
async def fill(request: Request) -> Response:
    """Return one volume with its gaps filled as the network fills them, in raw units.

    Of a bundle that fills, standard deviations of all channels come behind them.
    """
    service = _service(request)
    async with service.admitted(request):
        loaded = service.live.current
        read = await _one(request, service, loaded)
        if loaded.predictor.task == "fill":
            return _array((await service.batcher.predict(loaded, read.volumes)).outputs[0])
        return _array(await filled(loaded, read.volumes[0]))


@router.post(
    "/v1/occlusion",
    response_class=Response,
    responses=_FAILURES | _ARRAY | {404: {"model": Failure, "description": "Not for a segmentation."}},
    openapi_extra=_TAKES_VOLUMES,
    tags=["look"],
)
async def occlusion(
    request: Request,
    block: Annotated[int | None, Query(ge=1, le=4096, description="Edge of a block, in voxels.")] = None,
    class_: Annotated[
        str | None, Query(alias="class", description="Its name; by default the most probable.")
    ] = None,
) -> Response:
    """Map what the answer rests on: how it falls when a block goes missing; float32 `(D, H, W, 1)`."""
    service = _service(request)
    async with service.admitted(request):
        loaded = service.live.current
        if loaded.predictor.task in ("segmentation", "fill"):
            raise RequestError(
                404, "an occlusion map needs one answer a volume; this network answers for each voxel"
            )
        (volume,) = (await _one(request, service, loaded)).volumes

        async def outputs(volumes: Values) -> Values:
            return (await service.batcher.predict(loaded, volumes)).outputs

        chosen = _output(loaded, class_, (await outputs(volume[None]))[0])
        found = await occlusion_map(volume, chosen, block, outputs, service.settings.max_batch)
    return _array(found)


@router.post(
    "/v1/label_map",
    response_class=Response,
    responses=_FAILURES | _MAP | {404: {"model": Failure, "description": "Not a segmentation."}},
    openapi_extra=_TAKES_VOLUMES,
    tags=["look"],
)
async def label_map(
    request: Request,
    form: Annotated[
        Literal["raw", "nifti"],
        Query(alias="format", description="`nifti`: on the grid of the uploaded file."),
    ] = "raw",
) -> Response:
    """Segment one volume: the class of each voxel, as its training label maps had it.

    As int16 `(D, H, W)` on the network's grid, or as a `.nii.gz` file that lies where the uploaded one does, of the
    smallest type of whole numbers, 0 outside of what the network saw.
    """
    service = _service(request)
    async with service.admitted(request):
        loaded = service.live.current
        if loaded.predictor.task != "segmentation":
            raise RequestError(
                404, f"no label map: this network is for {loaded.predictor.task}; see /v1/predict"
            )
        read = await _one(request, service, loaded)
        (output,) = (await service.batcher.predict(loaded, read.volumes)).outputs
        if form == "raw":
            return _array(loaded.predictor.drawn(output))
        content = await asyncio.to_thread(_nifti, loaded, output, *read.placed(0))
    named = {"Content-Disposition": 'attachment; filename="labels.nii.gz"'}
    return Response(content, media_type="application/gzip", headers=named)


@router.get("/v1/model", response_model=ModelCard, tags=["model"])
async def model(request: Request) -> ModelCard:
    """Describe the network: what it takes, what it answers, and its manifest."""
    service = _service(request)
    loaded, settings = service.live.current, service.settings
    # Of an older bundle, the threshold stands elsewhere.
    decision = loaded.predictor.decision
    watch = service.stream.watch
    decided = {} if decision.threshold is None else {"decision": decision.to_json()}
    return ModelCard(
        model=_model(loaded),
        input_shape=list(loaded.input.shape),
        channels=list(loaded.input.channels),
        classes=list(loaded.predictor.classes),
        formats=list(SUFFIXES),
        limits={
            "upload_bytes": settings.max_upload,
            "json_bytes": settings.max_json,
            "volume_bytes": settings.max_volume,
            "volumes": settings.max_volumes,
            "timeout_seconds": settings.timeout,
        },
        manifest=loaded.predictor.manifest.published() | decided,
        drift=None if watch is None else Drift(**watch.found()),
    )


@router.get("/v1/samples", response_model=list[Sample], tags=["model"])
async def samples(request: Request) -> list[Sample]:
    """List inputs to try the network with."""
    service = _service(request)
    return await asyncio.to_thread(list_samples, service.live.current)


@router.get(
    "/v1/samples/{name}",
    response_class=Response,
    responses=_ARRAY | {404: {"model": Failure, "description": "No such sample."}},
    tags=["model"],
)
async def one_sample(request: Request, name: str) -> Response:
    """Return one of them: float32 on the network's grid, as `/v1/predict` takes it."""
    service = _service(request)
    return _array(await sample(service.live.current, name))


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", tags=["operate"])
async def healthz() -> dict[str, str]:
    """Say that the process lives."""
    return {"status": "alive"}


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz", tags=["operate"], responses={503: {"model": Failure, "description": "About to shut down."}}
)
async def readyz(request: Request) -> dict[str, str]:
    """Say whether to send requests here."""
    if not _service(request).ready:
        raise RequestError(503, "shutting down; ask another replica", retry_after=5)
    return {"status": "ready"}


@router.get(
    "/metrics",
    tags=["operate"],
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus's text format."}},
)
async def metrics(request: Request) -> Response:
    """Count requests, batches, files and reloads, for Prometheus."""
    return Response(_service(request).metrics.text(), headers={"Content-Type": CONTENT_TYPE})


async def _one(request: Request, service: Service, loaded: Loaded) -> Read:
    read = await read_volumes(request, loaded, service.parsers, service.settings)
    if len(read.volumes) != 1:
        raise RequestError(422, f"{len(read.volumes)} volumes; send one here, several to /v1/predict")
    return read


def _array(values: Values | np.ndarray[Any, np.dtype[np.int16]]) -> Response:
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    shape = ",".join(map(str, values.shape))
    return Response(little.tobytes(), media_type="application/octet-stream", headers={"X-Shape": shape})


def _nifti(loaded: Loaded, output: Values, volume: Volume, records: list[Record]) -> bytes:
    stream = BytesIO()
    labels = loaded.predictor.label_map(output, volume, records)
    write_nifti_gz_labels(stream, labels, whole_type(labels, "labels.nii.gz"), None)
    return stream.getvalue()


def _predictions(
    predictor: Predictor, read: Read, outcome: Outcome
) -> tuple[list[Prediction], list[Mapping[str, float] | None]]:
    """Return what is said of each volume, and what a drift test watches of it."""
    # Of values in the body, nobody said how they came onto the grid.
    records = [steps for _, steps in read.files] if read.files else [None] * len(read.volumes)
    judged = [
        predictor.judged(volume, values, records=steps)
        for volume, values, steps in zip(read.volumes, outcome.outputs, records, strict=True)
    ]
    said = [
        Prediction(
            **_said(predictor, answer, read, index),
            guarantee=None if answer.promise is None else Guaranteed(**answer.promise.to_json()),
            advice=Advised(**answer.advice.to_json()) if answer.advice and answer.advice.missing else None,
            missing_rate=round(answer.missing_rate, 6),
            windows=answer.windows,
            warnings=list(answer.drift),
        )
        for index, answer in enumerate(judged)
    ]
    return said, [answer.looks for answer in judged]


def _said(predictor: Predictor, answer: Judged, read: Read, index: int) -> dict[str, Any]:
    """Return what one answer says, by the task."""
    classes, honest, threshold = predictor.classes, answer.calibrated, predictor.decision.threshold
    if predictor.task == "regression":
        return {"values": _plain(answer.values)}
    if predictor.task == "segmentation":
        labels = predictor.label_map(answer.values, *read.placed(index))
        held = "file" if read.files else "network"
        return {"voxels": predictor.count_voxels(labels), "voxels_of": held, "threshold": threshold}
    return {
        "class_": answer.label,
        "threshold": threshold,
        "probabilities": dict(zip(classes, _plain(answer.values), strict=True)),
        "calibrated": None if honest is None else dict(zip(classes, honest.round(6).tolist(), strict=True)),
    }


def _plain(output: Values) -> list[float]:
    """Return the shortest decimals that are these float32 numbers."""
    return [float(str(value)) for value in output]


def _named(predictor: Predictor, deviation: Values) -> dict[str, float] | list[float]:
    said = _plain(deviation)
    return dict(zip(predictor.classes, said, strict=True)) if predictor.classes else said


def _output(loaded: Loaded, name: str | None, output: Values) -> int:
    classes = loaded.predictor.classes
    if name is None:
        return int(output.argmax())
    if name not in classes:
        raise RequestError(422, f"class: choose one of {', '.join(classes) or 'none, this is a regression'}")
    return int(classes.index(name))


def _model(loaded: Loaded) -> Model:
    manifest, running = loaded.predictor.manifest, loaded.predictor.running
    return Model(
        name=loaded.name,
        network=manifest.network,
        task=manifest.task,
        sha256=loaded.sha256,
        engine=running.engine,
        precision=running.precision,
        difference=running.difference,
    )


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)
