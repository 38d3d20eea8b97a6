"""Bring a database file to the version that this program writes.

Each migration runs in one transaction together with its own record, so a crash leaves the version before
or the version after. An older file is backed up first; a newer or foreign one is never touched.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from forge import durable
from forge.errors import RegistryError
from forge.registry.schema import Schema
from forge.registry.sqlite import Connection, DatabaseError, transaction

_RECORD = "CREATE TABLE IF NOT EXISTS migration (version INTEGER PRIMARY KEY, at REAL NOT NULL) STRICT"


def version_of(connection: Connection, schema: Schema, path: Path) -> int:
    """The file's version; 0 for an empty one.

    Raises:
        RegistryError: the file is damaged or belongs to another program.
    """
    try:
        (mark,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except DatabaseError as error:
        raise RegistryError(
            f"{path} is not a readable {schema.title} database ({error}). It was left untouched: "
            "move it aside and start again, or restore a backup from the same folder."
        ) from error
    if mark == 0 and version == 0 and tables == 0:
        return 0
    if mark != schema.application_id:
        raise RegistryError(
            f"{path} is a database of another program (application id {mark:#x}); it was left untouched. "
            "Choose another home with FORGE_HOME=/path."
        )
    return int(version)


def migrate(connection: Connection, schema: Schema, path: Path) -> None:
    """Apply the migrations that the file lacks.

    Raises:
        RegistryError: damaged, foreign, or newer than this program.
    """
    version = version_of(connection, schema, path)
    if version > schema.version:
        raise RegistryError(newer_message(schema, path, version))
    if 0 < version < schema.version:
        _back_up(connection, path, version)
    for number in range(version + 1, schema.version + 1):
        with transaction(connection):
            # Another process may have migrated while we waited for the lock.
            if version_of(connection, schema, path) >= number:
                continue
            connection.execute(f"PRAGMA application_id={schema.application_id}")
            connection.execute(_RECORD)
            for statement in schema.migrations[number - 1].split(";\n"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute("INSERT INTO migration VALUES (?, ?)", (number, time.time()))
            connection.execute(f"PRAGMA user_version={number}")


def newer_message(schema: Schema, path: Path, version: int) -> str:
    """What to tell a person whose file was written by a newer program."""
    return (
        f"{path} has {schema.title} version {version}, newer than version {schema.version} of this program: "
        "it is opened read-only. Upgrade forge-tui to write to it."
    )


def _back_up(connection: Connection, path: Path, version: int) -> None:
    target = path.with_name(f"{path.name}.v{version}.backup")
    temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    connection.execute("VACUUM INTO ?", (str(temporary),))
    temporary.chmod(0o600)
    # VACUUM INTO does not fsync its target.
    descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    durable.move(temporary, target)
