"""zoo-serve as a process: workers, logs, signals, spans."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

PNG = {"Content-Type": "image/png"}


def samples(server: Any, name: str) -> float:
    families = text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text)
    return sum(sample.value for family in families for sample in family.samples if sample.name == name)


def predict(server: Any, image: bytes) -> httpx.Response:
    """On a connection of its own, which any of the workers may get."""
    return httpx.post(f"{server.url}/predict", content=image, headers=PNG)


def test_two_workers_answer_as_one_and_their_metrics_add_up(
    serve: Callable[..., Any], digit_files: list[bytes]
) -> None:
    server = serve("--workers", 2)
    server.wait_for("Application startup complete", count=2)
    answers = [predict(server, digit_files[0]) for _ in range(24)]
    assert {response.status_code for response in answers} == {200}
    assert len({json.dumps(response.json()["predictions"]) for response in answers}) == 1
    for _ in range(4):
        assert samples(server, "zoo_predictions_total") == 24
        assert samples(server, "zoo_checkpoints") == 5
        assert samples(server, "zoo_predictions_under_way") == 0
        assert samples(server, "zoo_predictions_waiting") == 0
        assert samples(server, "zoo_loaded_predictors") == 2


def test_workers_start_under_the_module_s_name_too(serve: Callable[..., Any]) -> None:
    server = serve("--workers", 2, program=(sys.executable, "-m", "app"))
    server.wait_for("Application startup complete", count=2)


def test_a_worker_that_dies_is_replaced(serve: Callable[..., Any], digit_files: list[bytes]) -> None:
    server = serve("--workers", 2)
    server.wait_for("Application startup complete", count=2)
    os.kill(server.workers()[0], signal.SIGKILL)
    server.wait_for(r"ended with exit code -9 \(SIGKILL\): starting another")
    server.wait_for("Application startup complete", count=3)
    assert [predict(server, digit_files[0]).status_code for _ in range(8)] == [200] * 8
    assert samples(server, "zoo_loaded_predictors") == 2, "what the dead one had loaded no longer counts"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
def test_signals_let_finish_what_is_under_way(
    serve: Callable[..., Any], digit_files: list[bytes], number: signal.Signals, workers: int
) -> None:
    server = serve("--workers", workers)
    server.wait_for("Application startup complete", count=workers)
    host, port = server.url.removeprefix("http://").split(":")
    length = len(digit_files[0])
    head = f"POST /predict HTTP/1.1\r\nHost: [::1]\r\nContent-Type: image/png\r\nContent-Length: {length}\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + digit_files[0][:50])
        time.sleep(0.3)
        server.process.send_signal(number)
        server.wait_for("Shutting down")
        connection.sendall(digit_files[0][50:])
        assert connection.recv(12) == b"HTTP/1.1 200"
    server.process.wait(timeout=30)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/livez")


def test_a_taken_port_is_told(serve: Callable[..., Any], zoo_root: Path) -> None:
    port = serve("--workers", 2).url.rpartition(":")[2]
    command = [Path(sys.executable).parent / "zoo-serve", "--zoo", zoo_root, "--port", port, "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"zoo-serve: --host 127.0.0.1 --port {port}: ")
    assert "Address already in use" in done.stderr


def test_logs_are_one_json_object_a_line_with_the_request_id(
    serve: Callable[..., Any], digit_files: list[bytes]
) -> None:
    server = serve("--log-format", "json", "--access-log")
    given = {**PNG, "X-Request-Id": "mine-1"}
    assert httpx.post(f"{server.url}/predict", content=digit_files[0], headers=given).status_code == 200
    server.wait_for("mine-1")
    records = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert all({"time", "level", "logger", "message"} <= record.keys() for record in records)
    [record] = [record for record in records if record.get("request_id") == "mine-1"]
    assert record["message"] == "POST /predict"
    assert (record["level"], record["logger"], record["status"]) == ("info", "app.access", 200)
    assert record["duration_ms"] > 0
    assert (record["method"], record["path"]) == ("POST", "/predict")


def test_a_path_begins_no_line_of_the_log(serve: Callable[..., Any]) -> None:
    server = serve("--access-log")
    httpx.get(f"{server.url}/nowhere%0aERROR%20app.main:%20forged")
    server.wait_for(r"app\.access: GET /nowhere%0AERROR%20app\.main:%20forged .*status=404")


def test_without_access_log_requests_leave_no_record(serve: Callable[..., Any]) -> None:
    server = serve()
    httpx.get(f"{server.url}/livez")
    assert "app.access" not in server.log.read_text()


@contextmanager
def collector() -> Iterator[tuple[str, list[Span]]]:
    """A real receiver of OTLP over HTTP."""
    spans: list[Span] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", spans
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_spans_of_a_prediction_and_its_stages_are_sent(serve: Callable[..., Any], digit_files: list[bytes]) -> None:
    with collector() as (endpoint, spans):
        server = serve(ZOO_TRACES="1", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
        trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
        headers = {**PNG, "traceparent": f"00-{trace}-{parent}-01", "X-Request-Id": "mine-2"}
        assert httpx.post(f"{server.url}/predict", content=digit_files[0], headers=headers).status_code == 200
        server.process.terminate()
        server.process.wait(timeout=30)
    ours = {span.name: span for span in spans if span.trace_id.hex() == trace}
    assert set(ours) == {"POST /predict", "decode", "queue", "forward"}
    request = ours["POST /predict"]
    assert request.parent_span_id.hex() == parent
    assert {item.key: item.value.string_value for item in request.attributes}["request.id"] == "mine-2"
    stages = [ours[name] for name in ("decode", "queue", "forward")]
    assert {span.parent_span_id for span in stages} == {request.span_id}
    for before, after in pairwise(stages):
        assert before.start_time_unix_nano <= before.end_time_unix_nano == after.start_time_unix_nano
    assert stages[-1].end_time_unix_nano <= request.end_time_unix_nano


def test_the_log_says_what_limits_and_who_may_do_what(serve: Callable[..., Any]) -> None:
    server = serve(ZOO_PUBLISH_TOKEN="a-token-for-publishing", ZOO_CORS_ORIGINS="https://example.org")
    log = server.log.read_text()
    assert "limits: 2048 connections" in log
    assert "publishing with ZOO_PUBLISH_TOKEN; other sites' pages: https://example.org" in log
    assert "a-token-for-publishing" not in log
