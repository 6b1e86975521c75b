"""Probes and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError

from app.deps import ServiceDep
from app.errors import Problem, ProblemError
from zoo.budget import ALL_DATASETS, Budget
from zoo.errors import NoModelMeetsConstraintsError

router = APIRouter(tags=["health"])


class Status(BaseModel):
    status: str


@router.head("/livez", include_in_schema=False)
@router.get("/livez")
async def live() -> Status:
    """The process answers."""
    return Status(status="alive")


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses={503: {"model": Problem}})
def ready(service: ServiceDep) -> Status:
    """The catalog can be read and the default checkpoint has answered once."""
    try:
        if service.zoo.catalog.count(Budget(dataset=ALL_DATASETS)) == 0:
            raise _not_ready("the zoo holds no checkpoint yet")
        if not service.ready:
            service.zoo.smallest(Budget())
            raise _not_ready("the default checkpoint is being loaded")
    except SQLAlchemyError as error:
        raise _not_ready(f"the catalog cannot be read: {error}") from error
    except NoModelMeetsConstraintsError as error:  # of the default data set
        raise _not_ready(str(error)) from error
    return Status(status="ready")


def _not_ready(detail: str) -> ProblemError:
    return ProblemError(503, "not-ready", detail, {"Retry-After": "1"})


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(service: ServiceDep) -> Response:
    """Prometheus text format."""
    service.metrics.checkpoints.set(service.zoo.catalog.count(Budget(dataset=ALL_DATASETS)))
    return Response(service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
