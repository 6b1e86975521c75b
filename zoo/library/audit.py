"""The audit log: one record for each change of a zoo and each refused token, under the logger "zoo.audit".

Who it was is a matter of the caller's context: the service says which token, from which address; without one it is the
user of this machine.
"""

from __future__ import annotations

import getpass
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

log = logging.getLogger("zoo.audit")

# An address may come from a header; it must not begin a line of its own, or look like another fact.
_UNUSUAL = re.compile(r"[^0-9A-Za-z.:%_-]")


class Formatter(logging.Formatter):
    """For the command line: the action and what is known of it, in one line."""

    def format(self, record: logging.LogRecord) -> str:
        facts: dict[str, object] = getattr(record, "facts", {})
        return " ".join([record.name, record.getMessage(), *(f"{name}={value}" for name, value in facts.items())])


@dataclass(frozen=True, slots=True)
class Actor:
    """`who` is the kind of a token, never the token; `address` is the client's."""

    who: str
    address: str


_actor: ContextVar[Actor | None] = ContextVar("actor", default=None)


@contextmanager
def acting(who: str, address: str) -> Iterator[None]:
    """For what is done within, on threads that take the context along too."""
    token = _actor.set(Actor(who, address))
    try:
        yield
    finally:
        _actor.reset(token)


def actor() -> str:
    """Who changes something now, as annotations say it."""
    now = _actor.get() or _user()
    return f"{now.who}, {now.address}" if now.address else now.who


def record(action: str, checkpoint: str | None = None, **facts: object) -> None:
    actor = _actor.get() or _user()
    _write(logging.INFO, action, actor, {} if checkpoint is None else {"checkpoint": checkpoint}, facts)


def refuse(reason: str, who: str, address: str, **facts: object) -> None:
    """A token that was refused."""
    _write(logging.WARNING, "refused", Actor(who, address), {"reason": reason}, facts)


def _write(level: int, action: str, actor: Actor, subject: dict[str, str], facts: dict[str, object]) -> None:
    known = {**subject, **{name: value for name, value in facts.items() if value is not None}}
    known |= {"who": actor.who, "address": _UNUSUAL.sub("?", actor.address[:64])}
    log.log(level, "%s", action, extra={"facts": known})


def _user() -> Actor:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a user id without an entry, as in containers
        name = str(os.getuid())
    return Actor(f"user {name}", socket.gethostname())
