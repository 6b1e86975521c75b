"""The gate in front of the service: what clients may send, how long they may take, and who goes first."""

from __future__ import annotations

import io
import json
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest
from PIL import Image

TOKEN = "publish-token-0123456789"
ClientOf = Callable[..., httpx.Client]
HEAD = b"GET /livez HTTP/1.1\r\nHost: [::1]\r\n"


def connect(client: httpx.Client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=20)


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    answer = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            answer += piece
    return answer


def problem_of(answer: bytes) -> dict[str, object]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert b"x-request-id: " in head.lower()
    found: dict[str, object] = json.loads(body)
    return found


def post(path: str, num_bytes: int, content_type: str = "image/png") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: [::1]\r\nContent-Type: {content_type}\r\nContent-Length: {num_bytes}\r\n\r\n"
    return head.encode()


def samples(client: httpx.Client, name: str) -> dict[str, float]:
    lines = (line for line in client.get("/metrics").text.splitlines() if line.startswith(name))
    return {key: float(value) for key, _, value in (line.rpartition(" ") for line in lines)}


# --- heads ---


@pytest.mark.parametrize(
    "sent",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
    ],
)
def test_what_is_no_http_is_400_and_a_problem(client: httpx.Client, sent: bytes) -> None:
    with closing(connect(client)) as connection:
        connection.sendall(sent)
        answer = rest(connection)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert "Its first line, a header or the length of its body" in str(problem_of(answer)["detail"])


def test_a_head_over_64_kib_is_431(client: httpx.Client) -> None:
    with closing(connect(client)) as connection:
        connection.sendall(HEAD + b"x: " + b"v" * 100_000)
        found = problem_of(rest(connection))
    assert found["status"] == 431
    assert "at most 65536 bytes" in str(found["detail"])


def test_a_head_of_60_kib_is_read(client: httpx.Client) -> None:
    assert client.get("/livez", headers={"x": "v" * 60_000}).status_code == 200


@pytest.mark.parametrize(
    ("start", "unit"),
    [
        (HEAD, b"name: value\r\n"),
        (HEAD + b"name: ", b"v"),
        (HEAD, b"n"),
        (b"GET /livez?", b"q"),
        (b"", b"\r\n"),
        (b"POST /predict HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"e"),
        (b"POST /predict HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"trailer: value\r\n"),
    ],
    ids=["headers", "value", "name", "url", "line-ends", "chunk-extension", "trailers"],
)
def test_nothing_without_an_end_is_kept(client: httpx.Client, start: bytes, unit: bytes) -> None:
    """The server stops listening within a few MiB, most of which lie in the system's buffers."""
    with closing(connect(client)) as connection, pytest.raises(ConnectionError):
        connection.sendall(start)
        for _ in range(200):
            connection.sendall(unit * (262_144 // len(unit)))
    assert client.get("/livez").status_code == 200


def test_a_url_over_8_kib_is_414(client: httpx.Client) -> None:
    response = client.get("/models?" + "&".join(f"a{i}=1" for i in range(2000)))
    assert response.status_code == 414
    assert len(response.text) < 1000


def test_who_sends_requests_without_reading_is_closed_after_some(client: httpx.Client) -> None:
    with closing(connect(client)) as connection:
        connection.sendall((HEAD + b"\r\n") * 40)
        answer = rest(connection)
    assert 1 < answer.count(b"HTTP/1.1 200 OK") < 40
    assert answer.lower().count(b"connection: close") == 1


# --- slowness ---


@pytest.fixture
def impatient(client_of: ClientOf, zoo_root: Path) -> httpx.Client:
    return client_of(zoo_root, header_seconds=1, body_grace_seconds=1)


def test_a_head_that_drips_is_408(impatient: httpx.Client) -> None:
    with closing(connect(impatient)) as connection:
        for byte in HEAD:
            connection.sendall(bytes([byte]))
            time.sleep(0.1)
            if select_readable(connection):
                break
        found = problem_of(rest(connection))
    assert found["status"] == 408
    assert "head" in str(found["detail"])


def select_readable(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
    finally:
        connection.settimeout(20)


def test_a_connection_on_which_nothing_comes_is_closed(impatient: httpx.Client) -> None:
    with closing(connect(impatient)) as connection:
        assert rest(connection) == b""


def test_a_body_that_stops_is_408_and_one_that_is_slow_is_answered(
    impatient: httpx.Client, digit_files: list[bytes]
) -> None:
    image = digit_files[0]
    with closing(connect(impatient)) as stops, closing(connect(impatient)) as slow:
        stops.sendall(post("/predict", 100_000) + b"x" * 50_000)
        padded = image + bytes(8_000)
        slow.sendall(post("/predict", len(padded)))
        for start in range(0, len(padded), 1000):  # twice the least rate
            slow.sendall(padded[start : start + 1000])
            time.sleep(0.4)
        assert slow.recv(12) == b"HTTP/1.1 200"
        found = problem_of(rest(stops))
    assert found["status"] == 408
    assert "1024 bytes a second" in str(found["detail"])


# --- numbers ---


def test_idle_connections_make_room_for_new_ones(client_of: ClientOf, zoo_root: Path) -> None:
    client = client_of(zoo_root, max_connections=20)
    held = []
    try:
        for _ in range(60):
            held.append(connect(client))
            held[-1].sendall(HEAD)
        for _ in range(5):
            assert httpx.get(f"{client.base_url}/livez").status_code == 200
        assert samples(client, 'zoo_refused_total{reason="idle"}').popitem()[1] >= 40
    finally:
        for connection in held:
            connection.close()


def test_bodies_together_are_bounded_and_slow_ones_make_room(client_of: ClientOf, zoo_root: Path) -> None:
    client = client_of(zoo_root, max_held_body_bytes=1_000_000)
    with closing(connect(client)) as first, closing(connect(client)) as second:
        for connection in (first, second):
            connection.sendall(post("/predict", 450_000) + bytes(440_000))
        time.sleep(0.5)
        refused = client.post("/predict", content=bytes(300_000), headers={"Content-Type": "image/png"})
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert "try again" in refused.json()["detail"]
        time.sleep(4)
        # 400 is about its content: it was read.
        answered = httpx.post(
            f"{client.base_url}/predict", content=bytes(300_000), headers={"Content-Type": "image/png"}
        )
        assert answered.status_code == 400
        assert problem_of(rest(first))["status"] == 408


def test_a_body_that_is_alone_may_be_larger_than_the_budget(client_of: ClientOf, zoo_root: Path) -> None:
    client = client_of(zoo_root, max_held_body_bytes=1000)
    for _ in range(3):
        assert client.post("/predict", content=bytes(300_000), headers={"Content-Type": "image/png"}).status_code == 400


# --- JSON and encodings ---

MANY_KEYS = b'{"inputs":"",' + b",".join(b'"%07x":0' % i for i in range(80_000)) + b"}"


@pytest.mark.parametrize(
    ("path", "body", "statuses"),
    [
        ("/predict", MANY_KEYS, {422}),
        ("/predict", b'{"inputs":[' + b'"",' * 2_000_000 + b'""]}', {422}),
        ("/predict", b'{"inputs":' + b"[" * 4_000_000, {422}),
        ("/predict", b'{"inputs":"' + b"a " * 2_000_000 + b'"}', {422, 400}),
        ("/predict", b'{"' + b"k" * 1_000_000 + b'":0}', {422}),
        ("/models", MANY_KEYS, {422}),
        ("/models", b'{"digest":"' + b"a" * 2_000_000 + b'"}', {413}),
        ("/models", b'{"digest":"' + b"a" * 1_000_000 + b'"}', {422}),
        ("/v2/models/best/infer", b'{"inputs":[' + b"[]," * 2_000_000 + b"[]]}", {400}),
        ("/v2/models/best/infer", b'{"inputs":[{"name":"images","shape":[' + b"2147483647," * 5000 + b"1]}]}", {400}),
        ("/v2/models/best/infer", b'{"' + b"k" * 1_000_000 + b'":0}', {400}),
    ],
    ids=lambda value: str(value)[:24] if not isinstance(value, set) else None,
)
def test_json_costs_little_and_is_not_echoed(
    client_of: ClientOf, zoo_root: Path, path: str, body: bytes, statuses: set[int]
) -> None:
    client = client_of(zoo_root, publish_token=TOKEN)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
    started = time.perf_counter()
    response = client.post(path, content=body, headers=headers)
    assert response.status_code in statuses, response.text[:200]
    assert len(response.content) < 2500
    assert time.perf_counter() - started < 8, "some of these took 40 s"


@pytest.mark.parametrize("path", ["/predict", "/models", "/v2/models/best/infer", f"/blobs/sha256:{'a' * 64}"])
def test_compressed_bodies_are_415(client_of: ClientOf, zoo_root: Path, path: str) -> None:
    client = client_of(zoo_root, publish_token=TOKEN)
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip", "Authorization": f"Bearer {TOKEN}"}
    response = client.request("PUT" if "blobs" in path else "POST", path, content=zlib.compress(b"{}"), headers=headers)
    assert response.status_code == 415
    assert "Content-Encoding gzip" in response.text


def test_the_files_of_a_binary_tensor_are_counted_by_its_shape(client: httpx.Client) -> None:
    tensor = {"name": "images", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 4_000_000}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    response = client.post("/v2/models/best/infer", content=head + bytes(4_000_000), headers=headers)
    assert response.status_code == 400
    assert "shape [1] has 1 files" in response.json()["error"]


# --- clients that left ---


def large_png() -> bytes:
    """16 megapixels of 16-bit gray in 31 kB."""
    row = b"\0" + bytes(4000 * 2)
    compress = zlib.compressobj(9)
    pixels = b"".join(compress.compress(row) for _ in range(4000)) + compress.flush()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 4000, 4000, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def medium_png() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((400, 400), 50).save(buffer, "PNG")
    return buffer.getvalue()


def waiting(client: httpx.Client) -> float:
    return sum(samples(client, "zoo_predictions_under_way").values())


def test_what_clients_that_left_asked_for_is_dropped(client_of: ClientOf, zoo_root: Path, medium_png: bytes) -> None:
    client = client_of(zoo_root)
    headers = {"Content-Type": "image/png"}
    assert client.post("/predict", content=medium_png, headers=headers).status_code == 200
    image = large_png()
    left = [connect(client) for _ in range(30)]
    for connection in left:
        connection.sendall(post("/predict", len(image)) + image)
    deadline = time.monotonic() + 10
    while waiting(client) < 30:
        assert time.monotonic() < deadline
    for connection in left:
        connection.close()
    started = time.perf_counter()
    assert client.post("/predict", content=medium_png, headers=headers).status_code == 200
    assert time.perf_counter() - started < 4, "30 of them take 15 seconds or more to decode"
    assert waiting(client) == 0


def test_a_client_that_left_with_a_large_body_is_seen(client_of: ClientOf, zoo_root: Path, medium_png: bytes) -> None:
    """While a body comes faster than it is read, the connection is not listened to."""
    client = client_of(zoo_root)
    image = large_png()
    padded = image + bytes(3_000_000)
    left = [connect(client) for _ in range(12)]
    for connection in left:
        connection.sendall(post("/predict", len(padded)) + padded)
        connection.close()
    deadline = time.monotonic() + 8
    while waiting(client):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def crowd(client_of: ClientOf, zoo_root: Path) -> Iterator[httpx.Client]:
    yield client_of(zoo_root, max_queue=2)


def test_a_client_that_reads_only_when_all_is_sent_gets_its_503_whole(crowd: httpx.Client) -> None:
    """And may go on with the connection: the rest of what was refused is read and thrown away."""
    image = large_png()
    padded = image + bytes(8_000_000)  # more than sockets hold
    held = [connect(crowd) for _ in range(8)]
    try:
        for connection in held:
            connection.sendall(post("/predict", len(image)) + image)
        deadline = time.monotonic() + 10
        while not any(select_readable(one) for one in held):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for _ in range(2):
            with closing(connect(crowd)) as late:
                late.sendall(post("/predict", len(padded)) + padded)
                with late.makefile("rb") as answer:
                    status, headers = answer.readline(), list(iter(answer.readline, b"\r\n"))
                    assert status == b"HTTP/1.1 503 Service Unavailable\r\n"
                    assert b"retry-after: 1\r\n" in headers
                    length = next(int(line.split()[1]) for line in headers if line.startswith(b"content-length"))
                    assert "try again" in json.loads(answer.read(length))["detail"]
                    late.sendall(HEAD + b"\r\n")
                    assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
    finally:
        for connection in held:
            connection.close()
