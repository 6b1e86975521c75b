"""Below a proxy's prefix: every link, as a client resolves it, leads to where it should."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from zoo.client import ZooClient

PREFIX = "/deep/zoo"


@contextmanager
def proxy(target: httpx.URL, *, strips: bool) -> Iterator[str]:
    """Answers below PREFIX alone, and tells the server nothing of it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            inside = self.path.startswith(f"{PREFIX}/")
            path = self.path[len(PREFIX) :] if strips else self.path
            connection = HTTPConnection(target.host, target.port)
            connection.request(self.command, path if inside else "/outside", body, dict(self.headers))
            response = connection.getresponse()
            answer = response.read()
            self.send_response(response.status if inside else 404)
            for name, value in response.getheaders():
                if name not in ("date", "transfer-encoding"):
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)
            connection.close()

        do_GET = do_HEAD = do_POST = forward  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{PREFIX}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(params=["stripped", "kept", "stripped, and told"])
def url(request: pytest.FixtureRequest, client_of: Callable[..., httpx.Client], zoo_root: Path) -> Iterator[str]:
    client = client_of(zoo_root, root_path="" if request.param == "stripped" else PREFIX)
    with proxy(client.base_url, strips=request.param != "kept") as url:
        yield url


def test_every_link_leads_to_where_it_should(url: str) -> None:
    with httpx.Client() as outside:

        def get(address: str | httpx.URL, status: int = 200) -> httpx.Response:
            response = outside.get(address)
            assert response.status_code == status, (address, response.text)
            return response

        first = get(f"{url}/models?limit=2")
        second = get(first.url.join(first.links["next"]["url"]))
        assert {item["id"] for item in second.json()["items"]}.isdisjoint(item["id"] for item in first.json()["items"])
        for response in (
            first,
            second,
            get(f"{url}/models/pareto"),
            get(f"{url}/models/best"),
            get(f"{url}/models?min_acc=1&max_params=1", 404),
            get(f"{url}/models/file?min_acc=1&max_params=1", 404),
        ):
            answer = response.json()
            for view in answer.get("items", [answer.get("best_available") or answer]):
                here = get(response.url.join(view["links"]["self"]))
                assert here.json()["id"] == view["id"]
                assert get(response.url.join(view["links"]["file"])).headers["x-checkpoint-id"] == view["id"]
                assert get(response.url.join(view["links"]["onnx"])).content
        redirect = get(f"{url}/models/?limit=1", 307)
        assert get(redirect.url.join(redirect.headers["location"])).json()["items"]
        document = get(f"{url}/openapi.json")
        [server] = document.json()["servers"]
        base = str(document.url.join(server["url"])).rstrip("/")
        assert get(f"{base}/models").json()["count"] == 5


def test_clients_work_below_a_prefix(url: str, tmp_path: Path) -> None:
    with ZooClient(url) as zoo:
        assert len(list(zoo.models())) == 5
        assert zoo.download(zoo.smallest()).exists()
        smallest = zoo.smallest()
        assert smallest in zoo.pareto()
        assert smallest.links.file == f"{url}/models/{smallest.id}/file"
    assert Path(hf_hub_download("zoo/digits", "model.onnx", endpoint=url, cache_dir=tmp_path)).exists()


@pytest.mark.parametrize("wanted", [{"filename": "onnx/model.onnx"}, {"filename": "model.onnx", "subfolder": "onnx"}])
def test_a_hub_file_in_a_folder_is_not_there(client: httpx.Client, tmp_path: Path, wanted: dict[str, str]) -> None:
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("zoo/digits", endpoint=str(client.base_url).rstrip("/"), cache_dir=tmp_path, **wanted)


def test_a_slash_too_many_leads_nowhere_else(client: httpx.Client) -> None:
    for path in ("//evil.example/", "/%2F%2Fevil.example/", "/a%0d%0aX:y/"):
        response = client.get(f"http://{client.base_url.host}:{client.base_url.port}{path}")
        assert response.is_redirect
        assert response.url.join(response.headers["location"]).host == client.base_url.host
