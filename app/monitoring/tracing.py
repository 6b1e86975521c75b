"""OpenTelemetry spans: one for each request, and below a prediction's those of its stages. Needs the extra `otel`.

Spans are made when a request is over, from times that are taken anyway: without tracing nothing is paid for it. Where
they go is told by the standard variables, OTEL_EXPORTER_OTLP_ENDPOINT and the like.
"""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import Scope

from app.monitoring.metrics import TimingMs


class Tracing:
    def __init__(self) -> None:
        self._provider = TracerProvider(resource=Resource.create({SERVICE_NAME: "checkpoint-zoo"}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("app")
        self._propagator = TraceContextTextMapPropagator()

    def close(self) -> None:
        """Sends what has not been sent."""
        self._provider.shutdown()

    def answered(self, scope: Scope, route: str, status: int, request_id: str, started_ns: int, ended_ns: int) -> None:
        """The parent is the client's span, if it sent one in `traceparent`."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        span = self._tracer.start_span(
            f"{scope['method']} {route}",
            self._propagator.extract(headers),
            SpanKind.SERVER,
            {
                "http.request.method": scope["method"],
                "http.route": route,
                "http.response.status_code": status,
                "url.path": scope["path"],
                "request.id": request_id,
            },
            start_time=started_ns,
        )
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        if "predicted" in scope:
            self._stages(set_span_in_context(span), *scope["predicted"])
        span.end(ended_ns)

    def _stages(self, parent: Context, timing: TimingMs, ended_ns: int) -> None:
        """One follows on the other; the last ended at `ended_ns`."""
        for stage in ("forward", "queue", "decode"):
            started_ns = ended_ns - int(getattr(timing, stage) * 1e6)
            self._tracer.start_span(stage, parent, start_time=started_ns).end(ended_ns)
            ended_ns = started_ns
