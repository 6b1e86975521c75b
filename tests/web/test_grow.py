from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from playwright.sync_api import expect

from tests.web.conftest import OpenPage
from zoo.store.locks import lock

LADDER_RULE = "Some change, made or not, must score above the threshold"


def records_of(root: Path) -> list[bytes]:
    [log] = root.glob("runs/*/log.jsonl")
    return log.read_bytes().splitlines(keepends=True)


def log_of(root: Path, name: str) -> Path:
    log = root / "runs" / name / "log.jsonl"
    log.parent.mkdir(parents=True)
    return log


def lines_of(*records: Mapping[str, object]) -> str:
    return "".join(f"{json.dumps(record)}\n" for record in records)


def epoch(number: int, params: int, branch_epoch: int = 0) -> dict[str, object]:
    return {
        "event": "epoch",
        "epoch": number,
        "epochs": 9,
        "branch_epoch": branch_epoch,
        "loss": 1.0,
        "accuracy": 0.5,
        "val_accuracy": 0.5,
        "params": params,
        "learning_rate": 0.01,
        "seconds": 10.0,
    }


def saved(number: int, digest: str = "0" * 64) -> dict[str, object]:
    name = f"shapes-test-s0-{digest[:6]}"
    accuracies = {"val_accuracy": 0.6, "test_accuracy": 0.6}
    return {
        "event": "checkpoint",
        "epoch": number,
        "digest": digest,
        "name": name,
        "params": 100,
        "macs": 1,
        **accuracies,
    }


def distilled(student: str) -> dict[str, object]:
    accuracies = {"val_accuracy_before": 0.6, "val_accuracy": 0.7}
    return {
        "event": "distilled",
        "student": student,
        "teacher": "1" * 64,
        "params": 100,
        "digest": "2" * 64,
        "seconds": 5.0,
        **accuracies,
    }


def lesson(student: str, number: int) -> dict[str, object]:
    whose = {"student": student, "teacher": "1" * 64, "params": 3426}
    result = {"loss": 0.5, "accuracy": 0.75, "num_images": 100, "seconds": 5.0}
    return {"event": "lesson", "epoch": number, "epochs": 9, **whose, **result}


def decision(number: int, threshold: float, chosen: list[str], *scores: tuple[str, float]) -> dict[str, object]:
    """Each score comes with a standard error of 0.1."""
    candidates = [
        {"change": change, "params_added": 8, "score": score, "standard_error": 0.1} for change, score in scores
    ]
    return {
        "event": "decision",
        "epoch": number,
        "threshold": threshold,
        "candidates": candidates,
        "chosen": chosen,
        "seconds": 5.0,
    }


def test_the_story_of_a_run_is_told(open_page: OpenPage, site: str, grown: Path) -> None:
    page = open_page(f"{site}/#/grow?dataset=digits")
    records = [json.loads(line) for line in records_of(grown)]
    decisions = [record for record in records if record["event"] == "decision" and record["chosen"]]
    checkpoints = [record for record in records if record["event"] == "checkpoint"]
    expect(page.locator(".state")).to_have_text("finished")
    expect(page.get_by_text("its score clears the threshold")).to_be_visible()
    expect(page.locator(".legend")).not_to_contain_text("annealed")
    expect(page.locator(".story .checkpoint")).to_have_count(len(checkpoints))
    told = page.locator(".story .decision")
    expect(told).to_have_count(len(decisions))
    # Last first.
    expect(told.first).to_contain_text(f"epoch {decisions[-1]['epoch']}")
    expect(told.first).to_contain_text(f"Grew: {'; '.join(decisions[-1]['chosen'])}")
    told.first.get_by_text("ways to grow were scored").click()
    expect(told.first.locator("tbody tr")).to_have_count(len(decisions[-1]["candidates"]))
    expect(told.first.locator("tr.taken")).to_have_count(len(decisions[-1]["chosen"]))
    expect(page.locator(".plot .layer")).to_have_count(5)
    expect(page.locator(".plot .point")).to_have_count(len(checkpoints))
    expect(page.locator(".plot .rule")).to_have_count(len(decisions))
    for axis in page.locator(".plot .axis").all():
        ticks = axis.locator("text").all_text_contents()
        assert len(ticks) >= 2
        assert len(set(ticks)) == len(ticks)
    page.get_by_role("link", name=checkpoints[0]["name"]).click()
    expect(page.locator(".readout code")).to_have_text(checkpoints[0]["digest"][:12])


def test_the_images_that_a_run_was_trained_on_are_shown(open_page: OpenPage, site: str) -> None:
    page = open_page(f"{site}/#/grow?dataset=digits", viewport={"width": 320, "height": 800})
    told = httpx.get(f"{site}/runs/digits-digits-s0").json()["data"]
    rows = page.get_by_role("region", name="Images of each class").locator("tbody tr")
    expect(rows).to_have_count(10)
    counts = [told["classes"][7][split] for split in ("train", "validation", "test")]
    assert rows.nth(7).inner_text().split() == ["7", *map(str, counts)]
    strip = rows.nth(7).get_by_role("img", name="8 training images of 7")
    expect(strip.locator("image")).to_have_attribute("href", re.compile("^blob:"))
    strip.scroll_into_view_if_needed()
    shown = np.asarray(Image.open(io.BytesIO(strip.screenshot())).convert("L"))
    assert shown.min() < 60 < 200 < shown.max()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    page.goto(f"{site}/#/grow?run=cifar10-grow-s0")
    expect(page.get_by_text("This run has left no record of its images")).to_be_visible()


def test_what_was_left_out_of_the_images_is_told(
    open_page: OpenPage, serve_zoo: Callable[..., str], tmp_path: Path, grown: Path
) -> None:
    """Names of classes in any script, in their own direction."""
    log = log_of(tmp_path, "photos-grow-s0")
    log.write_text(lines_of(epoch(1, 100)))
    record = json.loads(next(grown.glob("runs/*/data.json")).read_text())
    about, findings = ["810 training and 90 test images of 2 classes"], ["left out: 3 .heic (cat/1.heic)"]
    record |= {"about": about, "findings": findings, "num_classes": 1003}
    names = ("חתול", "長い名前の" * 20, "<b>bold</b>")
    record["classes"] = [{**one, "name": name} for one, name in zip(record["classes"], names, strict=False)]
    record["sheet"]["rows"] = 2
    log.with_name("data.json").write_text(json.dumps(record))
    page = open_page(f"{serve_zoo(tmp_path)}/#/grow", viewport={"width": 360, "height": 800})
    expect(page.get_by_text("810 training and 90 test images of 2 classes.")).to_be_visible()
    expect(page.get_by_role("list", name="Left out, and warnings")).to_have_text("left out: 3 .heic (cat/1.heic)")
    expect(page.get_by_text("the first 3 classes of 1,003")).to_be_visible()
    region = page.get_by_role("region", name="Images of each class")
    assert region.locator("tbody th").all_inner_texts() == list(names)
    expect(region.locator("svg")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_runs_are_switched(open_page: OpenPage, site: str) -> None:
    page = open_page(f"{site}/#/grow?dataset=digits")
    page.get_by_label("Run").select_option("cifar10-grow-s0")
    runs = httpx.get(f"{site}/runs").json()["items"]
    run = next(run for run in runs if run["name"] == "cifar10-grow-s0")
    expect(page.locator(".run-head")).to_contain_text(f"epoch {run['epoch']} of {run['epochs']}")
    assert "run=cifar10-grow-s0" in page.evaluate("location.hash")
    expect(page.locator(".state")).to_have_text(run["status"])
    expect(page.locator(".legend")).to_contain_text("annealed (learning rate lowered to 0)")
    expect(page.get_by_text(LADDER_RULE)).to_be_visible()
    # Its checkpoints are of another data set than the one that was looked at.
    page.locator(".story .distilled a").first.click()
    expect(page.locator("h1")).to_have_text("How small is good enough?")
    expect(page.get_by_label("Data set")).to_have_value("cifar10")
    assert "dataset=cifar10" in page.evaluate("location.hash")


def test_a_finished_run_comes_before_one_that_was_stopped(
    open_page: OpenPage, serve_zoo: Callable[..., str], put: Callable[..., str], tmp_path: Path
) -> None:
    put(tmp_path)
    finished = {"event": "finished", "epoch": 1, "num_expansions": 0, "device_seconds": 10.0, "checkpoints": []}
    log_of(tmp_path, "shapes-a-s0").write_text(lines_of(epoch(1, 100), finished))
    log_of(tmp_path, "shapes-b-s0").write_text(lines_of(epoch(1, 100)))
    page = open_page(f"{serve_zoo(tmp_path)}/#/grow")
    expect(page.get_by_label("Run")).to_have_value("shapes-a-s0")


def test_what_is_decided_before_a_branch_is_told_after_it(
    open_page: OpenPage, serve_zoo: Callable[..., str], tmp_path: Path
) -> None:
    """Runs that go on from their branch decide before it; others do after it, and so did all once."""
    growth = decision(2, 3.0, ["deeper", "wider"], ("deeper", 1.5), ("wider", 1.0), ("widest", 4.0))
    old, new = log_of(tmp_path, "old"), log_of(tmp_path, "new")
    old.write_text(lines_of(epoch(1, 100), epoch(2, 100), epoch(2, 100, 1), saved(2), growth, epoch(3, 116)))
    new.write_text(lines_of(epoch(1, 100), epoch(2, 100), growth, epoch(2, 100, 1)))
    url = serve_zoo(tmp_path)
    page = open_page(f"{url}/#/grow?run=new")
    steps = page.locator(".story li")
    expansions = page.locator(".figures div", has_text="expansions").locator("dd")
    expect(steps).to_have_count(1)
    expect(steps.first).to_contain_text("To grow, once this size is annealed and saved: deeper; wider")
    expect(expansions).to_have_text("0")
    with new.open("a") as log:
        log.write(lines_of(saved(2), epoch(3, 116)))
    expect(steps).to_have_count(2)
    told = steps.all_inner_texts()
    assert "Grew: deeper; wider" in told[0]
    assert "100 → 116 parameters. Scores 1.5, 1; threshold 3, cleared by widest with 4." in told[0]
    assert "Saved" in told[1]
    expect(expansions).to_have_text("2")
    expect(page.get_by_text(LADDER_RULE)).to_be_visible()
    with page.expect_response(lambda response: response.url.endswith("/runs/old")):
        page.get_by_label("Run").select_option("old")
    for _ in range(50):  # the page clears the other run's story before it tells this one's
        if steps.all_inner_texts() == told:
            break
        page.wait_for_timeout(100)
    assert steps.all_inner_texts() == told


def test_the_shipped_run_tells_what_its_largest_taught(open_page: OpenPage, site: str) -> None:
    page = open_page(f"{site}/#/grow?run=cifar10-grow-s0")
    records = httpx.get(f"{site}/runs/cifar10-grow-s0").json()["records"]
    taught = [record for record in records if record["event"] == "distilled"]
    names = {record["digest"]: record["name"] for record in records if record["event"] == "checkpoint"}
    for record in taught:
        names[record["digest"]] = names[record["student"]]
    told = page.locator(".story .distilled")
    expect(told).to_have_count(len(taught))
    # Last first.
    last = taught[-1]
    expect(told.first).to_contain_text(f"{names[last['student']]} learned from {names[last['teacher']]}: ")
    in_vain = page.locator(".story .distilled", has_text="not better, not saved")
    expect(in_vain).to_have_count(sum(record["digest"] is None for record in taught))
    told.get_by_role("link").first.click()
    better = [record["digest"] for record in taught if record["digest"] is not None]
    expect(page.locator(".readout code")).to_have_text(better[-1][:12])


def test_a_run_that_began_with_a_checkpoint_tells_of_its_first_growth(
    open_page: OpenPage, serve_zoo: Callable[..., str], tmp_path: Path
) -> None:
    """In a log of its own, and in one whose run lost its state after it had decided something else."""
    overruled, growth = decision(2, 3.0, ["deeper"], ("deeper", 4.0)), decision(2, 0.0, ["wider"], ("wider", 1.0))
    own, recovered = log_of(tmp_path, "own"), log_of(tmp_path, "recovered")
    own.write_text(lines_of(saved(2), growth, epoch(3, 116)))
    recovered.write_text(lines_of(epoch(2, 100), overruled, epoch(2, 100, 1), saved(2), growth, epoch(3, 116)))
    url = serve_zoo(tmp_path)
    for name in ("own", "recovered"):
        page = open_page(f"{url}/#/grow?run={name}")
        steps = page.locator(".story li")
        expect(steps).to_have_count(2)
        expect(steps.first).to_contain_text("Grew: wider")
        expect(steps.first).to_contain_text("100 → 116 parameters. Score 1; threshold 0.")
        expect(steps.last).to_contain_text("Saved")
        expect(page.locator(".figures div", has_text="expansions").locator("dd")).to_have_text("1")


def test_of_two_passes_only_what_was_taken_is_marked(
    open_page: OpenPage, serve_zoo: Callable[..., str], tmp_path: Path
) -> None:
    """The same change may be noise in the first pass, and taken in the second."""
    passes = (("deeper", 2.0), ("wider", 0.1), ("deeper", 0.05), ("wider", 0.5))
    growth = decision(1, 1.0, ["deeper", "wider"], *passes)
    log_of(tmp_path, "run").write_text(lines_of(epoch(1, 100), saved(1), growth, epoch(2, 116)))
    page = open_page(f"{serve_zoo(tmp_path)}/#/grow")
    page.get_by_text("4 ways to grow were scored, in 2 passes").click()
    assert page.locator("tr.taken td:nth-child(3)").all_inner_texts() == ["2", "0.5"]


def test_what_was_taken_several_times_is_told_once(
    open_page: OpenPage, serve_zoo: Callable[..., str], tmp_path: Path
) -> None:
    growth = decision(1, 1.0, ["deeper", "wider", "deeper", "deeper"], ("deeper", 2.0), ("wider", 0.5), ("other", 1.5))
    log_of(tmp_path, "run").write_text(lines_of(epoch(1, 100), saved(1), growth, epoch(2, 140)))
    page = open_page(f"{serve_zoo(tmp_path)}/#/grow")
    expect(page.locator(".story .decision")).to_contain_text("Grew: deeper (3 times); wider")
    expect(page.locator(".story .decision")).to_contain_text("Scores 2, 0.5; threshold 1")
    page.get_by_text("3 ways to grow were scored").click()
    assert page.locator("tr.taken td:nth-child(3)").all_inner_texts() == ["2", "0.5"]


def test_a_run_is_followed_while_it_writes(
    open_page: OpenPage, serve_zoo: Callable[..., str], tmp_path: Path, grown: Path
) -> None:
    lines = records_of(grown)
    records = [json.loads(line) for line in lines]
    first = next(index for index, line in enumerate(lines) if b'"checkpoint"' in line)
    log = log_of(tmp_path, "live-s0")
    log.write_bytes(b"".join(lines[:2]))
    url = serve_zoo(tmp_path)
    page = open_page(f"{url}/#/grow")
    expect(page.locator(".state")).to_have_text("stopped")
    expect(page.locator(".story li")).to_have_count(0)
    with log.open("ab", buffering=0) as file:
        lock(file, log)  # as a run does
        file.write(b"".join(lines[2 : first + 1]))
        expect(page.locator(".story .checkpoint")).to_have_count(1)
        expect(page.locator(".state")).to_have_text("running")
        expect(page.locator("main option")).to_have_text(["live-s0 (running)"])
        expect(page.locator(".story .checkpoint a")).to_have_count(0)
        shutil.copytree(grown / "checkpoints", tmp_path / "checkpoints")
        expect(page.locator(".story .checkpoint a")).to_have_count(1)
        page.locator(".story .checkpoint a").focus()
        # Beyond the end of one stream: the page comes back to where it was.
        page.wait_for_timeout(6000)
        time = page.locator(".figures div", has_text="training and scoring").locator("dd")
        file.write(b"".join(lines[first + 1 : -1]))
        expect(page.locator(".story .checkpoint")).to_have_count(sum(b'"checkpoint"' in line for line in lines))
        expect(page.locator(".story .checkpoint a").last).to_be_focused()
        spent = time.inner_text()
        seconds = sum(record["seconds"] for record in records if record["event"] in ("epoch", "decision"))
        assert spent == f"{round(seconds)} s"
        # After its end the largest may still teach the others.
        file.write(lines[-1])
        file.write(lines_of(lesson(records[first]["digest"], 2)).encode())
        expect(page.get_by_role("status")).to_contain_text("distilling 3,426 parameters, epoch 2 of 9")
        file.write(lines_of(distilled(records[first]["digest"])).encode())
        expect(page.locator(".story .distilled")).to_contain_text(f"{records[first]['name']} learned from")
        expect(page.locator(".state")).to_have_text("running")
    expect(page.locator(".state")).to_have_text("finished")
    expect(page.get_by_role("status")).not_to_contain_text("distilling")
    assert seconds > 0.8 * records[-1]["device_seconds"]  # the rest is making expansions
    expect(page.locator("main option")).to_have_text(["live-s0 (finished)"])
    assert httpx.get(f"{url}/runs/live-s0").json()["status"] == "finished"


def test_each_level_of_an_elastic_run_is_a_line(
    open_page: OpenPage, serve_zoo: Callable[..., str], tmp_path: Path
) -> None:
    """Levels may join while it goes on."""

    def of_levels(number: int, **accuracies: float) -> dict[str, object]:
        levels = [{"params": int(size[1:]), "val_accuracy": value} for size, value in accuracies.items()]
        return {
            **epoch(number, int(levels[-1]["params"])),
            "val_accuracy": levels[-1]["val_accuracy"],
            "levels": levels,
        }

    records = [
        of_levels(1, p100=0.3, p900=0.4),
        of_levels(2, p100=0.4, p900=0.5),
        of_levels(3, p100=0.4, p300=0.5, p900=0.6),
    ]
    log_of(tmp_path, "shapes-elastic-s0").write_text(lines_of(*records))
    page = open_page(f"{serve_zoo(tmp_path)}/#/grow")
    expect(page.get_by_text("its smaller levels")).to_be_visible()
    lines = [path.get_attribute("d") or "" for path in page.locator(".plot .branches path").all()]
    assert [(line.count("M"), line.count("L")) for line in lines] == [(1, 2), (1, 0), (0, 0)]


def test_a_run_that_is_stopped_is_told_so(open_page: OpenPage, serve_zoo: Callable[..., str], tmp_path: Path) -> None:
    log = log_of(tmp_path, "run")
    with log.open("ab") as file:
        lock(file, log)
        file.write(lines_of(epoch(1, 100)).encode())
        file.flush()
        page = open_page(f"{serve_zoo(tmp_path)}/#/grow")
        expect(page.locator(".state")).to_have_text("running")
    expect(page.locator(".state")).to_have_text("stopped")
    expect(page.locator("main option")).to_have_text(["run (stopped)"])


def test_where_checkpoints_were_only_taught_no_growth_is_drawn(
    open_page: OpenPage, serve_zoo: Callable[..., str], put: Callable[..., str], tmp_path: Path
) -> None:
    """As with `zoo-train distil`, where their run's log is elsewhere."""
    student = put(tmp_path)
    log = log_of(tmp_path, "run")
    with log.open("ab") as file:
        lock(file, log)
        file.write(lines_of(lesson(student, 1), lesson(student, 2)).encode())
        file.flush()
        url = serve_zoo(tmp_path)
        page = open_page(f"{url}/#/grow")
        status = page.get_by_role("status")
        expect(status).to_contain_text(
            "networks that grew elsewhere are trained on, distilling 3,426 parameters, epoch 2 of 9"
        )
        expect(page.locator(".chart")).not_to_be_visible()
        file.write(lines_of(distilled(student)).encode())
        file.flush()
        name = httpx.get(f"{url}/models/{student}").json()["name"]
        expect(page.locator(".story .distilled")).to_contain_text(f"{name} learned from {'1' * 12}: ")
        expect(page.locator(".figures")).to_have_text("checkpoints1training10 s")


def test_a_zoo_that_was_adapted_is_finished_and_names_its_own(
    open_page: OpenPage, serve_zoo: Callable[..., str], put: Callable[..., str], tmp_path: Path
) -> None:
    """What it began with lies elsewhere; what came of it has names here."""
    made = put(tmp_path)
    of_labels = {"student": "2" * 64, "teacher": None, "digest": made}
    log = log_of(tmp_path, "run")
    log.write_text(
        lines_of(
            lesson("2" * 64, 9),
            distilled("2" * 64) | of_labels,
            {"event": "adapted", "checkpoints": [made], "epochs": 9, "at_chance": []},
        )
    )
    url = serve_zoo(tmp_path)
    page = open_page(f"{url}/#/grow")
    expect(page.locator(".state")).to_have_text("finished")
    name = httpx.get(f"{url}/models/{made}").json()["name"]
    expect(page.locator(".story .distilled")).to_contain_text(f"{name} learned from the labels: ")
    expect(page.locator(".story .adapted")).to_contain_text("Finished: 1 checkpoint, 9 epochs each")
    [run] = httpx.get(f"{url}/runs").json()["items"]
    assert (run["status"], run["epoch"], run["epochs"], run["params"]) == ("finished", 9, 9, 3426)


def test_a_zoo_without_anything_says_how_to_begin(
    open_page: OpenPage, serve_zoo: Callable[..., str], tmp_path: Path
) -> None:
    url = serve_zoo(tmp_path)
    for view in ("explore", "try", "grow", "download"):
        page = open_page(f"{url}/#/{view}")
        expect(page.locator("main pre")).to_have_text("zoo-train digits --data digits --zoo DIR")


def test_what_appears_in_an_empty_zoo_is_shown(
    open_page: OpenPage, serve_zoo: Callable[..., str], put: Callable[..., str], tmp_path: Path
) -> None:
    url = serve_zoo(tmp_path)
    explore, grow = open_page(f"{url}/#/explore"), open_page(f"{url}/#/grow")
    expect(explore.locator("h1")).to_have_text("This zoo is empty")
    digest = put(tmp_path)
    log_of(tmp_path, "run").write_text(lines_of(epoch(1, 100), saved(1, digest)))
    expect(grow.locator(".run-head")).to_contain_text("epoch 1 of 9")
    expect(grow.locator(".story .checkpoint a")).to_have_count(1)
    expect(explore.locator(".readout code")).to_have_text(digest[:12])
