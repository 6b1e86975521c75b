"""Log records as text or as one JSON object a line, each with the id of the request it was written for."""

from __future__ import annotations

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

# For programs that read JSON; the message of such a record has them in words.
_IN_MESSAGE = ("method", "path")
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


LogFormat = Literal["text", "json"]


def configure(level: str, log_format: LogFormat, *, access: bool) -> None:
    """For the whole process, so entry points only. `access`: a record for each request, under "app.access"."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("zoo.audit").setLevel(logging.INFO)
    logging.getLogger("app.access").setLevel(logging.INFO if access else logging.WARNING)


class TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        facts = "".join(f" {name}={value}" for name, value in _facts(record).items() if name not in _IN_MESSAGE)
        return super().formatMessage(record) + facts


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False, default=str)


def _facts(record: logging.LogRecord) -> dict[str, object]:
    """The request's id, and what was given as `extra`."""
    extra = {name: value for name, value in vars(record).items() if name not in _USUAL}
    extra |= extra.pop("facts", {})  # of the audit log
    current = request_id.get()
    return extra if current is None else {"request_id": current, **extra}
