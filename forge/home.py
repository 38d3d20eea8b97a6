"""The home folder: the one place that knows where everything on disk lives.

No other module builds a path below the home, so moving a file means changing one property here.
Everything is private to its owner: folders 0700, databases 0600.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from forge import durable
from forge.errors import HomeError, RegistryError

MARKER = "session.yaml"
SCRATCH = ".tmp"
"""The end of the name of a session's folder that is being made."""
# Names as /proc/mounts spells them. WAL needs shared memory between processes, which these do not give.
NETWORK_FILESYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "afs", "ceph", "glusterfs", "fuse.glusterfs",
     "lustre", "beegfs", "gpfs", "fuse.rclone", "fuse.s3fs"}
)  # fmt: skip
ID = r"[0-7][0-9A-HJKMNP-TV-Z]{25}"
"""A ULID as Forge writes it, as a pattern."""
# How /proc/mounts writes a blank, a tab, a line feed and a backslash.
_ESCAPE = re.compile(r"\\(040|011|012|134)")


def is_id(text: str) -> bool:
    """Whether this can be the id of a session or a model: a ULID as Forge writes it."""
    return re.fullmatch(ID, text) is not None


@dataclass(frozen=True)
class SessionPaths:
    """Where one session keeps its things; `root` is `sessions/<ulid>`."""

    root: Path

    @property
    def config(self) -> Path:
        """The frozen configuration, and the marker that this folder is Forge's."""
        return self.root / MARKER

    @property
    def metrics(self) -> Path:
        """The session's own metric database."""
        return self.root / "metrics.db"

    @property
    def log(self) -> Path:
        """One JSON object a line: events, and what libraries print."""
        return self.root / "log.jsonl"

    @property
    def lease(self) -> Path:
        """The file whose lock means that somebody runs this session."""
        return self.root / "lease"

    def checkpoints(self, phase: str) -> Path:
        """The folder of one phase's checkpoints."""
        return self.root / "checkpoints" / phase

    @property
    def models(self) -> Path:
        """The folder of all produced models."""
        return self.root / "models"

    def model(self, model_id: str) -> Path:
        """The folder of one produced model."""
        return self.models / model_id

    def links(self) -> list[Path]:
        """Symbolic links where Forge makes files and folders of its own; it never makes one.

        What they lead to is not the session's: nothing is written, moved or deleted there.
        """
        checkpoints = self.root / "checkpoints"
        logs = self.root.glob(f"{self.log.name}*"), self.root.glob(f"{self.metrics.name}*")
        own = [self.root, self.config, self.lease, checkpoints, self.models, *logs[0], *logs[1]]
        if not self.root.is_symlink() and not checkpoints.is_symlink() and checkpoints.is_dir():
            own += checkpoints.iterdir()
        return sorted(path for path in own if path.is_symlink())


@dataclass(frozen=True)
class Home:
    """The folder that holds registry, sessions, trash and cache."""

    root: Path

    @property
    def registry(self) -> Path:
        """The registry database."""
        return self.root / "registry.db"

    @property
    def settings(self) -> Path:
        """Settings of the whole home; absent while nothing differs from the defaults."""
        return self.root / "settings.yaml"

    @property
    def sessions(self) -> Path:
        """The folder of all sessions."""
        return self.root / "sessions"

    @property
    def trash(self) -> Path:
        """Deleted sessions until they are purged."""
        return self.root / "trash"

    @property
    def cache(self) -> Path:
        """Tokenised corpora, keyed by content hash."""
        return self.root / "cache"

    @property
    def screens(self) -> Path:
        """A note for each terminal that `forge-tui` is on, held by its process."""
        return self.root / "screens"

    @property
    def cleanup_lock(self) -> Path:
        """Whoever moves or deletes sessions holds this file alone, whoever makes a registry shares it."""
        return self.root / "cleanup.lock"

    def trashed(self, session_id: str) -> SessionPaths:
        """Paths of one session in the trash; as `session`."""
        return SessionPaths(self.trash / _own(session_id))

    def session(self, session_id: str) -> SessionPaths:
        """Paths of one session. The id is one that Forge made, never a name typed by a person.

        Raises:
            RegistryError: it is not, so it could lead anywhere.
        """
        return SessionPaths(self.sessions / _own(session_id))


def _own(session_id: str) -> str:
    if not is_id(session_id):
        raise RegistryError(
            f"the registry has a session with the id {session_id!r}, which Forge never makes: it is damaged, "
            "or somebody else wrote to it. Nothing was touched; put back a backup of the registry."
        )
    return session_id


def resolve_home(explicit: Path | None = None) -> Home:
    """The home a person asked for: the argument, else `$FORGE_HOME`, else the user data directory.

    Raises:
        HomeError: it is below `~name`, and there is no such user; or it is no name of a folder.
    """
    chosen = explicit or os.environ.get("FORGE_HOME") or platformdirs.user_data_dir("forge")
    try:
        # realpath: the same database under two names would be two WAL files.
        root = Path(os.path.realpath(Path(chosen).expanduser()))
        root.exists()
    except (OSError, ValueError) as error:
        raise HomeError(
            f'the Forge home "{chosen}" cannot be looked at: {getattr(error, "strerror", None) or error}. '
            "Choose another folder with FORGE_HOME=/path or --home."
        ) from error
    except RuntimeError as error:
        raise HomeError(
            f'the Forge home "{chosen}" is in the home of a user that there is none of. '
            "Choose another folder with FORGE_HOME=/path or --home."
        ) from error
    return Home(root)


def prepare_home(home: Home) -> Home:
    """Create the home and its folders with private permissions.

    Raises:
        HomeError: the folder cannot be created or written, or lies on a network file system.
    """
    try:
        durable.make_folder(home.root)
        durable.make_folders(home.sessions, home.trash, home.cache)
    except OSError as error:
        raise HomeError(
            f"cannot create the Forge home {home.root}: {error.strerror}. "
            "Choose another folder with FORGE_HOME=/path or --home."
        ) from error
    _make_private(home)
    if not os.access(home.root, os.W_OK | os.X_OK):
        raise HomeError(
            f"the Forge home {home.root} is not writable by you. "
            "Fix its permissions or choose another folder with FORGE_HOME=/path."
        )
    kind = filesystem_type(home.root)
    if kind in NETWORK_FILESYSTEMS:
        raise HomeError(
            f"the Forge home {home.root} is on a network file system ({kind}), where SQLite's WAL mode does "
            "not work. Put the home on a local disk with FORGE_HOME=/path."
        )
    return home


def is_private(folder: Path) -> bool:
    """Whether nobody but its owner may look into a folder."""
    return not folder.stat().st_mode & 0o077


def _make_private(home: Home) -> None:
    """Close a home to others that somebody made, or unpacked, with the permissions of every folder."""
    if is_private(home.root) or home.root.stat().st_uid != os.geteuid():
        return
    ours = {home.sessions.name, home.trash.name, home.cache.name}
    # A folder with other things in it is somebody's own choice; forge doctor says what it means.
    if home.registry.exists() or {entry.name for entry in home.root.iterdir()} <= ours:
        home.root.chmod(0o700)


def filesystem_type(path: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The type of the file system that holds `path`, as /proc/mounts names it; "unknown" elsewhere."""
    if sys.platform != "linux":
        return "unknown"
    best, kind = "", "unknown"
    target = os.path.realpath(path)
    try:
        # Paths are bytes to the kernel: what is not UTF-8 has to compare equal all the same.
        listing = mounts.read_text("utf-8", "surrogateescape")
    except OSError:
        return "unknown"
    for fields in (line.split(" ") for line in listing.split("\n")):
        if len(fields) < 3:
            continue
        fstype, point = fields[2], _ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[1])
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        # A later mount hides an earlier one at the same point.
        if inside and len(point) >= len(best):
            best, kind = point, fstype
    return kind
