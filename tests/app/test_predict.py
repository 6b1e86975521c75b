from __future__ import annotations

import asyncio
import base64
import gzip
import io
import shutil
import socket
import struct
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from trainer.data.datasets import Data
from trainer.loop.epoch import predict
from zoo.checkpoint.file import Checkpoint, read_header
from zoo.network.families import secnn
from zoo.runtime.module import module_of
from zoo.store.directory import Directory


def test_every_checkpoint_answers_as_in_training(
    client: httpx.Client, checkpoints: dict[str, Checkpoint], digits: Data, digit_files: list[bytes]
) -> None:
    fields = [("file", (f"{i}.png", data, "image/png")) for i, data in enumerate(digit_files)]
    for digest, checkpoint in checkpoints.items():
        answer = client.post("/predict", params={"model": digest, "top_k": 1}, files=fields).json()
        images = digits.test.images[: len(digit_files)]
        wanted = predict(module_of(checkpoint), images, checkpoint.descriptor.preprocessing)
        assert [row[0]["index"] for row in answer["predictions"]] == wanted.tolist()
        assert answer["model"]["id"] == digest


def test_the_budget_chooses_who_answers(client: httpx.Client, digit_files: list[bytes]) -> None:
    for item in client.get("/models/pareto").json()["items"]:
        answer = client.post(
            "/predict",
            params={"min_acc": item["accuracy"]},
            content=digit_files[0],
            headers={"Content-Type": "image/png"},
        ).json()
        assert answer["model"] == {key: item[key] for key in ("id", "name", "params", "accuracy")}


def test_all_forms_of_the_body_give_the_same_answer(client: httpx.Client, digit_files: list[bytes]) -> None:
    image = digit_files[0]
    raw = client.post("/predict", content=image, headers={"Content-Type": "image/png"})
    form = client.post("/predict", files={"file": ("digit.png", image)})
    text = base64.b64encode(image).decode()
    wrapped = base64.encodebytes(image).decode()
    url = f"data:image/png;base64,{text}"  # as a browser's FileReader gives it
    one, several, urls = (client.post("/predict", json={"inputs": inputs}) for inputs in (wrapped, [text], [url] * 128))
    answers = [response.json()["predictions"] for response in (raw, form, one, several)]
    assert answers[0] == answers[1] == answers[2] == answers[3]
    assert urls.json()["predictions"] == 128 * answers[0]
    assert len(answers[0]) == 1
    assert len(answers[0][0]) == 5


def test_predictions_are_ranked_probabilities(client: httpx.Client, digit_files: list[bytes]) -> None:
    body = {"inputs": [base64.b64encode(data).decode() for data in digit_files], "parameters": {"top_k": 10}}
    answer = client.post("/predict", json=body).json()
    assert len(answer["predictions"]) == len(digit_files)
    for row in answer["predictions"]:
        scores = [item["score"] for item in row]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1, abs=1e-5)
        assert sorted(item["index"] for item in row) == list(range(10))
        assert all(item["label"] == str(item["index"]) for item in row)
    assert set(answer["timing_ms"]) == {"decode", "queue", "forward"}
    assert all(value >= 0 for value in answer["timing_ms"].values())


def test_top_k_beyond_the_classes_names_them_all(client: httpx.Client, digit_files: list[bytes]) -> None:
    response = client.post("/predict?top_k=1000", content=digit_files[0], headers={"Content-Type": "image/png"})
    assert len(response.json()["predictions"][0]) == 10


def test_photos_of_any_size_and_kind_are_accepted(client: httpx.Client) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    for kind in ("PNG", "JPEG", "WEBP"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        response = client.post("/predict", content=buffer.getvalue(), headers={"Content-Type": f"image/{kind.lower()}"})
        assert response.status_code == 200, response.text


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_image_is_known_by_its_bytes(client: httpx.Client, kind: str) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((40, 30), 60).save(buffer, kind)
    wanted = client.post("/predict", files={"file": ("a", buffer.getvalue())}).json()["predictions"]
    for said in (
        "application/octet-stream",
        "image/jpg",
        "image/*",
        "*/*",
        "image/png",
        "image/heic",
        "text/plain; charset=utf-8",
        "application/x-www-form-urlencoded",
        None,
    ):
        response = client.post("/predict", content=buffer.getvalue(), headers={"Content-Type": said} if said else {})
        assert response.status_code == 200, response.text
        assert response.json()["predictions"] == wanted


def test_a_photo_that_is_not_read_here_is_called_by_its_name(client: httpx.Client) -> None:
    photo = b"\0\0\0\x24ftypheic\0\0\0\0mif1heic" + bytes(500)
    for said, status in (("image/heic", 415), ("application/octet-stream", 415), ("", 415), ("image/jpeg", 400)):
        response = client.post("/predict", content=photo, headers={"Content-Type": said})
        assert response.status_code == status
        assert "no PNG, JPEG or WebP image but HEIC: save it as JPEG or PNG" in response.json()["detail"]


@pytest.mark.parametrize("said", ["image/png", "application/octet-stream", "application/json", "multipart/form-data"])
def test_compressed_bodies_are_415(client: httpx.Client, digit_files: list[bytes], said: str) -> None:
    headers = {"Content-Type": said, "Content-Encoding": "gzip"}
    response = client.post("/predict", content=gzip.compress(digit_files[0]), headers=headers)
    assert response.status_code == 415
    assert response.headers["accept-encoding"] == "identity"
    assert "Content-Encoding gzip: send the body as it is" in response.json()["detail"]
    plain = client.post("/predict", content=digit_files[0], headers={"Content-Encoding": "identity"})
    assert plain.status_code == 200


def huge_png(width: int, height: int) -> bytes:
    """A PNG that says it is huge, in 60 bytes: whoever decodes it before looking has lost."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_what_is_no_whole_image_is_400(client: httpx.Client, digit_files: list[bytes]) -> None:
    for body, detail in (
        (b"not this", "no PNG, JPEG or WebP image"),
        (b"GIF89a not this", "truncated or damaged"),
        (digit_files[0][:60], "truncated or damaged"),
        (huge_png(9000, 9000), "at most 16 megapixels"),
        (huge_png(60000, 60000), "at most 16 megapixels"),
        (b"", "no PNG, JPEG or WebP image"),
    ):
        response = client.post("/predict", content=body, headers={"Content-Type": "image/png"})
        assert response.status_code == 400, response.text
        assert detail in response.json()["detail"]


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM"])
def test_whatever_training_reads_is_read(client: httpx.Client, digit_files: list[bytes], kind: str) -> None:
    picture, buffer = Image.open(io.BytesIO(digit_files[0])).convert("L"), io.BytesIO()
    picture.save(buffer, kind)
    wanted = client.post("/predict", content=digit_files[0], headers={"Content-Type": "image/png"}).json()
    sent = {"Content-Type": "application/octet-stream"}
    for answer in (
        client.post("/predict", content=buffer.getvalue(), headers=sent),
        client.post("/predict", files={"file": ("a", buffer.getvalue())}),
    ):
        assert answer.status_code == 200, answer.text
        assert answer.json()["predictions"] == wanted["predictions"]


def test_a_bad_image_among_many_is_named(client: httpx.Client, digit_files: list[bytes]) -> None:
    files = [("file", ("a.png", digit_files[0])), ("file", ("b.png", b"oops"))]
    response = client.post("/predict", files=files)
    assert response.status_code == 400
    assert response.json()["detail"].startswith("image 2 of 2: 4 bytes")


def test_media_types_that_are_not_spoken_are_415(client: httpx.Client) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "image/gif"):
        response = client.post("/predict", content=b"hello", headers={"Content-Type": kind})
        assert response.status_code == 415
        assert kind in response.json()["detail"]
        assert "multipart/form-data" in response.headers["accept-post"]
    assert "missing" in client.post("/predict").json()["detail"]


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"inputs": "???"}, "inputs[0] is not base64"),
        ({"inputs": ["", "é"]}, "inputs[1] is not base64"),
        (
            {"inputs": []},
            "a prediction takes 1 to 128 images, 0 came: in a form they are the fields named file, in JSON the items",
        ),
        ({"inputs": 5}, "inputs: the base64 text of an image file was expected, or a list of such texts, not 5"),
        ({"inputs": [1]}, "inputs: the base64 text of an image file was expected, or a list of such texts, not 1"),
        ([], "body: Input should be an object"),
        ({}, "inputs: Field required"),
        ({"inputs": "", "parameters": {"top_k": 0}}, "parameters.top_k: Input should be greater than or equal to 1"),
        ({"inputs": "", "params": {}}, "params: not a parameter of this route"),
    ],
)
def test_json_bodies_that_do_not_fit_are_422(client: httpx.Client, body: dict[str, object], detail: str) -> None:
    response = client.post("/predict", json=body)
    assert response.status_code == 422
    assert response.json()["detail"].startswith(detail)
    assert ";" not in response.json()["detail"]


def test_broken_json_and_broken_forms_are_refused(client: httpx.Client) -> None:
    json = client.post("/predict", content=b"{", headers={"Content-Type": "application/json"})
    assert json.status_code == 422
    assert json.json()["detail"].startswith("body: JSON was expected: EOF while parsing")
    assert json.json()["errors"][0]["parameter"] == "body"
    form = client.post("/predict", content=b"--x", headers={"Content-Type": "multipart/form-data"})
    assert form.status_code == 400
    assert form.json()["detail"].startswith("Content-Type multipart/form-data names no boundary: leave the header to")
    empty = client.post("/predict", files={"picture": ("a.png", b"x")})
    assert empty.status_code == 422
    assert "in a form they are the fields named file" in empty.json()["detail"]
    for response in (json, form, empty):
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["detail"]


def test_a_form_that_ends_early_is_refused_whole(client: httpx.Client, digit_files: list[bytes]) -> None:
    """Its last part was left out in silence: an image, or the budget."""
    part = b'--XX\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    file = b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + digit_files[0] + b"\r\n"
    for body in (file, file + file, file + part % (b"max_params", b"5000")):
        for end in (b"", b"--XX", b"--XX\r\n", b"--YY--\r\n"):
            headers = {"Content-Type": "multipart/form-data; boundary=XX"}
            cut = client.post("/predict", content=body + end, headers=headers)
            assert cut.status_code == 400
            assert "the boundary XX, cannot be read: " in cut.json()["detail"]
        assert client.post("/predict", content=body + b"--XX--", headers=headers).status_code in (200, 404)
        quoted = {"Content-Type": 'multipart/form-data; boundary="XX"'}
        assert client.post("/predict", content=body + b"--XX--\r\n.", headers=quoted).status_code in (200, 404)
    other = client.post(
        "/predict", content=file + b"--XX--", headers={"Content-Type": "multipart/form-data; boundary=Z"}
    )
    assert other.status_code == 400
    assert "the boundary Z, cannot be read: " in other.json()["detail"]


def test_null_is_as_if_it_were_left_out(client: httpx.Client, digit_files: list[bytes]) -> None:
    text = base64.b64encode(digit_files[0]).decode()
    answers = [
        client.post("/predict", json={"inputs": text, **parameters}).json()["predictions"]
        for parameters in ({}, {"parameters": None}, {"parameters": {"top_k": 5, "min_acc": None}})
    ]
    assert answers[0] == answers[1] == answers[2]


def test_an_unknown_name_and_a_budget_that_nothing_meets(client: httpx.Client, digit_files: list[bytes]) -> None:
    headers = {"Content-Type": "image/png"}
    assert client.post("/predict?model=none", content=digit_files[0], headers=headers).status_code == 404
    none = client.post("/predict?min_acc=1", content=digit_files[0], headers=headers)
    assert none.json()["type"] == "no-model-meets-constraints"


def test_bodies_over_the_limit_are_413(client_of: Callable[..., httpx.Client], zoo_root: Path) -> None:
    client = client_of(zoo_root, max_body_bytes=1000)
    headers = {"Content-Type": "image/png"}

    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    for content in (b"x" * 1001, chunks()):
        response = client.post("/predict", content=content, headers=headers)
        assert response.status_code == 413
        assert response.headers["content-type"] == "application/problem+json"
        assert "at most 1000 bytes" in response.json()["detail"]
    assert client.post("/predict", content=b"x" * 1000, headers=headers).status_code == 400


@pytest.mark.parametrize("form", ["declared", "chunked"])
def test_who_reads_only_after_sending_sees_the_413(client: httpx.Client, form: str) -> None:
    """httpx.AsyncClient does, and a body this large does not fit into the system's buffers."""
    num_bytes = 40_000_000

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(0, num_bytes, 1_000_000):
            yield bytes(1_000_000)

    async def post() -> httpx.Response:
        async with httpx.AsyncClient(base_url=client.base_url) as asynchronous:
            content = bytes(num_bytes) if form == "declared" else chunks()
            return await asynchronous.post("/predict", content=content, headers={"Content-Type": "image/png"})

    response = asyncio.run(post())
    assert response.status_code == 413
    assert "at most 33554432 bytes" in response.json()["detail"]


def test_what_is_refused_is_not_read_for_ever(client_of: Callable[..., httpx.Client], zoo_root: Path) -> None:
    """Neither from who sends on and on, nor from who stops and stays."""
    url = client_of(zoo_root, max_body_bytes=1000, body_grace_seconds=0.3).base_url
    head = f"POST /predict HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: image/png\r\nContent-Length: 999999999\r\n\r\n"
    with socket.create_connection((url.host, url.port or 80), timeout=10) as silent:
        silent.sendall(head.encode())
        answer = b""
        while piece := silent.recv(4096):
            answer += piece
        assert b" 413 " in answer
    with socket.create_connection((url.host, url.port or 80), timeout=10) as endless:
        endless.sendall(head.encode())
        with pytest.raises(OSError, match=r"reset|[Bb]roken"):
            for _ in range(1000):
                endless.sendall(bytes(100_000))


def test_too_many_images_are_422(
    client_of: Callable[..., httpx.Client], zoo_root: Path, digit_files: list[bytes]
) -> None:
    client = client_of(zoo_root, max_images=2)
    response = client.post("/predict", files=[("file", ("a.png", digit_files[0]))] * 3)
    assert response.status_code == 422
    assert "1 to 2 images, 3 came" in response.json()["detail"]


def test_a_full_queue_turns_away_and_recovers(
    client_of: Callable[..., httpx.Client], zoo_root: Path, digit_files: list[bytes]
) -> None:
    client = client_of(zoo_root, max_queue=0)
    files = [("file", ("digit.png", data)) for data in digit_files * 3]
    with ThreadPoolExecutor(32) as pool:
        responses = list(pool.map(lambda _: client.post("/predict", files=files), range(64)))
    turned_away = [response for response in responses if response.status_code != 200]
    assert 0 < len(turned_away) < 64
    for response in turned_away:
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert "try again" in response.json()["detail"]
    assert client.post("/predict", files=files).status_code == 200


def test_many_at_once_get_the_answers_they_get_alone(client: httpx.Client, digit_files: list[bytes]) -> None:
    def ask(data: bytes) -> dict[str, object]:
        return client.post("/predict?model=best", content=data, headers={"Content-Type": "image/png"}).json()

    alone = [ask(data)["predictions"] for data in digit_files]
    with ThreadPoolExecutor(16) as pool:
        together = [answer["predictions"] for answer in pool.map(ask, digit_files)]
    for one, other in zip(alone, together, strict=True):
        assert [item["index"] for item in other[0]] == [item["index"] for item in one[0]]
        wanted = [item["score"] for item in one[0]]
        assert [item["score"] for item in other[0]] == pytest.approx(wanted, abs=1e-5)


def test_a_choice_follows_the_catalog_within_a_second(
    client_of: Callable[..., httpx.Client], zoo_root: Path, tmp_path: Path, digit_files: list[bytes]
) -> None:
    smallest, *others = sorted(Directory(zoo_root).paths(), key=lambda item: read_header(item[1]).params)
    for _, path in others:
        shutil.copy(path, tmp_path)
    client = client_of(tmp_path, rescan_seconds=0.1)

    def chosen() -> str:
        png_type = {"Content-Type": "image/png"}
        answer = client.post("/predict?min_acc=0", content=digit_files[0], headers=png_type)
        return answer.json()["model"]["id"]

    assert chosen() == others[0][0]
    shutil.copy(smallest[1], tmp_path)
    deadline = time.monotonic() + 1
    while chosen() != smallest[0]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_client_that_goes_away_leaves_the_queue(
    client_of: Callable[..., httpx.Client], put: Callable[..., str], tmp_path: Path, digit_files: list[bytes]
) -> None:
    put(tmp_path, secnn.start(input_shape=(3, 128, 128), num_classes=5, channels=96))
    client = client_of(tmp_path)
    image = digit_files[0]
    head = f"POST /predict HTTP/1.1\r\nHost: [::1]\r\nContent-Type: image/png\r\nContent-Length: {len(image)}\r\n\r\n"
    assert client.post("/predict", content=image, headers={"Content-Type": "image/png"}).status_code == 200
    waiting = [socket.create_connection((client.base_url.host, client.base_url.port)) for _ in range(20)]
    for connection in waiting:
        connection.sendall(head.encode() + image)
    for connection in waiting:
        connection.close()
    gone = 'zoo_requests_total{method="POST",route="/predict",status="499"}'
    deadline = time.monotonic() + 10
    while gone not in client.get("/metrics").text:
        assert time.monotonic() < deadline, client.get("/metrics").text
    assert client.post("/predict", content=image, headers={"Content-Type": "image/png"}).status_code == 200


def test_a_request_id_and_a_token_hold_on_this_route_too(
    client_of: Callable[..., httpx.Client], zoo_root: Path, digit_files: list[bytes]
) -> None:
    client = client_of(zoo_root, token="a-token-of-some-length")
    headers = {"Content-Type": "image/png", "X-Request-Id": "mine"}
    refused = client.post("/predict", content=digit_files[0], headers=headers)
    assert refused.status_code == 401
    headers["Authorization"] = "Bearer a-token-of-some-length"
    for query, status in (
        ("", 200),
        ("?min_acc=80", 422),
        ("?min_acc=1", 404),
        ("?other=1", 422),
        ("?top_k=1&top_k=2", 422),
    ):
        response = client.post(f"/predict{query}", content=digit_files[0], headers=headers)
        assert response.status_code == status, response.text
        assert response.headers["x-request-id"] == "mine"
    assert (
        client.post("/predict?min_acc=80", headers=headers).json()["detail"].startswith("min_acc: accuracy is a frac")
    )


def test_small_and_large_answers_arrive_whole_on_one_connection(client: httpx.Client, digit_files: list[bytes]) -> None:
    """Head and body leave in one write only where they are small."""
    files = [("file", ("a.png", data)) for data in digit_files]
    for _ in range(3):
        assert len(client.post("/predict?top_k=10", files=files * 3).json()["predictions"]) == 120
        assert client.post("/predict", files=files[:1]).status_code == 200
        assert client.head("/models/smallest/file").content == b""
        assert client.get("/models").json()["count"] == 5
