from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from app.routes import page_files


def files_of(page: str) -> list[str]:
    """What the page names to be loaded with it, for good."""
    return re.findall(r'(?:href|src)="(web/[^"]+)"', page)


def test_the_page_is_asked_for_again_and_its_files_are_not(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    assert client.get("/", headers={"If-None-Match": page.headers["etag"]}).status_code == 304
    names = files_of(page.text)
    assert len(names) == 3  # its icon, one style sheet and one script
    for name in names:
        answer = client.get(f"/{name}")
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"


def test_the_policy_lets_nothing_come_from_elsewhere(client: httpx.Client) -> None:
    policy = client.get("/").headers["content-security-policy"].split("; ")
    assert "default-src 'none'" in policy
    for directive in policy:
        assert set(directive.split()[1:]) <= {"'none'", "'self'", "blob:"}


def test_the_page_is_light_and_comes_compressed_to_those_who_take_it(client: httpx.Client) -> None:
    whole_size = 0
    for name in files_of(client.get("/").text):
        whole = client.get(f"/{name}", headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in whole.headers
        compressed = client.get(f"/{name}", headers={"Accept-Encoding": "gzip"})
        assert compressed.headers["content-encoding"] == "gzip"
        assert int(compressed.headers["content-length"]) < len(whole.content)
        assert compressed.content == whole.content
        whole_size += len(whole.content)
    assert whole_size < 200_000


def test_modules_are_joined_whole() -> None:
    """A form of import or export that is not known would be left in the script."""
    script = page_files.files()["js/page.js"].decode()
    assert not re.search(r"^\s*(import|export)\b(?!\()", script, re.MULTILINE)
    assert script.count("= await (async () => {") == len(list((page_files.ROOT / "js").glob("*.js"))) - 1  # not docs.js


@pytest.mark.parametrize("path", ["/models?limit=200", "/models/pareto", "/models/{id}", "/openapi.json"])
def test_long_answers_are_compressed_for_those_who_take_it(client: httpx.Client, path: str) -> None:
    chosen = client.get("/models").json()["selected"]["id"]
    plain = client.get(path.format(id=chosen), headers={"Accept-Encoding": "identity"})
    compressed = client.get(path.format(id=chosen), headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert compressed.content == plain.content
    assert compressed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
    assert int(compressed.headers["content-length"]) < len(plain.content)


@pytest.mark.parametrize(
    "path",
    ["/models/{id}/file", "/models/{id}/file?format=onnx", "/models/file", "/zoo/{dataset}/resolve/main/config.json"],
)
def test_files_are_never_compressed(client: httpx.Client, path: str) -> None:
    chosen = client.get("/models").json()["selected"]
    for extra in ({}, {"Range": "bytes=0-9"}):
        answer = client.get(path.format_map(chosen), headers={"Accept-Encoding": "gzip", **extra})
        assert answer.status_code == (206 if extra else 200)
        assert "content-encoding" not in answer.headers
        assert int(answer.headers["content-length"]) == len(answer.content)


def test_another_version_of_a_file_is_not_answered_with_this_one(client: httpx.Client) -> None:
    for path in ("/web/0123456789abcdef/js/main.js", "/web/swagger-1.0/swagger-ui.css"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert "again" in answer.json()["detail"]


def test_no_other_file_can_be_named(client: httpx.Client) -> None:
    version = files_of(client.get("/").text)[0].split("/")[1]
    for name in ("%2e%2e%2fmain.py", "js/%2e%2e/%2e%2e/main.py", "%2fetc%2fpasswd", "js"):
        assert client.get(f"/web/{version}/{name}").status_code == 404


def test_the_page_opens_without_the_token_that_its_data_needs(
    client_of: Callable[..., httpx.Client], zoo_root: Path
) -> None:
    client = client_of(zoo_root, token="a-token-of-some-length")
    page = client.get("/")
    assert page.status_code == 200
    assert {client.get(f"/{name}").status_code for name in files_of(page.text)} == {200}
    assert 'rel="preload"' not in page.text  # nothing could be asked for before the token is given
    assert client.get("/models").status_code == 401
    assert client.get("/runs").status_code == 401
