"""The body of a prediction: images (the body itself, a form's files, base64 in JSON), and what is asked of them."""

from __future__ import annotations

import asyncio
import base64
import re
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from app.admission.json_size import count_values, too_many_values
from app.admission.work import Work
from app.http.middleware import header
from app.http.openapi import BINARY, described
from app.http.problems import ProblemError, invalid_query, short
from app.http.schemas import PredictBody, PredictQuery
from zoo.images import header as image_header
from zoo.images.decode import is_read

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp")
_PARSED_TYPES = ("multipart/form-data", "application/json")
DESCRIPTION: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {"type": "array", "items": BINARY["schema"]},
                    **described(PredictQuery)["properties"],
                },
                "additionalProperties": False,
            }
        },
        **dict.fromkeys(IMAGE_TYPES, BINARY),
        "application/json": {
            "schema": described(PredictBody),
            "example": {"inputs": ["iVBORw0KGgo…"], "parameters": {"top_k": 5}},
        },
    },
}

# What takes about a millisecond to parse, at worst.
_MAX_BYTES_ON_LOOP = 64 * 1024
# The text as str and its images, or the form's parts.
_PARSED_COPIES = 3
# Of the JSON form of a prediction, beside its images.
_MAX_OTHER_VALUES = 64
# Of a form, beside its files: more than there are parameters, longer than any value.
_MAX_FIELDS = 64
_MAX_FIELD_BYTES = 4096
# As a browser's FileReader gives a file: data:image/png;base64,….
_DATA_URL = re.compile(r"\Adata:[^,]{0,100};base64,")
_WHITESPACE = b" \t\r\n\v\f"

# What curl, browsers and the usual libraries send for one file. Anything else is left to the parser.
_BOUNDARY = re.compile(rb"multipart/form-data; boundary=([A-Za-z0-9'()+_,./:=?-]{1,70})")
_HEAD = re.compile(
    rb'\r\nContent-Disposition: form-data; name="file"; filename="[^"\\\x00-\x1f\x7f-\xff]*"'
    rb"\r\n(?:Content-Type: [ -~]*\r\n)?\r\n"
)


@dataclass(frozen=True, slots=True)
class Sent:
    """`fields` are parameters as a query has them, in their order: a form's, or those of JSON."""

    images: list[bytes]
    fields: list[tuple[str, str]] = field(default_factory=list)


def may_choose(scope: Scope) -> bool:
    """Whether the body may say which checkpoint is asked."""
    return _media_type(header(scope, b"content-type")) in _PARSED_TYPES


def _media_type(content_type: bytes) -> str:
    return content_type.partition(b";")[0].strip().lower().decode("latin-1")


async def read(scope: Scope, receive: Receive, work: Work, max_images: int) -> Sent:
    """Raises QueueFullError."""
    content_type = header(scope, b"content-type")
    media_type = _media_type(content_type)
    body = await _whole(receive)
    if media_type in _PARSED_TYPES:
        parse = partial(_parse, scope, media_type, content_type, body, max_images)
        if len(body) <= _MAX_BYTES_ON_LOOP:
            return await parse()
        return await work.decode(_PARSED_COPIES * len(body), lambda: asyncio.run(parse()))
    # The bytes tell what it is: curl says that it sends a form, and photographs are called image/jpg, */* or nothing.
    if media_type in IMAGE_TYPES or is_read(body, of_strangers=True):
        return Sent([body])
    raise ProblemError(
        415,
        "unsupported-media-type",
        f"Content-Type {media_type or 'missing'}, {image_header.foreign(body)}: send a PNG, JPEG or WebP file as the "
        "whole body, several in multipart/form-data with fields named file, or application/json",
        {"Accept-Post": ", ".join(("multipart/form-data", *IMAGE_TYPES, "application/json"))},
    )


async def _parse(scope: Scope, media_type: str, content_type: bytes, body: bytes, max_images: int) -> Sent:
    if media_type == "application/json":
        return _parse_json(body, max_images)
    image = only_file(content_type, body)
    return Sent([image]) if image is not None else await _parse_form(scope, body)


def only_file(content_type: bytes, body: bytes) -> bytes | None:
    """The content of a form's only part, a file named `file`; None for every form that is not plainly that.

    The parser takes 100 µs for such a form, a third of a whole prediction; this takes 2.
    """
    boundary = _BOUNDARY.fullmatch(content_type)
    if boundary is None:
        return None
    delimiter = b"--" + boundary[1]
    head = _HEAD.match(body, len(delimiter))
    if not body.startswith(delimiter) or head is None:
        return None
    end = body.find(b"\r\n" + delimiter, head.end() - 2)
    return body[head.end() : end] if end >= head.end() and body[end:] in _ends(delimiter) else None


def _ends(delimiter: bytes) -> tuple[bytes, bytes]:
    return b"\r\n" + delimiter + b"--\r\n", b"\r\n" + delimiter + b"--"


async def _whole(receive: Receive) -> bytes:
    parts = []
    while (message := await receive())["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)  # of one part, that part itself
    raise ClientDisconnect


async def _parse_form(scope: Scope, body: bytes) -> Sent:
    async def replay() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    boundary = _boundary(scope)
    # The parser passes over a last part that has begun and does not end.
    if b"\r\n\r\n" in body and b"--" + boundary + b"--" not in body:
        raise _broken(boundary, "the boundary that ends it, with -- before and behind, is missing")
    limits = {"max_fields": _MAX_FIELDS, "max_part_size": _MAX_FIELD_BYTES}
    try:
        form = await Request(scope, replay).form(**limits)
    except HTTPException as error:
        raise _broken(boundary, str(error.detail)) from error
    try:
        parts = form.multi_items()
        misplaced = [name for name, part in parts if isinstance(part, UploadFile) != (name == "file")]
        if misplaced:
            raise invalid_query(_misplaced(name) for name in dict.fromkeys(misplaced))
        images = [await part.read() for _, part in parts if isinstance(part, UploadFile)]
        return Sent(images, [(name, part) for name, part in parts if isinstance(part, str)])
    finally:
        await form.close()


def _boundary(scope: Scope) -> bytes:
    boundary = parse_options_header(header(scope, b"content-type"))[1].get(b"boundary", b"")
    if not boundary:
        raise ProblemError(
            400,
            "bad-request",
            "Content-Type multipart/form-data names no boundary: leave the header to your client, which writes it with "
            "the form",
        )
    return boundary


def _broken(boundary: bytes, why: str) -> ProblemError:
    detail = f"the form, with the boundary {short(boundary.decode('latin-1'))}, cannot be read: {why}"
    return ProblemError(400, "bad-request", detail)


def _misplaced(name: str) -> dict[str, Any]:
    """In the form of pydantic's errors."""
    text = "an image file was expected, text came"
    file = "a value was expected, a file came; images: in a form they are the fields named file"
    return {"type": "value_error", "loc": (name,), "msg": text if name == "file" else file}


def _parse_json(data: bytes, max_images: int) -> Sent:
    # Base64 holds no character that is counted, data URLs hold two.
    most = 3 * max_images + _MAX_OTHER_VALUES
    if (count := count_values(data)) > most:
        raise too_many_values(count, most)
    try:
        body = PredictBody.model_validate_json(data)
    except ValidationError as error:
        errors = [{**item, "loc": ("body", *item["loc"])} for item in error.errors(include_input=False)]
        raise RequestValidationError(errors) from error
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    images = []
    for index, text in enumerate(texts):
        text = _DATA_URL.sub("", text, count=1)
        try:
            images.append(base64.b64decode(text.encode("ascii").translate(None, _WHITESPACE), validate=True))
        except ValueError as error:
            detail = f"inputs[{index}] is not base64 of an image file: {error}"
            raise ProblemError(422, "invalid-parameter", detail) from error
    given = body.parameters.model_dump(exclude_unset=True, exclude_none=True)
    return Sent(images, [(name, str(value)) for name, value in given.items()])
