"""Browsers: other sites' pages, names that lead here by DNS rebinding, and what CORS lets scripts read."""

from __future__ import annotations

import socket
from collections.abc import Callable

import httpx
import pytest
from pydantic import ValidationError

from app.settings import Settings

SITE = "https://example.org"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.1", "[fe80::1]"]
)
@pytest.mark.parametrize("path", ["/", "/models", "/models/best/file", "/v2/models/best", "/openapi.json", "/metrics"])
def test_without_a_token_a_foreign_host_is_refused(client: httpx.Client, host: str, path: str) -> None:
    response = client.get(path, headers={"Host": host})
    assert response.status_code == 403
    assert "ZOO_ALLOWED_HOSTS" in response.text


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "localhost.", "zoo.localhost", "127.9.9.9:80", "[::1]:8000"]
)
def test_names_of_this_machine_are_answered(client: httpx.Client, host: str) -> None:
    assert client.get("/models", headers={"Host": host}).status_code == 200


def test_hosts_can_be_named_and_with_a_token_all_are_answered(
    client_of: Callable[..., httpx.Client], zoo_root: object
) -> None:
    named = client_of(zoo_root, allowed_hosts=("zoo.example.org",))
    assert named.get("/models", headers={"Host": "Zoo.Example.org:80"}).status_code == 200
    assert named.get("/models", headers={"Host": "other.example.org"}).status_code == 403
    guarded = client_of(zoo_root, token="a-token-of-twenty-or-so")
    asked = {"Host": "any.example.org", "Origin": SITE, "Authorization": "Bearer a-token-of-twenty-or-so"}
    assert guarded.get("/models", headers=asked).status_code == 200


def test_a_probe_may_come_by_any_name(client: httpx.Client) -> None:
    for path in ("/livez", "/readyz", "/v2/health/live"):
        assert client.get(path, headers={"Host": "10.0.0.7"}).status_code == 200


@pytest.mark.parametrize(
    "hosts", ["", "Host: a\r\nHost: a\r\n", "Host: a b\r\n", "Host: \r\n", "Host: a/b\r\n", "Host: \xff\r\n"]
)
def test_http_1_1_has_one_good_host(client: httpx.Client, hosts: str) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.sendall(f"GET /livez HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n".encode("latin-1"))
        assert connection.recv(12) == b"HTTP/1.1 400"


@pytest.mark.parametrize("origin", [SITE, "http://localhost:3000", "null"])
def test_pages_of_other_sites_are_refused(client: httpx.Client, digit_files: list[bytes], origin: str) -> None:
    asked = {"Origin": origin, "Content-Type": "image/png", "Sec-Fetch-Site": "cross-site"}
    for response in (
        client.get("/models", headers=asked),
        client.post("/predict", content=digit_files[0], headers=asked),
    ):
        assert response.status_code == 403
        assert f"ZOO_CORS_ORIGINS={origin}" in response.json()["detail"]
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_its_own_page_is_answered(client: httpx.Client, digit_files: list[bytes]) -> None:
    asked = {"Origin": str(client.base_url).rstrip("/"), "Content-Type": "image/png"}
    assert client.post("/predict", content=digit_files[0], headers=asked).status_code == 200
    behind_proxy = {"Origin": "https://zoo.example.org", "Sec-Fetch-Site": "same-origin"}
    assert client.get("/models", headers=behind_proxy).status_code == 200


@pytest.fixture(scope="module")
def shared(served: Callable[..., object], zoo_root: object) -> object:
    with served(Settings(zoo=(zoo_root,), cors_origins=f"{SITE}, http://localhost:3000")) as client:
        yield client


def test_named_sites_read_what_they_need(shared: httpx.Client) -> None:
    preflight = {
        "Origin": SITE,
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    answer = shared.options("/models/best", headers=preflight)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == SITE
    assert "PATCH" in answer.headers["access-control-allow-methods"]
    assert "authorization" in answer.headers["access-control-allow-headers"]
    for path in ("/models", "/models", "/models/best/file", "/nowhere"):  # the second is from the response cache
        response = shared.get(path, headers={"Origin": SITE})
        assert response.headers["access-control-allow-origin"] == SITE
        exposed = {name.strip() for name in response.headers["access-control-expose-headers"].split(",")}
        assert {"Link", "ETag", "X-Request-Id", "Repr-Digest", "X-Checkpoint-Id", "Retry-After"} <= exposed
        assert "access-control-allow-credentials" not in response.headers
        assert "access-control-allow-origin" not in shared.get(path).headers
    assert shared.get("/models", headers={"Origin": "https://evil.example"}).status_code == 403


def test_a_preflight_and_a_refusal_need_no_token(client_of: Callable[..., httpx.Client], zoo_root: object) -> None:
    guarded = client_of(zoo_root, token="a-token-of-twenty-or-so", cors_origins=(SITE,))
    preflight = {"Origin": SITE, "Access-Control-Request-Method": "GET"}
    assert guarded.options("/models", headers=preflight).status_code == 200
    refused = guarded.get("/models", headers={"Origin": SITE})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, SITE)


@pytest.mark.parametrize(
    "wrong",
    [{"cors_origins": "example.org"}, {"cors_origins": f"{SITE}/"}, {"allowed_hosts": "a:80"}, {"root_path": "zoo/"}],
)
def test_settings_that_would_match_nothing_are_refused(wrong: dict[str, str], tmp_path: object) -> None:
    with pytest.raises(ValidationError):
        Settings(zoo=(tmp_path,), **wrong)
