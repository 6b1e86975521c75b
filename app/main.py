"""The service, put together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from sqlalchemy.exc import SQLAlchemyError

from app import errors
from app.deps import Service
from app.inference import Inference, PredictorCache
from app.metrics import Metrics
from app.middleware import LimitBody, ObserveRequests, RequireToken
from app.routes import files, health, models, predict
from app.settings import Settings
from zoo.budget import Budget
from zoo.errors import ZooError
from zoo.local import LocalZoo

log = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """The zoo is opened when the app starts. No interactive docs: their scripts would come from elsewhere."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        zoo = LocalZoo(settings.zoo, settings.default_dataset)
        zoo.sync()
        predictors = PredictorCache(zoo.load, settings.max_predictors, metrics)
        app.state.service = Service(settings, zoo, Inference(predictors, settings.max_queue, metrics), metrics)
        follower = asyncio.create_task(_follow(app.state.service))
        yield
        follower.cancel()
        with suppress(asyncio.CancelledError):
            await follower
        zoo.close()

    app = FastAPI(
        title="Checkpoint zoo",
        summary="The smallest image classifier that is good enough.",
        version=version("checkpoint-zoo"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    # files before models: /models/file must not be read as the model named "file".
    for module in (files, models, predict, health):
        app.include_router(module.router)
    app.add_api_route("/", _index, include_in_schema=False)
    errors.install(app)
    app.add_middleware(LimitBody, max_bytes=settings.max_body_bytes)
    app.add_middleware(RequireToken, token=settings.token)
    app.add_middleware(ObserveRequests, metrics=metrics)
    return app


async def _follow(service: Service) -> None:
    """Warms the default checkpoint, then keeps the catalog up with the files until cancelled."""
    while True:
        if not service.ready:
            await asyncio.to_thread(_warm, service)
        if not service.settings.rescan_seconds:
            return
        await asyncio.sleep(service.settings.rescan_seconds)
        try:
            await asyncio.to_thread(service.zoo.sync)
        except (OSError, SQLAlchemyError):
            log.exception("the zoo's directories could not be looked through; trying again")


def _warm(service: Service) -> None:
    row = service.zoo.catalog.smallest(Budget())
    if row is None:
        return
    try:
        service.inference.warm(row.digest)
    except (ZooError, OSError):
        log.exception("the default checkpoint could not be loaded")
        return
    service.ready = True


async def _index() -> RedirectResponse:
    return RedirectResponse("/models")
