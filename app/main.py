"""The service, put together."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import Depends, FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp

from app.admission import refusals
from app.admission.body import AdmitBody
from app.admission.gate import Gate
from app.http import errors, openapi
from app.http.auth import Authorization, Tokens
from app.http.compression import CompressJson
from app.http.downloads import Downloads
from app.http.middleware import PROBES, CheckHead, ObserveRequests
from app.http.origins import BelowPrefix, Origins, cors
from app.http.response_cache import AnswerFromCache, ResponseCache
from app.monitoring.metrics import Metrics
from app.predict.adaptive import Adaptive
from app.predict.inference import Inference
from app.predict.model_choice import ModelChoices
from app.publishing import Publishing
from app.routes import files, health, hub, inference_protocol, models, predict, publish, runs, web
from app.service import Service, follow, follow_claims, parameters_given_once
from app.settings import Settings
from zoo.errors import BusyError, NoSpaceError, ZooError
from zoo.library.local import LocalZoo
from zoo.library.publishing import trial
from zoo.store.store import Store, store_of

if TYPE_CHECKING:  # of an extra
    from app.monitoring.tracing import Tracing

log = logging.getLogger(__name__)


class _App(FastAPI):
    """Without those of FastAPI's layers that this service has of its own (crashes, bodies, traces), and with a way past
    its router for predictions: together a tenth of a prediction's time (docs/benchmarks.md)."""

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = predict.PastRouter(AsyncExitStackMiddleware(self.router))
        app = ExceptionMiddleware(app, handlers=self.exception_handlers)
        for layer, arguments, options in reversed(self.user_middleware):
            app = layer(app, *arguments, **options)
        return app


def create_app(settings: Settings, store: Store | None = None) -> FastAPI:
    """The zoo is opened when the app starts. No interactive docs: their scripts would come from elsewhere.

    `store`: where the checkpoints are, else as the settings say.
    """
    metrics = Metrics()
    tokens, publishing = Tokens(settings.token, settings.publish_token), Publishing(settings)
    gate = Gate(settings, metrics)
    tracing = _tracing() if settings.traces else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        where = store or store_of(settings.zoo, settings.store)
        zoo = LocalZoo(settings.zoo, settings.default_dataset, store=where)
        try:
            zoo.sync()
        except (BusyError, NoSpaceError) as error:  # what is known of it is served; it is looked through again soon
            log.warning("the zoo's directories could not be looked through: %s", error)
        inference = Inference(zoo.files.load, gate.work, settings.max_loaded_bytes, settings.max_queue, metrics)
        cache = ResponseCache()
        downloads = Downloads(zoo, settings.max_file_cache_bytes, cache)
        app.state.service = Service(
            settings,
            zoo,
            ModelChoices(zoo),
            inference,
            Adaptive(inference, metrics),
            downloads,
            cache,
            metrics,
            tokens,
            publishing,
        )
        follower = asyncio.create_task(follow(app.state.service))
        stopping = threading.Event()
        if settings.publish_token is not None:
            trial.start_runner()
            threading.Thread(target=zoo.annotations.reserve, daemon=True).start()
        if publishing.measures:
            threading.Thread(target=follow_claims, args=(app.state.service, stopping), daemon=True).start()
        yield
        stopping.set()
        follower.cancel()
        with suppress(asyncio.CancelledError):
            await follower
        gate.close()
        zoo.close()
        if tracing is not None:
            tracing.close()

    app = _App(
        title="Checkpoint zoo",
        summary="The smallest image classifier that is good enough.",
        version=version("checkpoint-zoo"),
        lifespan=lifespan,
        license_info={"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        generate_unique_id_function=openapi.operation_id,
        redirect_slashes=False,
        exception_handlers=errors.HANDLERS | refusals.HANDLERS,
        # Relative to the document itself, so that clients made from it find the service below any prefix.
        servers=[{"url": settings.root_path or "."}],
        docs_url=None,
        redoc_url=None,
        # ZOO_TRACES has spans of its own, with a prediction's stages.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.gate = gate
    app.router.routes.append(predict.route)
    # files before models: /models/file must not be read as the model named "file".
    for module in (files, models, publish, runs):
        app.include_router(module.router, dependencies=[Depends(parameters_given_once)])
    for module in (inference_protocol, hub, health, web):
        app.include_router(module.router)
    openapi.install(app, None if settings.token is None else frozenset(PROBES))
    app.add_middleware(AdmitBody, max_bytes=settings.max_body_bytes, gate=gate)
    app.add_middleware(AnswerFromCache)
    app.add_middleware(CompressJson)
    app.add_middleware(CheckHead, check=Authorization(tokens, publish.router.routes).check)
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, **cors(settings.cors_origins))
    app.add_middleware(CheckHead, check=Origins(settings).check)
    if settings.root_path:
        app.add_middleware(BelowPrefix, prefix=settings.root_path)
    app.add_middleware(ObserveRequests, metrics=metrics, tracing=tracing)
    return app


def _tracing() -> Tracing:
    try:
        from app.monitoring.tracing import Tracing
    except ModuleNotFoundError as error:
        raise ZooError(f"ZOO_TRACES needs the extra otel ({error}): pip install 'checkpoint-zoo[otel]'") from error
    return Tracing()
