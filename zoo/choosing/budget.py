"""What a caller can afford, and how good it must be: the filters of every route and command that selects."""

from __future__ import annotations

from statistics import NormalDist
from typing import Annotated, Literal, Self, TypedDict, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator

from zoo.network.cost import MAX_COUNT

Complexity = Literal["params", "macs", "bytes", "latency_ms"]
Preference = Literal["params", "macs", "bytes", "latency_ms", "ram", "accuracy"]
FileFormat = Literal["safetensors", "onnx"]

ALL_DATASETS = "*"


Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]


class Filters(BaseModel):
    """Bounds include their limit. A checkpoint whose value is unknown satisfies no bound on it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_acc: Annotated[
        float | None,
        Field(
            description="Least test accuracy, a fraction from 0 to 1.",
            examples=[0.8],
            json_schema_extra={"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "null"}]},
        ),
    ] = None
    max_params: Annotated[Count | None, Field(description="Most parameters.", examples=[50_000])] = None
    max_macs: Annotated[
        Count | None, Field(description="Most multiply-accumulates for one image.", examples=[5_000_000])
    ] = None
    max_bytes: Annotated[Count | None, Field(description="Largest file, in `format`.", examples=[200_000])] = None
    max_latency_ms: Annotated[
        float | None, Field(ge=0, description="Longest measured time for one image.", examples=[2.0])
    ] = None
    dataset: Annotated[
        str | None,
        Field(min_length=1, description="Data set; without it the default one; * for all.", examples=["cifar10"]),
    ] = None
    family: Annotated[str | None, Field(description="Architecture family.", examples=["secnn"])] = None
    confidence: Annotated[
        float | None,
        Field(
            gt=0,
            lt=1,
            description="The lower end of the accuracy's Wilson interval at this confidence must reach min_acc; "
            "without min_acc, 0.",
            examples=[0.95],
        ),
    ] = None
    format: Annotated[FileFormat, Field(description="The file that bytes are counted of.")] = "safetensors"

    @field_validator("min_acc")
    @classmethod
    def _is_fraction(cls, value: float | None) -> float | None:
        if value is not None and not 0 <= value <= 1:
            meant = f"accuracy is a fraction: {value / 100:g}, not {value:g}"
            raise ValueError(meant if 1 < value <= 100 else f"accuracy is a fraction from 0 to 1, not {value:g}")
        return value

    def bounds(self) -> set[str]:
        """The fields that narrow the choice within a data set."""
        return {name for name in _BOUNDS if getattr(self, name) is not None}

    def is_filtered(self) -> bool:
        """Whether some checkpoints of the zoo may be left out by more than the default data set."""
        return bool(self.bounds()) or self.dataset not in (None, ALL_DATASETS)

    def unit(self, bound: str) -> str:
        return "bytes as ONNX" if (bound, self.format) == ("max_bytes", "onnx") else UNITS[bound]

    def given(self) -> Bounds:
        """What differs from the defaults, as keyword arguments or as the parameters of a query."""
        fields = set(Budget.model_fields) & set(type(self).model_fields)
        return cast(Bounds, self.model_dump(include=fields, exclude_defaults=True))

    def __str__(self) -> str:
        """min_acc=0.8, max_params=50000"""
        return ", ".join(f"{name}={value}" for name, value in self.given().items())


_BOUNDS = tuple(name for name in Filters.model_fields if name not in ("dataset", "format"))


class Budget(Filters):
    """Which checkpoints will do, and which of them is used.

    With `min_acc` the one with the fewest parameters, else the most accurate one, unless `prefer` says otherwise:

        >>> Budget(min_acc=0.8, max_bytes=100_000).because()
        'smallest with accuracy of at least 0.8 and at most 100,000 bytes'
        >>> Budget(max_params=20_000).because()
        'most accurate with at most 20,000 parameters'

    Raises pydantic's ValidationError (a ValueError) for one that makes no sense: `min_acc=80`.
    """

    prefer: Annotated[
        Preference | None,
        Field(
            description="What decides among those within the bounds: the lowest of a cost, or the highest accuracy. "
            "Without it params where min_acc is given, else accuracy. ram: of one image's activations and the weights.",
            examples=["accuracy"],
        ),
    ] = None

    @property
    def preference(self) -> Preference:
        return self.prefer or ("accuracy" if self.min_acc is None else "params")

    def preferring(self, preference: Preference) -> Self:
        """Raises ValueError where another preference was given."""
        if self.prefer not in (None, preference):
            raise ValueError(f"prefer={self.prefer} was given where {preference} decides: use choose()")
        return self.model_copy(update={"prefer": preference})

    def is_bounded(self) -> bool:
        """Whether it asks for anything of the checkpoint, also of one that is named."""
        return bool(self.bounds()) or self.prefer is not None

    def because(self, named: str | None = None) -> str:
        """Why the chosen checkpoint is the chosen one; `named`: what it was named by, where it was.

        >>> Budget(min_acc=0.8, prefer="macs").because("stable")
        'named stable, the only one to prefer, with accuracy of at least 0.8'
        """
        only = ", the only one to prefer," if self.prefer is not None else ""
        superlative = self._superlative() if named is None else f"named {named}{only}"
        of_family = "" if self.family is None else f" of family {self.family}"
        conditions = []
        if self.min_acc is not None or self.confidence is not None:
            sure = "" if self.confidence is None else f" (with {100 * self.confidence:g} % confidence)"
            conditions.append(f"accuracy of at least {_number(self.min_acc or 0)}{sure}")
        conditions += [
            f"at most {_number(bound)} {self.unit(name)}"
            for name in UNITS
            if (bound := getattr(self, name)) is not None
        ]
        within = f" with {' and '.join(conditions)}" if conditions else ""
        return f"{superlative}{of_family}{within}".removesuffix(",")

    def _superlative(self) -> str:
        return "smallest ONNX file" if (self.preference, self.format) == ("bytes", "onnx") else _BEST[self.preference]


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value).removesuffix(".0")


UNITS = {
    "max_params": "parameters",
    "max_macs": "multiply-accumulates",
    "max_bytes": "bytes",
    "max_latency_ms": "ms",
}
_BEST: dict[Preference, str] = {
    "params": "smallest",
    "macs": "fewest multiply-accumulates",
    "bytes": "smallest file",
    "latency_ms": "fastest",
    "ram": "least memory",
    "accuracy": "most accurate",
}


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
    format: FileFormat
    prefer: Preference | None


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
