"""Make a database file what this program expects, or say why it cannot be used.

A file that is not Forge's, is damaged, or is newer than the program is never written to.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from forge import durable, locks
from forge.errors import RegistryError
from forge.registry import sqlite
from forge.registry.schema import Migration, Schema
from forge.registry.sqlite import Connection, one_value, transaction

_HALF = re.compile(
    r"\.(?P<name>.+)\.(new-[0-9a-f]{32}|v\d+-\d{8}T\d{6}Z-[0-9a-f]{6}\.backup\.tmp)(-wal|-shm|-journal)?"
)
"""The names of databases that are being made or copied, and of what SQLite keeps beside them."""
# Reading every page costs about 1 ms a megabyte; a bigger file is checked where it is read.
_CHECK_BYTES = 32 << 20


@dataclass(frozen=True)
class Opening:
    """What `ensure` found and did."""

    read_only: bool = False
    notice: str | None = None
    backup: Path | None = None


def ensure(path: Path, schema: Schema, lock: Path | None = None) -> Opening:
    """Create a missing file, migrate an older one after a backup, leave a newer one alone.

    Args:
        path: the database file.
        schema: what it must look like.
        lock: held, together with others who do the same, while a file is made that is no database yet; who
            holds it alone may delete what `leftovers` finds. None where only one process is at work.

    Raises:
        RegistryError: the file is damaged or not Forge's; it is untouched.
    """
    if not path.exists():
        with _making(lock):
            _create(path, schema)
        return Opening()
    sqlite.require_file(path)
    if path.stat().st_size == 0:
        _migrate_file(path, schema)
        return Opening()
    try:
        sqlite.recover(path)
        found = inspect(path, schema)
    except sqlite.OperationalError as error:
        raise RegistryError(f"the {schema.what} {path} cannot be opened: {error}.") from error
    except sqlite.DatabaseError as error:
        raise _damaged(path, schema, str(error)) from error
    if found > schema.version:
        return Opening(True, _newer(path, schema, found))
    if found == schema.version:
        return Opening()
    if found == 0:
        _migrate_file(path, schema)
        return Opening()
    with _making(lock):
        backup = _back_up(path, found)
    _migrate_file(path, schema)
    return Opening(
        notice=f"the {schema.what} was brought from version {found} to {schema.version}; "
        f"the file from before is kept as {backup}.",
        backup=backup,
    )


def leftovers(path: Path) -> list[Path]:
    """Half-made files beside `path`, of processes that were killed while they made or copied it."""
    found = [(entry, _HALF.fullmatch(entry.name)) for entry in path.parent.glob(f".{path.name}.*")]
    return sorted(entry for entry, match in found if match and match["name"] == path.name)


@contextmanager
def _making(lock: Path | None) -> Iterator[None]:
    if lock is None:
        yield
        return
    with locks.hold(lock, shared=True) as held:
        if not held:
            raise RegistryError(
                f"another process is cleaning up in {lock.parent}, where a database has to be made first. "
                "Nothing was changed; start again in a moment."
            )
        yield


def migrate(connection: Connection, schema: Schema) -> None:
    """Apply the missing migrations, each in a transaction of its own with its record."""
    for step in schema.migrations:
        with transaction(connection):
            # Asked inside the transaction: another process may have done this step while we waited.
            if one_value(connection, "PRAGMA user_version") < step.version:
                _apply(connection, schema, step)


def _apply(connection: Connection, schema: Schema, step: Migration) -> None:
    for statement in step.statements:
        connection.execute(statement)
    connection.execute(
        "INSERT INTO migration (version, name, applied_at, sqlite_version) VALUES (?, ?, ?, ?)",
        [step.version, step.name, time.time(), sqlite.VERSION],
    )
    connection.execute(f"PRAGMA application_id={schema.application_id}")
    connection.execute(f"PRAGMA user_version={step.version}")


def _migrate_file(path: Path, schema: Schema) -> None:
    # A migration that a power cut takes back is made again; closing brings what there is to the medium.
    with closing(sqlite.open_writer(path, synchronous="NORMAL", wal_autocheckpoint=1000)) as connection:
        migrate(connection, schema)


def _create(path: Path, schema: Schema) -> None:
    # Built under another name and linked: nobody ever opens a file without its tables, and of two processes
    # that create it at the same time one wins and the other uses what it finds.
    path = Path(os.path.realpath(path))
    building = path.with_name(f".{path.name}.new-{uuid.uuid4().hex}")
    try:
        _migrate_file(building, schema)
        try:
            durable.link(building, path)
        except FileExistsError:
            return
        except OSError:
            durable.move(building, path)  # a file system without links
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            durable.discard_file(building.with_name(building.name + suffix))


def inspect(path: Path, schema: Schema) -> int:
    """The version of an existing file; 0 when it is an empty database.

    Raises:
        RegistryError: it is damaged, or not Forge's.
        DatabaseError: it is no database at all.
    """
    try:
        return _inspect(path, schema)
    except UnicodeDecodeError as error:
        # SQLite quotes the damaged definition of a table in its message.
        raise _damaged(path, schema, "its tables cannot be told") from error


def _inspect(path: Path, schema: Schema) -> int:
    with closing(sqlite.open_reader(path)) as connection:
        application_id = one_value(connection, "PRAGMA application_id")
        version = one_value(connection, "PRAGMA user_version")
        tables = one_value(connection, "SELECT count(*) FROM sqlite_master")
        if application_id == 0 and version == 0 and tables == 0:
            return 0
        if application_id != schema.application_id or version < 1:
            raise RegistryError(
                f"{path} is a database of another program, not a Forge {schema.what}; it was left untouched. "
                "Move it away, or choose another home with FORGE_HOME=/path."
            )
        if path.stat().st_size <= _CHECK_BYTES:
            verdict = one_value(connection, "PRAGMA quick_check(1)")
            if verdict != "ok":
                raise _damaged(path, schema, str(verdict).splitlines()[0])
        return int(version)


def _back_up(path: Path, version: int) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    target = path.with_name(f"{path.name}.v{version}-{stamp}-{uuid.uuid4().hex[:6]}.backup")
    partial = target.with_name(f".{target.name}.tmp")
    os.close(durable.create(partial, exclusive=True))
    try:
        with closing(sqlite.open_reader(path)) as connection:
            # It writes to the copy only, and the file itself is open for reading only.
            connection.execute("PRAGMA query_only=OFF")
            connection.execute("VACUUM INTO ?", [str(partial)]).close()
        # VACUUM INTO does not fsync what it wrote.
        durable.sync_file(partial)
        durable.move(partial, target)
    except (sqlite.Error, OSError) as error:
        durable.discard_file(partial)
        raise RegistryError(
            f"{path} must be brought to a newer version, but the backup before that failed: {error}. "
            "Nothing was changed. Free some disk space and start again."
        ) from error
    return target


def _newer(path: Path, schema: Schema, found: int) -> str:
    return (
        f"the {schema.what} {path} was written by a newer Forge (version {found}, this one knows "
        f"{schema.version}): it is opened read-only. Update Forge to change anything."
    )


def _damaged(path: Path, schema: Schema, why: str) -> RegistryError:
    return RegistryError(
        f"the {schema.what} {path} is damaged or not a database ({why}); it was left untouched. "
        f"Move it away together with {path.name}-wal and {path.name}-shm, "
        f'put back a "{path.name}.v*.backup" if there is one, and start again.'
    )
