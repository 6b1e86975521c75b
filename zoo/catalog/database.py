"""The SQLite file of the catalog: opening it, and falling back to memory where that fails.

The file is an index that can be rebuilt from the checkpoints at any time, so a broken one must not
stop a zoo from answering:

    damaged                                 set aside (`….damaged`) and begun anew
    of another version of the code          left to that: each has tables of its own
    removed or replaced while it is open    noticed by `follow_file`, and reopened
    cannot be opened, locked or written     copied into memory as far as it can be read, and used there until it can

Reading takes no write lock: whoever only asks is answered while another process holds it.
"""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from sqlalchemy import Connection, Engine, MetaData, Table, event, select
from sqlalchemy.exc import DatabaseError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool
from sqlmodel import create_engine

from zoo.errors import CatalogError
from zoo.store.locks import locked

log = logging.getLogger(__name__)

# Whoever has the write lock needs it for milliseconds; one that keeps it for longer is not waited for.
_BUSY_SECONDS = 2.0
# When it is looked whether a file that could not be used can be again; each time it could not after all, twice as late.
_RETURN_SECONDS, _MAX_RETURN_SECONDS = 15.0, 600.0
_DAMAGED = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
_Identity = tuple[int, int] | None


def catalog_path(roots: Sequence[Path], store_url: str = "") -> Path | None:
    """In the first root, or None where that is read-only.

    Named by the other roots and the store: two zoos that share a first directory would else throw out each other's
    rows in turn.
    """
    others = "\n".join([*(str(root.resolve()) for root in roots[1:]), *([store_url] if store_url else [])])
    path = roots[0] / (f"catalog-{sha256(others.encode()).hexdigest()[:8]}.sqlite" if others else "catalog.sqlite")
    writable = os.access(roots[0], os.W_OK) and (not path.exists() or os.access(path, os.W_OK))
    return path if writable else None


class Database:
    """Connections to one file, or to memory. All methods may be called from any thread."""

    def __init__(
        self, path: Path | None, metadata: MetaData, tables: Sequence[Table], return_seconds: float = _RETURN_SECONDS
    ) -> None:
        """`path` None keeps it in memory. Missing tables are created."""
        self._path = path
        self._return_seconds = return_seconds
        # A file that could not be used, and when to look at it again.
        self._left: Path | None = None
        self._return_at = 0.0
        # Of before the last return to a file: another thread may just have begun to use it.
        self._retired: Engine | None = None
        self._metadata = metadata
        self._tables = tables
        self._identity: _Identity = None
        self._lock = threading.RLock()
        # Of a file that was begun anew while it was followed, until whoever follows it has filled it.
        self.is_anew = False
        self._engine = self._opened()

    def close(self) -> None:
        self._engine.dispose()
        if self._retired is not None:
            self._retired.dispose()

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """For reading. Raises CatalogError; a file that is found to be damaged is set aside."""
        with self._noticing_damage(), self._connection(immediate=False) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One write transaction. Falls back to memory where the file cannot be written. Raises as `connect`."""
        with self._noticing_damage(), self._connection(immediate=True) as connection:
            yield connection
            connection.commit()

    def follow_file(self) -> bool:
        """Reopens a file that was removed or replaced, or can be used again; True if so: the rows may differ."""
        with self._lock:
            if self._path is None:
                return self._has_returned()
            if _identity(self._path) == self._identity or not self._is_directory_there():
                return False
            self.is_anew = True  # before the first query can see it
            before, self._engine = self._engine, self._opened()
            before.dispose()
            log.warning("the catalog %s was removed or replaced by another process: opened again", self._path)
            return True

    def _has_returned(self) -> bool:
        """A lock or a full disk is passing; those who share the file should not be apart for longer."""
        path = self._left
        if path is None or time.monotonic() < self._return_at:
            return False
        self._return_at = time.monotonic() + self._return_seconds
        engine = _engine(path)
        try:
            self._prepared(engine)
            _begun(engine, immediate=True).close()
        except DatabaseError:
            engine.dispose()
            return False
        if self._retired is not None:
            self._retired.dispose()
        self._retired, self._engine = self._engine, engine
        self._path, self._left, self._identity = path, None, _identity(path)
        log.warning("the catalog %s can be used again", self._path)
        return True

    def _is_directory_there(self) -> bool:
        """False for an unmounted or missing directory: then the open file is still the right one."""
        assert self._path is not None
        directory = _identity(self._path.parent)
        return directory is not None and (self._identity is None or directory[0] == self._identity[0])

    def leave_file(self, error: DatabaseError | CatalogError, failed: Engine | None = None) -> bool:
        """Falls back to memory, with a copy of what can be read. False where that would not help.

        `failed`: the engine that raised the error; another thread may have fallen back already.
        """
        with self._lock:
            if self._path is None:
                return failed not in (None, self._engine)
            log.warning("the catalog %s cannot be used (%s): kept in memory until it can", self._path, _reason(error))
            before = self._engine
            self._leave()
            memory = self._prepared(_engine(None))
            with suppress(DatabaseError):
                self._copy(before, memory)
            self._engine = memory
            before.dispose()
            return True

    # --- opening ---------------------------------------------------------------------------------------

    def _opened(self) -> Engine:
        if self._path is None:
            return self._prepared(_engine(None))
        for is_last in (False, True):
            self._identity = _identity(self._path)
            engine = _engine(self._path)
            try:
                self._prepared(engine)
                self._identity = _identity(self._path)
                return engine
            except DatabaseError as error:
                engine.dispose()
                if _is_damaged(error) and not is_last:
                    self._set_aside(error)
                    continue
                log.warning(
                    "the catalog %s cannot be used (%s): kept in memory until it can", self._path, _reason(error)
                )
                break
        self._leave()
        return self._prepared(_engine(None))

    def _leave(self) -> None:
        self._left, self._return_at = self._path, time.monotonic() + self._return_seconds
        self._return_seconds = min(2 * self._return_seconds, _MAX_RETURN_SECONDS)
        self._path, self._identity = None, None

    def _prepared(self, engine: Engine) -> Engine:
        with engine.connect() as connection:
            found = set(connection.exec_driver_sql("SELECT name FROM sqlite_master").scalars())
        if not {table.name for table in self._tables} <= found:
            with engine.connect().execution_options(immediate=True) as connection, connection.begin():
                self._metadata.create_all(connection, tables=self._tables)
        return engine

    def _copy(self, source: Engine, target: Engine) -> None:
        with source.connect() as reading, target.connect() as connection, connection.begin():
            for table in self._tables:
                rows = [dict(row) for row in reading.execute(select(table)).mappings()]
                if rows:
                    connection.execute(table.insert(), rows)

    # --- connections -----------------------------------------------------------------------------------

    @contextmanager
    def _connection(self, *, immediate: bool) -> Iterator[Connection]:
        engine = self._engine
        try:
            connection = _begun(engine, immediate=immediate)
        except DatabaseError as error:
            if _is_damaged(error) or not self.leave_file(error, engine):
                raise
            connection = _begun(self._engine, immediate=immediate)
        with connection:
            yield connection

    @contextmanager
    def _noticing_damage(self) -> Iterator[None]:
        engine = self._engine
        try:
            yield
        except DatabaseError as error:
            # Another thread may have set the file aside by now, or be opening a new one, or have done so.
            is_gone = self._is_gone() or self.is_anew or self._engine is not engine
            if (_is_damaged(error) or self._is_empty()) and not is_gone:
                self._set_aside(error)
                is_gone = True
            raise CatalogError(_reason(error), is_passing=is_gone or _is_passing(error)) from error
        except PoolTimeout as error:  # all connections are in use
            raise CatalogError(str(error), is_passing=True) from error

    def _is_gone(self) -> bool:
        """Whether the file was removed, replaced or set aside meanwhile, or its directory is away."""
        if self._path is None:
            return False
        found = _identity(self._path)
        return found is None or found != self._identity

    def _is_empty(self) -> bool:
        """Whether the file was cut to nothing: to SQLite a whole database without tables."""
        with suppress(OSError):
            return self._path is not None and self._path.stat().st_size == 0
        return False

    def _set_aside(self, error: DatabaseError) -> None:
        """Renames the damaged file, so that every process starts a new one; a retry succeeds."""
        path = self._path
        if path is None:
            return
        with locked(path.parent):
            if self._identity is None or _identity(path) != self._identity:
                return  # another process was faster
            aside = path.with_name(f"{path.name}.damaged")
            path.replace(aside)
            for suffix in ("-journal", "-wal", "-shm"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
        log.warning(
            "the catalog %s is damaged (%s): set aside as %s and rebuilt from the checkpoints", path, error.orig, aside
        )


def _begun(engine: Engine, *, immediate: bool) -> Connection:
    connection = engine.connect()
    if not immediate:
        return connection  # begins with its first statement
    try:
        connection.execution_options(immediate=True).begin()
    except BaseException:
        connection.close()
        raise
    return connection


def _identity(path: Path) -> _Identity:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _reason(error: DatabaseError | CatalogError) -> str:
    return error.reason if isinstance(error, CatalogError) else str(error.orig)


def _is_passing(error: DatabaseError) -> bool:
    """Whether the file or its file system is at fault, so that a retry may succeed; not the statement."""
    return isinstance(error.orig, sqlite3.Error) and error.orig.sqlite_errorcode & 0xFF != sqlite3.SQLITE_ERROR


def _is_damaged(error: DatabaseError) -> bool:
    # The low byte: what follows it says where, as in SQLITE_CORRUPT_INDEX.
    return isinstance(error.orig, sqlite3.Error) and error.orig.sqlite_errorcode & 0xFF in _DAMAGED


def _configure(connection: sqlite3.Connection) -> None:
    """A rollback journal, and not a write-ahead log, whose index every process maps into memory: whoever truncates that
    file ends all of them by SIGBUS, and network file systems do not share it.

    Readers wait for a commit in turn, so that takes no time for the disk: a process that is killed harms nothing, and
    what a power cut damages is begun anew. They wait for nothing else: a transaction larger than the cache would be
    written in parts, and shut them out from its first part on.
    """
    connection.execute("PRAGMA journal_mode = TRUNCATE").close()
    connection.execute("PRAGMA synchronous = OFF").close()
    connection.execute("PRAGMA cache_spill = OFF").close()


def _engine(path: Path | None) -> Engine:
    # SQLite's memdb VFS shares one database in memory between connections, with the locks of a file.
    name = f"file:/catalog-{secrets.token_hex(8)}?vfs=memdb" if path is None else path.resolve().as_uri()

    def connect() -> sqlite3.Connection:
        # isolation_level None: sqlite3 would begin deferred transactions by itself; ours begin below.
        connection = sqlite3.connect(
            name, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            _configure(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    # More than a web framework has threads (40): waiting for a connection is not fair, and can take forever.
    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool, pool_size=64, max_overflow=0)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A deferred transaction that reads and then writes fails, without waiting, if another wrote in between.
        immediate = connection.get_execution_options().get("immediate")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine
