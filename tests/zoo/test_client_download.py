"""Downloads from a server that breaks off, lies, or is asked by many at once."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zoo.client import AsyncZooClient, ZooClient
from zoo.errors import NotFoundError, RemoteError
from zoo.store.partial_file import partial_file

Ask = Callable[..., Any]

FAULTS = st.one_of(
    st.just({"status": 503}),
    st.fixed_dictionaries(
        {},
        optional={
            "break_after": st.integers(0, 6000),
            "flip_at": st.integers(0, 6000),
            "ignore_range": st.booleans(),
        },
    ),
)


@pytest.fixture(params=["sync", "async"])
def download(request: pytest.FixtureRequest, server: Any, tmp_path: Path) -> Ask:
    """`download(…)` of one client or the other, from the small zoo."""

    def download_sync(*args: Any, retries: int = 3, **options: Any) -> Path:
        with ZooClient(server.url, cache=tmp_path / "cache", retries=retries) as zoo:
            return zoo.download(*args, **options)

    def download_async(*args: Any, retries: int = 3, **options: Any) -> Path:
        async def main() -> Path:
            async with AsyncZooClient(server.url, cache=tmp_path / "cache", retries=retries) as zoo:
                return await zoo.download(*args, **options)

        return asyncio.run(main())

    return download_sync if request.param == "sync" else download_async


@pytest.fixture
def best(server: Any) -> Any:
    with ZooClient(server.url) as zoo:
        view = zoo.show("best")
    server.requests.clear()
    server.on = "/file"
    return view


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_by_name_digest_view_and_bounds(download: Ask, best: Any, tmp_path: Path) -> None:
    cached = tmp_path / "cache" / f"{best.id}.safetensors"
    for name in ("best", best.id, best.id[:8], best, best.name):
        assert download(name) == cached
    assert download(min_acc=0.84) == cached
    assert sha256(cached) == best.id
    assert download(best, tmp_path / "new" / "b.safetensors") == tmp_path / "new" / "b.safetensors"
    assert sha256(tmp_path / "new" / "b.safetensors") == best.id


def test_what_is_there_is_not_fetched_again(download: Ask, best: Any, server: Any) -> None:
    path = download(best.id)
    server.requests.clear()
    assert download(best.id) == path
    assert server.requests == []
    path.write_bytes(b"damaged")
    assert sha256(download(best.id)) == best.id


def test_onnx_is_named_by_its_own_digest(download: Ask, best: Any, server: Any) -> None:
    path = download(best, file_format="onnx")
    assert path.name == f"{sha256(path)}.onnx"
    assert onnxruntime.InferenceSession(path).get_inputs()[0].shape == ["batch", 8, 8, 1]
    server.requests.clear()
    assert download(best, file_format="onnx") == path
    assert [request.method for request in server.requests] == ["HEAD"]


def test_progress_ends_at_the_whole(download: Ask, best: Any, server: Any, fault: Ask) -> None:
    seen: list[tuple[int, int | None]] = []
    server.faults.append(fault(break_after=1000))
    download(best, progress=lambda received, total: seen.append((received, total)))
    assert seen == sorted(seen)
    assert (1000, best.bytes) in seen
    assert seen[-1] == (best.bytes, best.bytes)


@pytest.mark.parametrize("file_format", ["safetensors", "onnx"])
def test_what_breaks_off_goes_on_where_it_stopped(
    download: Ask, best: Any, server: Any, fault: Ask, file_format: str
) -> None:
    """More often than there are retries: each attempt brings something."""
    server.faults.extend([fault(break_after=500)] * 5)
    path = download(best, file_format=file_format)
    tag = f'"{sha256(path)}"'
    assert server.ranges() == [(None, None), *((f"bytes={500 * n}-", tag) for n in range(1, 6))]


def test_an_attempt_that_brings_nothing_counts(
    download: Ask, best: Any, server: Any, fault: Ask, tmp_path: Path
) -> None:
    server.faults.extend([fault(break_after=500), *[fault(break_after=500, ignore_range=True)] * 9])
    with pytest.raises(RemoteError, match="broke off: "):
        download(best)
    assert len(server.ranges()) == 4
    assert not (tmp_path / "cache" / f"{best.id}.safetensors").exists()


def test_the_next_download_goes_on_where_this_one_stopped(
    download: Ask, best: Any, server: Any, fault: Ask, tmp_path: Path
) -> None:
    target = tmp_path / "best.safetensors"
    server.faults.append(fault(break_after=700))
    with pytest.raises(RemoteError, match="broke off: "):
        download(best, target, retries=0)
    assert not target.exists()
    download(best, target)
    assert server.ranges() == [(None, None), ("bytes=700-", f'"{best.id}"')]
    assert sha256(target) == best.id
    assert names(tmp_path) == ["best.safetensors"]


def test_a_server_without_ranges_sends_it_all_again(download: Ask, best: Any, server: Any, fault: Ask) -> None:
    server.faults.extend([fault(break_after=700), fault(ignore_range=True)])
    assert sha256(download(best)) == best.id


@pytest.mark.parametrize("left", [b"something else", b"x" * 100_000], ids=["shorter", "longer than the file"])
def test_what_was_left_is_not_believed(download: Ask, best: Any, tmp_path: Path, left: bytes) -> None:
    target = tmp_path / "best.safetensors"
    with partial_file(target, best.id) as partial:
        partial.append(left)
    assert sha256(download(best, target)) == best.id
    assert names(tmp_path) == ["best.safetensors"]


def test_a_crash_before_the_rename_costs_no_download(
    download: Ask, best: Any, server: Any, small_zoo: Path, tmp_path: Path
) -> None:
    target = tmp_path / "best.safetensors"
    with partial_file(target, best.id) as partial:
        partial.append(next(small_zoo.rglob(f"{best.id}.safetensors")).read_bytes())
    download(best, target)
    assert sha256(target) == best.id
    assert server.ranges() == []


def test_other_bytes_are_refused(download: Ask, best: Any, server: Any, fault: Ask, tmp_path: Path) -> None:
    target = tmp_path / "best.safetensors"
    target.write_bytes(b"what was there")
    server.faults.append(fault(flip_at=-10))
    with pytest.raises(RemoteError, match=f"sent other bytes than those of {best.id}: their SHA-256 is [0-9a-f]{{64}}"):
        download(best, target)
    assert target.read_bytes() == b"what was there"
    assert names(tmp_path) == ["best.safetensors"]


def test_a_checkpoint_that_is_not_there_leaves_nothing(download: Ask, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no checkpoint"):
        download("0" * 64, tmp_path / "nothing.safetensors")
    with pytest.raises(NotFoundError, match=f"404 Not Found for http.*/models/{'0' * 64}/file"):
        download("0" * 64, tmp_path / "nothing.onnx", file_format="onnx")
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written(download: Ask, best: Any, server: Any, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        download(best, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match=str(tmp_path / "file")):
        download(best, tmp_path / "file" / "best.safetensors")
    assert server.requests == []


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(faults=st.lists(FAULTS, max_size=6))
def test_whatever_happens_the_bytes_are_right_or_there_are_none(
    best: Any, server: Any, fault: Ask, tmp_path: Path, faults: list[dict[str, Any]]
) -> None:
    target = tmp_path / "best.safetensors"
    server.faults.extend(fault(**options) for options in faults)
    with ZooClient(server.url, retries=0) as zoo:
        while server.faults:
            try:
                zoo.download(best, target)
            except RemoteError:
                assert not target.exists()
            else:
                assert sha256(target) == best.id
                target.unlink()
    with ZooClient(server.url) as zoo:
        assert sha256(zoo.download(best, target)) == best.id
    assert names(tmp_path) == ["best.safetensors"]
    target.unlink()


# --- several at once -----------------------------------------------------------------------------------------

PROGRAM = """
import sys
from zoo.client import ZooClient
with ZooClient(sys.argv[1]) as zoo:
    print(zoo.download(sys.argv[2], sys.argv[3]))
"""


def started(*arguments: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_nobody_waits_for_a_process_that_hangs(best: Any, server: Any, fault: Ask, tmp_path: Path) -> None:
    """And when that one is killed, what it had is gone on with."""
    target = tmp_path / "best.safetensors"
    server.faults.append(fault(stall_after=900))
    process = started(server.url, best.id, target)
    try:
        wait_for(lambda: [path for path in tmp_path.glob(".*.part") if path.stat().st_size == 900])
        with ZooClient(server.url) as zoo:
            zoo.download(best, target)
        assert sha256(target) == best.id
        target.unlink()
    finally:
        process.kill()
        process.communicate()
    with ZooClient(server.url) as zoo:
        zoo.download(best, target)
    assert server.ranges()[-2:] == [(None, None), ("bytes=900-", f'"{best.id}"')]
    assert sha256(target) == best.id
    assert names(tmp_path) == ["best.safetensors"]


def test_many_processes_and_threads_at_once(best: Any, server: Any, fault: Ask, tmp_path: Path) -> None:
    target = tmp_path / "best.safetensors"
    server.faults.extend([fault(break_after=500)] * 20)
    processes = [started(server.url, best.id, target) for _ in range(3)]
    failures = []

    def fetch() -> None:
        with ZooClient(server.url) as zoo:
            for _ in range(5):
                try:
                    zoo.download(best, target)
                except Exception as error:
                    failures.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.communicate()[0].strip() for process in processes] == [str(target)] * 3
    assert failures == []
    assert sha256(target) == best.id
    assert names(tmp_path) == ["best.safetensors"]


def test_many_at_once_in_one_event_loop(best: Any, server: Any, fault: Ask, tmp_path: Path) -> None:
    server.faults.extend([fault(break_after=500)] * 10)

    async def main() -> list[Path]:
        async with AsyncZooClient(server.url, cache=tmp_path) as zoo:
            return await asyncio.gather(*(zoo.download(best) for _ in range(8)))

    [path] = set(asyncio.run(main()))
    assert sha256(path) == best.id
    assert names(tmp_path) == [path.name]


def test_a_cancelled_download_can_be_gone_on_with(best: Any, server: Any, fault: Ask, tmp_path: Path) -> None:
    server.faults.append(fault(stall_after=600))

    async def main() -> Path:
        async with AsyncZooClient(server.url, cache=tmp_path) as zoo:
            arrived = asyncio.Event()
            task = asyncio.create_task(zoo.download(best, progress=lambda *_: arrived.set()))
            await arrived.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await zoo.download(best)

    assert sha256(asyncio.run(main())) == best.id
    assert server.ranges()[-1] == ("bytes=600-", f'"{best.id}"')


# --- zoo get -------------------------------------------------------------------------------------------------


def test_zoo_get_resumes(command: Ask, best: Any, server: Any, fault: Ask, tmp_path: Path) -> None:
    target = tmp_path / "best.safetensors"
    server.faults.extend([fault(break_after=700), *[fault(status=503)] * 4])
    broken = command("zoo", "get", "best", "--url", server.url, "-o", target)
    assert broken.returncode == 1
    assert broken.stderr.startswith(f"zoo: {server.url} refused: 503 Service Unavailable for {server.url}/models/")
    assert broken.stderr.count("\n") == 1
    done = command("zoo", "get", "best", "--url", server.url, "-o", target)
    assert (done.returncode, done.stdout) == (0, f"{target}\n")
    assert f"{best.bytes:,} bytes" in done.stderr
    assert server.ranges()[-1] == ("bytes=700-", f'"{best.id}"')
    assert sha256(target) == best.id


@pytest.mark.parametrize("target", ["-", "/dev/stdout"])
def test_zoo_get_into_a_pipe(command: Command, best: Any, server: Any, target: str) -> None:
    words = [Path(sys.executable).parent / "zoo", "get", "best", "--url", server.url, "-o", target]
    output = subprocess.run(words, capture_output=True, check=True).stdout
    assert hashlib.sha256(output).hexdigest() == best.id
    both = command("zoo", "get", "best", "--url", server.url, "-o", target, "--json")
    assert (both.returncode, both.stdout) == (1, "")
    assert "both would go to standard output" in both.stderr


def test_zoo_get_shows_progress_on_a_terminal(best: Any, server: Any, tmp_path: Path) -> None:
    target = tmp_path / "best.safetensors"
    words = [Path(sys.executable).parent / "zoo", "get", "best", "--url", server.url, "-o", target]
    controller, terminal = pty.openpty()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=terminal)
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(controller, 4096):
            shown += chunk
    except OSError:  # how Linux says that the terminal's last user is gone
        pass
    finally:
        os.close(controller)
    assert process.communicate()[0].decode() == f"{target}\n"
    assert b"\xe2\x94\x81" in shown  # ━, what rich draws bars of
    assert best.name.encode() in shown
