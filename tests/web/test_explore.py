from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.conftest import BIN, ENVIRONMENT
from tests.web.conftest import OpenPage, wait_until
from zoo.checkpoint.descriptor import Accuracy, Metrics
from zoo.checkpoint.file import Checkpoint, digest_of, encode
from zoo.library.local import LocalZoo
from zoo.library.upkeep.device import device_name
from zoo.network.families import secnn
from zoo.store.directory import Directory
from zoo.store.entries import Latency


def chosen_id(page: Page) -> str:
    """The first digits of the digest that the page shows as chosen."""
    return page.locator(".readout code").inner_text()


def address(page: Page) -> str:
    return page.evaluate("location.hash")


def budget(page: Page, name: str) -> float:
    found = re.search(rf"{name}=([\d.]+)", address(page))
    assert found, address(page)
    return float(found.group(1))


def test_the_slider_chooses_what_the_service_chooses(open_page: OpenPage, site: str) -> None:
    """It moves by half a percent."""
    items = httpx.get(f"{site}/models", params={"dataset": "cifar10", "prefer": "params"}).json()["items"]
    median = sorted(item["accuracy"] for item in items)[len(items) // 2]
    end = int(200 * median) / 200
    start = end - 0.015
    page = open_page(f"{site}/#/explore?dataset=cifar10&min_acc={start:.3f}")
    expect(page.locator(".readout-ask")).to_have_text(f"The smallest that reaches {100 * start:.1f} %")
    slider = page.get_by_role("slider", name="Test accuracy, at least")
    slider.focus()
    for _ in range(3):
        slider.press("ArrowRight")
    expect(page.locator(".readout-ask")).to_have_text(f"The smallest that reaches {100 * end:.1f} %")
    expect(slider).to_have_attribute("aria-valuetext", f"{100 * end:.1f}\u00a0%")
    assert budget(page, "min_acc") == pytest.approx(end)
    smallest = httpx.get(f"{site}/models", params={"dataset": "cifar10", "min_acc": end}).json()["selected"]
    expect(page.locator(".readout code")).to_have_text(smallest["id"][:12])
    expect(page.locator(".readout-figure strong")).to_have_text(f"{smallest['params']:,}")


def test_the_address_brings_back_the_choice(open_page: OpenPage, site: str) -> None:
    first = open_page(f"{site}/#/explore?dataset=cifar10&x=macs&min_acc=0.775&confidence=0.95")
    wanted = httpx.get(f"{site}/models", params={"dataset": "cifar10", "min_acc": 0.775, "confidence": 0.95}).json()
    expect(first.locator(".readout code")).to_have_text(wanted["selected"]["id"][:12])
    assert address(first) == "#/explore?dataset=cifar10&min_acc=0.775&x=macs&confidence=0.95"
    first.get_by_role("link", name="Download", exact=True).first.click()
    expect(first.locator("h1")).to_have_text("Download it")
    expect(first.locator(".readout code")).to_have_text(wanted["selected"]["id"][:12])
    first.go_back()
    expect(first.locator("h1")).to_have_text("How small is good enough?")
    expect(first.locator(".readout code")).to_have_text(wanted["selected"]["id"][:12])


@pytest.mark.parametrize(("goal", "name"), [("Accurate enough", "min_acc"), ("Small enough", "max_params")])
def test_the_line_in_the_chart_can_be_dragged(open_page: OpenPage, site: str, goal: str, name: str) -> None:
    page = open_page(f"{site}/#/explore?dataset=cifar10")
    page.get_by_role("radio", name=goal).check()
    wait_until(lambda: name in address(page))
    line = page.locator(".budget-line")
    box = line.bounding_box()
    before = budget(page, name)
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 60, y + 60, steps=5)
    page.mouse.up()
    after = budget(page, name)
    assert after < before
    params = {"dataset": "cifar10", name: after}
    if name == "min_acc":
        wanted = httpx.get(f"{site}/models", params=params).json()["selected"]
    else:
        wanted = httpx.get(f"{site}/models/pareto", params=params).json()["items"][-1]
    expect(page.locator(".readout code")).to_have_text(wanted["id"][:12])


def test_a_finger_drags_the_line_too(open_page: OpenPage, site: str) -> None:
    page = open_page(f"{site}/#/explore?min_acc=0.85", has_touch=True, viewport={"width": 390, "height": 844})
    box = page.locator(".budget-line").bounding_box()
    assert box is not None
    touch = page.context.new_cdp_session(page)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for kind, points in [
        ("touchStart", [{"x": x, "y": y}]),
        ("touchMove", [{"x": x, "y": y + 25}]),
        ("touchMove", [{"x": x, "y": y + 50}]),
        ("touchEnd", []),
    ]:
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    wait_until(lambda: budget(page, "min_acc") < 0.85)
    assert page.evaluate("scrollY") == 0


def test_a_point_can_be_picked(open_page: OpenPage, site: str) -> None:
    page = open_page(f"{site}/#/explore?dataset=cifar10&min_acc=0.7")
    items = httpx.get(f"{site}/models", params={"dataset": "cifar10", "prefer": "params"}).json()["items"]
    page.get_by_text(f"All {len(items)} as a table").click()
    distilled = next(item for item in items if item["distilled_from"])
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name=distilled["name"], exact=True))
    expect(row).to_contain_text(f"by {distilled['distilled_from'][:8]}")
    page.get_by_role("link", name=items[-1]["name"], exact=True).click()
    expect(page.locator(".readout-ask")).to_have_text("The checkpoint you picked")
    expect(page.locator(".readout code")).to_have_text(items[-1]["id"][:12])
    # The same by a click on the first point of the chart.
    page.locator("h1").scroll_into_view_if_needed()
    point = page.locator(".plot .checkpoints .point").first.bounding_box()
    assert point is not None
    page.mouse.move(point["x"] + 4, point["y"] + 4)
    told = page.locator(".chart-told")
    expect(told).to_contain_text(items[0]["name"])
    expect(told).to_contain_text(f"{items[0]['params']:,} parameters, ")
    page.mouse.click(point["x"] + 4, point["y"] + 4)
    expect(page.locator(".readout code")).to_have_text(items[0]["id"][:12])
    page.mouse.move(5, 5)
    expect(told).to_be_hidden()


def test_where_nothing_is_good_enough_the_service_says_so(open_page: OpenPage, site: str) -> None:
    page = open_page(f"{site}/#/explore?dataset=cifar10&min_acc=0.99")
    problem = httpx.get(f"{site}/models", params={"dataset": "cifar10", "min_acc": 0.99}).json()
    expect(page.get_by_role("alert")).to_contain_text(problem["detail"])
    nearest = problem["best_available"]
    page.get_by_role("button", name=f"Show {nearest['name']}").click()
    expect(page.locator(".readout code")).to_have_text(nearest["id"][:12])


@pytest.mark.parametrize("dataset", ["cifar10", "digits"])
def test_a_checkpoint_is_shown_whole(open_page: OpenPage, site: str, dataset: str) -> None:
    """Both families: CIFAR-10's is blueprint, that of digits secnn."""
    best = httpx.get(f"{site}/models", params={"dataset": dataset, "prefer": "params"}).json()["items"][-1]["id"]
    detail = httpx.get(f"{site}/models/{best}").json()
    descriptor = detail["descriptor"]
    architecture = descriptor["architecture"]
    page = open_page(f"{site}/#/explore?dataset={dataset}&model={best}")
    grown = page.locator(".arch .arch-grown title", has_text="grown in epoch")
    expect(grown).to_have_count(sum(step["kind"] == "deepen" for step in descriptor["lineage"]["expansions"]))
    if architecture["family"] == "secnn":
        num_layers = sum(len(block["layers"]) for block in architecture["blocks"])
    else:
        num_layers = sum(stage["num_layers"] + 1 for stage in architecture["stages"])
    expect(page.locator(".arch .arch-grown")).to_have_count(num_layers)
    expect(page.locator(".classes li")).to_have_count(len(descriptor["classes"]))
    expect(page.get_by_role("region", name="Expansions").locator("tbody tr")).to_have_count(
        descriptor["lineage"]["num_expansions"]
    )
    rules = {"secnn": "its score clears the threshold", "blueprint": "Some change, made or not, must score above"}
    expect(page.get_by_text(rules[architecture["family"]])).to_be_visible()
    cost = page.locator("section", has=page.get_by_role("heading", name="Cost"))
    device = {"digits": "cpu with 1 thread", "cifar10": "NVIDIA H100"}[dataset]
    expect(cost.locator("dd").first).to_contain_text(f" for {descriptor['cost']['epochs']} epochs on {device}")
    content = descriptor["dataset"].get("content")
    expect(cost).to_contain_text(content["test"][:8] if content else "the file does not say")
    page.get_by_text("Data, accuracy with intervals").click()
    expect(page.get_by_label("Model card")).to_contain_text(f"# {detail['name'].split('-d')[0]}")
    expect(page.get_by_label("Model card")).to_contain_text("## Limits")
    parent = httpx.get(f"{site}/models/{detail['parent']}")
    if parent.is_success:
        page.get_by_role("link", name=parent.json()["name"]).last.click()
        expect(page.locator(".readout code")).to_have_text(detail["parent"][:12])
    else:  # what ships was fine-tuned from checkpoints that do not
        expect(page.get_by_text(f"It grew out of {detail['parent'][:12]}, which is not here.")).to_be_visible()


def test_which_class_is_taken_for_which_is_told(
    open_page: OpenPage, serve_zoo: Callable[..., str], make_checkpoint: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    """In words, the worst first, and as a matrix; 50 classes do not make a phone's page wider."""
    architecture = secnn.start(
        input_shape=(1, 8, 8), num_classes=50, channels=2, num_blocks=2, bottleneck_channels=3, hidden_features=4
    )
    checkpoint = make_checkpoint(architecture)
    confusion = np.eye(50, dtype=int) * 88
    confusion[0, 1], confusion[0, 49], confusion[49, 0] = 12, 3, 7
    total = int(confusion.sum())
    test = Accuracy(accuracy=50 * 88 / total, n=total, per_class=(None,) * 50)
    metrics = Metrics(validation=test, test=test, confusion=tuple(map(tuple, confusion.tolist())))
    classes = ("cat", "חתול", *(f"class number {index} {'長い' * 30}" for index in range(48)))
    told = checkpoint.descriptor.model_copy(update={"metrics": metrics, "classes": classes})
    Directory(tmp_path).put(encode(Checkpoint(told, checkpoint.tensors)))
    page = open_page(f"{serve_zoo(tmp_path)}/#/explore", viewport={"width": 320, "height": 800})
    worst = page.get_by_role("list", name="Most often confused").get_by_role("listitem")
    assert worst.all_inner_texts() == [
        "cat taken for חתול: 12 of 103",
        f"{classes[49]} taken for cat: 7 of 95",
        f"cat taken for {classes[49]}: 3 of 103",
    ]
    rows = page.get_by_role("region", name="Confusion matrix").get_by_role("row")
    expect(rows).to_have_count(51)
    assert rows.nth(1).get_by_role("cell").all_inner_texts()[:3] == ["88", "12", ""]
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    page.get_by_text("Data, accuracy with intervals").click()
    expect(page.get_by_label("Model card")).to_contain_text("cat taken for חתול: 12 of 103")


@pytest.mark.parametrize("choice", ["min_acc=0.1", "max_bytes=20000", "min_acc=0.1&confidence=0.95"])
def test_the_lines_make_the_choice_again(
    open_page: OpenPage, site: str, choice: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = open_page(f"{site}/#/explore?dataset=digits&{choice}")
    expect(page.locator(".readout code")).to_be_visible()
    curl, line, program = page.locator(".snippet code").all_inner_texts()
    chosen = chosen_id(page)
    name, value = choice.split("&")[0].split("=")
    assert f"{name}={value}" in curl
    assert f"--{name.replace('_', '-')} {value}" in line
    assert f"zoo.{'smallest' if name == 'min_acc' else 'best'}(" in program

    subprocess.run(shlex.split(curl), cwd=tmp_path, check=True, capture_output=True)
    [file] = tmp_path.iterdir()
    assert digest_of(file.read_bytes()).startswith(chosen)
    file.unlink()

    command, *words = shlex.split(line)
    subprocess.run([BIN / command, *words], cwd=tmp_path, check=True, capture_output=True, env=ENVIRONMENT)
    [file] = tmp_path.iterdir()
    assert digest_of(file.read_bytes()).startswith(chosen)

    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.stdout.split()[:2] == [file.stem, file.stem.rsplit("-", 1)[1]]


def test_lines_are_copied(open_page: OpenPage, site: str) -> None:
    page = open_page(f"{site}/#/explore?dataset=digits&min_acc=0.1", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy the line for curl").click()
    expect(page.get_by_role("button", name="Copy the line for curl")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == page.locator(".snippet code").first.inner_text()


def test_intervals_and_axes_on_demand(open_page: OpenPage, site: str) -> None:
    page = open_page(f"{site}/#/explore?dataset=cifar10&min_acc=0.75")
    points = page.locator(".plot .checkpoints")
    expect(points.locator(".interval")).to_have_count(0)
    page.get_by_label("Show 95 % intervals").check()
    answer = httpx.get(f"{site}/models", params={"dataset": "cifar10"}).json()
    count = answer["count"]
    distilled = sum(item["distilled_from"] is not None for item in answer["items"])
    expect(points.locator(".point.open")).to_have_count(distilled)
    expect(page.get_by_text("distilled from a larger one")).to_be_visible()
    expect(points.locator(".interval")).to_have_count(count)
    paper = page.locator(".plot .paper .point")
    expect(paper).to_have_count(15)
    expect(page.get_by_text("SECNN paper, five trials")).to_be_visible()
    page.get_by_label("Size measured in").select_option("bytes")
    expect(page.locator(".plot .xtitle")).to_have_text("Bytes of the file")
    expect(page.locator(".plot .point")).to_have_count(count + 1)
    assert "x=bytes" in address(page)
    expect(page.get_by_text("SECNN paper, five trials")).to_be_hidden()
    for link in page.locator("[data-model]").all():
        assert "x=bytes" in str(link.get_attribute("href"))


def test_milliseconds_are_read_as_such(
    open_page: OpenPage, serve_zoo: Callable[..., str], put: Callable[..., str], tmp_path: Path
) -> None:
    digests = [put(tmp_path, seed=seed) for seed in range(2)]
    with closing(LocalZoo([tmp_path])) as zoo:
        zoo.sync()
        measured = {"num_runs": 1, "measured_at": "2026-11-21T02:00:00+00:00", "device": device_name()}
        zoo.annotations.record_latencies(
            Latency(digest=digest, median_ms=ms, p95_ms=ms, **measured)
            for digest, ms in zip(digests, (0.1, 2.0), strict=True)
        )
    page = open_page(f"{serve_zoo(tmp_path)}/#/explore?x=latency_ms")
    expect(page.locator(".plot .x.axis text").first).to_have_text("0.1")
    assert page.locator(".plot .x.axis text").all_text_contents()[:5] == ["0.1", "0.2", "0.5", "1", "2"]


@pytest.mark.parametrize("dataset", ["cifar10", "digits"])
def test_the_slider_ends_at_the_best_accuracy(open_page: OpenPage, site: str, dataset: str) -> None:
    page = open_page(f"{site}/#/explore?dataset={dataset}")
    slider = page.get_by_role("slider", name="Test accuracy, at least")
    slider.press("End")
    items = httpx.get(f"{site}/models", params={"dataset": dataset, "prefer": "params"}).json()["items"]
    best = max(items, key=lambda item: item["accuracy"])
    assert budget(page, "min_acc") == pytest.approx(best["accuracy"], abs=0.005)
    assert budget(page, "min_acc") <= best["accuracy"]
    expect(page.locator(".readout code")).to_have_text(best["id"][:12])


@pytest.mark.parametrize("choice", ["min_acc=0.8", "min_acc=0.805", "min_acc=0.83", "max_params=20000"])
def test_the_budget_is_written_beside_the_points(open_page: OpenPage, site: str, choice: str) -> None:
    page = open_page(f"{site}/#/explore?dataset=cifar10&{choice}")
    expect(page.locator(".readout code")).to_be_visible()
    label = page.locator(".budget-line span").bounding_box()
    assert label is not None
    for point in page.locator(".plot .point").all():
        box = point.bounding_box()
        if box is None or box["width"] > 12:  # the chosen one lies on a checkpoint's
            continue
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        inside = label["x"] <= x <= label["x"] + label["width"] and label["y"] <= y <= label["y"] + label["height"]
        assert not inside, box


def test_a_new_checkpoint_appears_while_one_looks(
    open_page: OpenPage, serve_zoo: Callable[..., str], put: Callable[..., str], tmp_path: Path
) -> None:
    first = put(tmp_path, accuracy=0.75)
    page = open_page(f"{serve_zoo(tmp_path)}/#/explore?min_acc=0.6")
    expect(page.locator(".readout code")).to_have_text(first[:12])
    page.get_by_text("All 1 as a table").click()
    link = page.get_by_role("link", name="shapes-test-s0-164")
    link.focus()
    second = put(tmp_path, seed=1, accuracy=0.9)
    expect(page.locator("summary", has_text="All 2 as a table")).to_be_visible()
    expect(page.locator(".plot .point")).to_have_count(3)
    expect(link).to_be_focused()
    expect(page.get_by_role("slider")).to_have_attribute("max", "0.9")
    assert budget(page, "min_acc") == 0.6
    page.get_by_role("slider").press("End")
    expect(page.locator(".readout code")).to_have_text(second[:12])


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("#/explore?dataset=nope", "dataset=nope, where one of cifar10, digits, imagenette96 was expected"),
        ("#/explore?dataset=cifar10&max_params=abc", "max_params=abc, where a number above 0 was expected"),
        ("#/explore?dataset=cifar10&min_acc=80", "min_acc=80, where a fraction, as 0.8, was expected"),
        ("#/explore?dataset=cifar10&max_params=9999&min_acc=0.8", "min_acc=0.8, as max_params is given too"),
        ("#/explore?dataset=cifar10&prefer=foo", "prefer is no part of it"),
        ("#/nonsense", "#/nonsense, which is no view"),
    ],
)
def test_what_an_address_says_and_is_not_understood_is_told(
    open_page: OpenPage, site: str, where: str, told: str
) -> None:
    page = open_page(f"{site}/{where}")
    expect(page.get_by_role("alert")).to_have_text(f"Of the address was passed over: {told}.")
    expect(page.locator(".readout-ask")).not_to_have_text("")
    page.get_by_role("link", name="Try", exact=True).first.click()
    expect(page.locator("h1")).to_have_text("One image, every size")
    expect(page.get_by_role("alert")).to_have_count(0)
