"""Parameters of /predict as fields of the form that the image comes in."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest


def ask(client: httpx.Client, image: bytes, fields: dict[str, Any], **query: Any) -> httpx.Response:
    return client.post("/predict", params=query, data=fields, files={"file": ("digit.png", image, "image/png")})


def answered(response: httpx.Response) -> tuple[str, str | None, list[Any]]:
    body = response.json()
    return body["model"]["id"], body["because"], body["predictions"]


PARAMETERS: list[dict[str, Any]] = [
    {"min_acc": 0.4},
    {"min_acc": 0.4, "confidence": 0.9},
    {"max_params": 1500},
    {"max_macs": 10**6},
    {"max_bytes": 30_000, "format": "onnx"},
    {"prefer": "params"},
    {"prefer": "accuracy", "min_acc": 0.1},
    {"dataset": "digits", "family": "secnn"},
    {"model": "smallest", "top_k": 2},
    {"policy": "single", "top_k": 1},
]


@pytest.mark.parametrize("parameters", PARAMETERS, ids=lambda parameters: "&".join(parameters))
def test_fields_say_what_the_query_would(
    client: httpx.Client, digit_files: list[bytes], parameters: dict[str, Any]
) -> None:
    wanted = ask(client, digit_files[0], {}, **parameters)
    assert wanted.status_code == 200, wanted.text
    assert answered(ask(client, digit_files[0], parameters)) == answered(wanted)
    first, *others = parameters
    apart = ask(client, digit_files[0], {name: parameters[name] for name in others}, **{first: parameters[first]})
    assert answered(apart) == answered(wanted)


def test_a_query_that_only_its_form_completes(client: httpx.Client, digit_files: list[bytes]) -> None:
    assert ask(client, digit_files[0], {}, confidence=0.9).status_code == 422
    assert ask(client, digit_files[0], {"min_acc": 0.1}, confidence=0.9).status_code == 200


def test_the_same_twice_is_fine_and_another_value_is_not(client: httpx.Client, digit_files: list[bytes]) -> None:
    assert ask(client, digit_files[0], {"min_acc": "0.40"}, min_acc=0.4).status_code == 200
    response = ask(client, digit_files[0], {"min_acc": 0.5}, min_acc=0.4)
    assert response.status_code == 422
    assert response.json()["detail"] == "min_acc: 0.4 in the query, 0.5 in the body: give it once"
    in_json = client.post("/predict?top_k=2", json={"inputs": "", "parameters": {"top_k": 3}})
    assert in_json.json()["detail"] == "top_k: 2 in the query, 3 in the body: give it once"


@pytest.mark.parametrize(("in_query", "in_body"), [(5, 2), (2, 5)])
def test_a_default_that_is_only_repeated_contradicts_nothing(
    client: httpx.Client, digit_files: list[bytes], in_query: int, in_body: int
) -> None:
    encoded = base64.b64encode(digit_files[0]).decode()
    as_json = client.post(f"/predict?top_k={in_query}", json={"inputs": encoded, "parameters": {"top_k": in_body}})
    for response in (as_json, ask(client, digit_files[0], {"top_k": in_body, "policy": "single"}, top_k=in_query)):
        assert len(response.json()["predictions"][0]) == 2


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"foo": "bar"}, "foo: not a parameter of this route"),
        ({"min_acc": 80}, "min_acc: accuracy is a fraction: 0.8, not 80"),
        ({"max_params": ""}, "max_params: Input should be a valid integer"),
        ({"min_acc": ["0.1", "0.2"]}, "min_acc: given 2 times: give it once"),
        ({"model": "best", "max_params": 5000}, "model names one checkpoint: give it or a budget, not both"),
        ({"model": "best", "prefer": "macs"}, "model names one checkpoint: give it or a budget, not both"),
        ({"confidence": 0.9}, "give min_acc too"),
        ({"policy": "cascade", "max_params": 5}, "policy=cascade takes min_acc"),
    ],
)
def test_fields_are_checked_as_the_query_is(
    client: httpx.Client, digit_files: list[bytes], fields: dict[str, Any], detail: str
) -> None:
    response = ask(client, digit_files[0], fields)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert detail in response.json()["detail"]


def test_a_budget_that_nothing_meets_is_404(client: httpx.Client, digit_files: list[bytes]) -> None:
    response = ask(client, digit_files[0], {"max_params": 10})
    assert response.status_code == 404
    assert response.json()["best_available"] is not None


def test_files_are_the_fields_named_file(client: httpx.Client, digit_files: list[bytes]) -> None:
    image = ("digit.png", digit_files[0], "image/png")
    elsewhere = client.post("/predict", files=[("file", image), ("image", image)])
    assert elsewhere.status_code == 422
    assert (
        elsewhere.json()["detail"]
        == "image: a value was expected, a file came; images: in a form they are the fields named file"
    )
    text = client.post("/predict", files={"file": (None, "digit.png")})
    assert text.status_code == 422
    assert text.json()["detail"] == "file: an image file was expected, text came"


def test_a_form_without_end_is_refused(client: httpx.Client, digit_files: list[bytes]) -> None:
    assert ask(client, digit_files[0], {f"field{index}": "1" for index in range(100)}).status_code == 400
    assert ask(client, digit_files[0], {"model": "x" * 10_000}).status_code == 400


def test_the_document_names_the_fields(client: httpx.Client) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert form.keys() == {"file", *(parameter["name"] for parameter in operation["parameters"])}
