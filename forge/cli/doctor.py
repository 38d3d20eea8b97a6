"""`forge doctor`: what Forge finds on this machine, and what to do about what is wrong.

It changes nothing, and a check that itself fails is a finding, not an end.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from forge import units
from forge.cli import surroundings
from forge.cli.console import put, put_json, put_table
from forge.cli.finding import Finding, State
from forge.errors import ForgeError
from forge.home import NETWORK_FILESYSTEMS, Home, filesystem_type, is_private, resolve_home

LOW_DISK = 5e9
"""Bytes; a 25 M session with its checkpoints and models takes about 2 GB."""
_TOO_LITTLE_DISK = 2e8
_IN_MEMORY = ("tmpfs", "ramfs")


def doctor(home: Path | None, *, json: bool) -> int:
    """Print the findings; returns 1 when something is wrong."""
    findings = [finding for check in _checks(resolve_home(home)) for finding in _run(check)]
    wrong = [finding for finding in findings if finding.state == "wrong"]
    if json:
        put_json({"ok": not wrong, "findings": [asdict(finding) for finding in findings]})
        return 1 if wrong else 0
    put_table([[finding.state, finding.what, finding.found] for finding in findings])
    for finding in findings:
        if finding.remedy:
            put("", f"{finding.what}: {finding.remedy}")
    put("", f"{len(wrong)} wrong" if wrong else "nothing is wrong")
    return 1 if wrong else 0


def _checks(home: Home) -> list[Callable[[], Iterator[Finding]]]:
    return [
        python, torch_library, gpu, sqlite_library, lambda: home_folder(home), lambda: registry(home),
        tokenizers_library, surroundings.locale, surroundings.terminal, surroundings.tmux,
        surroundings.logout,
    ]  # fmt: skip


def _run(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    try:
        return list(check())
    except Exception as error:  # noqa: BLE001 - a broken installation fails in any way, and that is the finding
        name = getattr(check, "__name__", "check").replace("_", " ").strip()
        return [
            Finding(name, "wrong", f"{type(error).__name__}: {error}", "install Forge anew: pip install -e .")
        ]


def python() -> Iterator[Finding]:
    """Interpreter and machine."""
    yield Finding("forge", "ok", _version("forge-tui"))
    yield Finding("python", "ok", f"{platform.python_version()} ({sys.executable})")
    yield Finding("machine", "ok", f"{platform.platform()}, {os.cpu_count()} CPUs")


def torch_library() -> Iterator[Finding]:
    """Torch, and where it computes."""
    import torch

    yield Finding("torch", "ok", f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()} on the CPU")
    if torch.cuda.is_available():
        bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        yield Finding(
            "cuda", "ok", f"{torch.version.cuda}, {torch.cuda.device_count()} device(s), trains in {bf16}"
        )
    elif torch.version.cuda:
        yield Finding("cuda", "note", f"torch is built for CUDA {torch.version.cuda} but finds no device")
    else:
        yield Finding("cuda", "note", "this torch is built for the CPU only")


def gpu() -> Iterator[Finding]:
    """What the driver says, which may know a GPU that torch cannot use."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        yield Finding("nvml", "note", f"no NVIDIA driver answers: {error}")
        yield Finding("gpu", "note", "none that NVML knows")
        return
    yield Finding("nvml", "ok", str(pynvml.nvmlSystemGetNVMLVersion()))
    import torch

    usable = torch.cuda.is_available()
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        found = (
            f"{pynvml.nvmlDeviceGetName(handle)}, {units.size(memory.used)} of {units.size(memory.total)} "
            f"in use, driver {pynvml.nvmlSystemGetDriverVersion()}"
        )
        remedy = "" if usable else "torch cannot use it: install a torch built for CUDA (pytorch.org)."
        yield Finding(f"gpu {index}", "ok" if usable else "note", found, remedy)


def sqlite_library() -> Iterator[Finding]:
    """Which SQLite, and whether its WAL mode can be trusted."""
    from forge.registry import LIBRARY, VERSION, WAL_SAFE

    if WAL_SAFE:
        yield Finding("sqlite", "ok", f"{VERSION} ({LIBRARY}), WAL")
        return
    yield Finding(
        "sqlite",
        "note",
        f"{VERSION} ({LIBRARY}) has the WAL-reset bug, so a rollback journal is used",
        "screens may wait for training to write: pip install pysqlite3, or a Python with SQLite 3.51.3.",
    )


def home_folder(home: Home) -> Iterator[Finding]:
    """Where sessions are kept, and whether they can be."""
    existing = next(folder for folder in (home.root, *home.root.parents) if folder.exists())
    made = "" if existing == home.root else " (made by the first run)"
    remedy = "choose another folder with FORGE_HOME=/path or --home."
    if not os.access(existing, os.W_OK | os.X_OK):
        yield Finding("home", "wrong", f"{home.root} cannot be written", remedy)
    elif existing == home.root and not is_private(home.root):
        found = f"{home.root} can be looked into by others on this machine"
        yield Finding("home", "note", found, f"chmod 700 {home.root}, or choose a folder of its own.")
    else:
        yield Finding("home", "ok", f"{home.root}{made}")
    kind = filesystem_type(existing)
    if kind in NETWORK_FILESYSTEMS:
        yield Finding(
            "file system",
            "wrong",
            f"{kind}, a network file system: SQLite's WAL mode does not work there",
            remedy,
        )
    elif kind in _IN_MEMORY:
        yield Finding("file system", "note", f"{kind}: what is there is gone after a restart", remedy)
    else:
        yield Finding("file system", "ok", kind)
    free = shutil.disk_usage(existing).free
    state: State = "wrong" if free < _TOO_LITTLE_DISK else "note" if free < LOW_DISK else "ok"
    yield Finding(
        "disk",
        state,
        f"{units.size(free)} free",
        "" if state == "ok" else "free some space: a session takes up to 2 GB.",
    )


def registry(home: Home) -> Iterator[Finding]:
    """Whether the registry can be read, and what it holds."""
    if not home.registry.exists():
        yield Finding("registry", "ok", "none yet; the first run makes it")
        return
    from forge.registry import LIVE, Error, fetch, open_reader, queries, schema
    from forge.registry.migrate import inspect

    try:
        version = inspect(home.registry, schema.REGISTRY)
        if version > schema.REGISTRY.version:
            found = f"version {version}, newer than this Forge, which knows {schema.REGISTRY.version}"
            yield Finding("registry", "wrong", found, "update Forge; until then nothing can be changed.")
            return
        with closing(open_reader(home.registry)) as connection:
            sessions = fetch(connection, queries.count_sessions())[0]
            live = fetch(connection, queries.count_sessions(states=LIVE))[0]
    except (Error, ForgeError) as error:
        remedy = (
            f"stop every forge, move {home.registry} away with its -wal and -shm, and put back a "
            f'"{home.registry.name}.v*.backup" if there is one.'
        )
        yield Finding("registry", "wrong", str(error), remedy)
        return
    yield Finding("registry", "ok", f"version {version}, {sessions} sessions, {live} live")


def tokenizers_library() -> Iterator[Finding]:
    """What trains the vocabulary."""
    import tokenizers

    yield Finding("tokenizers", "ok", tokenizers.__version__)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed as a package"
