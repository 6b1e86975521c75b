from __future__ import annotations

import io
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.web.conftest import OpenPage, wait_until


def sizes(site: str, dataset: str) -> list[dict[str, object]]:
    """Those that answer: all, or of more than 16 those that no other beats."""
    items: list[dict[str, object]] = httpx.get(
        f"{site}/models", params={"dataset": dataset, "prefer": "params"}
    ).json()["items"]
    if len(items) > 16:
        items = httpx.get(f"{site}/models/pareto", params={"dataset": dataset}).json()["items"]
    return items


def answers(page: Page, count: int) -> list[str]:
    """The label that each size puts first, once all have answered."""
    first = page.locator(".answers .guess:first-child strong")
    expect(first).to_have_count(count)
    return first.all_inner_texts()


@pytest.fixture(scope="module")
def picture() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def labels_of(site: str, dataset: str, picture: bytes) -> list[str]:
    """What the service says when it is asked without the page."""
    headers = {"Content-Type": "image/png"}
    labels = []
    for item in sizes(site, dataset):
        answer = httpx.post(f"{site}/predict", params={"model": str(item["id"])}, content=picture, headers=headers)
        labels.append(answer.json()["predictions"][0][0]["label"])
    return labels


def test_every_size_answers_for_a_file(open_page: OpenPage, site: str, picture: bytes) -> None:
    page = open_page(f"{site}/#/try?dataset=cifar10&min_acc=0.75")
    assert set(page.locator(".answer-labels").all_inner_texts()) == {""}
    page.locator("#file").set_input_files({"name": "noise.png", "mimeType": "image/png", "buffer": picture})
    items = sizes(site, "cifar10")
    assert answers(page, len(items)) == labels_of(site, "cifar10", picture)
    assert page.locator(".answer-time").last.inner_text().endswith("ms")
    chosen = httpx.get(f"{site}/models", params={"dataset": "cifar10", "min_acc": 0.75}).json()["selected"]
    expect(page.locator(".answers .chosen strong").first).to_have_text(f"{chosen['params']:,}")
    expect(page.get_by_role("status")).to_contain_text("says")
    expect(page.get_by_text("The first time is the network's own")).to_be_visible()


def test_the_service_picks_who_is_in_time_and_says_why(open_page: OpenPage, site: str, picture: bytes) -> None:
    """By keyboard, within the budget of the address; a deadline that cannot be is refused in the service's words."""
    page = open_page(f"{site}/#/try?dataset=cifar10&min_acc=0.8")
    page.get_by_role("radio", name="Every size").press("ArrowRight")
    expect(page.get_by_role("radio", name="The best in time")).to_be_checked()
    expect(page.get_by_role("status")).to_contain_text(
        "the most accurate size that meets the deadline under the present load answers"
    )
    deadline = page.get_by_role("spinbutton", name="within")
    deadline.fill("30000")
    with page.expect_response("**/predict?*") as answered:
        page.locator("#file").set_input_files({"name": "noise.png", "mimeType": "image/png", "buffer": picture})
    told = answered.value.json()
    assert "min_acc=0.8" in answered.value.url
    expect(page.locator(".answers li")).to_have_count(1)
    expect(page.locator(".answers strong").first).to_have_text(f"{told['model']['params']:,}")
    expect(page.locator(".reason")).to_contain_text(f"Chosen as the {told['because']}. Expected in ")
    assert "for a deadline of 30000 ms" in page.locator(".reason").inner_text()
    expect(page.get_by_role("status")).to_contain_text(f"parameters say {told['predictions'][0][0]['label']}.")
    with page.expect_response("**/predict?*") as refused:
        deadline.fill("-3")
        deadline.press("Enter")
    expect(page.get_by_role("alert")).to_have_text(refused.value.json()["detail"])
    page.get_by_role("radio", name="Every size").check()
    assert answers(page, len(sizes(site, "cifar10"))) == labels_of(site, "cifar10", picture)


def test_an_image_can_be_dropped_and_pasted(open_page: OpenPage, site: str, picture: bytes) -> None:
    page = open_page(f"{site}/#/try?dataset=cifar10")
    wanted = labels_of(site, "cifar10", picture)
    transfer = page.evaluate_handle(
        """bytes => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "noise.png", { type: "image/png" }));
            return transfer;
        }""",
        list(picture),
    )
    page.locator(".drop").dispatch_event("drop", {"dataTransfer": transfer})
    assert answers(page, len(wanted)) == wanted
    page.reload()
    expect(page.locator(".answers li")).to_have_count(len(wanted))
    page.evaluate(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "noise.png", { type: "image/png" }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
        }""",
        list(picture),
    )
    assert answers(page, len(wanted)) == wanted


@pytest.mark.parametrize("dataset", ["cifar10", "digits"])
def test_examples_are_answered(open_page: OpenPage, site: str, dataset: str) -> None:
    page = open_page(f"{site}/#/try?dataset={dataset}")
    examples = page.get_by_role("group", name="Examples").get_by_role("button")
    assert examples.count() >= 4
    examples.first.press("Enter")
    assert len(answers(page, len(sizes(site, dataset)))) == len(sizes(site, dataset))


def test_the_shipped_networks_know_the_drawn_car(open_page: OpenPage, site: str) -> None:
    page = open_page(f"{site}/#/try?dataset=cifar10")
    page.get_by_role("button", name="automobile").click()
    assert answers(page, len(sizes(site, "cifar10")))[-1] == "automobile"


def test_a_drawing_is_answered(open_page: OpenPage, site: str) -> None:
    page = open_page(f"{site}/#/try?dataset=digits")
    box = page.locator(".pad").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 80, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 80, box["y"] + 140, steps=4)
    page.mouse.up()
    assert len(answers(page, len(sizes(site, "digits")))) == len(sizes(site, "digits"))


def test_the_camera_is_used_and_let_go(open_page: OpenPage, site: str) -> None:
    page = open_page(f"{site}/#/try?dataset=cifar10", permissions=["camera"])
    page.get_by_role("button", name="Use the camera").click()
    wait_until(lambda: page.evaluate("document.querySelector('video').videoWidth") > 0)
    page.get_by_role("button", name="Take the picture").click()
    assert len(answers(page, len(sizes(site, "cifar10")))) == len(sizes(site, "cifar10"))
    assert page.evaluate("document.querySelector('video').srcObject") is None


def test_the_camera_can_be_closed_without_a_picture(open_page: OpenPage, site: str) -> None:
    page = open_page(f"{site}/#/try?dataset=cifar10", permissions=["camera"])
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Close the camera").press("Enter")
    expect(page.locator("video")).to_be_hidden()
    expect(page.get_by_role("button", name="Use the camera")).to_be_focused()
    assert page.evaluate("document.querySelector('video').srcObject") is None


def test_what_is_no_image_gets_the_services_own_words(open_page: OpenPage, site: str) -> None:
    page = open_page(f"{site}/#/try?dataset=cifar10")
    page.locator("#file").set_input_files({"name": "no.png", "mimeType": "image/png", "buffer": b"no image"})
    wanted = httpx.post(f"{site}/predict", content=b"no image", headers={"Content-Type": "image/png"})
    assert wanted.status_code == 400
    expect(page.get_by_role("alert")).to_have_text(wanted.json()["detail"])
    expect(page.locator(".answers li")).to_have_count(len(sizes(site, "cifar10")))
    expect(page.get_by_role("img", name="The image that was sent", include_hidden=True)).to_be_hidden()
    assert set(page.locator(".answer-labels").all_inner_texts()) == {""}
    expect(page.get_by_text("The first time is")).to_be_hidden()


def test_large_images_are_made_smaller_before_they_are_sent(open_page: OpenPage, site: str, tmp_path: Path) -> None:
    page = open_page(f"{site}/#/try?dataset=digits")
    large = tmp_path / "large.bmp"
    Image.new("RGB", (3000, 1500), "navy").save(large)
    with page.expect_request("**/predict?*") as sent:
        page.locator("#file").set_input_files(large)
    assert sent.value.headers["content-type"] == "image/png"
    answers(page, len(sizes(site, "digits")))
    preview = page.get_by_role("img", name="The image that was sent")
    assert preview.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [512, 256]


def test_of_several_images_the_first_is_asked_and_the_others_are_named(
    open_page: OpenPage, site: str, picture: bytes
) -> None:
    page = open_page(f"{site}/#/try?dataset=cifar10")
    wanted = labels_of(site, "cifar10", picture)
    transfer = page.evaluate_handle(
        """bytes => {
            const transfer = new DataTransfer();
            for (const name of ["one.png", "two.png", "three.png"])
                transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
            return transfer;
        }""",
        list(picture),
    )
    page.locator(".drop").dispatch_event("drop", {"dataTransfer": transfer})
    assert answers(page, len(wanted)) == wanted
    expect(page.locator(".verdict")).to_contain_text(
        "This is one.png: one image at a time. Left out: two.png, three.png."
    )
    link = page.evaluate_handle(
        "() => { const data = new DataTransfer(); data.setData('text/plain', 'https://a.b/c.png'); return data; }"
    )
    page.locator(".drop").dispatch_event("drop", {"dataTransfer": link})
    expect(page.get_by_role("alert")).to_have_text("An image file was expected; what was dropped is a text or a link.")
