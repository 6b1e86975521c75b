"""A checkpoint as the service and `zoo list --json` show it."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from zoo.descriptor import Descriptor


class Links(BaseModel):
    self: str
    file: str
    onnx: str


class CheckpointView(BaseModel):
    id: str = Field(description="SHA-256 of the file.")
    name: str
    dataset: str
    family: str
    params: int
    macs: int
    bytes: int
    latency_ms: float | None
    accuracy: float | None = Field(description="Top-1 on the test split, from 0 to 1.")
    accuracy_n: int | None
    accuracy_ci95: tuple[float, float] | None = Field(description="Wilson interval of the accuracy.")
    val_accuracy: float
    classes: tuple[str, ...]
    created_at: datetime
    parent: str | None
    aliases: tuple[str, ...]
    deprecated: bool
    links: Links


class CheckpointDetail(CheckpointView):
    descriptor: Descriptor


class Selection(BaseModel):
    """The eligible checkpoints, fewest parameters first; `selected` is the first of all, `count` their number."""

    dataset: str | None
    selected: CheckpointView | None
    items: tuple[CheckpointView, ...]
    count: int
