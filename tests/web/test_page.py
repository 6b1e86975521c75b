"""What holds for every view: it can be read by all, on any screen, and asks for the token where one is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.web.conftest import OpenPage, serve
from zoo.checkpoint.file import Checkpoint, digest_of, encode
from zoo.network.families import secnn
from zoo.store.directory import Directory

VIEWS = ("explore", "try", "grow", "download")
TOKEN = "a-token-of-some-length"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_serious(open_page: OpenPage, site: str, view: str, scheme: str, width: int) -> None:
    page = open_page(
        f"{site}/#/{view}?dataset=cifar10&min_acc=0.75", color_scheme=scheme, viewport={"width": width, "height": 844}
    )
    expect(page.get_by_label("Data set")).to_be_visible()
    if view == "try":
        page.get_by_role("button", name="frog").click()
        expect(page.get_by_role("status")).to_contain_text("says")
    found = Axe().run(page).response["violations"]
    serious = [
        (rule["id"], [node["html"] for node in rule["nodes"]])
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]
    assert serious == []


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_is_wider_than_a_phone(open_page: OpenPage, site: str, view: str) -> None:
    page = open_page(f"{site}/#/{view}?dataset=cifar10&min_acc=0.75", viewport={"width": 360, "height": 740})
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_views_are_reached_by_keyboard(open_page: OpenPage, site: str) -> None:
    page = open_page(f"{site}/")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to the content")
    for _ in range(3):
        page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Try")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("One image, every size")
    expect(page.get_by_role("link", name="Try", exact=True)).to_have_attribute("aria-current", "page")


def test_the_content_can_be_skipped_to(open_page: OpenPage, site: str) -> None:
    page = open_page(f"{site}/#/try?dataset=digits&min_acc=0.2")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    expect(page.locator("h1")).to_have_text("One image, every size")
    assert page.evaluate("location.hash") == "#/try?dataset=digits&min_acc=0.2"


def test_the_theme_is_switched_and_kept(open_page: OpenPage, site: str) -> None:
    page = open_page(f"{site}/", color_scheme="light")
    background = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(background)
    switch = page.get_by_role("button", name="Theme")
    switch.click()
    switch.click()
    expect(switch).to_have_attribute("aria-label", "Theme: Dark")
    dark = page.evaluate(background)
    assert dark != light
    page.reload()
    assert page.evaluate(background) == dark


@pytest.mark.parametrize("title", ["Safetensors", "ONNX"])
def test_the_chosen_size_is_downloaded(open_page: OpenPage, site: str, title: str, tmp_path: Path) -> None:
    page = open_page(f"{site}/#/download?dataset=cifar10&min_acc=0.75")
    chosen = httpx.get(f"{site}/models", params={"dataset": "cifar10", "min_acc": 0.75}).json()["selected"]
    with page.expect_download() as download:
        page.get_by_role("link", name=f"Download {title}").click()
    assert download.value.suggested_filename == f"{chosen['name']}.{title.lower()}"
    path = tmp_path / "file"
    download.value.save_as(path)
    if title == "Safetensors":
        assert digest_of(path.read_bytes()) == chosen["id"]
    else:
        session = onnxruntime.InferenceSession(path)
        pixels = np.zeros((1, 32, 32, 3), dtype=np.uint8)
        [scores, *_] = session.run(None, {session.get_inputs()[0].name: pixels})
        assert scores.shape == (1, 10)


def test_a_zoo_with_a_token_asks_for_it_once(
    open_page: OpenPage, serve_zoo: Callable[..., str], grown: Path, tmp_path: Path
) -> None:
    url = serve_zoo(grown, token=TOKEN)
    page = open_page(f"{url}/#/download", ready=False, viewport={"width": 390, "height": 844})
    dialog = page.get_by_role("dialog", name="This zoo needs a token")
    expect(dialog).to_contain_text("Whoever runs it can give you one.")
    expect(page.locator("#dataset")).to_be_hidden()
    dialog.get_by_label("Token").fill("another-token-than-that")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("The token you gave is not the one of this zoo.")
    dialog.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Download it")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download Safetensors").click()
    download.value.save_as(tmp_path / "file")
    assert digest_of((tmp_path / "file").read_bytes()).startswith(page.locator(".readout code").inner_text())
    page.get_by_role("link", name="Grow").click()
    expect(page.locator(".state")).to_have_text("finished")
    page.reload()
    expect(page.locator(".state")).to_have_text("finished")


def test_a_server_that_is_gone_is_named_as_such(open_page: OpenPage, grown: Path) -> None:
    with serve(grown) as url:
        page = open_page(f"{url}/#/explore")
    page.get_by_role("link", name="Try", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()


def test_the_api_is_documented_without_asking_anybody_else(open_page: OpenPage, site: str) -> None:
    page = open_page(f"{site}/docs", ready=False)
    page.locator("#operations-health-live").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table .response").first).to_contain_text('"alive"')
    assert page.locator(".opblock").count() > 20


def test_the_documented_api_opens_with_the_token_given_to_the_page(
    open_page: OpenPage, serve_zoo: Callable[..., str], grown: Path
) -> None:
    url = serve_zoo(grown, token="a-token-of-some-length")
    page = open_page(url, ready=False)
    page.get_by_role("textbox", name="Token").fill("a-token-of-some-length")
    page.get_by_role("button", name="Open the zoo").click()
    expect(page.get_by_role("navigation")).to_be_visible()
    expect(page.locator("#token")).to_be_hidden()
    page.goto(f"{url}/docs")
    expect(page.locator("#operations-predict-predict")).to_be_visible()


def test_the_first_answer_needs_few_bytes_and_few_round_trips(open_page: OpenPage, site: str) -> None:
    """At 50 kB/s these bytes are a second; what asks for no more than what is known already goes out side by side."""
    page = open_page(f"{site}/docs", ready=False)
    page.wait_for_load_state("networkidle")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.removeprefix(f"{site}/").split("?")[0]))
    counted = page.context.new_cdp_session(page)
    counted.send("Network.enable")
    sizes: list[float] = []
    counted.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    page.goto(site)
    expect(page.locator(".readout code")).to_be_visible()
    expect(page.locator(".plot .checkpoints .point").first).to_be_visible()
    assert sorted(asked).count("models") == 2  # all of them, and the choice
    assert len([url for url in asked if not url.endswith(".svg")]) <= 9
    assert sum(sizes) < 60_000


def test_the_table_is_sorted(open_page: OpenPage, site: str) -> None:
    page = open_page(f"{site}/#/explore?dataset=cifar10&min_acc=0.8")
    page.locator("details.all summary").click()
    by_accuracy = page.locator("details.all th button", has_text="Accuracy")
    for direction in ("ascending", "descending"):
        by_accuracy.press("Enter")
        expect(page.locator("th[aria-sort]")).to_have_attribute("aria-sort", direction)
        cells = page.locator("details.all td:nth-child(5)").all_inner_texts()
        assert cells == sorted(cells, reverse=direction == "descending")


@pytest.mark.parametrize("address", ["#/constructor", "#/explore?x=toString"])
def test_an_address_that_means_nothing_shows_the_page(open_page: OpenPage, site: str, address: str) -> None:
    page = open_page(f"{site}/{address}")
    expect(page.locator("h1")).to_have_text("How small is good enough?")
    expect(page.locator(".readout code")).to_be_visible()


def test_it_says_what_it_is_and_fits_320_pixels(open_page: OpenPage, site: str) -> None:
    page = open_page(site, viewport={"width": 320, "height": 640})
    expect(page.locator(".lead")).to_contain_text("Image classifiers of many sizes")
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    page.get_by_role("link", name="HTTP API").click()
    expect(page.locator(".opblock").first).to_be_visible()


def test_a_hundred_classes_of_long_names_fit_320_pixels(
    open_page: OpenPage, serve_zoo: Callable[..., str], make_checkpoint: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    architecture = secnn.start(
        input_shape=(1, 8, 8), num_classes=100, channels=2, num_blocks=2, bottleneck_channels=3, hidden_features=4
    )
    checkpoint = make_checkpoint(architecture, dataset="d" * 64, run="r" * 64)
    classes = ("חתול", "<b>猫</b>", *(f"{index} {'μακρύ' * 20}" for index in range(98)))
    Directory(tmp_path).put(
        encode(Checkpoint(checkpoint.descriptor.model_copy(update={"classes": classes}), checkpoint.tensors))
    )
    Directory(tmp_path).put(encode(make_checkpoint()))
    url = serve_zoo(tmp_path)
    page = open_page(f"{url}/#/explore?dataset={'d' * 64}", viewport={"width": 320, "height": 640})
    expect(page.locator(".classes li")).to_have_count(100)
    expect(page.locator(".classes li").first).to_contain_text("no images")
    expect(page.get_by_text("has more than 50 classes")).to_be_visible()
    for view in ("Grow", "Download", "Explore", "Try"):
        assert page.evaluate("document.documentElement.scrollWidth") <= 320, view
        page.get_by_role("link", name=view, exact=True).first.click()
        expect(page.locator("main")).not_to_have_attribute("aria-busy", "true")
    page.get_by_text("know 100 classes").click()
    expect(page.get_by_text(", <b>猫</b>, ")).to_be_visible()
    page.set_input_files("#file", Path(__file__).parents[2] / "docs" / "digit.png")
    expect(page.get_by_role("status")).to_contain_text("Every size says ")
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_files_that_the_browser_cannot_read_are_named_plainly(open_page: OpenPage, site: str) -> None:
    page = open_page(f"{site}/#/try?dataset=cifar10")
    for name, kind in (("photo.HEIC", "HEIC"), ("notes.txt", "TXT")):
        page.set_input_files("#file", {"name": name, "mimeType": "", "buffer": b"not a picture"})
        expect(page.locator(".verdict")).to_contain_text(f"This browser cannot read {kind}. Save it as JPEG or PNG.")
