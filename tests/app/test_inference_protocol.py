"""The stock Triton client against a real server, and what it cannot be made to send."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferenceServerException, InferInput, InferRequestedOutput

from trainer.data.datasets import Data
from zoo.checkpoint.file import Checkpoint
from zoo.runtime.predictor import Predictor

MODEL = "best"


@pytest.fixture
def triton(client: httpx.Client) -> Iterator[InferenceServerClient]:
    triton = InferenceServerClient(client.base_url.netloc.decode())
    yield triton
    triton.close()


@pytest.fixture(scope="module")
def pixels(digits: Data) -> np.ndarray:
    """uint8 (5, 8, 8, 1)"""
    return np.ascontiguousarray(digits.test.images[:5].permute(0, 2, 3, 1).numpy())


@pytest.fixture
def predictor(client: httpx.Client, checkpoints: dict[str, Checkpoint]) -> Predictor:
    return Predictor(checkpoints[client.get(f"/models/{MODEL}").json()["id"]])


def images(pixels: np.ndarray, *, binary: bool) -> InferInput:
    tensor = InferInput("images", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels, binary_data=binary)
    return tensor


def test_the_server_and_its_models_are_described(triton: InferenceServerClient, client: httpx.Client) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.get_server_metadata()["extensions"] == ["binary_tensor_data", "classification"]
    best = client.get(f"/models/{MODEL}").json()
    for name, version in ((MODEL, ""), (best["id"], ""), (best["name"], best["id"]), (MODEL, best["id"][:12])):
        assert triton.is_model_ready(name, version)
        metadata = triton.get_model_metadata(name, version)
        assert metadata["name"] == name
        assert metadata["versions"] == [best["id"]]
        assert metadata["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 1]}]
        assert metadata["outputs"] == [
            {"name": "scores", "datatype": "FP32", "shape": [-1, 10]},
            {"name": "labels", "datatype": "BYTES", "shape": [-1]},
        ]
    assert not triton.is_model_ready("nothing")
    assert not triton.is_model_ready("smallest", best["id"])


@pytest.mark.parametrize("sent_as_bytes", [False, True])
@pytest.mark.parametrize("answered_as_bytes", [False, True])
def test_pixels_get_the_scores_of_the_network(
    triton: InferenceServerClient,
    predictor: Predictor,
    pixels: np.ndarray,
    sent_as_bytes: bool,
    answered_as_bytes: bool,
) -> None:
    outputs = [InferRequestedOutput(name, binary_data=answered_as_bytes) for name in ("labels", "scores")]
    result = triton.infer(MODEL, [images(pixels, binary=sent_as_bytes)], outputs=outputs, request_id="my-id")
    wanted = predictor.probabilities(pixels)
    np.testing.assert_allclose(result.as_numpy("scores"), wanted, atol=1e-6)
    labels = [label.decode() if isinstance(label, bytes) else label for label in result.as_numpy("labels")]
    assert labels == [str(digit) for digit in wanted.argmax(axis=1)]
    response = result.get_response()
    assert response["id"] == "my-id"
    assert response["model_name"] == MODEL
    assert [output["name"] for output in response["outputs"]] == ["labels", "scores"]


def test_without_a_choice_all_outputs_come(
    triton: InferenceServerClient, client: httpx.Client, predictor: Predictor, pixels: np.ndarray
) -> None:
    digest = client.get(f"/models/{MODEL}").json()["id"]
    result = triton.infer(MODEL, [images(pixels, binary=True)], model_version=digest)
    np.testing.assert_allclose(result.as_numpy("scores"), predictor.probabilities(pixels), atol=1e-6)
    assert len(result.as_numpy("labels")) == 5
    assert result.get_response()["model_version"] == digest


def test_null_is_as_if_it_were_left_out(client: httpx.Client, predictor: Predictor, pixels: np.ndarray) -> None:
    tensor = {"name": "images", "shape": list(pixels.shape), "datatype": "UINT8", "data": pixels.ravel().tolist()}
    outputs = [{"name": "scores", "parameters": {"classification": None, "binary_data": None}}]
    for more in (
        {"id": None, "outputs": None, "parameters": None, "inputs": [tensor | {"parameters": None}]},
        {"outputs": outputs, "parameters": {"binary_data_output": None}, "inputs": [tensor]},
        {"outputs": [{"name": "scores", "parameters": None}], "inputs": [tensor]},
    ):
        answer = client.post(f"/v2/models/{MODEL}/infer", json=more)
        assert answer.status_code == 200, answer.text
        [scores] = [output for output in answer.json()["outputs"] if output["name"] == "scores"]
        np.testing.assert_allclose(
            np.reshape(scores["data"], scores["shape"]), predictor.probabilities(pixels), atol=1e-6
        )


def test_the_likeliest_classes_in_tritons_form(
    triton: InferenceServerClient, predictor: Predictor, pixels: np.ndarray
) -> None:
    result = triton.infer(MODEL, [images(pixels, binary=True)], outputs=[InferRequestedOutput("scores", class_count=2)])
    wanted = predictor.top_k(predictor.probabilities(pixels), 2)
    for found, predictions in zip(result.as_numpy("scores"), wanted, strict=True):
        parts = [text.decode().split(":") for text in found]
        assert [(int(index), label) for _, index, label in parts] == [(item.index, item.label) for item in predictions]
        assert [float(score) for score, _, _ in parts] == pytest.approx([item.score for item in predictions], abs=1e-6)


def test_image_files_are_decoded_as_for_predict(
    triton: InferenceServerClient, client: httpx.Client, predictor: Predictor, digit_files: list[bytes]
) -> None:
    files = digit_files[:3]
    tensor = InferInput("images", [len(files)], "BYTES")
    tensor.set_data_from_numpy(np.array(files, dtype=np.object_))
    wanted = predictor.probabilities(predictor.decode(files))
    np.testing.assert_allclose(triton.infer(MODEL, [tensor]).as_numpy("scores"), wanted, atol=1e-6)

    texts = [base64.b64encode(file).decode() for file in files]
    body = {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [len(files)], "data": texts}]}
    scores, labels = client.post(f"/v2/models/{MODEL}/infer", json=body).json()["outputs"]
    np.testing.assert_allclose(np.reshape(scores["data"], scores["shape"]), wanted, atol=1e-6)
    assert labels["data"] == [str(digit) for digit in wanted.argmax(axis=1)]


def test_errors_are_the_clients_own(triton: InferenceServerClient, pixels: np.ndarray) -> None:
    with pytest.raises(InferenceServerException, match="no checkpoint 'nothing': expected a digest"):
        triton.infer("nothing", [images(pixels, binary=True)])
    wrong = InferInput("images", [1, 4, 4, 1], "UINT8")
    wrong.set_data_from_numpy(np.zeros((1, 4, 4, 1), np.uint8))
    message = r"input images is UINT8 \[-1, 8, 8, 1\] or BYTES \[-1\], came: UINT8 \[1, 4, 4, 1\]"
    with pytest.raises(InferenceServerException, match=message):
        triton.infer(MODEL, [wrong])
    with pytest.raises(InferenceServerException, match="no output logits: there are scores, labels"):
        triton.infer(MODEL, [images(pixels, binary=True)], outputs=[InferRequestedOutput("logits")])
    file = InferInput("images", [1], "BYTES")
    file.set_data_from_numpy(np.array([b"not an image"], dtype=np.object_))
    with pytest.raises(InferenceServerException, match="12 bytes that are no PNG, JPEG or WebP image"):
        triton.infer(MODEL, [file])


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 1], "data": [0] * 64, **changes}


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        ([], "there is one input, images; came: none"),
        ([tensor(name="input0")], "there is one input, images; came: input0"),
        ([tensor(shape=[0, 8, 8, 1], data=[])], "a request takes 1 to 128 images, its shape is [0, 8, 8, 1]"),
        ([tensor(shape=[129, 8, 8, 1])], "a request takes 1 to 128 images"),
        ([tensor(shape=[])], "a request takes 1 to 128 images, its shape is []"),
        ([tensor(shape=[-1, 8, 8, 1])], "inputs.0.shape.0: Input should be greater than or equal to 0"),
        ([tensor(data=[0] * 63)], "shape [1, 8, 8, 1] has 64 values, 63 came"),
        ([tensor(data=[[0], [0, 1]])], "data is nested unevenly"),
        ([tensor(data=[256] * 64)], "UINT8 holds whole numbers from 0 to 255"),
        ([tensor(data=[0.5] * 64)], "UINT8 holds whole numbers from 0 to 255"),
        ([tensor(data=["a"] * 64)], "UINT8 holds whole numbers from 0 to 255"),
        ([tensor(data=[10**400] * 64)], "UINT8 holds whole numbers from 0 to 255"),
        ([tensor(datatype="FP32")], "is UINT8 [-1, 8, 8, 1] or BYTES [-1], came: FP32 [1, 8, 8, 1]"),
        ([tensor(datatype="BYTES", shape=[1, 2], data=["AAAA"] * 2)], "or BYTES [-1], came: BYTES [1, 2]"),
        ([tensor(datatype="BYTES", shape=[1, 0], data=[])], "or BYTES [-1], came: BYTES [1, 0]"),
        ([tensor(data=None)], "give either data or the parameter binary_data_size"),
        ([tensor(parameters={"binary_data_size": 64})], "give either data or the parameter binary_data_size"),
        ([tensor(datatype="BYTES", shape=[1], data=["%"])], "BYTES in JSON are the base64 of an image file"),
        ([tensor(datatype="BYTES", shape=[1], data=[7])], "BYTES in JSON are the base64 of an image file"),
        ([tensor(datatype="BYTES", shape=[2], data=["AAAA"])], "shape [2] has 2 files, 1 came"),
    ],
)
def test_bad_json_says_what_to_change(client: httpx.Client, inputs: list[dict[str, Any]], error: str) -> None:
    response = client.post(f"/v2/models/{MODEL}/infer", json={"inputs": inputs})
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert error in response.json()["error"]


@pytest.mark.parametrize(
    ("size", "sent", "header", "error"),
    [
        (64, b"\0" * 63, None, "the inputs promise a body of"),
        (64, b"\0" * 65, None, "the inputs promise a body of"),
        (10**18, b"\0" * 64, None, "the inputs promise a body of"),
        (64, b"\0" * 64, "100000", "Inference-Header-Content-Length is 100000, the body has"),
        (64, b"\0" * 64, "-1", "Inference-Header-Content-Length is -1, the body has"),
        (64, b"\0" * 64, "\xb2", "Inference-Header-Content-Length is \xb2, the body has"),
        (64, b"\0" * 64, "9" * 5000, "Inference-Header-Content-Length is 9999"),
        (64, b"\0" * 64, "5", "body: Invalid JSON"),
        (63, b"\0" * 63, None, "shape [1, 8, 8, 1] has 64 values, 63 came"),
    ],
)
def test_bad_binary_says_what_to_change(
    client: httpx.Client, size: int, sent: bytes, header: str | None, error: str
) -> None:
    entry = {"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 1], "parameters": {"binary_data_size": size}}
    described = json.dumps({"inputs": [entry]}).encode()
    headers = {b"Inference-Header-Content-Length": (header or str(len(described))).encode("latin-1")}
    response = client.post(f"/v2/models/{MODEL}/infer", content=described + sent, headers=headers)
    assert response.status_code == 400
    assert error in response.json()["error"]


@pytest.mark.parametrize("sent", [b"\0\0", b"\xff\xff\xff\xff", b"\x05\0\0\0abc"])
def test_elements_that_do_not_end(client: httpx.Client, sent: bytes) -> None:
    entry = {"name": "images", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(sent)}}
    described = json.dumps({"inputs": [entry]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(described))}
    response = client.post(f"/v2/models/{MODEL}/infer", content=described + sent, headers=headers)
    assert response.status_code == 400
    assert "an element ends at byte" in response.json()["error"]


def test_every_refusal_has_the_protocols_form(client_of: Callable[..., httpx.Client], zoo_root: Path) -> None:
    token = "a-token-of-some-length"
    client = client_of(zoo_root, token=token, max_body_bytes=100)
    assert client.get("/v2/health/live").json() == {"live": True}
    refused = [client.get("/v2"), client.get(f"/v2/models/{MODEL}")]
    client.headers["Authorization"] = f"Bearer {token}"
    refused += [client.get("/v2/nowhere"), client.put("/v2"), client.post("/v2/models/best/infer", content=b"x" * 101)]
    refused += [client.post("/v2/models/best/infer", content=b"x", headers={"Content-Encoding": "gzip"})]
    assert [response.status_code for response in refused] == [401, 401, 404, 405, 413, 415]
    for response in refused:
        assert list(response.json()) == ["error"]
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-request-id"]
    assert refused[0].headers["www-authenticate"] == "Bearer"
