"""Classifying images with the smallest checkpoint within a budget, or with one that is named."""

from __future__ import annotations

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from app import cascade
from app.deps import Service, ServiceDep
from app.errors import NoModelProblem, Problem, ProblemError
from app.inference import QueueFullError
from app.schemas import CascadeAnswer, PredictAnswer, PredictBody, PredictedBy, PredictQuery, TimingMs
from zoo.catalog import CheckpointRow
from zoo.local import ReadyCascade

router = APIRouter(tags=["predict"])

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp")
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "array", "items": _BINARY["schema"]}},
            }
        },
        **dict.fromkeys(IMAGE_TYPES, _BINARY),
        "application/json": {
            "schema": PredictBody.model_json_schema(),
            "example": {"inputs": ["iVBORw0KGgo…"], "parameters": {"top_k": 5}},
        },
    },
}


@router.post(
    "/predict",
    openapi_extra={"requestBody": _REQUEST_BODY},
    responses={
        400: {"model": Problem, "description": "Not a whole image, or over 16 megapixels."},
        404: {"model": NoModelProblem},
        413: {"model": Problem},
        415: {"model": Problem},
        422: {"model": Problem},
        503: {"model": Problem, "description": "Too many predictions wait."},
    },
)
async def predict(
    query: Annotated[PredictQuery, Query()], request: Request, service: ServiceDep
) -> PredictAnswer | CascadeAnswer:
    """Send one image as the body, several as multipart fields `file`, or base64 in JSON.

    Images are converted and resized as the checkpoint's descriptor says.
    """
    chosen = cascade.choose(query, service.zoo) if query.policy == "cascade" else _choose(query, service)
    images, top_k = await _read(request)
    if not 1 <= len(images) <= service.settings.max_images:
        raise ProblemError(
            422,
            "invalid-parameter",
            f"a prediction takes 1 to {service.settings.max_images} images, {len(images)} came"
            + ("" if images else ": in a form they are the fields named file"),
        )
    try:
        if isinstance(chosen, ReadyCascade):
            return await cascade.classify(chosen, service.inference, images, top_k or query.top_k)
        answer = await service.inference.classify(chosen.digest, images, top_k or query.top_k)
    except QueueFullError:
        detail = f"{service.settings.max_queue} predictions wait already: try again in a second"
        raise ProblemError(503, "queue-full", detail, {"Retry-After": "1"}) from None
    return PredictAnswer(
        model=PredictedBy(id=chosen.digest, name=chosen.name, params=chosen.params, accuracy=chosen.accuracy),
        predictions=answer.predictions,
        timing_ms=TimingMs(decode=answer.timing.decode, queue=answer.timing.queue, forward=answer.timing.forward),
    )


def _choose(query: PredictQuery, service: Service) -> CheckpointRow:
    if query.model is None:
        return service.zoo.smallest(query)
    if query.is_bounded():
        raise ProblemError(422, "invalid-parameter", "model names one checkpoint: give it or a budget, not both")
    return service.zoo.find(query.model)


async def _read(request: Request) -> tuple[list[bytes], int | None]:
    """The image files of a body in any of its three forms, and the top_k that a JSON body asks for."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type in IMAGE_TYPES:
        return [await request.body()], None
    if media_type == "multipart/form-data":
        async with request.form() as form:
            fields = form.getlist("file")
            return [await field.read() for field in fields if isinstance(field, UploadFile)], None
    if media_type == "application/json":
        return _read_json(await request.body())
    raise ProblemError(
        415,
        "unsupported-media-type",
        f"Content-Type {media_type or 'missing'}: send multipart/form-data with fields named file, one of "
        f"{', '.join(IMAGE_TYPES)} as the whole body, or application/json",
        {"Accept-Post": ", ".join(("multipart/form-data", *IMAGE_TYPES, "application/json"))},
    )


def _read_json(data: bytes) -> tuple[list[bytes], int | None]:
    try:
        body = PredictBody.model_validate_json(data)
    except ValidationError as error:
        errors = [{**item, "loc": ("body", *item["loc"])} for item in error.errors(include_input=False)]
        raise RequestValidationError(errors) from error
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    images = []
    for index, text in enumerate(texts):
        try:
            images.append(base64.b64decode("".join(text.split()), validate=True))
        except ValueError as error:
            detail = f"inputs[{index}] is not base64 of an image file: {error}"
            raise ProblemError(422, "invalid-parameter", detail) from error
    return images, body.parameters.top_k
