from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
from playwright.sync_api import expect

from tests.web.conftest import OpenPage


def records_of(root: Path) -> list[bytes]:
    [log] = root.glob("runs/*/log.jsonl")
    return log.read_bytes().splitlines(keepends=True)


def test_the_story_of_a_run_is_told(open_page: OpenPage, site: str, grown: Path) -> None:
    page = open_page(f"{site}/#/grow?dataset=digits")
    records = [json.loads(line) for line in records_of(grown)]
    decisions = [record for record in records if record["event"] == "decision" and record["chosen"]]
    saved = [record for record in records if record["event"] == "checkpoint"]
    expect(page.locator(".state")).to_have_text("finished")
    expect(page.locator(".story .checkpoint")).to_have_count(len(saved))
    told = page.locator(".story .decision")
    expect(told).to_have_count(len(decisions))
    # Last first.
    expect(told.first).to_contain_text(f"epoch {decisions[-1]['epoch']}")
    expect(told.first).to_contain_text(f"Grew: {'; '.join(decisions[-1]['chosen'])}")
    told.first.get_by_text("ways to grow were scored").click()
    expect(told.first.locator("tbody tr")).to_have_count(len(decisions[-1]["candidates"]))
    expect(told.first.locator("tr.taken")).to_have_count(len(decisions[-1]["chosen"]))
    expect(page.locator(".plot .trace.scatter")).to_have_count(5)
    expect(page.locator(".plot .trace.scatter .point")).to_have_count(len(saved))
    page.get_by_role("link", name=saved[0]["name"]).click()
    expect(page.locator(".readout code")).to_have_text(saved[0]["digest"][:12])


def test_runs_are_switched(open_page: OpenPage, site: str) -> None:
    page = open_page(f"{site}/#/grow?dataset=digits")
    page.get_by_label("Run").select_option("cifar10-grow-s0")
    runs = httpx.get(f"{site}/runs").json()["items"]
    run = next(run for run in runs if run["name"] == "cifar10-grow-s0")
    expect(page.locator(".run-head")).to_contain_text(f"epoch {run['epoch']} of {run['epochs']}")
    assert "run=cifar10-grow-s0" in page.evaluate("location.hash")
    expect(page.locator(".state")).to_have_text(run["status"])


def test_a_run_is_followed_while_it_writes(
    open_page: OpenPage, serve_zoo: Callable[..., str], tmp_path: Path, grown: Path
) -> None:
    lines = records_of(grown)
    first = next(index for index, line in enumerate(lines) if b'"checkpoint"' in line)
    log = tmp_path / "runs" / "live-s0" / "log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"".join(lines[:2]))
    url = serve_zoo(tmp_path)
    page = open_page(f"{url}/#/grow")
    expect(page.locator(".state")).to_have_text("stopped")
    expect(page.locator(".story li")).to_have_count(0)
    with log.open("ab") as file:
        file.write(b"".join(lines[2 : first + 1]))
    expect(page.locator(".story .checkpoint")).to_have_count(1)
    expect(page.locator(".state")).to_have_text("running")
    # Beyond the end of one stream: the page comes back to where it was.
    page.wait_for_timeout(6000)
    with log.open("ab") as file:
        file.write(b"".join(lines[first + 1 :]))
    expect(page.locator(".state")).to_have_text("finished")
    expect(page.locator(".story .checkpoint")).to_have_count(sum(b'"checkpoint"' in line for line in lines))
    assert httpx.get(f"{url}/runs/live-s0").json()["status"] == "finished"


def test_a_zoo_without_anything_says_how_to_begin(
    open_page: OpenPage, serve_zoo: Callable[..., str], tmp_path: Path
) -> None:
    url = serve_zoo(tmp_path)
    for view in ("explore", "try", "grow", "download"):
        page = open_page(f"{url}/#/{view}")
        expect(page.locator("main pre")).to_have_text("zoo-train digits --data digits --zoo DIR")
