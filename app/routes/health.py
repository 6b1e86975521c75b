"""Probes and metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from app.http.openapi import reading
from app.http.problems import ProblemError
from app.service import ServiceDep
from zoo.choosing.budget import ALL_DATASETS, Budget
from zoo.errors import CatalogError, NoModelMeetsConstraintsError

router = APIRouter(tags=["health"])
_TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


class Status(BaseModel):
    status: str


@reading(router, "/livez")
async def live() -> Status:
    """The process answers."""
    return Status(status="alive")


@reading(router, "/readyz")
def ready(service: ServiceDep) -> Status:
    """The catalog can be read and the default checkpoint has answered once."""
    try:
        if service.zoo.catalog.count(Budget(dataset=ALL_DATASETS)) == 0:
            raise _not_ready("the zoo holds no checkpoint yet")
        if not service.ready:
            service.zoo.chooser.choose(Budget())
            raise _not_ready("the default checkpoint is being loaded")
    except (CatalogError, NoModelMeetsConstraintsError) as error:  # none of the default data set
        raise _not_ready(str(error)) from error
    return Status(status="ready")


def _not_ready(detail: str) -> ProblemError:
    return ProblemError(503, "not-ready", detail, {"Retry-After": "1"})


@reading(router, "/metrics", response_class=Response, responses=_TEXT)
def metrics(service: ServiceDep) -> Response:
    """Prometheus text format."""
    service.metrics.checkpoints.set(service.zoo.catalog.count(Budget(dataset=ALL_DATASETS)))
    return Response(service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
