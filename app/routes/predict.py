"""Classifying images with the checkpoint that a budget chooses, or with one that is named.

FastAPI describes this route and does not run it (`PastRouter`): its request, its dependencies and its checks of the
answer would take as long as all the rest together (benchmarks/predict.py).
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import orjson
from fastapi import Query
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app.http.middleware import COMPLETE_AT
from app.http.openapi import declared
from app.http.problems import NoModelProblem, ProblemError
from app.http.schemas import AdaptiveAnswer, CascadeAnswer, PredictAnswer, PredictQuery
from app.monitoring.metrics import TimingMs
from app.predict import bodies, cascade
from app.predict.model_choice import Choice, with_fields
from app.service import Service
from zoo.errors import NotFoundError


async def predict(query: Annotated[PredictQuery, Query()]) -> PredictAnswer | CascadeAnswer | AdaptiveAnswer:
    """Send one image as the body, several as multipart fields `file`, or base64 in JSON.

    Parameters may also be fields of the form, or stand in the JSON as `parameters`.

    Images are converted and resized as the checkpoint's descriptor says.
    """
    raise AssertionError(f"{query}: described here, answered by answer()")


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    service: Service = scope["app"].state.service
    query_string: bytes = scope["query_string"]
    refusal = choice = None
    try:
        choice = await _choose(service, query_string)  # before the body is read
    except (RequestValidationError, ProblemError, NotFoundError) as error:
        if not bodies.may_choose(scope):  # and complete the query
            raise
        refusal = error
    sent = await bodies.read(scope, receive, service.inference.work, service.settings.max_images)
    if sent.fields:
        choice = await _choose(service, with_fields(query_string, sent.fields))
    if choice is None:
        assert refusal is not None
        raise refusal
    _check_number(sent.images, service.settings.max_images)
    complete_at = scope.get(COMPLETE_AT) or time.perf_counter()
    timing, content = await _work(service, choice, sent.images, complete_at)
    scope["predicted"] = timing, time.time_ns()
    body = orjson.dumps(content)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _choose(service: Service, query_string: bytes) -> Choice:
    """Raises QueueFullError where those who wait for that checkpoint, or for each that would do, are too many."""
    choice = await service.model_choices.choose(query_string)
    if choice.levels:
        service.adaptive.check_room(choice.levels)
    else:
        service.inference.check_room(choice.digest)
    return choice


async def _work(
    service: Service, choice: Choice, images: list[bytes], complete_at: float
) -> tuple[TimingMs, dict[str, Any]]:
    """How long it took, and the answer's content."""
    top_k = choice.query.top_k
    if choice.levels:
        return await service.adaptive.classify(choice.query, choice.levels, images, complete_at)
    if choice.cascade is not None:
        timing, answered = await cascade.classify(choice.cascade, service.inference, images, top_k)
        return timing, answered | {"because": choice.because}
    found = await service.inference.classify(choice.digest, images, top_k)
    return found.timing, {
        "model": choice.model,
        "because": choice.because,
        "predictions": found.ranked(),
        "timing_ms": found.timing,
    }


def _check_number(images: list[bytes], max_images: int) -> None:
    if not 1 <= len(images) <= max_images:
        raise ProblemError(
            422,
            "invalid-parameter",
            f"a prediction takes 1 to {max_images} images, {len(images)} came"
            + ("" if images else ": in a form they are the fields named file, in JSON the items of inputs"),
        )


route = APIRoute(
    "/predict",
    predict,
    methods=["POST"],
    tags=["predict"],
    openapi_extra={"requestBody": bodies.DESCRIPTION},
    operation_id="predict",
    responses=declared(410) | declared(404, model=NoModelProblem),
)


class PastRouter:
    """In front of the router: predictions need nothing of what it finds out."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if path == route.path and scope["method"] == "POST":
            scope["route"] = route
            await answer(scope, receive, send)
        else:
            await self.app(scope, receive, send)
