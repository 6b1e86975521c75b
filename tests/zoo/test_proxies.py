"""Proxies of the environment: real ones, which answer for any host with what a real zoo server says."""

from __future__ import annotations

import os
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import BIN
from zoo.client import ZooClient
from zoo.client.proxies import proxy_of
from zoo.errors import RemoteError

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
CLEAN = {name: value for name, value in os.environ.items() if name.lower() not in VARIABLES}
# Nobody listens there.
DEAD = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("no_proxy", "url"),
    [
        ("*", "http://anywhere"),
        ("zoo.example", "http://zoo.example"),
        ("zoo.example", "http://a.ZOO.example"),
        (".zoo.example", "http://a.zoo.example"),
        ("*.zoo.example", "http://a.zoo.example"),
        ("zoo.example:8000", "http://zoo.example:8000"),
        ("zoo.example:80", "http://zoo.example"),
        ("other.example, zoo.example", "http://zoo.example"),
        ("other.example zoo.example", "http://zoo.example"),
        ("10.0.0.0/8", "http://10.1.2.3:8000"),
        ("10.1.2.3", "http://10.1.2.3:8000"),
        ("10.1.2.3:8000", "http://10.1.2.3:8000"),
        ("fd00::/8", "http://[fd00::1]:8000"),
        ("[fd00::1]:8000", "http://[fd00::1]:8000"),
        ("", "http://127.0.0.1:8000"),
        ("", "http://127.9.9.9"),
        ("", "http://localhost:8000"),
        ("", "http://zoo.localhost"),
        ("", "http://[::1]:8000"),
    ],
)
def test_asked_directly(no_proxy: str, url: str) -> None:
    assert proxy_of(httpx.URL(url), {"HTTP_PROXY": DEAD, "NO_PROXY": no_proxy}) is None


@pytest.mark.parametrize(
    ("no_proxy", "url"),
    [
        ("", "http://zoo.example"),
        ("zoo.example", "http://notzoo.example"),
        ("a.zoo.example", "http://zoo.example"),
        ("zoo.example:8000", "http://zoo.example"),
        ("10.0.0.0/8", "http://11.1.2.3"),
        ("10.0.0.0/99", "http://10.1.2.3"),
        ("http://zoo.example", "http://zoo.example"),
    ],
)
def test_asked_through_the_proxy(no_proxy: str, url: str) -> None:
    proxy = proxy_of(httpx.URL(url), {"HTTP_PROXY": DEAD, "NO_PROXY": no_proxy})
    assert proxy is not None
    assert proxy.url == DEAD


def test_which_variable_counts() -> None:
    zoo = httpx.URL("https://zoo.example")
    both = {
        "ALL_PROXY": "proxy:1",
        "https_proxy": "https://proxy:2",
        "HTTPS_PROXY": "http://proxy:3",
        "HTTP_PROXY": "x",
    }
    assert str(proxy_of(zoo, both)) == "the proxy https://proxy:2 (https_proxy)"
    assert str(proxy_of(zoo, {"ALL_PROXY": "name:secret@proxy:1"})) == "the proxy http://proxy:1 (ALL_PROXY)"
    assert proxy_of(zoo, {"HTTP_PROXY": DEAD, "HTTPS_PROXY": ""}) is None
    # Where a web server runs this for a request, HTTP_PROXY is the client's header `Proxy`.
    assert proxy_of(httpx.URL("http://zoo.example"), {"REQUEST_METHOD": "GET", "HTTP_PROXY": DEAD}) is None


@pytest.mark.parametrize("given", ["ftp://proxy:1", "socks4://proxy:1", "http://", "http://proxy:port"])
def test_what_names_no_proxy_is_refused_by_the_variable(given: str) -> None:
    with pytest.raises(RemoteError, match=r"zoo\.example cannot be reached: ALL_PROXY .*proxy"):
        proxy_of(httpx.URL("http://zoo.example"), {"ALL_PROXY": given})


# --- with real servers ----------------------------------------------------------------------------------------


@pytest.fixture
def url(server: Any) -> str:
    return str(server.url)


@contextmanager
def running(server: socketserver.TCPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def http_proxy(zoo: str, asked: list[str]) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            url = httpx.URL(self.path)
            if url.host == "forbidden.example":
                self.send_error(407, "Proxy Authentication Required")
                return
            answer = httpx.get(f"{zoo}{url.raw_path.decode()}", trust_env=False)
            self.send_response(answer.status_code)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            pass

    with running(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield port


@contextmanager
def socks_proxy(zoo: str, asked: list[str]) -> Iterator[int]:
    """SOCKS5 without a password; connects to the zoo, whatever name it is asked for."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            client: socket.socket = self.request
            client.recv(2 + client.recv(2, socket.MSG_PEEK)[1])
            client.sendall(b"\x05\x00")
            head = client.recv(5)
            asked.append(client.recv(head[4] + 2)[: head[4]].decode())
            client.sendall(b"\x05\x00\x00\x01" + bytes(6))
            address = httpx.URL(zoo)
            with socket.create_connection((address.host, address.port)) as server:
                server.sendall(client.recv(65536))
                while part := server.recv(65536):
                    client.sendall(part)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with running(Server(("127.0.0.1", 0), Handler)) as port:
        yield port


def zoo_list(url: str, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [BIN / "zoo", "list", "--url", url]
    return subprocess.run(words, env={**CLEAN, **environment}, capture_output=True, text=True, timeout=60)


def test_a_server_on_this_machine_is_asked_without_a_proxy(url: str) -> None:
    done = zoo_list(url, HTTP_PROXY=DEAD, ALL_PROXY="socks5://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert "shapes-" in done.stdout


def test_another_is_asked_through_it(url: str) -> None:
    asked: list[str] = []
    with http_proxy(url, asked) as port:
        done = zoo_list("http://zoo.example:8000", http_proxy=f"127.0.0.1:{port}")
    assert done.returncode == 0, done.stderr
    assert "shapes-" in done.stdout
    assert asked[0].startswith("http://zoo.example:8000/models?")


def test_socks_proxies_too(serve: Callable[..., Any], small_zoo: Path) -> None:
    """Which the server cannot tell from being asked by that name itself."""
    asked: list[str] = []
    url = serve(small_zoo, allowed_hosts=("zoo.example",)).url
    with socks_proxy(url, asked) as port:
        done = zoo_list("http://zoo.example", ALL_PROXY=f"socks5h://127.0.0.1:{port}")
    assert done.returncode == 0, done.stderr
    assert asked == ["zoo.example"]


def test_what_goes_wrong_with_a_proxy_names_it_and_its_variable(url: str) -> None:
    done = zoo_list("http://zoo.example", ALL_PROXY="http://name:secret@127.0.0.1:9")
    assert done.returncode == 1
    assert "http://zoo.example cannot be reached through the proxy http://127.0.0.1:9 (ALL_PROXY): " in done.stderr
    assert "secret" not in done.stderr
    with http_proxy(url, []) as port:
        done = zoo_list("http://forbidden.example", ALL_PROXY=f"http://127.0.0.1:{port}")
    assert f"refused through the proxy http://127.0.0.1:{port} (ALL_PROXY): 407" in done.stderr


def test_socks_without_its_library_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['socksio'] = None\n"  # as where it is not installed
        "from zoo.client import ZooClient; from zoo.errors import RemoteError\n"
        "try: ZooClient('http://zoo.example')\nexcept RemoteError as error: print(error)"
    )
    environment = {**CLEAN, "ALL_PROXY": "socks5://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert "through the proxy socks5://127.0.0.1:9 (ALL_PROXY)" in done.stdout, done.stderr
    assert "pip install 'checkpoint-zoo[socks]'" in done.stdout


def test_a_token_of_any_letters_is_sent() -> None:
    with pytest.raises(RemoteError, match="cannot be reached"):
        ZooClient(DEAD, "ключ-к-зоопарку", retries=0).smallest()
