"""An elastic file on the page: one line of the chart, one group of the table, and levels to switch between."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from tests.conftest import BIN, ENVIRONMENT
from tests.web.conftest import OpenPage, serve
from zoo.checkpoint.elastic import pack
from zoo.checkpoint.file import decode, digest_of
from zoo.store.directory import Directory

PICTURE = Path(__file__).parents[2] / "docs" / "digit.png"


@pytest.fixture(scope="module")
def site(put: Callable[..., str], levels: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An elastic file of four levels, and beside it a checkpoint that is no level, larger than the smallest one."""
    root = tmp_path_factory.mktemp("elastic")
    Directory(root).put(pack(levels))
    put(root, decode(levels[1]).descriptor.architecture, seed=99, accuracy=0.9)
    with serve(root) as url:
        yield url


def test_its_levels_are_one_line_and_one_group(open_page: OpenPage, site: str, levels: list[bytes]) -> None:
    page = open_page(f"{site}/#/explore?model={digest_of(levels[2])}")
    expect(page.locator(".plot .checkpoints .point")).to_have_count(5)
    line = page.locator(".plot .elastic path").get_attribute("d") or ""
    assert (line.count("M"), line.count("L")) == (1, 3)
    expect(page.get_by_text("levels of one file")).to_be_visible()
    items = httpx.get(f"{site}/models", params={"prefer": "params"}).json()["items"]
    place = next(item["elastic"] for item in items if item["id"] == digest_of(levels[2]))
    facts = page.locator(".readout .facts")
    expect(facts).to_contain_text("level 2 of 0 to 3")
    expect(facts).to_contain_text(f"the first {place['prefix_bytes'] / 1000:.1f} kB of {place['file'][:8]}")
    page.get_by_text("All 5 as a table").click()
    rows = page.get_by_role("region", name="All checkpoints").locator("tbody tr")
    expect(rows).to_have_count(6)
    for by, first in (("Parameters", "One file"), ("Accuracy", "One file"), ("Accuracy", "shapes")):
        page.locator("details.all th button", has_text=by).press("Enter")
        group = page.locator(".level-row td:nth-child(2)").all_inner_texts()
        assert len(group) == 4
        expect(rows.nth(0 if first == "One file" else 1)).to_contain_text("One file, 4 levels")
        expect(rows.nth(0)).to_contain_text(first)


def test_its_levels_are_switched_by_keyboard_and_each_tells_its_time(
    open_page: OpenPage, site: str, levels: list[bytes]
) -> None:
    page = open_page(f"{site}/#/try?model={digest_of(levels[1])}", viewport={"width": 320, "height": 800})
    expect(page.locator(".answers li")).to_have_count(2)
    page.locator("#file").set_input_files(PICTURE)
    expect(page.get_by_role("status")).to_contain_text("says")
    group = page.get_by_role("group", name="One file, several sizes")
    segments = group.locator("label")
    expect(segments).to_have_count(4)
    headers = {"Content-Type": "image/png"}
    group.get_by_role("radio").nth(1).focus()
    for number in (1, 2, 3):
        described = decode(levels[number]).descriptor
        assert described.metrics.test is not None
        expect(segments.nth(number)).to_contain_text(f"{100 * described.metrics.test.accuracy:.1f}\u00a0%")
        expect(segments.nth(number)).to_contain_text(" ms")
        expect(group.get_by_role("radio").nth(number)).to_be_checked()
        asked = {"model": digest_of(levels[number])}
        wanted = httpx.post(f"{site}/predict", params=asked, content=PICTURE.read_bytes(), headers=headers).json()
        row = page.locator(".answers li").first
        expect(row.locator(".guess strong")).to_have_text(wanted["predictions"][0][0]["label"])
        expect(row.locator(".guess .number").first).to_have_text(
            f"{100 * wanted['predictions'][0][0]['score']:.0f}\u00a0%"
        )
        expect(row.locator(".answer-time")).to_contain_text(segments.nth(number).locator("small").inner_text())
        expect(row.get_by_text("your choice")).to_have_count(1 if number == 1 else 0)
        page.keyboard.press("ArrowRight")
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_its_beginning_can_be_fetched_to_be_upgraded(
    open_page: OpenPage, site: str, levels: list[bytes], tmp_path: Path
) -> None:
    page = open_page(f"{site}/#/download?model={digest_of(levels[1])}")
    line = page.get_by_label("Command line, to be upgraded later", exact=True).inner_text()
    command, *words = shlex.split(line)
    subprocess.run([BIN / command, *words], cwd=tmp_path, check=True, capture_output=True, env=ENVIRONMENT)
    whole = pack(levels)
    fetched = (tmp_path / "elastic.safetensors").read_bytes()
    assert whole.startswith(fetched)
    assert len(fetched) < len(whole)
