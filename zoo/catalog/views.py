"""A checkpoint as the service and `zoo list --json` show it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from urllib.parse import urljoin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.config import JsonDict

from zoo.checkpoint.descriptor import Descriptor, Digest, Name
from zoo.network.families.family import StageOutline


class Links(BaseModel):
    """Relative to the address of the answer that they stand in; a client, which gives it as `address`, has URLs."""

    self: str
    file: str
    onnx: str

    @field_validator("*")
    @classmethod
    def _resolved(cls, link: str, info: ValidationInfo) -> str:
        return urljoin(info.context["address"], link) if info.context else link


class ElasticPlace(BaseModel):
    """Where a checkpoint lies in an elastic file, which holds several sizes of one network."""

    file: Digest = Field(description="SHA-256 of the elastic file: GET /blobs/sha256:{file}.")
    level: int = Field(description="Which size it is, counted from 0, the smallest.")
    levels: int = Field(description="How many the file has.")
    prefix_bytes: int = Field(description="So many of the file's first bytes hold it.")


_EXAMPLE: JsonDict = {
    "id": "7d2431d99a4e81ef6017b2f201c4f6adf32db721ded07c92e4a8421a055d3a5f",
    "name": "cifar10-paper-s0-11360",
    "dataset": "cifar10",
    "family": "secnn",
    "params": 11360,
    "macs": 3547464,
    "bytes": 52440,
    "onnx_bytes": 58112,
    "ram_bytes": 310_496,
    "latency_ms": None,
    "accuracy": 0.8012,
    "accuracy_n": 10000,
    "accuracy_ci95": [0.7933, 0.8089],
    "accuracy_source": "claimed",
    "val_accuracy": 0.8044,
    "classes": ["airplane", "automobile"],
    "created_at": "2026-11-21T02:00:00Z",
    "parent": None,
    "distilled_from": None,
    "aliases": ["smallest"],
    "deprecated": False,
    "staged": False,
    "elastic": None,
    "links": {
        "self": "models/7d2431d99a4e81ef6017b2f201c4f6adf32db721ded07c92e4a8421a055d3a5f",
        "file": "models/7d2431d99a4e81ef6017b2f201c4f6adf32db721ded07c92e4a8421a055d3a5f/file",
        "onnx": "models/7d2431d99a4e81ef6017b2f201c4f6adf32db721ded07c92e4a8421a055d3a5f/file?format=onnx",
    },
}


class CheckpointView(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    # Files are named after these two: from a server of any kind they must not lead out of a folder.
    id: Digest = Field(description="SHA-256 of the file.")
    name: Name
    dataset: str
    family: str
    params: int
    macs: int
    bytes: int = Field(description="Of the safetensors file.")
    onnx_bytes: int | None = Field(default=None, description="Of the ONNX file.")
    ram_bytes: int | None = Field(
        default=None, description="Weights and the most activations alive at one time, for one image: an estimate."
    )
    latency_ms: float | None = Field(
        description="Median for one image on this machine; null until `zoo calibrate` has measured it."
    )
    accuracy: float | None = Field(description="Top-1 on the test split, from 0 to 1.")
    accuracy_n: int | None
    accuracy_ci95: tuple[float, float] | None = Field(description="Wilson interval of the accuracy.")
    val_accuracy: float
    classes: tuple[str, ...]
    created_at: datetime
    parent: str | None
    distilled_from: str | None = Field(default=None, description="Digest of the checkpoint it was distilled from.")
    aliases: tuple[str, ...]
    deprecated: bool = Field(description="Found by whatever names it, chosen by no budget.")
    # Servers of earlier versions say neither of the two.
    staged: bool = Field(default=False, description="Published to be tried first: found by its digest alone.")
    accuracy_source: Literal["claimed", "measured"] | None = Field(
        default=None, description="Whether the accuracy is the file's own claim, or was measured when it was published."
    )
    elastic: ElasticPlace | None = Field(
        default=None, description="Of a level of an elastic file; its own file is then made of that."
    )
    links: Links


class CheckpointDetail(CheckpointView):
    descriptor: Descriptor
    # Servers of earlier versions do not say.
    stages: tuple[StageOutline, ...] = Field(default=(), description="The network as a picture shows it.")


class Prediction(BaseModel):
    label: str
    score: float
    index: int


class AnsweredBy(BaseModel):
    """The checkpoint that answered, and why that one."""

    id: str
    name: str
    params: int
    accuracy: float | None
    because: str | None = None


_DATASET: JsonDict = {"name": "cifar10", "checkpoints": 26, "classes": 10, "best_accuracy": 0.8851, "default": True}


class DatasetView(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [_DATASET]})

    name: str
    checkpoints: int = Field(description="How many there are to choose from.")
    classes: int = Field(description="How many the most accurate checkpoint tells apart.")
    best_accuracy: float | None
    default: bool = Field(description="Whether requests that name no data set are about this one.")


class Datasets(BaseModel):
    items: tuple[DatasetView, ...]
    count: int


_SELECTION: JsonDict = {
    "dataset": "cifar10",
    "selected": _EXAMPLE,
    "because": "smallest with accuracy of at least 0.8",
    "items": [_EXAMPLE],
    "count": 1,
}


class Selection(BaseModel):
    """The eligible checkpoints, the preferred ones first; `selected` is the first of all, `count` their number."""

    model_config = ConfigDict(json_schema_extra={"examples": [_SELECTION]})

    dataset: str | None
    selected: CheckpointView | None
    because: str | None = Field(default=None, description="Why `selected` is what it is.")
    items: tuple[CheckpointView, ...]
    count: int
