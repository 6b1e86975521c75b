"""The OpenAPI document is whole, and what the service answers is what it says."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from app.settings import Settings

Document = dict[str, Any]

TOKEN, PUBLISH_TOKEN = "a-token-for-reading", "a-token-for-publishing"
AS_PUBLISHER = {"Authorization": f"Bearer {PUBLISH_TOKEN}"}


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> Document:
    return client.get("/openapi.json").json()


def references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for item in part.values():
            yield from references(item)
    elif isinstance(part, list):
        for item in part:
            yield from references(item)


def operations(document: Document) -> dict[tuple[str, str], Document]:
    return {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_every_reference_leads_somewhere(document: Document) -> None:
    found = set(references(document))
    assert "#/components/schemas/PredictParameters" in found
    for reference in found:
        part: Any = document
        for key in reference.removeprefix("#/").split("/"):
            part = part[key]
        assert part


def test_operations_have_the_plain_names_that_clients_call_them_by(document: Document) -> None:
    names = [operation["operationId"] for operation in operations(document).values()]
    assert len(set(names)) == len(names)
    assert {"predict", "list_models", "show_model", "head_file", "infer", "put_blob"} <= set(names)
    assert all(re.fullmatch("[a-z_]+", name) for name in names)


def test_reading_can_be_asked_for_by_head(document: Document) -> None:
    without = {path for method, path in operations(document) if method == "GET"} - {
        path for method, path in operations(document) if method == "HEAD"
    }
    assert without == {"/runs/{name}/events"}  # a stream
    assert "content" not in str(operations(document)["HEAD", "/models"]["responses"])


def test_bodies_and_examples_are_described(document: Document) -> None:
    found = operations(document)
    parameters = {item["name"]: item["schema"] for item in found["GET", "/models"]["parameters"]}
    assert "examples" in str(parameters["min_acc"])
    assert {"multipart/form-data", "image/png", "image/jpeg", "image/webp", "application/json"} <= set(
        found["POST", "/predict"]["requestBody"]["content"]
    )
    without = [key for key in found if key[0] in ("POST", "PUT", "PATCH") and "requestBody" not in found[key]]
    assert without == [("PUT", "/models/{reference}/aliases/{alias}")], "whose path says it all"
    for name in ("CheckpointView", "Selection", "PredictAnswer"):
        assert document["components"]["schemas"][name]["examples"]
    assert "best_available" not in document["components"]["schemas"]["NoModelProblem"]["required"]


def test_the_token_is_declared_where_it_is_needed(
    document: Document, client_of: Callable[..., httpx.Client], zoo_root: Path
) -> None:
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    needing = {key for key, operation in operations(document).items() if operation.get("security") == [{"token": []}]}
    assert {("POST", "/models"), ("PATCH", "/models/{reference}"), ("PUT", "/blobs/sha256:{digest}")} <= needing
    assert ("GET", "/models") not in needing
    guarded = client_of(zoo_root, token=TOKEN)
    for (method, path), operation in operations(guarded.get("/openapi.json", headers=bearer(TOKEN)).json()).items():
        answer = guarded.request(method, re.sub(r"\{.*?\}", "x", path))
        assert (answer.status_code == 401) == ("security" in operation), (method, path)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# What each route can be asked for that is wrong, and one thing that is right: method, path, options, status.
DIGEST = "0" * 64
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
ASKED: list[tuple[str, str, dict[str, Any], int]] = [
    ("GET", "/models", {}, 200),
    ("GET", "/models?min_acc=0.1", {}, 200),
    ("GET", "/models?min_acc=1&max_params=1", {}, 404),
    ("GET", "/models?min_acc=80", {}, 422),
    ("GET", "/models?nonsense=1&nonsense=2", {}, 422),
    ("GET", "/models?cursor=nonsense", {}, 422),
    ("GET", "/models/pareto?x=macs", {}, 200),
    ("GET", "/models/pareto?x=weight", {}, 422),
    ("GET", "/models/pareto?min_acc=1&max_params=1", {}, 404),
    ("GET", "/models/best", {}, 200),
    ("GET", "/models/nobody", {}, 404),
    ("GET", "/models/file?min_acc=1&max_params=1", {}, 404),
    ("GET", "/models/file", {}, 200),
    ("GET", "/models/nobody/file", {}, 404),
    ("GET", "/models/best/file?format=gguf", {}, 422),
    ("GET", "/models/best/file", {"headers": {"Range": "bytes=999999999-"}}, 416),
    ("GET", "/models/best/file", {"headers": {"Range": "bytes=0-9"}}, 206),
    ("GET", "/zoo/digits/resolve/main/model.safetensors", {}, 200),
    ("GET", "/zoo/digits/resolve/main/config.json", {}, 200),
    ("GET", "/zoo/digits/resolve/min_acc=80/model.onnx", {}, 422),
    ("GET", "/zoo/nobody/resolve/main/model.onnx", {}, 404),
    ("POST", "/predict", {"content": b"", "headers": {"Content-Type": "text/plain"}}, 415),
    ("POST", "/predict", {"content": b"no image", "headers": {"Content-Type": "image/png"}}, 400),
    ("POST", "/predict", {"json": {"image": "x"}}, 422),
    ("POST", "/predict", {"json": {"inputs": 3}}, 422),
    ("POST", "/predict?model=nobody", {"content": b"x", "headers": {"Content-Type": "image/png"}}, 404),
    ("POST", "/predict?min_acc=1&max_params=1", {"content": b"x", "headers": {"Content-Type": "image/png"}}, 404),
    ("POST", "/predict", {"content": b"x" * 2_000_000, "headers": {"Content-Type": "image/png"}}, 413),
    ("POST", "/predict", {"content": b"--b", "headers": FORM}, 422),
    ("POST", "/models", {"json": {"digest": DIGEST}}, 401),
    ("POST", "/models", {"json": {"digest": DIGEST}, "headers": AS_PUBLISHER}, 404),
    ("POST", "/models", {"json": {"digest": "x"}, "headers": AS_PUBLISHER}, 422),
    ("PATCH", "/models/nobody", {"json": {}, "headers": AS_PUBLISHER}, 404),
    ("PATCH", "/models/best", {"json": {"aliases": ["best"]}, "headers": AS_PUBLISHER}, 409),
    ("PATCH", "/models/best", {"json": {"aliases": ["mine"]}, "headers": AS_PUBLISHER}, 200),
    ("DELETE", f"/models/{DIGEST}", {"headers": AS_PUBLISHER}, 404),
    ("PUT", f"/blobs/sha256:{DIGEST}", {"content": b"other bytes", "headers": AS_PUBLISHER}, 422),
    ("PUT", "/blobs/sha256:nonsense", {"content": b"", "headers": AS_PUBLISHER}, 422),
    ("GET", "/runs", {}, 200),
    ("GET", "/runs?page=2", {}, 422),
    ("GET", "/runs/nobody", {}, 404),
    ("GET", "/runs/nobody/events", {}, 404),
    ("GET", "/livez", {}, 200),
    ("GET", "/readyz", {}, 200),
    ("GET", "/metrics", {}, 200),
    ("GET", "/v2", {}, 200),
    ("GET", "/v2/models/best", {}, 200),
    ("GET", "/v2/models/nobody", {}, 404),
    ("GET", "/v2/models/best/versions/nobody/ready", {}, 404),
    ("POST", "/v2/models/best/infer", {"json": {"inputs": []}}, 400),
    ("POST", "/v2/models/nobody/infer", {"json": {"inputs": []}}, 404),
]


@pytest.fixture(scope="module")
def whole(
    served: Callable[..., Any], zoo_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A server that answers with as many statuses as it can."""
    root = shutil.copytree(zoo_root, tmp_path_factory.mktemp("whole") / "zoo")
    with served(Settings(zoo=(root,), publish_token=PUBLISH_TOKEN, max_body_bytes=1_000_000)) as client:
        yield client


def template(document: Document, method: str, path: str) -> Document:
    """The operation that a path is of; where several fit, the one with more of it written out."""
    fitting = [
        (found.count("{"), operation)
        for (name, found), operation in operations(document).items()
        if name == method and re.fullmatch(re.sub(r"\{.*?\}", "[^/]+", found), path)
    ]
    return min(fitting, key=lambda item: item[0])[1]


@pytest.mark.parametrize(("method", "path", "options", "status"), ASKED)
def test_an_answer_is_as_declared(
    method: str, path: str, options: dict[str, Any], status: int, whole: httpx.Client, document: Document
) -> None:
    answer = whole.request(method, path, **options)
    assert answer.status_code == status, answer.text
    declared = template(document, method, path.partition("?")[0])["responses"][str(status)]
    media_type = answer.headers["content-type"].partition(";")[0]
    assert media_type in declared["content"]
    if media_type.endswith("json"):
        schema = declared["content"][media_type].get("schema", {})
        jsonschema.validate(answer.json(), {**schema, "components": document["components"]})
    if method == "GET" and "/events" not in path and "Range" not in str(options):  # which HEAD knows nothing of
        head = whole.head(path, **options)
        assert (head.status_code, head.content) == (status, b"")


def test_a_method_that_there_is_not_is_told_those_that_there_are(client: httpx.Client, document: Document) -> None:
    """All of a path's, which several routes may share."""
    answer = client.request("PUT", "/models")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD, POST"
    assert client.request("POST", "/models/file").headers["allow"] == "GET, HEAD"
    for path, methods in document["paths"].items():
        filled = re.sub(r"\{.*?\}", "x", path)
        allowed = set(client.request("OPTIONS", filled).headers["allow"].split(", "))
        assert {method.upper() for method in methods} == allowed, path


def test_a_generated_client_sees_the_same_document_twice(client: httpx.Client) -> None:
    assert client.get("/openapi.json").content == client.get("/openapi.json").content
    assert json.loads(client.get("/openapi.json").content)["info"]["license"]["identifier"] == "Apache-2.0"
