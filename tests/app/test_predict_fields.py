"""Parameters of /predict as fields of the form that the image comes in."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from zoo.client import ZooClient
from zoo.errors import NoModelMeetsConstraintsError, ZooError
from zoo.library.local import LocalZoo


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
    assert ask(client, digit_files[0], {}, policy="adaptive").status_code == 422
    assert ask(client, digit_files[0], {"deadline_ms": 1000}, policy="adaptive").status_code == 200


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
        ({"model": "best", "policy": "adaptive", "deadline_ms": 5}, "give one of them"),
        ({"model": "best", "policy": "cascade", "min_acc": 0.1}, "policy=cascade takes min_acc"),
        ({"deadline_ms": 5}, "deadline_ms is for policy=adaptive"),
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


def test_who_is_named_must_meet_the_budget(client: httpx.Client, digit_files: list[bytes]) -> None:
    smallest, best = (client.get(f"/models/{name}").json() for name in ("smallest", "best"))
    bounds = {"max_params": smallest["params"], "family": "secnn"}
    body = ask(client, digit_files[0], {"model": "smallest"}, **bounds).json()
    assert (body["model"]["id"], body["because"]) == (
        smallest["id"],
        f"named smallest of family secnn with at most {smallest['params']:,} parameters",
    )
    preferred = ask(client, digit_files[0], {"model": "best", "prefer": "params"}).json()
    assert (preferred["model"]["id"], preferred["because"]) == (best["id"], "named best, the only one to prefer")
    response = ask(client, digit_files[0], {"model": "best"}, **bounds)
    assert (response.status_code, response.json()["type"]) == (404, "no-model-meets-constraints")
    assert response.json()["best_available"]["id"] == smallest["id"]
    assert response.json()["detail"] == (
        f"checkpoint {best['name']} does not meet max_params={smallest['params']}, family=secnn: it has "
        f"{best['params']:,} parameters, family secnn; without its name, {smallest['name']} is chosen"
    )
    impossible = ask(client, digit_files[0], {"model": "best", "min_acc": 1, "confidence": 0.9}).json()
    assert f"it has accuracy {best['accuracy']:.4f} of {best['accuracy_n']:,} images" in impossible["detail"]


def test_libraries_and_commands_say_the_same_of_who_is_named(
    client: httpx.Client, zoo_root: Path, digit_files: list[bytes], tmp_path: Path, command: Callable[..., Any]
) -> None:
    smallest = client.get("/models/smallest").json()
    (image := tmp_path / "digit.png").write_bytes(digit_files[0])
    local = LocalZoo([zoo_root])
    local.sync()
    with ZooClient(str(client.base_url)) as remote, local:
        for zoo in (local, remote):
            with pytest.raises(NoModelMeetsConstraintsError, match="does not meet max_params=1: it has"):
                zoo.predict(digit_files[0], "best", max_params=1)
            assert zoo.predict(digit_files[0], "smallest", max_params=smallest["params"])
            with pytest.raises(ZooError, match="policy"):
                zoo.predict(digit_files[0], "best", policy="cascade")
    for where in (("--zoo", zoo_root), ("--url", client.base_url)):
        asked = ("zoo", "predict", image, "--model", "smallest", *where)
        refused = command(*asked, "--max-params", 1, "--json")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "does not meet max_params=1: it has" in refused.stderr
        answered = command(*asked, "--max-params", smallest["params"], "--json")
        assert (
            json.loads(answered.stdout)["because"] == f"named smallest with at most {smallest['params']:,} parameters"
        )


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
