"""Three stores of run records that several processes append to: ours and two peers', without their clients.

`python -m benchmarks.stores STORE FOLDER WRITER COUNT` appends records numbered 0 … COUNT-1, each in a
transaction of its own, and says the number of each on stdout once the store has accepted it; a line that
begins with `!` is an error. It begins when its stdin is closed.
"""

from __future__ import annotations

import os
import sys
import time
from abc import ABC, abstractmethod
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from forge.home import Home
from forge.registry import Registry, edits, sqlite

SESSION = "01JABCDEFGHJKMNPQRSTVWXYZ0"


class Store(ABC):
    """Somewhere to append to; made anew in each process."""

    package: str
    """What has to be installed."""

    @abstractmethod
    def __init__(self, folder: Path) -> None:
        """Open the store that lies in a folder, or is to lie there."""

    @abstractmethod
    def prepare(self) -> None:
        """Make the store, before any writer opens it."""

    @abstractmethod
    def append(self, writer: int, number: int) -> None:
        """Add one record and return once it is committed."""

    @abstractmethod
    def found(self, writer: int) -> set[int]:
        """The numbers of a writer that can be read back."""

    @abstractmethod
    def database(self) -> Path:
        """The file that holds them."""

    def is_sound(self) -> bool:
        """Whether SQLite finds the file whole."""
        with closing(sqlite.open_reader(self.database())) as connection:
            return bool(sqlite.one_value(connection, "PRAGMA integrity_check") == "ok")


class Forge(Store):
    """Events in the registry, one transaction each, every one synced to the disk."""

    package = "forge"

    def __init__(self, folder: Path) -> None:
        self._home = Home(folder / "forge")
        self._registry = Registry.open(self._home)

    def prepare(self) -> None:
        """One session, whose events they are."""
        self._registry.write(
            lambda c: edits.create_session(c, id=SESSION, name="otter", preset="tiny", phases=[], now=1.0)
        )

    def append(self, writer: int, number: int) -> None:
        """One event."""
        self._registry.write(
            lambda c: edits.add_event(c, SESSION, kind=f"writer-{writer}", message=str(number), now=1.0)
        )

    def found(self, writer: int) -> set[int]:
        """Read past the limits of the public queries, which show people the newest few."""
        with closing(sqlite.open_reader(self.database())) as connection:
            sql = "SELECT message FROM event WHERE kind = ?"
            return {int(row[0]) for row in connection.execute(sql, [f"writer-{writer}"]).fetchall()}

    def database(self) -> Path:
        """The registry."""
        return self._home.registry


class MLflow(Store):
    """A metric a record, through MLflow's SQLite store."""

    package = "mlflow"

    def __init__(self, folder: Path) -> None:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        self._path = folder / "mlflow.db"
        self._run_file = folder / "mlflow.run"
        make: Any = SqlAlchemyStore  # without annotations of its own
        self._store = make(f"sqlite:///{self._path}", str(folder / "artifacts"))

    def prepare(self) -> None:
        """One run, as Forge has one session."""
        run = self._store.create_run("0", "bench", 0, [], "bench")
        self._run_file.write_text(run.info.run_id, "utf-8")

    def append(self, writer: int, number: int) -> None:
        """One point of the writer's own metric."""
        from mlflow.entities import Metric

        point = Metric(f"writer-{writer}", float(number), int(time.time() * 1000), number)
        self._store.log_metric(self._run_file.read_text("utf-8"), point)

    def found(self, writer: int) -> set[int]:
        """The metric's history."""
        history = self._store.get_metric_history(self._run_file.read_text("utf-8"), f"writer-{writer}")
        return {int(metric.value) for metric in history}

    def database(self) -> Path:
        """The file of its store."""
        return self._path


class Trackio(Store):
    """A log record each, through trackio's SQLite storage."""

    package = "trackio"

    def __init__(self, folder: Path) -> None:
        os.environ["TRACKIO_DIR"] = str(folder / "trackio")  # read when it is imported
        from trackio.sqlite_storage import SQLiteStorage

        self._storage: Any = SQLiteStorage
        self._folder = folder / "trackio"

    def prepare(self) -> None:
        """A first record makes the file."""
        self._storage.bulk_log("bench", "first", [{"number": 0}], steps=[0])

    def append(self, writer: int, number: int) -> None:
        """One record of the writer's own run."""
        self._storage.bulk_log("bench", f"writer-{writer}", [{"number": number}], steps=[number])

    def found(self, writer: int) -> set[int]:
        """The logs of its run."""
        return {int(entry["number"]) for entry in self._storage.get_logs("bench", f"writer-{writer}")}

    def database(self) -> Path:
        """The file of its project."""
        return Path(self._storage.get_project_db_path("bench"))


STORES: dict[str, type[Store]] = {"Forge": Forge, "MLflow": MLflow, "trackio": Trackio}


def installed() -> dict[str, type[Store]]:
    """The stores that can be measured here."""
    return {name: store for name, store in STORES.items() if find_spec(store.package) is not None}


def main(arguments: list[str]) -> None:
    """Append, and say so."""
    name, folder, writer, count = arguments
    store = STORES[name](Path(folder))
    print("ready", flush=True)
    sys.stdin.read()
    for number in range(int(count)):
        try:
            store.append(int(writer), number)
        except Exception as error:  # noqa: BLE001 - what a store refuses is what is measured
            print(f"! {type(error).__name__}: {error}".partition("\n")[0], flush=True)
        else:
            print(number, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
