"""Corpora of the Hugging Face Hub, and folders laid out like one, through `datasets`, streamed.

No code of a data set is ever run, and no pickle is read: only its JSON, CSV, Parquet, Arrow and text files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from forge.data.documents import Document, Skipped, Source, UnusableError
from forge.data.rows import row_text, split_field
from forge.errors import CorpusError

PLAIN_BUILDERS = frozenset(
    f"datasets.packaged_modules.{kind}." for kind in ("json", "csv", "parquet", "arrow", "text")
)
"""Loaders of formats that are data alone."""


def open_hub(spec: str, skipped: Skipped) -> Source:
    """`hf:NAME[:config][#column]`, NAME an id of the Hub or a folder: each row of `train` is a document."""
    argument, column = split_field(spec.partition(":")[2])
    name, _, config = argument.partition(":")
    if not name.strip():
        raise CorpusError(
            f"corpus {spec}: no data set is named. Write hf:NAME, for example hf:roneneldan/TinyStories."
        )
    rows, licence = _open(spec, name.strip(), config.strip() or None)
    return Source(licence, _documents(spec, rows, column, skipped))


def _open(spec: str, name: str, config: str | None) -> tuple[Iterable[Mapping[str, object]], str]:
    try:
        import datasets
    except ImportError as error:
        raise CorpusError(
            f"corpus {spec}: reading it needs datasets. Install it: pip install 'forge-tui[data]'."
        ) from error
    folder = _folder(spec, name)
    try:
        # Version 4 took the scripts of data sets out: there is no code left to trust or not.
        builder = datasets.load_dataset_builder(str(folder or name), config)
        _require_plain(spec, builder, folder)
        streams = builder.as_streaming_dataset()
    except CorpusError:
        raise
    except Exception as error:
        raise CorpusError(_unreachable(spec, folder, error)) from error
    return _train(spec, streams), _licence(builder)


def _folder(spec: str, name: str) -> Path | None:
    """The folder that is meant; None for an id of the Hub, even where a folder here has that name."""
    if not name.startswith(("/", ".", "~")):
        return None
    try:
        folder = Path(name).expanduser().resolve()
        if folder.is_dir():
            return folder
    except (ValueError, RuntimeError, OSError) as error:
        raise CorpusError(
            f"corpus {spec}: the folder cannot be used: {error}. Correct data.corpus."
        ) from error
    raise CorpusError(f"corpus {spec}: there is no folder {folder}. Correct data.corpus.")


def _require_plain(spec: str, builder: Any, folder: Path | None) -> None:
    loader = type(builder).__module__
    if not any(loader.startswith(plain) for plain in PLAIN_BUILDERS):
        raise CorpusError(
            f"corpus {spec}: its files are loaded by {loader.rpartition('.')[2]}, which Forge does not use; "
            "it reads JSON, CSV, Parquet, Arrow and text. Export it to one of them."
        )
    for files in (builder.config.data_files or {}).values():
        for file in files:
            # A folder's card can name any file of this machine, or any address.
            if folder is not None and ("://" in str(file) or not Path(file).resolve().is_relative_to(folder)):
                raise CorpusError(
                    f"corpus {spec}: its card names {file}, outside the folder. Correct the card."
                )


def _train(spec: str, streams: Mapping[str, Any]) -> Iterable[Mapping[str, object]]:
    if "train" not in streams and len(streams) != 1:
        raise CorpusError(f"corpus {spec}: it has no train split; it has {', '.join(map(str, streams))}.")
    rows: Iterable[Mapping[str, object]] = streams.get("train") or next(iter(streams.values()))
    return rows


def _licence(builder: Any) -> str:
    stated = builder.info.license
    return str(stated) if stated else "unknown (see the data set's card)"


def _documents(
    spec: str, rows: Iterable[Mapping[str, object]], column: str, skipped: Skipped
) -> Iterator[Document]:
    number = 0
    stream = iter(rows)
    while (row := _next(spec, stream)) is not None:
        number += 1
        if number == 1 and column not in row:
            raise CorpusError(
                f"corpus {spec}: there is no column {column}; there are {', '.join(map(str, row))}. "
                "Name one after #."
            )
        try:
            yield Document.of(f"row {number}", row_text(row.get(column), column))
        except UnusableError as error:
            skipped.add(error.reason, f"row {number}")


def _next(spec: str, stream: Iterator[Mapping[str, object]]) -> Mapping[str, object] | None:
    try:
        return next(stream, None)
    except Exception as error:
        raise CorpusError(
            f"corpus {spec}: reading it broke off: {_first_line(error)}. Check the connection and its files."
        ) from error


def _unreachable(spec: str, folder: Path | None, error: Exception) -> str:
    if folder is not None:
        return f"corpus {spec}: {folder} cannot be read as a data set: {_first_line(error)}. Check its files."
    return (
        f"corpus {spec}: it cannot be opened: {_first_line(error)}. Check the name and the connection; "
        "offline, name a folder (hf:/path), or use jsonl: or parquet:."
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
