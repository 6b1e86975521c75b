"""What routes need of the app they belong to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from app.choices import Choices
from app.inference import Inference
from app.metrics import Metrics
from app.settings import Settings
from zoo.local import LocalZoo


@dataclass
class Service:
    """Lives as long as the app; `ready` once the default checkpoint has answered."""

    settings: Settings
    zoo: LocalZoo
    choices: Choices
    inference: Inference
    metrics: Metrics
    ready: bool = False


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(service_of)]
