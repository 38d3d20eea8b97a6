"""Runs a session in a process of its own, and kills it with SIGKILL at a chosen place.

    python victim.py HOME SESSION [PLACE COUNT]

At the COUNT-th time that the run comes to PLACE the process is gone, as by `kill -9` from outside: no handler
runs, no buffer is flushed, no file is closed. Without a place it runs on until it ends or is killed.
"""

from __future__ import annotations

import importlib
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

ENDED = threading.Event()
PLACES = ("step", "file", "rename", "renamed", "model", "beside")


def main(home: str, session: str, place: str = "", count: str = "0") -> None:
    """Say `ready` once all is imported, then host the session; the last word is how it ended."""
    from forge.engine import Engine
    from forge.home import Home

    # Now, so that what is killed is the run and not the import.
    importlib.import_module("forge.engine.runner")
    importlib.import_module("forge.phases")
    if place:
        arm(place, int(count))
    engine = Engine(Home(Path(home)))
    print("ready", flush=True)
    run = engine.host(session)
    run.wait()
    ENDED.set()
    print(run.outcome, run.failure or "", flush=True)
    engine.shutdown()


def arm(place: str, count: int) -> None:
    """Put the end into its place."""
    from forge import durable
    from forge.optim.trainer import Trainer

    left = count

    def come() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)
        threading.Event().wait()  # it arrives before this thread is asked again

    write_file, move, train_step = durable.write_file, durable.move, Trainer.train_step

    def write(path: Path, data: bytes, mode: int = 0o600) -> None:
        wanted = "checkpoints" if place == "file" else "models"
        if wanted in path.parts and come():
            write_file(path, data[: len(data) // 2], mode)
            die()
        write_file(path, data, mode)

    def rename(source: Path, target: Path) -> None:
        hit = "checkpoints" in source.parts and ".tmp-" in source.name and come()
        if hit and place == "rename":
            die()
        if hit:
            source.rename(target)
            die()
        move(source, target)

    def train(*arguments: Any) -> Any:
        if come():
            die()
        return train_step(*arguments)

    match place:
        case "file" | "model":
            durable.write_file = write
        case "rename" | "renamed":
            durable.move = rename
        case "step":
            Trainer.train_step = train  # type: ignore[assignment,method-assign]
        case "beside":
            threading.Thread(target=generate_beside, args=[come]).start()
        case _:
            raise SystemExit(f"{place} is none of {PLACES}")


def generate_beside(come: Callable[[], bool]) -> None:
    """Generate text and draw from every global generator, as long as the run lasts."""
    import numpy as np
    import torch

    from forge.config import ModelConfig
    from forge.models.decoder import Decoder
    from forge.models.generate import generate

    config = ModelConfig(vocab_size=260, d_model=16, n_layers=1, n_heads=2, d_ff=16, max_seq_len=16)
    generator = torch.Generator().manual_seed(1)
    model = Decoder(config).initialise(generator)
    while not ENDED.is_set():
        count = sum(1 for _ in generate(model, [1, 2, 3], 20, generator))
        torch.manual_seed(count)
        torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002 - moves the global ones
        if come():
            print("generated", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
