"""What a caller can afford, and how good it must be: the filters of every route and command that selects."""

from __future__ import annotations

from statistics import NormalDist
from typing import Annotated, Literal, TypedDict, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from zoo.cost import MAX_COUNT

Complexity = Literal["params", "macs", "bytes", "latency_ms"]

ALL_DATASETS = "*"


Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]


class Budget(BaseModel):
    """Bounds include their limit. A checkpoint whose value is unknown satisfies no bound on it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_acc: Annotated[
        float | None, Field(description="Least test accuracy, a fraction from 0 to 1.", examples=[0.8])
    ] = None
    max_params: Annotated[Count | None, Field(description="Most parameters.", examples=[50_000])] = None
    max_macs: Annotated[
        Count | None, Field(description="Most multiply-accumulates for one image.", examples=[5_000_000])
    ] = None
    max_bytes: Annotated[Count | None, Field(description="Largest file.", examples=[200_000])] = None
    max_latency_ms: Annotated[
        float | None, Field(ge=0, description="Longest measured time for one image.", examples=[2.0])
    ] = None
    dataset: Annotated[
        str | None, Field(description="Data set; without it the default one; * for all.", examples=["cifar10"])
    ] = None
    family: Annotated[str | None, Field(description="Architecture family.", examples=["secnn"])] = None
    confidence: Annotated[
        float | None,
        Field(
            gt=0,
            lt=1,
            description="With min_acc: the lower end of the Wilson interval at this confidence must reach it.",
            examples=[0.95],
        ),
    ] = None

    @field_validator("min_acc")
    @classmethod
    def _is_fraction(cls, value: float | None) -> float | None:
        if value is not None and not 0 <= value <= 1:
            meant = f"accuracy is a fraction: {value / 100:g}, not {value:g}"
            raise ValueError(meant if 1 < value <= 100 else f"accuracy is a fraction from 0 to 1, not {value:g}")
        return value

    @model_validator(mode="after")
    def _confidence_in_something(self) -> Budget:
        if self.confidence is not None and self.min_acc is None:
            raise ValueError("confidence says how sure min_acc must be: give min_acc too")
        return self

    def bounds(self) -> set[str]:
        """The fields that narrow the choice within a data set."""
        return {name for name in Budget.model_fields if getattr(self, name) is not None} - {"dataset"}

    def is_bounded(self) -> bool:
        return bool(self.bounds())

    def is_filtered(self) -> bool:
        """Whether some checkpoints of the zoo may be left out by more than the default data set."""
        return self.is_bounded() or self.dataset not in (None, ALL_DATASETS)

    def given(self) -> Bounds:
        return cast(Bounds, self.model_dump(include=set(Budget.model_fields), exclude_none=True))

    def __str__(self) -> str:
        """min_acc=0.8, max_params=50000"""
        return ", ".join(
            f"{name}={value}" for name in Budget.model_fields if (value := getattr(self, name)) is not None
        )


class Bounds(TypedDict, total=False):
    """The fields of a Budget as the keyword arguments of a function: `**bounds: Unpack[Bounds]`."""

    min_acc: float | None
    max_params: int | None
    max_macs: int | None
    max_bytes: int | None
    max_latency_ms: float | None
    dataset: str | None
    family: str | None
    confidence: float | None


def z_score(confidence: float) -> float:
    """Half-width in standard deviations of the two-sided interval: 1.96 for 0.95."""
    return -NormalDist().inv_cdf((1 - confidence) / 2)  # (1 + confidence) / 2 may round to 1


def wilson_interval(accuracy: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion over n trials (Wilson 1927)."""
    z = z_score(confidence)
    center = accuracy + z**2 / (2 * n)
    spread = z * (accuracy * (1 - accuracy) / n + z**2 / (4 * n**2)) ** 0.5
    scale = 1 + z**2 / n
    return max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale)
