"""Requests and answers of the routes, as OpenAPI shows them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from zoo.budget import Budget, Complexity
from zoo.marks import Alias
from zoo.predictor import Prediction
from zoo.views import CheckpointView

MAX_LIMIT = 200
TopK = Annotated[int, Field(ge=1, le=1000, description="How many classes to name for each image.")]
FileFormat = Literal["safetensors", "onnx"]


class ListQuery(Budget):
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT, description="Most checkpoints in one page.")] = 50
    cursor: Annotated[str | None, Field(description="Where the page begins, from the Link of the one before.")] = None


class ParetoQuery(Budget):
    x: Annotated[Complexity, Field(description="The complexity that accuracy is weighed against.")] = "params"


class FileQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Annotated[FileFormat, Field(description="ONNX takes uint8 (batch, height, width, channels).")] = (
        "safetensors"
    )


class BudgetFileQuery(Budget, FileQuery):
    pass


class PredictQuery(Budget):
    model: Annotated[str | None, Field(description="A digest, digest prefix, name or alias, instead of a budget.")] = (
        None
    )
    top_k: TopK = 5


class PredictParameters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    top_k: TopK | None = None


class PredictBody(BaseModel):
    """The JSON form of a prediction."""

    model_config = ConfigDict(extra="forbid")

    inputs: str | list[str] = Field(description="Base64 of a PNG, JPEG or WebP file, or several.")
    parameters: PredictParameters = PredictParameters()


class Published(BaseModel):
    """A checkpoint whose bytes were uploaded."""

    model_config = ConfigDict(extra="forbid")

    digest: Annotated[
        str, Field(pattern=r"^(sha256:)?[0-9a-f]{64}$", description="SHA-256 of the file; sha256: before it is fine.")
    ]

    @field_validator("digest")
    @classmethod
    def _bare(cls, value: str) -> str:
        return value.removeprefix("sha256:")


class Changes(BaseModel):
    """What is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    aliases: Annotated[
        list[Alias] | None, Field(max_length=32, description="Its own aliases; those it had and are not here go.")
    ] = None
    deprecated: bool | None = None


class Pareto(BaseModel):
    """Ascending in both complexity and accuracy."""

    dataset: str | None
    x: Complexity
    items: tuple[CheckpointView, ...]
    count: int


class PredictedBy(BaseModel):
    id: str
    name: str
    params: int
    accuracy: float | None


class TimingMs(BaseModel):
    decode: float
    queue: float
    forward: float


class PredictAnswer(BaseModel):
    model: PredictedBy
    predictions: list[list[Prediction]] = Field(description="For each image its likeliest classes.")
    timing_ms: TimingMs

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": {
                        "id": "7d2431d99a4e81ef6017b2f201c4f6adf32db721ded07c92e4a8421a055d3a5f",
                        "name": "cifar10-paper-s0-11360",
                        "params": 11360,
                        "accuracy": 0.8012,
                    },
                    "predictions": [[{"label": "frog", "score": 0.93, "index": 6}]],
                    "timing_ms": {"decode": 0.1, "queue": 0.0, "forward": 0.6},
                }
            ]
        }
    )
