"""What the server answers with, as types: they make the OpenAPI schema as well as the JSON."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Guaranteed(BaseModel):
    """What is guaranteed of an answer for scans with such gaps; see docs/trust.md."""

    coverage: float = Field(
        description="Share of such scans for which it holds; for regions the mean share of a class's volume."
    )
    pattern: str = Field(description="Of the gaps, in words.")
    rests: Literal["pattern", "assumption"] | None = Field(
        None, description="What it rests on; nothing is guaranteed without it."
    )
    classes: list[str] | None = Field(None, description="That the true one is among.")
    intervals: list[tuple[float, float]] | None = Field(None, description="That each value lies in.")
    voxels: dict[str, int] | None = Field(
        None, description="How large the region of each class is, on the grid of the network."
    )


class Worth(BaseModel):
    """What one more channel was worth to the scans of the bundle's certificate."""

    channel: str
    worth: float = Field(description="By how much the metric got better.")
    interval: tuple[float, float] | None = Field(description="95 %.")
    scans: int = Field(description="That had this channel and those that are there.")


class Advised(BaseModel):
    """Which missing channel to acquire next; see docs/trust.md."""

    metric: str = Field(description="Of the worths.")
    missing: list[str] = Field(description="Channels of which nothing is there.")
    worths: list[Worth] = Field(description="Of those that were measured beside what is there, best first.")


class Prediction(BaseModel):
    """What the network says of one volume."""

    model_config = ConfigDict(populate_by_name=True)

    class_: str | None = Field(
        None,
        alias="class",
        description="The most probable class; of two, the second from the bundle's threshold on, where it has one.",
    )
    threshold: float | None = Field(
        None,
        description="The probability of the second class from which on it is named, where that is not simply the more "
        "probable one.",
    )
    probabilities: dict[str, float] | None = Field(None, description="Of each class, by name.")
    calibrated: dict[str, float] | None = Field(
        None, description="Probabilities that came true as often on validation data, where the bundle knows."
    )
    values: list[float] | None = Field(
        None, description="Of a regression, in the units of its training data."
    )
    fill_deviation: dict[str, float] | list[float] | None = Field(
        None,
        description="With `draws`: the standard deviation that the fill leaves in each probability or value, which are "
        "then the mean over draws of what the gaps may hide.",
    )
    voxels: dict[str, int] | None = Field(
        None,
        description="Of a segmentation: how many voxels each class has, outside of what the network saw those that a "
        "label map shows there; the map itself is at /v1/label_map?format=nifti.",
    )
    voxels_of: Literal["file", "network"] | None = Field(
        None,
        description="Whose grid they are counted on: that of the `file` sent, or that of the `network`, where the body "
        "held the values.",
    )
    guarantee: Guaranteed | None = Field(
        None, description="For such gaps, where the bundle guarantees something."
    )
    advice: Advised | None = Field(
        None, description="What to acquire next, where the bundle has a certificate and channels are missing."
    )
    missing_rate: float = Field(
        description="Share of values that are missing (NaN): of a file's own, or of all those that the body held."
    )
    windows: int = Field(
        1,
        description="Along depth (time), whose mean the answer is: of a volume deeper than the network's input.",
    )
    warnings: list[str] = Field(
        description="Why to doubt this answer: nothing observed, unlike the training data."
    )


class Model(BaseModel):
    """Which network answered."""

    name: str = Field(description="Folder of the bundle.")
    network: str
    task: str
    sha256: str = Field(description="Of the model's file: the version.")
    engine: str = Field(description="The runtime that computes it.")
    precision: str = Field(description="float32, or what it computes in.")
    difference: float | None = Field(
        description="Largest difference from float32 on the bundle's golden inputs."
    )


class Timing(BaseModel):
    """Where the milliseconds went."""

    read_ms: float = Field(description="Receiving the body and reading its files.")
    queue_ms: float = Field(description="Waiting for the network to be free.")
    predict_ms: float = Field(description="In the network, with the others of the batch.")
    total_ms: float
    batch: int = Field(description="Volumes that went through the network together.")


class Answer(BaseModel):
    """The answer to a request: one prediction for each volume, in their order."""

    request_id: str
    model: Model
    predictions: list[Prediction]
    timing: Timing
    drift: str | None = Field(
        None,
        description="Once the scans of all requests are found to be unlike the training data's: in words.",
    )

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "request_id": "0f3a9f1c2b7d4e58",
                "model": {
                    "name": "brain",
                    "network": "resnet3d",
                    "task": "classification",
                    "sha256": "c7b0d17a3a3cf42c84c056bb5a2ea205fa49565d0aa256f45b252a9c2eb40c2b",
                    "engine": "openvino",
                    "precision": "float32",
                    "difference": 0.0,
                },
                "predictions": [
                    {
                        "class": "white matter",
                        "probabilities": {"grey matter": 0.04, "white matter": 0.95, "fluid": 0.01},
                        "missing_rate": 0.5,
                        "warnings": [],
                    }
                ],
                "timing": {
                    "read_ms": 0.4,
                    "queue_ms": 0.1,
                    "predict_ms": 3.1,
                    "total_ms": 3.9,
                    "batch": 1,
                },
            }
        }
    )


class Failure(BaseModel):
    """Why there is no result, in one line."""

    detail: str
    request_id: str


class Drift(BaseModel):
    """Whether the scans that were sent are like those of the training; see docs/trust.md."""

    scans: int = Field(description="That were watched, by all servers of this bundle.")
    evidence: float = Field(description="That they are not; 1 at the start.")
    highest: float = Field(description="It ever was: what the alarm goes by.")
    false_alarms: float = Field(description="Chance of an alarm, ever, where nothing has changed.")
    alarmed: bool
    words: str


class ModelCard(BaseModel):
    """The network that is served, and what it takes."""

    model: Model
    input_shape: list[int] = Field(description="Depth, height, width, channels.")
    channels: list[str]
    classes: list[str]
    formats: list[str] = Field(description="Suffixes of the files that can be uploaded.")
    limits: dict[str, float]
    manifest: dict[str, Any]
    drift: Drift | None = Field(None, description="None for a bundle without a reference.")


class Sample(BaseModel):
    """An input to try the network with."""

    name: str
    url: str
    shape: list[int]
    note: str
    warnings: list[str] = Field(description="How it differs from the training data, as in an answer.")


Row = list[float | None]


class JsonVolumes(BaseModel):
    """Volumes as nested lists, null = missing: `(depth, height, width, channels)`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    volume: list[list[list[Row]]] | None = Field(None, description="One volume.")
    volumes: list[list[list[list[Row]]]] | None = Field(None, description="Or several.")
