"""Elastic files over HTTP: the beginning first, the rest when it is wanted, from a server that breaks off and lies."""

from __future__ import annotations

import asyncio
import io
import time
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from typer.testing import CliRunner

from zoo.checkpoint.elastic import ElasticFile, extract, pack, read_levels
from zoo.checkpoint.elastic_header import Level
from zoo.checkpoint.file import Checkpoint, decode, digest_of, encode
from zoo.cli.main import app
from zoo.client import AsyncZooClient, ZooClient
from zoo.errors import GoneError, NoModelMeetsConstraintsError, RemoteError, ZooError
from zoo.library.local import LocalZoo
from zoo.runtime.elastic import ElasticNetwork, open_elastic
from zoo.runtime.onnx_classifier import OnnxClassifier
from zoo.runtime.predictor import Predictor
from zoo.store.directory import Directory


@pytest.fixture(scope="module")
def elastic(levels: list[bytes]) -> bytes:
    return pack(levels)


@pytest.fixture
def parts(elastic: bytes) -> tuple[Level, ...]:
    return ElasticFile(io.BytesIO(elastic)).levels


@pytest.fixture
def digests(levels: list[bytes]) -> list[str]:
    return list(map(digest_of, levels))


@pytest.fixture
def server(tmp_path: Path, elastic: bytes, serve: Callable[..., Any]) -> Any:
    Directory(tmp_path / "zoo").put(elastic)
    running = serve(tmp_path / "zoo")
    running.on = "/blobs"
    return running


def asked(server: Any) -> list[str | None]:
    return [one.headers.get("range") for one in server.requests if one.url.path.startswith("/blobs")]


# --- the file, by the digest of its bytes ---------------------------------------------------------------------------


def test_the_file_is_served_by_its_digest(server: Any, elastic: bytes, parts: tuple[Level, ...]) -> None:
    digest = digest_of(elastic)
    with httpx.Client(base_url=server.url) as client:
        whole = client.get(f"/blobs/sha256:{digest}")
        assert whole.content == elastic
        assert whole.headers["etag"] == f'"{digest}"'
        assert "immutable" in whole.headers["cache-control"]
        end = parts[1].prefix_bytes
        part = client.get(f"/blobs/sha256:{digest}", headers={"Range": f"bytes=0-{end - 1}"})
        assert (part.status_code, part.content) == (206, elastic[:end])
        rest = {"Range": f"bytes={end}-", "If-Range": f'"{digest}"'}
        assert client.get(f"/blobs/sha256:{digest}", headers=rest).content == elastic[end:]
        assert client.get(f"/blobs/sha256:{digest}", headers=rest | {"If-Range": '"other"'}).status_code == 200
        assert client.get(f"/blobs/sha256:{digest}", headers={"If-None-Match": f'"{digest}"'}).status_code == 304
        head = client.head(f"/blobs/sha256:{digest}")
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(elastic)))
        missing = client.get(f"/blobs/sha256:{'0' * 64}")
        assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")
        assert client.get("/blobs/sha256:latest").status_code == 422


def test_a_level_is_served_as_a_file_of_its_own(server: Any, levels: list[bytes], parts: tuple[Level, ...]) -> None:
    with httpx.Client(base_url=server.url) as client:
        for data, level in zip(levels, parts, strict=True):
            path = f"/models/{level.digest}/file"
            whole = client.get(path)
            assert whole.content == data
            assert whole.headers["etag"] == f'"{level.digest}"'
            assert client.get(path, headers={"Range": "bytes=100-199"}).content == data[100:200]
            assert client.get(f"/zoo/shapes/resolve/{level.digest}/model.safetensors").content == data
            assert client.get(path, params={"format": "onnx"}).status_code == 200
        view = client.get("/models", params={"min_acc": 0.7}).json()["selected"]
        assert view["elastic"]["level"] == 2
        image = io.BytesIO()
        Image.new("RGB", (8, 8), (200, 100, 50)).save(image, "PNG")
        answers = [
            client.post(
                "/predict",
                params={"model": level.digest},
                content=image.getvalue(),
                headers={"Content-Type": "image/png"},
            ).json()["predictions"]
            for level in parts
        ]
        assert all(one != other for one, other in pairwise(answers))


# --- the client -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", [ZooClient, AsyncZooClient])
def test_a_beginning_is_fetched_used_and_continued(
    server: Any, levels: list[bytes], elastic: bytes, parts: tuple[Level, ...], tmp_path: Path, client: Any
) -> None:
    def ask(method: str, *args: Any, **options: Any) -> Any:
        async def main() -> Any:
            async with AsyncZooClient(server.url, cache=tmp_path / "cache") as zoo:
                return await getattr(zoo, method)(*args, **options)

        if client is AsyncZooClient:
            return asyncio.run(main())
        with ZooClient(server.url, cache=tmp_path / "cache") as zoo:
            return getattr(zoo, method)(*args, **options)

    seen: list[tuple[int, int | None]] = []
    file = tmp_path / "net.safetensors"
    path = ask("download", None, file, min_acc=0.6, upgradable=True, progress=lambda *sizes: seen.append(sizes))
    assert path == file
    assert file.read_bytes() == elastic[: parts[0].prefix_bytes]
    assert seen[-1] == (parts[0].prefix_bytes, parts[0].prefix_bytes)
    assert extract(file.read_bytes(), 0) == levels[0]
    assert ask("upgrade", file, min_acc=0.7).id == parts[2].digest
    assert file.read_bytes() == elastic[: parts[2].prefix_bytes]
    assert ask("upgrade", file, min_acc=0.65).id == parts[1].digest  # is there: nothing is asked
    assert ask("upgrade", file).id == parts[3].digest
    ends = [level.prefix_bytes for level in parts]
    assert asked(server) == [f"bytes={a}-{b - 1}" for a, b in ((0, ends[0]), (ends[0], ends[2]), (ends[2], ends[3]))]
    assert file.read_bytes() == elastic
    with pytest.raises(NoModelMeetsConstraintsError, match=r"none of 4 levels reaches accuracy 0\.9"):
        ask("upgrade", file, min_acc=0.9)
    with pytest.raises(ZooError, match="an upgradable file is a safetensors file, not one of onnx"):
        ask("download", None, file, file_format="onnx", upgradable=True)
    assert sorted(one.name for one in tmp_path.iterdir() if one.is_file()) == ["net.safetensors"]


FAULTS = st.one_of(
    st.just({"status": 503}),
    st.fixed_dictionaries(
        {},
        optional={
            "break_after": st.integers(0, 12000),
            "flip_at": st.integers(0, 12000),
            "ignore_range": st.booleans(),
        },
    ),
)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(faults=st.lists(FAULTS, max_size=3))
def test_whatever_goes_wrong_the_file_is_as_it_was_or_right(
    server: Any,
    elastic: bytes,
    parts: tuple[Level, ...],
    tmp_path_factory: pytest.TempPathFactory,
    fault: Any,
    faults: list[dict[str, Any]],
) -> None:
    file = tmp_path_factory.mktemp("upgrade") / "net.safetensors"
    file.write_bytes(before := elastic[: parts[0].prefix_bytes])
    server.faults = deque(fault(**one) for one in faults)
    with ZooClient(server.url, retries=1) as zoo:
        try:
            zoo.upgrade(file)
        except RemoteError:
            assert file.read_bytes() == before
            server.faults.clear()
            zoo.upgrade(file)
    assert file.read_bytes() == elastic
    assert [one.name for one in file.parent.iterdir()] == [file.name]


def test_a_file_that_was_damaged_here_is_fetched_anew(
    server: Any, elastic: bytes, parts: tuple[Level, ...], tmp_path: Path
) -> None:
    damaged = bytearray(elastic[: parts[1].prefix_bytes])
    damaged[parts[1].start + 3] ^= 1
    file = tmp_path / "net.safetensors"
    file.write_bytes(damaged)
    with ZooClient(server.url) as zoo:
        zoo.upgrade(file, min_acc=0.7)
    assert file.read_bytes() == elastic[: parts[2].prefix_bytes]


def test_it_is_upgraded_to_itself_where_the_zoo_has_its_levels_in_other_files_too(
    levels: list[bytes], tmp_path: Path, serve: Callable[..., Any]
) -> None:
    own, others = pack(levels[1:]), [pack(levels[:3]), pack(levels[1:3]), pack(levels[2:])]
    ends = [level.prefix_bytes for level in ElasticFile(io.BytesIO(own)).levels]
    file = tmp_path / "net.safetensors"
    file.write_bytes(beginning := own[: ends[0]])
    for data in others:
        Directory(tmp_path / "zoo").put(data)
    with ZooClient(serve(tmp_path / "zoo").url) as zoo, pytest.raises(ZooError, match="not in this zoo"):
        zoo.upgrade(file)
    assert file.read_bytes() == beginning
    Directory(tmp_path / "both").put(own)
    for data in others[:2]:
        Directory(tmp_path / "both").put(data)
    with ZooClient(serve(tmp_path / "both").url) as zoo:
        for bound, end in ((0.7, 1), (None, 2)):
            zoo.upgrade(file, min_acc=bound)
            assert file.read_bytes() == own[: ends[end]]


def test_a_bound_that_is_none_is_named(elastic: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").write_bytes(elastic)
    done = CliRunner().invoke(
        app, ["upgrade", str(tmp_path / "net.safetensors"), "--min-acc", "1.5", "--url", "http://127.0.0.1:1"]
    )
    assert (done.exit_code, done.stderr) == (1, "zoo: --min-acc: accuracy is a fraction: 0.015, not 1.5\n")


def test_a_checkpoint_of_its_own_cannot_be_upgraded(
    tmp_path: Path, levels: list[bytes], serve: Callable[..., Any]
) -> None:
    digest = Directory(tmp_path / "zoo").put(levels[0])
    with ZooClient(serve(tmp_path / "zoo").url) as zoo, pytest.raises(ZooError, match="no level of an elastic file"):
        zoo.download(digest, tmp_path / "net.safetensors", upgradable=True)


# --- in a program ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_", ["onnx", "torch"])
def test_a_program_switches_levels(
    server: Any, levels: list[bytes], parts: tuple[Level, ...], tmp_path: Path, as_: Any
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    expected = [Predictor(decode(data)).logits(pixels) for data in levels]

    def logits(net: ElasticNetwork[Any]) -> Any:
        found = net(pixels)
        return found if as_ == "onnx" else found.detach().numpy()

    with ZooClient(server.url, cache=tmp_path / "cache") as zoo:
        net = zoo.load(min_acc=0.65, as_=as_, elastic=True)
        assert net.level == 1
        assert [level.is_here for level in net.levels] == [True, True, False, False]
        assert [level.accuracy for level in net.levels] == pytest.approx([0.6, 0.65, 0.7, 0.75])
        assert [level.params for level in net.levels] == [level.header.params for level in parts]
        assert np.abs(logits(net) - expected[1]).max() < 1e-4
        net.level = 0
        assert np.abs(logits(net) - expected[0]).max() < 1e-4
        with pytest.raises(ZooError, match="level 2: it needs the first"):
            net.level = 2
        assert net.level == 0
        assert net.upgrade(min_acc=0.7).number == net.level == 2
        assert np.abs(logits(net) - expected[2]).max() < 1e-4
        assert net.upgrade().is_here
        assert np.abs(logits(net) - expected[3]).max() < 1e-4
        assert len(net.predict(pixels[0], top_k=2)) == 2
        asked_before = len(server.requests)
        for level in (0, 3, 1, 2):
            net.level = level
            assert np.abs(logits(net) - expected[level]).max() < 1e-4
        assert len(server.requests) == asked_before
        with pytest.raises(ZooError, match=r"level 4: there are levels 0 to 3"):
            net.level = 4


def test_awaited_it_is_loaded_too(server: Any, tmp_path: Path) -> None:
    async def main() -> int:
        async with AsyncZooClient(server.url, cache=tmp_path) as zoo:
            net = await zoo.load(min_acc=0.6, elastic=True)
            assert net.level == 0
            return (await asyncio.to_thread(net.upgrade, 0.7)).number

    assert asyncio.run(main()) == 2


def test_a_file_is_loaded_without_a_zoo(elastic: bytes, parts: tuple[Level, ...], tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    file.write_bytes(elastic[: parts[2].prefix_bytes])
    net = open_elastic(file, OnnxClassifier)
    assert net.level == 2
    assert net.upgrade(min_acc=0.6).number == 0
    with pytest.raises(ZooError, match="level 3: it needs the first"):
        net.upgrade()
    file.write_bytes(elastic[: parts[0].prefix_bytes - 1])
    with pytest.raises(ZooError, match="no level is whole"):
        open_elastic(file, OnnxClassifier)
    assert len(read_levels(file)) == 4


def test_a_budget_is_met_by_a_level_where_a_file_of_its_own_comes_first(
    tmp_path: Path,
    serve: Callable[..., Any],
    make_checkpoint: Callable[..., Checkpoint],
    elastic: bytes,
    parts: tuple[Level, ...],
    levels: list[bytes],
) -> None:
    """As in the zoo that ships, whose separate files are a little more accurate."""
    better = encode(make_checkpoint(decode(levels[1]).descriptor.architecture, accuracy=0.99))
    for data in (elastic, better):
        Directory(tmp_path / "zoo").put(data)
    server = serve(tmp_path / "zoo")
    with ZooClient(server.url, cache=tmp_path / "cache") as zoo:
        assert zoo.choose(min_acc=0.64).id == digest_of(better)
        one = zoo.download(min_acc=0.64, upgradable=True)
        assert one.read_bytes() == elastic[: parts[1].prefix_bytes]
        with pytest.raises(ZooError, match="is no level of an elastic file, so there is nothing to upgrade to"):
            zoo.download(min_acc=0.98, upgradable=True)
    for words in (("--url", server.url), ("--zoo", str(tmp_path / "zoo"))):
        got = CliRunner().invoke(app, ["get", "--min-acc", "0.64", "--upgradable", *words, "-o", str(tmp_path / "net")])
        assert got.exit_code == 0, got.stderr
        assert (tmp_path / "net").read_bytes() == elastic[: parts[1].prefix_bytes]


def test_a_bound_in_bytes_counts_what_is_written(
    server: Any, parts: tuple[Level, ...], digests: list[str], tmp_path: Path
) -> None:
    """The beginning of the file up to a level is more than the level is as a file of its own."""
    alone, written = parts[2].header.size_bytes, parts[2].prefix_bytes
    assert parts[1].prefix_bytes < alone < written
    file = tmp_path / "net.safetensors"
    with ZooClient(server.url, cache=tmp_path / "cache") as zoo:
        assert zoo.choose(max_bytes=alone).id == digests[2]
        for bound, level in ((alone, 1), (written, 2)):
            assert zoo.download(to=file, max_bytes=bound, upgradable=True).stat().st_size == parts[level].prefix_bytes
            assert zoo.load(max_bytes=bound, elastic=True).level == level
        with pytest.raises(NoModelMeetsConstraintsError, match=f"takes {written:,}, or {alone:,} as a file") as caught:
            zoo.download(min_acc=0.7, max_bytes=alone, upgradable=True)
        assert caught.value.best_available is not None
        assert caught.value.best_available["id"] == digests[2]
    for words in (("--url", server.url), ("--zoo", str(tmp_path / "zoo"))):
        file = tmp_path / f"of{words[0]}"
        got = CliRunner().invoke(app, ["get", "--max-bytes", str(alone), "--upgradable", *words, "-o", str(file)])
        assert got.exit_code == 0, got.stderr
        assert file.stat().st_size == parts[1].prefix_bytes


@pytest.mark.parametrize("where", ["--url", "--zoo"])
def test_upgraded_past_a_level_that_was_deleted(
    server: Any, parts: tuple[Level, ...], digests: list[str], tmp_path: Path, where: str
) -> None:
    file, root = tmp_path / "net.safetensors", str(tmp_path / "zoo")
    source = (where, server.url if where == "--url" else root)

    def zoo(*words: str) -> str:
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.stderr
        return done.stderr

    def deleted(digest: str) -> str:
        told = zoo("delete", digest, "--zoo", root)
        with httpx.Client(base_url=server.url) as client:
            while client.get(f"/models/{digest}").status_code == 200:
                time.sleep(0.05)
        return told

    zoo("get", "--min-acc", "0.6", "--upgradable", "-o", str(file), *source)
    assert "until its other levels go, too" in deleted(digests[1])
    zoo("upgrade", str(file), "--min-acc", "0.65", *source)
    assert file.stat().st_size == parts[2].prefix_bytes
    deleted(digests[3])
    zoo("upgrade", str(file), *source)
    assert file.stat().st_size == parts[2].prefix_bytes
    deleted(digests[0])
    assert deleted(digests[2]) == ""
    with pytest.raises(GoneError, match="was deleted"):
        CliRunner().invoke(app, ["upgrade", str(file), *source], catch_exceptions=False)


def test_a_program_switches_past_a_level_that_was_deleted(server: Any, digests: list[str], tmp_path: Path) -> None:
    with ZooClient(server.url, cache=tmp_path / "cache") as zoo, LocalZoo([tmp_path / "zoo"]) as local:
        net = zoo.load(min_acc=0.6, elastic=True)
        local.sync()
        local.delete(digests[1])
        assert net.upgrade(min_acc=0.65).number == 2


@pytest.mark.parametrize("min_acc", [80, -0.1, float("nan")])
def test_an_accuracy_that_is_none_is_refused(elastic: bytes, tmp_path: Path, min_acc: float) -> None:
    file = tmp_path / "net.safetensors"
    file.write_bytes(elastic)
    (tmp_path / "zoo" / "checkpoints").mkdir(parents=True)
    with ZooClient("http://127.0.0.1:1") as zoo, LocalZoo([tmp_path / "zoo"]) as local:
        for upgrade in (
            lambda: zoo.upgrade(file, min_acc=min_acc),
            lambda: local.upgrade(file, min_acc=min_acc),
            lambda: open_elastic(file, OnnxClassifier).upgrade(min_acc),
        ):
            with pytest.raises(ValidationError, match="min_acc"):
                upgrade()


@pytest.mark.parametrize("where", ["--url", "--zoo"])
def test_a_damaged_file_is_said_to_have_been_mended(
    server: Any, elastic: bytes, parts: tuple[Level, ...], tmp_path: Path, where: str
) -> None:
    file, source = tmp_path / "net.safetensors", server.url if where == "--url" else str(tmp_path / "zoo")
    good = elastic[: parts[1].prefix_bytes]
    place = parts[1].start + 8
    for data, told in (
        (good, ": is there"),
        (good[:place] + b"\xff\x00" + good[place + 2 :], "; fetched again, as it"),
    ):
        file.write_bytes(data)
        done = CliRunner().invoke(app, ["upgrade", str(file), "--min-acc", "0.65", where, source])
        assert (done.exit_code, file.read_bytes()) == (0, good)
        assert told in done.stderr
