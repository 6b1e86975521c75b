"""Tokens: checked first, in any script, slowed down where they are guessed, and written down where they are refused."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from app.http.auth import Guesses, network_of
from app.monitoring.logs import JsonFormatter
from zoo.checkpoint.file import Checkpoint, digest_of, encode
from zoo.client import ZooClient

READING, PUBLISHING = "a-token-for-reading", "a-token-for-publishing"
Serve = Callable[..., httpx.Client]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class _Kept(logging.Handler):
    """Records as a server writes them, formatted where they come about: the request's id is known only there."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[dict[str, object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(json.loads(JsonFormatter().format(record)))


@pytest.fixture
def audit() -> Iterator[list[dict[str, object]]]:
    logger, handler = logging.getLogger("zoo.audit"), _Kept()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.records
    logger.removeHandler(handler)


def test_guesses_are_slowed_down_and_nobody_else_is(client_of: Serve, tmp_path: Path) -> None:
    client = client_of(tmp_path, token=READING)
    statuses = [client.get("/models", headers=bearer(f"guess-number-{number}")).status_code for number in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    refused = client.get("/models", headers=bearer(READING))
    assert refused.status_code == 429, "how it is answered must not tell which was right"
    assert 1 <= int(refused.headers["retry-after"]) <= 6
    assert client.get("/livez").status_code == 200
    with httpx.Client(base_url=client.base_url, transport=httpx.HTTPTransport(local_address="127.0.0.2")) as other:
        assert other.get("/models", headers=bearer(READING)).status_code == 200


def test_what_is_remembered_of_guesses_is_bounded_and_fades() -> None:
    now = 0.0
    guesses = Guesses(clock=lambda: now)
    for number in range(10_000):
        guesses.count(f"10.0.{number // 256}.{number % 256}")
    assert len(guesses._counted) == 4096
    for _ in range(10):
        guesses.count("10.9.9.9")
    assert guesses.wait_s("10.9.9.9") == 6
    now = 6.0
    assert guesses.wait_s("10.9.9.9") == 0
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:2") != network_of("2001:db8:1::1")
    assert network_of("::ffff:10.0.0.1") == "10.0.0.1"


@pytest.mark.parametrize("token", ["ein-schlüssel-für-alle", "очень-длинный-ключ"])
def test_tokens_in_any_script(
    client_of: Serve, tmp_path: Path, make_checkpoint: Callable[..., Checkpoint], token: str
) -> None:
    client = client_of(tmp_path, token=READING, publish_token=token)
    data = encode(make_checkpoint())
    with ZooClient(str(client.base_url), token) as zoo:
        assert zoo.publish(data).id == digest_of(data)
    if token.isascii() or max(token) < "\u0100":
        latin = {b"Authorization": b"Bearer " + token.encode("latin-1")}
        assert client.post("/models", json={"digest": digest_of(data)}, headers=latin).status_code == 200


def test_a_token_is_asked_for_before_the_body_is_read(client_of: Serve, tmp_path: Path) -> None:
    """Without one, an answer comes while the body is still to be sent; and it is not about the body."""
    url = client_of(tmp_path, publish_token=PUBLISHING).base_url
    for method, path in (("POST", "/models"), ("PATCH", "/models/best"), ("PUT", f"/blobs/sha256:{'a' * 64}")):
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: 127.0.0.1",
            "Content-Type: application/json",
            "Content-Length: 9999",
        ]
        with socket.create_connection((url.host, url.port or 80), timeout=5) as wire:
            wire.sendall("\r\n".join([*lines, "", "{"]).encode())
            assert wire.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_each_change_and_each_refusal_is_one_record(
    client_of: Serve, tmp_path: Path, make_checkpoint: Callable[..., Checkpoint], audit: list[dict[str, object]]
) -> None:
    client = client_of(tmp_path, token=READING, publish_token=PUBLISHING)
    data = encode(make_checkpoint())
    digest = digest_of(data)
    client.headers.update(bearer(PUBLISHING))
    client.put(f"/blobs/sha256:{digest}", content=data)
    client.post("/models", json={"digest": digest, "stage": True}, headers={"X-Request-Id": "of-publishing"})
    client.patch(f"/models/{digest}", json={"staged": False})
    client.put(f"/models/{digest}/aliases/stable")
    client.patch(f"/models/{digest}", json={"aliases": [], "deprecated": True})
    client.delete(f"/models/{digest}")
    client.get("/models", headers=bearer("some-other-token"))
    client.post("/models", json={}, headers=bearer(READING))
    records = audit
    done = [(record["message"], record.get("checkpoint"), record["who"]) for record in records[:-2]]
    actions = ["publish", "staged", "alias", "aliases", "deprecated", "delete"]
    assert done == [(action, digest, "publish token") for action in actions]
    assert records[0]["request_id"] == "of-publishing"
    assert [(record["who"], record["reason"]) for record in records[-2:]] == [
        ("unknown token", "unknown token"),
        ("read token", "this token may read only"),
    ]
    assert all(record["address"] == "127.0.0.1" and record["request_id"] for record in records)
    assert not any(token in str(records) for token in (READING, PUBLISHING, "some-other-token"))


def test_a_flood_of_guesses_is_no_flood_of_records(
    client_of: Serve, tmp_path: Path, audit: list[dict[str, object]]
) -> None:
    client = client_of(tmp_path, token=READING)
    began = time.monotonic()
    for number in range(14):
        client.get("/models", headers=bearer(f"guess-number-{number}"))
    found = [record["reason"] for record in audit]
    assert found[:11] == ["unknown token"] * 10 + ["too many unknown tokens: slowed down"]
    assert len(found) <= 11 + 2 * (time.monotonic() - began) / 6


def test_an_address_from_a_header_counts_only_where_the_proxy_is_trusted(
    client_of: Serve, tmp_path: Path, audit: list[dict[str, object]]
) -> None:
    client = client_of(tmp_path, token=READING)
    client.get("/models", headers={**bearer("some-other-token"), "X-Forwarded-For": "203.0.113.9"})
    assert [record["address"] for record in audit] == ["127.0.0.1"]
