from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx


def files_of(page: str) -> list[str]:
    """What the page names to be loaded with it."""
    return re.findall(r'(?:href|src|content)="(web/[^"]+)"', page)


def test_the_page_is_asked_for_again_and_its_files_are_not(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    assert client.get("/", headers={"If-None-Match": page.headers["etag"]}).status_code == 304
    names = files_of(page.text)
    assert len(names) >= 5
    for name in names:
        answer = client.get(f"/{name}")
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"


def test_the_policy_lets_nothing_come_from_elsewhere(client: httpx.Client) -> None:
    policy = client.get("/").headers["content-security-policy"].split("; ")
    assert "default-src 'none'" in policy
    for directive in policy:
        assert set(directive.split()[1:]) <= {"'none'", "'self'", "blob:"}


def test_scripts_come_compressed_to_those_who_take_it(client: httpx.Client) -> None:
    [plotly] = [name for name in files_of(client.get("/").text) if "plotly" in name]
    whole = client.get(f"/{plotly}", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in whole.headers
    compressed = client.get(f"/{plotly}", headers={"Accept-Encoding": "gzip"})
    assert compressed.headers["content-encoding"] == "gzip"
    assert int(compressed.headers["content-length"]) < len(whole.content) / 3
    assert compressed.content == whole.content


def test_another_version_of_a_file_is_not_answered_with_this_one(client: httpx.Client) -> None:
    for path in ("/web/0123456789abcdef/js/main.js", "/web/plotly-1.0.min.js"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert "load / again" in answer.json()["detail"]


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
    assert client.get("/models").status_code == 401
    assert client.get("/runs").status_code == 401


def test_the_chart_library_is_found_without_being_imported() -> None:
    code = (
        "import sys; from app.routes import web; from starlette.requests import Request; "
        "request = Request({'type': 'http', 'headers': []}); "
        "version = web.index(request).body.decode().split('plotly-')[1].split('.min')[0]; "
        "assert len(web.plotly(version, request).body) > 1_000_000; print('plotly' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
