"""What routes need of the app they belong to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from app.http.auth import Tokens
from app.http.downloads import Downloads
from app.http.errors import invalid_query, repeated
from app.http.response_cache import Recent
from app.monitoring.metrics import Metrics
from app.predict.inference import Inference
from app.predict.model_choice import Choices
from app.settings import Settings
from zoo.library.local import LocalZoo

if TYPE_CHECKING:
    from app.publishing import Publishing


@dataclass
class Service:
    """Lives as long as the app; `ready` once the default checkpoint has answered."""

    settings: Settings
    zoo: LocalZoo
    choices: Choices
    inference: Inference
    downloads: Downloads
    recent: Recent
    metrics: Metrics
    tokens: Tokens
    publishing: Publishing
    ready: bool = False

    def forget(self) -> None:
        """After a change of the zoo: what is remembered may be out of date."""
        self.choices.forget()
        self.recent.forget()

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
