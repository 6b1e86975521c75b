"""Which checkpoint a prediction's query chooses: a cache with a time to live of half a second.

Taken out, a prediction costs twice the CPU time (docs/benchmarks.md).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from pydantic import ValidationError
from starlette.datastructures import QueryParams

from app.http.problems import invalid_query, repeated
from app.http.schemas import PredictedBy, PredictQuery
from zoo.catalog.rows import CheckpointRow
from zoo.library.local import LocalZoo
from zoo.library.ready_cascades import ReadyCascade

# A change in the catalog is followed within a second; the directories are looked through once in a second.
_MAX_AGE_SECONDS = 0.5
# Queries are the clients' to make up.
_MAX_REMEMBERED = 1024
_MAX_QUERY_BYTES = 2048


def with_fields(query_string: bytes, fields: Sequence[tuple[str, str]]) -> bytes:
    """The query with a body's fields in it. Raises RequestValidationError where they contradict.

    Who only repeats a default contradicts nobody: generated clients write it into every query.
    """
    given = QueryParams(query_string).multi_items()
    body = dict(fields)
    told = {name: value for name, value in given if not (name in body and _is_default(name, value))}
    if errors := repeated(fields) or [
        {"type": "value_error", "loc": (name,), "msg": f"{told[name]} in the query, {value} in the body: give it once"}
        for name, value in fields
        if name in told and not _are_equal(told[name], value) and not _is_default(name, value)
    ]:
        raise invalid_query(errors)
    kept = [(name, value) for name, value in given if name in told]
    return urlencode([*kept, *((name, value) for name, value in fields if name not in told)]).encode()


def _is_default(name: str, value: str) -> bool:
    field = PredictQuery.model_fields.get(name)
    return field is not None and field.default is not None and _are_equal(str(field.default), value)


def _are_equal(one: str, other: str) -> bool:
    """Whether they say the same, as 0.8 and 0.80 do."""
    try:
        return one == other or float(one) == float(other)
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Choice:
    """`digest` is of the checkpoint that is asked first; with a cascade or levels `model` is for the answer to say."""

    query: PredictQuery
    digest: str
    model: dict[str, Any]  # as the answer shows it
    because: str | None
    cascade: ReadyCascade | None = None
    levels: Sequence[CheckpointRow] = ()


class ModelChoices:
    """Belongs to one event loop; the catalog is asked on a thread, once for all who ask the same at a time."""

    def __init__(self, zoo: LocalZoo) -> None:
        self._zoo = zoo
        self._remembered: dict[bytes, tuple[float, asyncio.Future[Choice]]] = {}

    async def choose(self, query_string: bytes) -> Choice:
        """Raises RequestValidationError, and NotFoundError where there is none to choose."""
        since, choice = self._remembered.get(query_string, (0.0, None))
        if choice is None or time.monotonic() - since > _MAX_AGE_SECONDS:
            choice = asyncio.ensure_future(asyncio.to_thread(self._look_up, query_string))
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            if len(query_string) <= _MAX_QUERY_BYTES:
                self._remembered[query_string] = time.monotonic(), choice
        return choice.result() if choice.done() else await asyncio.shield(choice)

    def forget(self) -> None:
        """From any thread."""
        self._remembered.clear()

    def _look_up(self, query_string: bytes) -> Choice:
        params = QueryParams(query_string)
        if errors := repeated(params.multi_items()):
            raise invalid_query(errors)
        try:
            query = PredictQuery.model_validate(dict(params))
        except ValidationError as error:
            raise invalid_query(error.errors()) from error
        if query.policy == "cascade":
            assert query.min_acc is not None  # as policy.check has seen
            cascade = self._zoo.chooser.cascade(query.min_acc, query.dataset)
            because = f"cascade with the {query.model_copy(update={'prefer': 'macs'}).because()}"
            return Choice(query, cascade.rows[0].digest, {}, because, cascade)
        if query.policy == "adaptive":
            levels = self._zoo.chooser.levels(query)
            return Choice(query, levels[-1].digest, {}, None, levels=levels)
        choose = self._zoo.chooser
        row = choose.choose(query) if query.model is None else choose.named(query.model, query)
        model = PredictedBy.of(row).model_dump()
        is_choice = query.model is None or query.is_bounded()
        return Choice(query, row.digest, model, query.because(query.model) if is_choice else None)
