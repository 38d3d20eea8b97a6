"""A first look at `data.corpus`, before anything is made: its form, and whether there is any file.

It reads no text and walks no disk, so it costs nothing to ask; what it lets through can still be found
unusable when the files are read.
"""

from __future__ import annotations

import glob
from pathlib import Path

from forge.config.models import DataConfig
from forge.errors import CorpusError

FILE_KINDS = {"text": ".txt", "jsonl": ".jsonl", "parquet": ".parquet"}
"""Corpora that are files, and how those usually end."""
NAMED_KINDS = ("hf", "gym", "task")
"""Corpora that are named; whether there is such a one is found when they are opened."""


def require_corpora(data: DataConfig) -> None:
    """Refuse corpora that cannot be read.

    Raises:
        CorpusError: one is none by its form, or its files are not there.
    """
    for corpus in data.corpora:
        if (problem := corpus_problem(corpus)) is not None:
            raise CorpusError(f"corpus {corpus}: {problem}. Set data.corpus right; nothing was started.")


def corpus_form_problem(corpus: str) -> str | None:
    """Why this is no corpus, by its form alone."""
    text = corpus.strip()
    if text == "stdlib":
        return None
    kind, mark, argument = text.partition(":")
    if not mark or kind not in (*FILE_KINDS, *NAMED_KINDS):
        return "stdlib, or files: text:/data/*.txt (jsonl:, parquet:, hf:, gym: and task: too)"
    if argument.partition("#")[0].strip():
        return None
    return f"a {'pattern' if kind in FILE_KINDS else 'name'} is missing after {kind}:"


def corpus_problem(corpus: str) -> str | None:
    """Why this cannot be trained on; may look at the disk for a moment, so not on an event loop."""
    kind, _, argument = corpus.strip().partition(":")
    if (problem := corpus_form_problem(corpus)) is not None or kind not in FILE_KINDS:
        return problem
    try:
        pattern = Path(argument.strip()).expanduser()
        if kind != "text" and not pattern.exists():
            # What follows the last # names a field.
            pattern = Path(argument.strip().rpartition("#")[0] or argument.strip()).expanduser()
        return _files_problem(str(pattern), FILE_KINDS[kind])
    except (ValueError, RuntimeError, OSError) as error:
        # A NUL byte, `~nobody`, or a name that the system refuses.
        return f"this is no pattern of files ({error})"


def _files_problem(pattern: str, ending: str) -> str | None:
    if "**" in pattern:
        # A recursive pattern may walk a whole disk: only its fixed beginning is looked at.
        folder = Path(pattern.partition("**")[0] + "x").parent
        return None if folder.is_dir() else f"there is no folder {folder}"
    if Path(pattern).is_dir():
        return f"this is a folder; name files in it: {pattern.rstrip('/')}/**/*{ending}"
    # iglob, because Path.glob takes no absolute pattern. A name may hold what a pattern would mean.
    found = Path(pattern).exists() or any(glob.iglob(pattern))  # noqa: PTH207
    return None if found else "no file matches"
