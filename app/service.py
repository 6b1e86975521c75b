"""What an app has while it lives, how it keeps up with its zoo, and how routes get at it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from app.http.auth import Tokens
from app.http.downloads import Downloads
from app.http.problems import invalid_query, repeated
from app.http.response_cache import ResponseCache
from app.monitoring.metrics import Metrics
from app.predict.adaptive import Adaptive
from app.predict.inference import Inference
from app.predict.model_choice import ModelChoices
from app.publishing import Publishing
from app.settings import Settings
from zoo.choosing.budget import Budget
from zoo.library.local import LocalZoo
from zoo.runtime import glibc

log = logging.getLogger(__name__)


@dataclass
class Service:
    """Lives as long as the app; `ready` once the default checkpoint has answered."""

    settings: Settings
    zoo: LocalZoo
    model_choices: ModelChoices
    inference: Inference
    adaptive: Adaptive
    downloads: Downloads
    response_cache: ResponseCache
    metrics: Metrics
    tokens: Tokens
    publishing: Publishing
    ready: bool = False

    def forget(self) -> None:
        """After a change of the zoo: what is remembered may be out of date."""
        self.model_choices.forget()
        self.response_cache.forget()

    def cache_control(self, *, immutable: bool) -> str:
        """Who may keep a file for how long. no-transform: proxies must not compress what is named by its bytes."""
        if not immutable:
            return "no-cache, no-transform"
        # What needs a token must not reach others by way of a shared cache.
        whose = "public" if self.settings.token is None else "private"
        return f"{whose}, max-age=31536000, immutable, no-transform"


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def parameters_given_once(request: Request) -> None:
    if errors := repeated(request.query_params.multi_items()):
        raise invalid_query(errors)


ServiceDep = Annotated[Service, Depends(service_of)]


async def follow(service: Service) -> None:
    """Warms the default checkpoint, then keeps the catalog up with the files until cancelled."""
    steps: tuple[Callable[[Service], Awaitable[None]], ...] = (_warm,)  # what there is has been looked through just now
    reasons: dict[Callable[[Service], Awaitable[None]], str] = {}
    while True:
        for step in steps:
            try:
                await step(service)
                reasons.pop(step, None)
            except Exception as error:  # whatever it is, the next look may go better, and must not be the last
                if reasons.get(step) != str(error):  # each second is a look, and each new reason worth one line
                    log.exception("the zoo cannot be looked through; trying again each second")
                reasons[step] = str(error)
        if not service.settings.rescan_seconds:
            return
        await asyncio.sleep(service.settings.rescan_seconds)
        steps = (_sync, _warm)


async def _sync(service: Service) -> None:
    if await asyncio.to_thread(service.zoo.sync):
        service.forget()
    await asyncio.to_thread(glibc.give_back)


async def _warm(service: Service) -> None:
    if service.ready:
        return
    row = await asyncio.to_thread(service.zoo.catalog.choose, Budget())
    if row is not None:
        await service.inference.network(row.digest)
        glibc.drop_code()
        service.ready = True


def follow_claims(service: Service, stopping: threading.Event) -> None:
    """On a thread of its own: a measurement takes seconds."""
    while True:
        try:
            if service.publishing.measure_claims(service.zoo, stopping):
                service.forget()
        except Exception:  # as for the directories: whatever it is, the next look may go better
            log.exception("claimed accuracies could not be measured; trying again")
        if stopping.wait(max(service.settings.rescan_seconds, 1.0)):
            return
