"""The stories of training runs: which there are, one as it was logged, and one as it is being logged."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema

from app.http.file_response import File, file_response
from app.http.openapi import declared, file_responses, reading
from app.http.problems import ProblemError
from app.http.schemas import NoQuery
from app.routes import run_data, run_logs
from app.routes.run_data import RunData
from app.routes.run_logs import Part, RunSummary
from app.service import ServiceDep
from zoo.checkpoint.file import digest_of
from zoo.errors import NotFoundError, ZooError

log = logging.getLogger(__name__)
router = APIRouter(tags=["runs"])

# A stream ends by itself, and the client comes back to where it was: a server that is told to stop waits for its
# answers to end.
_STREAM_SECONDS = 5.0
_POLL_SECONDS = 0.25
_STREAM = {"content": {"text/event-stream": {}}, "description": "One event a record."}
_SHEET = file_responses("image/webp", "sheet") | declared(404, 416)


class Runs(BaseModel):
    items: tuple[RunSummary, ...] = Field(description="Last written first.")
    count: int


class RunDetail(RunSummary):
    records: list[dict[str, Any]] = Field(description="As the run logged them: epoch, decision, checkpoint, …")
    end: int = Field(description="Bytes of the log that these are: `after` of the events that follow.")
    data: RunData | None = Field(description="What it was trained on; null where it has left no record of that.")


class EventsQuery(NoQuery):
    after: Annotated[int, Field(ge=0, description="Bytes of the log that the caller has already.")] = 0


@reading(router, "/runs")
def list_runs(_: Annotated[NoQuery, Query()], service: ServiceDep) -> Runs:
    """The training runs whose logs lie beside the checkpoints."""
    items = []
    for path in run_logs.paths(service.settings.zoo).values():
        try:
            items.append(run_logs.summary(path))
        except (ZooError, OSError) as error:
            log.warning("left out of the runs: %s", error)
    items.sort(key=lambda item: item.updated_at, reverse=True)
    return Runs(items=tuple(items), count=len(items))


@reading(router, "/runs/{name}", responses=declared(404))
def show_run(name: str, _: Annotated[NoQuery, Query()], service: ServiceDep) -> RunDetail:
    """One run with every record of its log so far, and what it was trained on."""
    path = run_logs.path_of(service.settings.zoo, name)
    try:
        summary, part = run_logs.summary(path), run_logs.read(path)
    except (ZooError, OSError) as error:
        raise _damaged(error) from error
    records = [entry.record for entry in part.entries]
    return RunDetail(**summary.model_dump(), records=records, end=part.end, data=run_data.read(path))


@reading(router, "/runs/{name}/images", responses=_SHEET, response_class=Response)
def show_images(name: str, _: Annotated[NoQuery, Query()], request: Request, service: ServiceDep) -> Response:
    """Some training images of each class as one WebP; `data.sheet` of the run says what is where."""
    data = run_data.read(run_logs.path_of(service.settings.zoo, name))
    if data is None:
        raise NotFoundError(f"run {name} has left no images: runs of earlier versions left none")
    sheet = data.sheet.webp
    headers = {
        "Content-Type": "image/webp",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": service.cache_control(immutable=False),
    }
    return file_response(request, File(digest_of(sheet), len(sheet), sheet), headers)


@router.get("/runs/{name}/events", response_class=StreamingResponse, responses={200: _STREAM, **declared(404)})
async def follow_run(
    name: str,
    service: ServiceDep,
    query: Annotated[EventsQuery, Query()],
    last_event_id: Annotated[
        Annotated[int, Field(ge=0)] | SkipJsonSchema[None], Header(description="The same, as an EventSource sends it.")
    ] = None,
) -> StreamingResponse:
    """Server-Sent Events: each record as it is written. An event's id is the `after` of the next.

    `restart` says that the run was resumed from before `after`, and that its records follow from the first. The
    stream ends after some seconds; EventSource reconnects by itself.
    """
    path = await asyncio.to_thread(run_logs.path_of, service.settings.zoo, name)
    start = query.after if last_event_id is None else last_event_id
    try:
        first = await asyncio.to_thread(run_logs.read, path, start)
    except (ZooError, OSError) as error:
        raise _damaged(error) from error
    return StreamingResponse(
        _events(path, start, first),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


def _damaged(error: Exception) -> ProblemError:
    return ProblemError(503, "run-log-damaged", str(error), {"Retry-After": "1"})


async def _events(path: Path, position: int, part: Part) -> AsyncIterator[str]:
    yield "retry: 250\n\n"
    deadline = time.monotonic() + _STREAM_SECONDS
    while True:
        if part.start != position:
            yield "event: restart\nid: 0\ndata: {}\n\n"
        for entry in part.entries:
            data = json.dumps(entry.record, ensure_ascii=False)
            yield f"id: {entry.end}\nevent: {entry.record['event']}\ndata: {data}\n\n"
        position = part.end
        if time.monotonic() > deadline:
            return
        await asyncio.sleep(_POLL_SECONDS)
        try:
            part = await asyncio.to_thread(run_logs.read, path, position)
        except (ZooError, OSError):
            return  # Who asks again is told what is wrong.
