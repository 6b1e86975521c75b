"""Object storage as a Store: S3 and what speaks its protocol, Google Cloud Storage, Azure. Needs the extra `objects`.

    checkpoints/<sha256>.safetensors    a file each
    annotations/<number>.jsonl          a change each, numbered without gaps

There are no locks between machines, and none are needed: files are named by their content, and a change is written to
the next number only if nobody else has taken that (a conditional request), as transaction logs in buckets do.
"""

from __future__ import annotations

import errno
import io
import logging
import re
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path, PurePosixPath

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import ObjectStore as Backend
from obstore.store import from_url
from pydantic import ValidationError

from zoo.errors import AnnotationsError, BusyError, NotFoundError, ZooError
from zoo.store.directory import is_named_by_digest
from zoo.store.entries import Entry, as_lines, parsed
from zoo.store.store import AnnotationLog, AppendedMeanwhile, Listing, Stat

log = logging.getLogger(__name__)

_SCHEMES = ("s3://", "gs://", "az://")
# A checkpoint's header, and most checkpoints as a whole, come with one request.
_BUFFER_BYTES = 1024 * 1024
_NUM_THREADS = 16
# Requests are waited for while somebody waits for an answer.
_CLIENT = {"timeout": "20s", "connect_timeout": "5s"}
_RETRIES = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}
_NUMBER = re.compile(r"\d{10}")


class ObjectStore:
    """A Store. `url` is s3://bucket/folder, gs://… or az://…; keys and region come from the environment, as AWS_*.

        zoo = LocalZoo([Path("work")], store=ObjectStore.at("s3://my-bucket/zoo"))

    Several machines may use one at the same time, each with a working directory of its own.
    """

    def __init__(self, backend: Backend, url: str) -> None:
        """`backend`: any of obstore's, below the folder; `url` is what messages and the catalog's name say."""
        self._backend = backend
        self.url = url.rstrip("/")
        self._digests: frozenset[str] = frozenset()
        self._is_away = False

    @classmethod
    def at(cls, url: str, **config: str) -> ObjectStore:
        """`config` as obstore's S3Config and its like. Raises ZooError for what is no such URL or configuration."""
        if not url.startswith(_SCHEMES):
            raise ZooError(f"{url}: object storage is s3://bucket/folder, gs://… or az://… (a directory: --zoo)")
        # Plain HTTP where it is asked for: a server of one's own.
        client = {**_CLIENT, "allow_http": config.get("endpoint", "").startswith("http://")}
        try:
            return cls(from_url(url, config=config, client_options=client, retry_config=_RETRIES), url)  # type: ignore[call-overload]
        except (BaseError, ValueError) as error:
            raise ZooError(f"{url}: {_first_line(error)}") from error

    def put(self, digest: str, source: Path) -> None:
        with self._translated(digest):
            obstore.put(self._backend, _key(digest), source)
        source.unlink()

    def open(self, digest: str) -> io.BufferedReader:
        return io.BufferedReader(_ObjectFile(self, digest, self.stat(digest).size_bytes), _BUFFER_BYTES)

    def read_range(self, digest: str, start: int, stop: int) -> bytes:
        if start >= stop:
            return b""
        with self._translated(digest):
            return obstore.get_range(self._backend, _key(digest), start=start, end=stop).to_bytes()

    def stat(self, digest: str) -> Stat:
        with self._translated(digest):
            found = obstore.head(self._backend, _key(digest))
        stamp = (found["e_tag"], found["last_modified"], found["size"])
        return Stat(f"{self.url}/{_key(digest)}", found["size"], stamp, found["last_modified"].timestamp())

    def listing(self, since: Collection[str]) -> Listing:
        """The only place is the URL. Asks for a thousand names at a time."""
        try:
            with self._translated("the list of files"):
                batches = obstore.list(self._backend, "checkpoints/", chunk_size=1000)
                paths = [Path(found["path"]) for batch in batches for found in batch]
        except (ZooError, OSError) as error:
            self._tell(str(error))
            return Listing(self._digests if since else frozenset(), is_complete=False, places=frozenset(since))
        self._tell(None)
        self._digests = frozenset(path.stem for path in paths if is_named_by_digest(path))
        return Listing(self._digests, is_complete=True, places={self.url})

    def delete(self, digest: str) -> None:
        with suppress(NotFoundError), self._translated(digest):
            obstore.delete(self._backend, _key(digest))

    def logs(self) -> Sequence[AnnotationLog]:
        return [ObjectLog(self._backend, self.url)]

    def _tell(self, problem: str | None) -> None:
        """Once each time: what is wrong, in full, differs from time to time."""
        if problem and not self._is_away:
            log.warning("%s: what the catalog has of it stays as it is", problem)
        elif self._is_away and not problem:
            log.info("%s can be reached again", self.url)
        self._is_away = problem is not None

    @contextmanager
    def _translated(self, digest: str) -> Iterator[None]:
        with _translated(self.url):
            try:
                yield
            except FileNotFoundError as error:
                raise NotFoundError(f"the file of checkpoint {digest} is gone") from error


class _ObjectFile(io.RawIOBase):
    """Reads what is asked for, with a request each: to be buffered."""

    def __init__(self, store: ObjectStore, digest: str, size_bytes: int) -> None:
        self._store = store
        self._digest = digest
        self._size = size_bytes
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._store.read_range(self._digest, self._at, min(self._at + len(buffer), self._size))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def readall(self) -> bytes:
        data = self._store.read_range(self._digest, self._at, self._size)
        self._at = self._size
        return data


class ObjectLog:
    """An AnnotationLog: one object for each change."""

    def __init__(self, backend: Backend, url: str) -> None:
        self._backend = backend
        self._url = url
        self._lock = threading.Lock()
        self._last = 0
        self._is_known = False
        self._entries: list[Entry] = []
        self.damage = ""

    def entries(self, *, strict: bool = False) -> list[Entry]:
        with self._lock:
            try:
                with _translated(self._url):
                    self._read_on()
                self._is_known = True
            except (ZooError, OSError) as error:
                if strict or not self._is_known:
                    raise AnnotationsError(f"annotations cannot be read: {error}") from error
            return self._entries

    def _read_on(self) -> None:
        batches = obstore.list(self._backend, "annotations/", offset=f"annotations/{_number(self._last)}")
        keys = sorted(found["path"] for batch in batches for found in batch)
        keys = [key for key in keys if _NUMBER.fullmatch(PurePosixPath(key).stem)]
        if not keys:
            return
        with ThreadPoolExecutor(_NUM_THREADS) as threads:
            contents = list(threads.map(lambda key: obstore.get(self._backend, key).bytes().to_bytes(), keys))
        found = [entry for key, content in zip(keys, contents, strict=True) for entry in self._parsed(key, content)]
        self._entries = sorted([*self._entries, *found], key=lambda entry: entry.time)
        self._last = int(PurePosixPath(keys[-1]).stem)

    def _parsed(self, key: str, content: bytes) -> Iterator[Entry]:
        for number, line in enumerate(content.splitlines(), 1):
            try:
                yield from parsed(line)
            except ValidationError:
                damage = f"{self._url}/{key}: line {number} is no annotation"
                self.damage = self.damage or damage
                log.warning("%s, and left out", damage)

    def changing(self) -> AbstractContextManager[None]:
        """Nobody is kept waiting: `append` finds out whether another was faster."""
        return nullcontext()

    def append(self, entries: Sequence[Entry], seen: list[Entry]) -> None:
        with self._lock:
            if seen is not self._entries:
                raise AppendedMeanwhile
            number = self._last + 1
        with _translated(self._url):
            try:
                obstore.put(self._backend, f"annotations/{_number(number)}.jsonl", as_lines(entries), mode="create")
            except AlreadyExistsError as error:
                raise AppendedMeanwhile from error


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """obstore's errors become ours: BusyError, or PermissionError where the keys allow it not."""
    try:
        yield
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise PermissionError(errno.EACCES, _first_line(error), url) from error
    except BaseError as error:
        raise BusyError(f"{url} cannot be reached ({_first_line(error)}): try again") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _key(digest: str) -> str:
    return f"checkpoints/{digest}.safetensors"


def _number(number: int) -> str:
    """So that numbers sort as text."""
    return f"{number:010}"
