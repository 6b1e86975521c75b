"""The page in a real browser, over a real server.

The browser is the system's Chromium or Chrome (Debian: `apt install chromium`), or what CHROMIUM names; these tests are
skipped where there is none.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.conftest import BIN, ENVIRONMENT

PRETRAINED = Path(__file__).parents[2] / "zoo" / "pretrained"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")

OpenPage = Callable[..., Page]


# Of a module, not the session: Playwright has an event loop running until it ends, and tests elsewhere need their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: install Chromium (found by one of the names {', '.join(BROWSERS)}) or set CHROMIUM")
    # The first answers of a server on a busy core take their time.
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(CAMERA))
        yield browser
        browser.close()


@contextmanager
def serve(*roots: Path, token: str = "") -> Iterator[str]:
    """The URL of zoo-serve, in a process of its own."""
    options = [word for root in roots for word in ("--zoo", root)]
    environment = {**ENVIRONMENT, **({"ZOO_TOKEN": token} if token else {})}
    process = subprocess.Popen(
        [BIN / "zoo-serve", *options, "--port", "0"], stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stderr is not None
    try:
        said = ""
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", said)):
            line = process.stderr.readline()
            assert line, said
            said += line
        yield found.group()
    finally:
        process.terminate()
        process.communicate()


@pytest.fixture
def serve_zoo() -> Iterator[Callable[..., str]]:
    """Starts servers; all are stopped at the end."""
    with ExitStack() as stack:
        yield lambda *roots, token="": stack.enter_context(serve(*roots, token=token))


@pytest.fixture(scope="session")
def site(grown: Path) -> Iterator[str]:
    """Two data sets, two families: digits as grown for these tests, and CIFAR-10 in files of its own as it ships."""
    with serve(grown, PRETRAINED / "cifar10", PRETRAINED / "imagenette96") as url:
        yield url


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens pages in a browser that knows nothing of earlier ones.

    Fails where the console shows an error or anything was asked of another host. An answer of 4xx that a test wants
    is logged by the browser as "Failed to load resource", and is no error of the page.
    """
    contexts, wrong = [], []

    def log(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            wrong.append(message.text)

    def open_(url: str, *, ready: bool = True, **options: object) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        host = re.match(r"https?://[^/]+", url)
        assert host is not None
        page.on("console", log)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: request.url.startswith((host.group(), "blob:")) or wrong.append(request.url))
        page.goto(url)
        if ready:
            expect(page.locator("main")).not_to_have_attribute("aria-busy", "true")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert wrong == []


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
