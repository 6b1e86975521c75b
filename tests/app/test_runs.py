from __future__ import annotations

import fcntl
import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from trainer.data.datasets import Data
from zoo.store.locks import lock

Event = tuple[str, str, dict[str, object]]

RUN = "digits-digits-s0"


@pytest.fixture(scope="session")
def lines(zoo_root: Path) -> list[bytes]:
    """What the run that grew the tests' zoo has logged."""
    return (zoo_root / "runs" / RUN / "log.jsonl").read_bytes().splitlines(keepends=True)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "again-s0" / "log.jsonl"
    path.parent.mkdir(parents=True)
    return path


def events_of(response: httpx.Response) -> Iterator[Event]:
    """(id, event, data) of each Server-Sent Event."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        else:
            if "data" in fields:
                yield fields["id"], fields["event"], json.loads(fields["data"])
            fields = {}


def test_a_run_that_is_over_is_summed_up(client: httpx.Client, lines: list[bytes]) -> None:
    [run] = client.get("/runs").json()["items"]
    records = [json.loads(line) for line in lines]
    saved = [record for record in records if record["event"] == "checkpoint"]
    assert run["name"] == RUN
    assert run["status"] == "finished"
    assert run["epoch"] == run["epochs"] == 10
    assert run["num_checkpoints"] == client.get("/models").json()["count"] == len(saved)
    assert run["num_expansions"] == records[-1]["num_expansions"] == 4
    assert run["val_accuracy"] == max(record["val_accuracy"] for record in saved)
    assert client.get(f"/runs/{RUN}").json()["records"] == records


def test_of_two_decisions_of_one_epoch_the_later_counts(
    client_of: Callable[..., httpx.Client], tmp_path: Path, log: Path, lines: list[bytes]
) -> None:
    """A run whose state was lost begins again with its last checkpoint, and decides once more."""
    log.write_bytes(b"".join(lines))
    before = client_of(tmp_path).get("/runs/again-s0").json()["num_expansions"]
    decided = next(line for line in lines if json.loads(line)["event"] == "decision" and json.loads(line)["chosen"])
    log.write_bytes(b"".join([decided, *lines]))
    assert client_of(tmp_path).get("/runs/again-s0").json()["num_expansions"] == before > 0


def test_a_run_is_running_while_a_process_holds_its_log(
    client_of: Callable[..., httpx.Client], tmp_path: Path, log: Path, lines: list[bytes]
) -> None:
    log.write_bytes(b"".join(lines[:3]))
    client = client_of(tmp_path)
    assert client.get("/runs/again-s0").json()["status"] == "stopped"
    with log.open("ab") as held:
        lock(held, log)
        assert client.get("/runs/again-s0").json()["status"] == "running"


def test_what_a_run_distils_is_among_its_checkpoints(
    client_of: Callable[..., httpx.Client], tmp_path: Path, log: Path, lines: list[bytes]
) -> None:
    """It does so after its end, and is at work as long."""
    log.write_bytes(b"".join(lines))
    client = client_of(tmp_path)
    before = client.get("/runs/again-s0").json()
    distilled = {"event": "distilled", "student": "0" * 64, "teacher": "1" * 64, "val_accuracy": 0.99}
    with log.open("ab") as held:
        lock(held, log)
        for digest in ("2" * 64, None):
            held.write(f"{json.dumps(distilled | {'digest': digest})}\n".encode())
        held.flush()
        run = client.get("/runs/again-s0").json()
    assert run["status"] == "running"
    assert run["num_checkpoints"] == before["num_checkpoints"] + 1
    assert run["val_accuracy"] == 0.99
    assert client.get("/runs/again-s0").json()["status"] == before["status"] == "finished"


def test_a_line_that_is_being_written_is_left_for_later(
    client_of: Callable[..., httpx.Client], tmp_path: Path, log: Path, lines: list[bytes]
) -> None:
    log.write_bytes(lines[0] + lines[1][:20])
    run = client_of(tmp_path).get("/runs/again-s0").json()
    assert run["records"] == [json.loads(lines[0])]
    assert run["end"] == len(lines[0])


def test_what_is_logged_arrives_at_once(
    client_of: Callable[..., httpx.Client], tmp_path: Path, log: Path, lines: list[bytes]
) -> None:
    log.write_bytes(b"".join(lines[:2]))
    client = client_of(tmp_path)
    end = client.get("/runs/again-s0").json()["end"]
    with client.stream("GET", "/runs/again-s0/events", params={"after": end}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        with log.open("ab") as file:
            file.write(lines[2])
        found, event, record = next(events_of(response))
    assert (event, record) == (json.loads(lines[2])["event"], json.loads(lines[2]))
    assert int(found) == sum(map(len, lines[:3]))


def test_a_stream_goes_on_where_the_last_one_ended(
    client_of: Callable[..., httpx.Client], tmp_path: Path, log: Path, lines: list[bytes]
) -> None:
    log.write_bytes(b"".join(lines[:4]))
    client = client_of(tmp_path)
    with client.stream("GET", "/runs/again-s0/events") as response:
        events = events_of(response)
        last_id = [next(events) for _ in range(2)][-1][0]
    with client.stream("GET", "/runs/again-s0/events", headers={"Last-Event-ID": last_id}) as response:
        assert next(events_of(response))[2] == json.loads(lines[2])


def test_a_resumed_run_starts_its_story_anew(
    client_of: Callable[..., httpx.Client], tmp_path: Path, log: Path, lines: list[bytes]
) -> None:
    log.write_bytes(b"".join(lines[:3]))
    client = client_of(tmp_path)
    end = client.get("/runs/again-s0").json()["end"]
    with client.stream("GET", "/runs/again-s0/events", params={"after": end}) as response:
        threading.Timer(0.3, log.write_bytes, [lines[0]]).start()
        events = events_of(response)
        assert [next(events)[1] for _ in range(2)] == ["restart", json.loads(lines[0])["event"]]


@pytest.mark.parametrize("beyond", [1, 2**63, 10**30])
def test_a_log_that_ends_earlier_is_told_from_the_first(
    client_of: Callable[..., httpx.Client], tmp_path: Path, log: Path, lines: list[bytes], beyond: int
) -> None:
    log.write_bytes(lines[0])
    after = {"after": len(lines[0]) + beyond}
    with client_of(tmp_path).stream("GET", "/runs/again-s0/events", params=after) as response:
        events = events_of(response)
        assert [next(events)[1] for _ in range(2)] == ["restart", json.loads(lines[0])["event"]]


def test_streams_end_by_themselves(client: httpx.Client, lines: list[bytes]) -> None:
    with client.stream("GET", f"/runs/{RUN}/events", timeout=20) as response:
        assert len(list(events_of(response))) == len(lines)


def test_an_unknown_run_is_named_with_those_there_are(client: httpx.Client) -> None:
    for path in ("/runs/other", "/runs/other/events"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.json()["detail"] == f"no run is named other: the zoo has {RUN}"


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (b"no json\n", "holds no record in the line that ends at byte 8"),
        (b'{"event": "epoch", "epoch": 1}\n', "holds a record that is not as runs write it: 'epochs'"),
    ],
)
def test_a_damaged_log_hides_no_other_run(
    client_of: Callable[..., httpx.Client], tmp_path: Path, log: Path, zoo_root: Path, line: bytes, detail: str
) -> None:
    log.write_bytes(line)
    client = client_of(tmp_path, zoo_root)
    assert [run["name"] for run in client.get("/runs").json()["items"]] == [RUN]
    answer = client.get("/runs/again-s0")
    assert answer.status_code == 503
    assert answer.json()["detail"] == f"the log of run again-s0 {detail}"


def test_looking_at_runs_never_keeps_one_from_starting(
    client_of: Callable[..., httpx.Client], tmp_path: Path, log: Path, lines: list[bytes]
) -> None:
    log.write_bytes(lines[0])
    client = client_of(tmp_path)
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            client.get("/runs/again-s0")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(300):
            with log.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where somebody has it
    finally:
        over.set()
        thread.join()


def test_what_a_run_was_trained_on_is_told(client: httpx.Client, digits: Data) -> None:
    told = client.get(f"/runs/{RUN}").json()["data"]
    assert [one["name"] for one in told["classes"]] == list(digits.classes)
    for split in ("train", "validation", "test"):
        counts = np.bincount(getattr(digits, split).labels, minlength=10).tolist()
        assert [one[split] for one in told["classes"]] == counts
    assert told["image"] == {"channels": 1, "height": 8, "width": 8}
    assert told["num_classes"] == 10
    assert told["findings"] == list(digits.findings)


def test_the_images_of_a_run_are_training_images_and_kept_by_the_client(client: httpx.Client, digits: Data) -> None:
    sheet = client.get(f"/runs/{RUN}").json()["data"]["sheet"]
    answer = client.get(f"/runs/{RUN}/images")
    assert answer.headers["content-type"] == "image/webp"
    pixels = np.asarray(Image.open(io.BytesIO(answer.content)).convert("L"))
    assert pixels.shape == (sheet["rows"] * sheet["height"], sheet["columns"] * sheet["width"])
    for row in range(10):
        own = digits.train.images[digits.train.labels == row, 0].numpy()
        for column in range(sheet["columns"]):
            tile = pixels[row * 8 :, column * 8 :][:8, :8]
            assert (own == tile).all(axis=(1, 2)).any()
    again = client.get(f"/runs/{RUN}/images", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.head(f"/runs/{RUN}/images").headers["etag"] == answer.headers["etag"]


@pytest.mark.parametrize("content", [None, b"{}", b"no json", b'{"classes": "' + b"a" * 2**20 + b'"}'])
def test_a_run_without_a_record_of_its_images_is_told_all_the_same(
    client_of: Callable[..., httpx.Client], tmp_path: Path, log: Path, lines: list[bytes], content: bytes | None
) -> None:
    log.write_bytes(lines[0])
    if content is not None:
        log.with_name("data.json").write_bytes(content)
    client = client_of(tmp_path)
    run = client.get("/runs/again-s0").json()
    assert (run["data"], run["records"]) == (None, [json.loads(lines[0])])
    assert client.get("/runs/again-s0/images").status_code == 404


def test_images_that_were_written_again_are_read_again(
    client_of: Callable[..., httpx.Client], tmp_path: Path, log: Path, lines: list[bytes], zoo_root: Path
) -> None:
    log.write_bytes(lines[0])
    record = json.loads((zoo_root / "runs" / RUN / "data.json").read_text())
    client = client_of(tmp_path)
    for finding in ("left out: 3 .heic", "none"):
        log.with_name("data.json").write_text(json.dumps({**record, "findings": [finding]}))
        assert client.get("/runs/again-s0").json()["data"]["findings"] == [finding]
