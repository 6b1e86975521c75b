"""Requests and answers of the routes, as OpenAPI shows them."""

from __future__ import annotations

import reprlib
from typing import Annotated, Literal, Self

from fastapi import Path
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic.config import JsonDict

from app.monitoring.metrics import TimingMs
from zoo.catalog.rows import CheckpointRow
from zoo.catalog.views import CheckpointView
from zoo.choosing import adaptive
from zoo.choosing.budget import Budget, Complexity, FileFormat, Filters
from zoo.choosing.policy import MAX_TOP_K, check
from zoo.runtime.predictor import Prediction
from zoo.store.entries import MAX_ALIASES, Alias

MAX_LIMIT = 200
Sha256 = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the bytes.")]
TopK = Annotated[int, Field(ge=1, le=MAX_TOP_K, description="How many classes to name for each image.")]


class ListQuery(Budget):
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT, description="Most checkpoints in one page.")] = 50
    cursor: Annotated[
        str | None,
        Field(description="Where the page begins, from the Link of the one before: any other is 422.", min_length=1),
    ] = None


class ParetoQuery(Filters):
    x: Annotated[Complexity, Field(description="The complexity that accuracy is weighed against.")] = "params"


class Strict(BaseModel):
    """What is misspelt would else be passed over in silence."""

    model_config = ConfigDict(extra="forbid")


class NoQuery(Strict):
    """For routes without parameters."""


class ReferenceQuery(Strict):
    """Beside a name in the path."""

    dataset: Annotated[
        str | None,
        Field(min_length=1, description="Data set that aliases are about, and that the checkpoint must be of."),
    ] = None


class ReferenceFileQuery(ReferenceQuery):
    format: Annotated[FileFormat, Field(description="ONNX takes uint8 (batch, height, width, channels).")] = (
        "safetensors"
    )


class PredictQuery(Budget):
    model: Annotated[
        str | None,
        Field(
            description="A digest, digest prefix, name or alias: this checkpoint, which must meet the budget if any."
        ),
    ] = None
    top_k: TopK = 5
    policy: Annotated[
        Literal["single", "cascade", "adaptive", "smallest"],
        Field(
            description="Who answers: the one checkpoint that the budget chooses; or a cascade, which asks a small one "
            "first and a larger one where it is unsure, and reaches min_acc with fewer MACs on average; or adaptive, "
            "the most accurate one that meets deadline_ms under the present load. "
            "smallest is what single was called before."
        ),
    ] = "single"
    deadline_ms: Annotated[
        float | None,
        Field(
            gt=0,
            le=adaptive.MAX_DEADLINE_MS,
            description="With policy=adaptive: in how many milliseconds, from when the server has the whole request, "
            "the answer should be ready.",
            examples=[20],
        ),
    ] = None

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        check(self.policy, self.deadline_ms, self, is_named=self.model is not None)
        return self


def _without_defaults(schema: JsonDict) -> None:
    """What is left out is as the query has it; generated clients would require, or send, what has a default."""
    properties = schema["properties"]
    assert isinstance(properties, dict)
    for each in properties.values():
        assert isinstance(each, dict)
        each.pop("default", None)


class PredictParameters(PredictQuery):
    """What the query does not say. Whether they go together is asked of both, joined."""

    model_config = ConfigDict(json_schema_extra=_without_defaults)

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        return self


def null_as_nothing(value: object) -> object:
    """Clients whose own models have optional fields send null for an object that they leave out."""
    return {} if value is None else value


class PredictBody(Strict):
    """The JSON form of a prediction."""

    inputs: str | list[str] = Field(description="Base64 of a PNG, JPEG or WebP file, or several; data: URLs as well.")
    parameters: Annotated[
        PredictParameters, BeforeValidator(null_as_nothing, json_schema_input_type=PredictParameters | None)
    ] = Field(default_factory=PredictParameters, description="As in the query, which may have some of them too.")

    @field_validator("inputs", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        """In one sentence, where pydantic has one for each form that it might have been."""
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str):
                found = reprlib.repr(text)
                raise ValueError(f"the base64 text of an image file was expected, or a list of such texts, not {found}")
        return value


class Published(Strict):
    """A checkpoint whose bytes were uploaded."""

    digest: Annotated[
        str, Field(pattern=r"^(sha256:)?[0-9a-f]{64}$", description="SHA-256 of the file; sha256: before it is fine.")
    ]
    stage: Annotated[bool, Field(description="Found by its digest alone, until it is promoted: staged = false.")] = (
        False
    )

    @field_validator("digest")
    @classmethod
    def _bare(cls, value: str) -> str:
        return value.removeprefix("sha256:")


class Changes(Strict):
    """What is left out stays as it is."""

    aliases: Annotated[
        list[Alias] | None,
        Field(max_length=MAX_ALIASES, description="Its own aliases; those it had and are not here go."),
    ] = None
    move: Annotated[bool, Field(description="Take aliases from whichever checkpoint of its data set has them.")] = False
    deprecated: bool | None = None
    staged: Annotated[bool | None, Field(description="false promotes a checkpoint that was published staged.")] = None


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

    @classmethod
    def of(cls, row: CheckpointRow) -> PredictedBy:
        return PredictedBy(id=row.digest, name=row.name, params=row.params, accuracy=row.accuracy)


_PREDICTED_BY: JsonDict = {
    "id": "7d2431d99a4e81ef6017b2f201c4f6adf32db721ded07c92e4a8421a055d3a5f",
    "name": "cifar10-paper-s0-11360",
    "params": 11360,
    "accuracy": 0.8012,
}
_EXAMPLE: JsonDict = {
    "model": _PREDICTED_BY,
    "because": "smallest with accuracy of at least 0.8",
    "predictions": [[{"label": "frog", "score": 0.93, "index": 6}]],
    "timing_ms": {"decode": 0.1, "queue": 0.0, "forward": 0.6},
}


class PredictAnswer(BaseModel):
    model: PredictedBy
    because: str | None = Field(
        default=None, description="Why this checkpoint; null where it was named, without a budget."
    )
    predictions: list[list[Prediction]] = Field(description="For each image its likeliest classes.")
    timing_ms: TimingMs

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})


class CascadeStage(PredictedBy):
    macs: int
    threshold: float | None = Field(
        description="Answers where the likeliest class leads the next by this much; the last stage always."
    )


class AnsweredBy(BaseModel):
    id: str
    params: int
    margin: float = Field(description="The likeliest class's score less the next one's.")


class UsedCascade(BaseModel):
    """What was to be expected of the cascade, and what these images took."""

    accuracy: float = Field(description="Test accuracy that the cascade should reach.")
    expected_macs: float = Field(description="For an image on average, over the validation images.")
    mean_macs: float = Field(description="For an image on average, over those of this request.")
    stages: list[CascadeStage]
    answered_by: list[AnsweredBy] = Field(description="For each image the stage whose predictions these are.")


class CascadeAnswer(PredictAnswer):
    """`model` is the last stage that was asked."""

    cascade: UsedCascade

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    **_EXAMPLE,
                    "because": "cascade with the fewest multiply-accumulates with accuracy of at least 0.79",
                    "cascade": {
                        "accuracy": 0.79,
                        "expected_macs": 1_620_000.5,
                        "mean_macs": 832_832.0,
                        "stages": [
                            {**_PREDICTED_BY, "macs": 832_832, "threshold": 0.41},
                            {**_PREDICTED_BY, "params": 46_274, "macs": 5_946_688, "threshold": None},
                        ],
                        "answered_by": [{"id": _PREDICTED_BY["id"], "params": 11360, "margin": 0.89}],
                    },
                }
            ]
        }
    )


class AdaptiveChoice(BaseModel):
    """Times are from when the server had the whole request to when its scores were there."""

    reason: adaptive.Reason = Field(
        description="best: no eligible checkpoint is more accurate. Else why none of those that are: deadline: they "
        "take longer, whatever the load; pressure: they would wait too long; held: they would have within the last "
        "second; loading: they are not in memory yet. late: none meets the deadline, so the smallest answers."
    )
    expected_ms: float = Field(description="What was expected of this checkpoint, with a margin.")
    took_ms: float
    deadline_ms: float


class AdaptiveAnswer(PredictAnswer):
    adaptive: AdaptiveChoice

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    **_EXAMPLE,
                    "because": "most accurate with accuracy of at least 0.8, for a deadline of 20 ms: more accurate "
                    "ones would wait too long now",
                    "timing_ms": {"decode": 0.1, "queue": 9.2, "forward": 1.8},
                    "adaptive": {"reason": "pressure", "expected_ms": 13.1, "took_ms": 11.4, "deadline_ms": 20.0},
                }
            ]
        }
    )
