"""Every Store does what the library and the service ask of one: directories, object storage, that of docs/adding.md."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import obstore
import pytest
from obstore.store import LocalStore as LocalBackend
from obstore.store import MemoryStore as Backend
from PIL import Image

from zoo.checkpoint.elastic import pack
from zoo.checkpoint.file import Checkpoint, digest_of, encode
from zoo.errors import AnnotationsError, BusyError, CheckpointError, GoneError, NotFoundError, ZooError
from zoo.library.local import LocalZoo
from zoo.library.upkeep.garbage import collect
from zoo.network.families.secnn import SecnnArchitecture
from zoo.store.annotations import Annotations
from zoo.store.directories import Directories
from zoo.store.entries import FlagEntry
from zoo.store.object_store import ObjectStore
from zoo.store.store import Store, store_of

ADDING = (Path(__file__).parents[2] / "docs" / "adding.md").read_text()
TOKEN = "a-token-for-publishing"
IMAGE = np.zeros((8, 8), dtype=np.uint8)
Make = Callable[..., Checkpoint]


def documented(_: Path) -> Store:
    [block] = [block for block in re.findall(r"```python\n(.*?)```", ADDING, re.DOTALL) if "class MemoryStore" in block]
    found: dict[str, Any] = {}
    exec(block, found)
    store: Store = found["MemoryStore"]()
    return store


STORES: dict[str, Callable[[Path], Store]] = {
    "directories": lambda work: Directories([work]),
    "objects": lambda _: ObjectStore(Backend(), "s3://bucket/zoo"),
    "documented": documented,
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    (tmp_path / "work").mkdir()
    return STORES[request.param](tmp_path / "work")


@pytest.fixture
def zoo(store: Store, tmp_path: Path) -> Iterator[LocalZoo]:
    with LocalZoo([tmp_path / "work"], store=store) as zoo:
        yield zoo


def test_a_zoo_is_the_same_whatever_it_is_stored_in(
    zoo: LocalZoo, store: Store, tmp_path: Path, make_checkpoint: Make
) -> None:
    data = [encode(make_checkpoint(seed=seed, accuracy=0.8 + seed / 100)) for seed in range(3)]
    digests = [zoo.publish(each).id for each in data]
    assert digests == [digest_of(each) for each in data]
    assert store.listing(()).digests == set(digests)
    zoo.sync()
    assert zoo.best().id == digests[2]
    assert {model.id for model in zoo.models(min_acc=0.805)} == {digests[1], digests[2]}
    assert len(zoo.predict(IMAGE, digests[0], top_k=2)) == 2
    assert zoo.download(digests[1], tmp_path / "got.safetensors").read_bytes() == data[1]
    with store.open(digests[0]) as file:
        assert file.seek(100) == 100
        assert file.read(7) == data[0][100:107]
    assert store.stat(digests[0]).size_bytes == len(data[0])

    zoo.alias("champion", digests[1])
    assert zoo.show("champion").id == digests[1]
    zoo.delete(digests[0])
    with pytest.raises(GoneError):
        zoo.show(digests[0])
    assert zoo.undelete(digests[0]).id == digests[0]
    zoo.delete(digests[2])
    assert [item.digest for item in collect(store, zoo.roots)] == [digests[2]]
    with pytest.raises(NotFoundError):
        store.open(digests[2])
    assert zoo.reindex() == 2


def test_it_is_served(
    store: Store, client_of: Callable[..., httpx.Client], tmp_path: Path, make_checkpoint: Make
) -> None:
    """Published, listed, chosen, asked, downloaded whole and in part; streamed, as nothing is kept in memory."""
    settings = {"publish_token": TOKEN, "max_file_cache_bytes": 0}
    client = client_of(tmp_path / "work", store=store, **settings)
    client.headers["Authorization"] = f"Bearer {TOKEN}"
    data = encode(make_checkpoint())
    digest = digest_of(data)
    assert client.put(f"/blobs/sha256:{digest}", content=data).status_code == 201
    assert client.post("/models", json={"digest": digest}).status_code == 201
    assert [item["id"] for item in client.get("/models").json()["items"]] == [digest]
    assert client.get("/models", params={"max_params": 10**6}).json()["selected"]["id"] == digest
    image = io.BytesIO()
    Image.fromarray(IMAGE).save(image, "PNG")
    assert client.post("/predict", files={"file": image.getvalue()}).json()["model"]["id"] == digest
    assert client.get(f"/models/{digest}/file").content == data
    part = client.get(f"/models/{digest}/file", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, data[10:20])


@pytest.mark.parametrize("name", ["objects", "documented"])
def test_several_machines_use_one_store(name: str, tmp_path: Path, make_checkpoint: Make) -> None:
    """Each with a working directory of its own: what one publishes and says, the other finds."""
    store = STORES[name](tmp_path)
    for work in ("one", "other"):
        (tmp_path / work).mkdir()
    with LocalZoo([tmp_path / "one"], store=store) as one, LocalZoo([tmp_path / "other"], store=store) as other:
        digest = one.publish(encode(make_checkpoint())).id
        one.alias("champion", digest)
        assert other.sync()
        assert other.show("champion").id == digest
        assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["objects", "documented"])
def test_of_two_changes_at_one_time_none_is_lost(name: str, tmp_path: Path) -> None:
    store = STORES[name](tmp_path)

    def mark(first: int) -> None:
        annotations = Annotations(store)
        for number in range(first, first + 10):
            annotations.change(lambda _, number=number: [FlagEntry(kind="deprecated", digest=f"{number:064x}")], "me")

    with ThreadPoolExecutor() as threads:
        list(threads.map(mark, range(0, 40, 10)))
    assert Annotations(store).said.deprecated == {f"{number:064x}" for number in range(40)}


def test_a_store_that_cannot_be_reached_changes_nothing(
    tmp_path: Path, make_checkpoint: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """The catalog has its rows, loading asks to try again, and nothing can be said of a checkpoint meanwhile."""
    bucket, work = tmp_path / "bucket", tmp_path / "work"
    for folder in (bucket, work):
        folder.mkdir()
    with LocalZoo([work], store=ObjectStore(LocalBackend(bucket), "s3://bucket/zoo")) as zoo:
        digest, deprecated = (zoo.publish(encode(make_checkpoint(seed=seed))).id for seed in range(2))
        zoo.deprecate(deprecated)
        zoo.sync()
        bucket.rename(tmp_path / "away")
        bucket.write_bytes(b"")  # without this an empty bucket would be seen
        for _ in range(2):
            zoo.sync()
            assert [model.id for model in zoo.models()] == [digest]
        with pytest.raises(BusyError, match=r"s3://bucket/zoo cannot be reached .* try again"):
            zoo.predict(IMAGE)
        with pytest.raises(AnnotationsError, match="cannot be read"):
            zoo.delete(digest)
        bucket.unlink()
        (tmp_path / "away").rename(bucket)
        zoo.sync()
        assert [model.id for model in zoo.models()] == [digest]
        assert len(zoo.predict(IMAGE, top_k=2)) == 2
    assert sum("what the catalog has of it stays as it is" in message for message in caplog.messages) == 1


def test_a_zoo_does_not_open_without_its_annotations(tmp_path: Path) -> None:
    """It would choose what is deprecated. Here the address answers nobody."""
    keys = {"access_key_id": "a", "secret_access_key": "b", "region": "here"}
    nobody = ObjectStore.at("s3://bucket/zoo", endpoint="http://127.0.0.1:1", **keys)
    with pytest.raises(AnnotationsError, match=r"s3://bucket/zoo cannot be reached .* try again"):
        LocalZoo([tmp_path], store=nobody)


def test_a_damaged_object_leaves_the_catalog(tmp_path: Path, make_checkpoint: Make) -> None:
    backend = Backend()
    with LocalZoo([tmp_path], store=ObjectStore(backend, "s3://bucket/zoo")) as zoo:
        data = encode(make_checkpoint())
        digest = zoo.publish(data).id
        obstore.put(backend, f"checkpoints/{digest}.safetensors", data[:-1] + b"x")
        with pytest.raises(CheckpointError, match="the file was changed or damaged"):
            zoo.predict(IMAGE)
        assert not list(zoo.models())
        zoo.publish(data)
        zoo.sync()
        assert [model.id for model in zoo.models()] == [digest], "published again, in its place"


@pytest.mark.parametrize("url", ["zoo", "file:///zoo", "s3://"])
def test_what_is_no_object_storage_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=url):
        store_of([tmp_path], url)


def test_levels_of_an_elastic_file_are_found_in_object_storage(
    tmp_path: Path, tiny: SecnnArchitecture, nested: Callable[..., list[bytes]]
) -> None:
    store = ObjectStore(Backend(), "s3://bucket/zoo")
    levels = nested([tiny, tiny.widened(0, 1)])
    for work in ("one", "other"):
        (tmp_path / work).mkdir()
    with LocalZoo([tmp_path / "one"], store=store) as one, LocalZoo([tmp_path / "other"], store=store) as other:
        one.publish(pack(levels))
        other.sync()
        assert {model.id for model in other.models()} == {digest_of(level) for level in levels}
        small = other.download(digest_of(levels[0]), tmp_path / "small.safetensors")
        assert small.read_bytes() == levels[0]
