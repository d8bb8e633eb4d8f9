"""Audit records as a Parquet file, through pyarrow; which not everybody needs (170 MB), so it comes with an extra.

`SCHEMA` is what readers may rely on. A field whose value is not of its column's type is null there; `record` has
everything, as JSON: nothing is lost.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from remit.core.errors import Invalid, Unavailable

VERSION = "remit-audit-export-1"
ROWS = 16384
"""Rows in a row group, which is what is kept in memory."""
_TEXTS = (
    "kind",
    "task",
    "role",
    "decision",
    "reason",
    "detail",
    "capability",
    "credential",
    "method",
    "scheme",
    "host",
)
SCHEMA = (
    ("seq", "int64"),
    ("id", "string"),
    ("time", "timestamp"),
    *((name, "string") for name in _TEXTS),
    ("port", "int32"),
    ("path", "string"),
    ("status", "int32"),
    ("bytes_out", "int64"),
    ("bytes_in", "int64"),
    ("duration_ms", "int64"),
    ("completed", "timestamp"),
    ("prev", "string"),
    ("hash", "string"),
    ("record", "string"),
)
"""(column, type); times are UTC, in microseconds. `record`: the line of the JSON Lines export; with --whole the line of
the log itself, whose SHA-256 is `hash`."""


def _pyarrow() -> tuple[Any, Any]:
    """(pyarrow, pyarrow.parquet). `Unavailable`: it is not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise Unavailable(
            "Parquet files are read and written by pyarrow, which is not installed",
            hint="pip install 'remit[parquet]', or --format jsonl",
        ) from error
    return pyarrow, parquet


def records(path: Path) -> Iterator[bytes]:
    """The rows of a file, as they were given to `Writer.write`."""
    pyarrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS, columns=["record"]):
                yield from (text.encode() for text in batch.column("record").to_pylist())
    except (pyarrow.ArrowInvalid, KeyError) as error:
        raise Invalid(f"{path} is no Parquet file of an export") from error


class Writer:
    """Writes rows, given as JSON texts, to `stream`. `Unavailable`: pyarrow is not installed."""

    def __init__(self, stream: BinaryIO) -> None:
        pyarrow, parquet = _pyarrow()
        types = {"string": pyarrow.string(), "int32": pyarrow.int32(), "int64": pyarrow.int64(),
                 "timestamp": pyarrow.timestamp("us", tz="UTC")}  # fmt: skip
        fields = [pyarrow.field(name, types[kind], nullable=name != "record") for name, kind in SCHEMA]
        self._schema = pyarrow.schema(fields, metadata={"format": VERSION})
        self._batch = pyarrow.record_batch
        self._writer = parquet.ParquetWriter(stream, self._schema, compression="zstd")
        self._columns: list[list[Any]] = [[] for _ in SCHEMA]

    def write(self, row: bytes) -> None:
        values = json.loads(row)
        values.setdefault("hash", hashlib.sha256(row).hexdigest())
        for column, (name, kind) in zip(self._columns, SCHEMA, strict=True):
            column.append(row.decode() if name == "record" else _FITTING[kind](values.get(name)))
        if len(self._columns[0]) == ROWS:
            self._flush()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Write what is left, and the end of the file; after an error the file is of no use."""
        try:
            if kind is None:
                self._flush()
        finally:
            self._writer.close()

    def _flush(self) -> None:
        if self._columns[0]:
            self._writer.write_batch(self._batch(self._columns, schema=self._schema))
        self._columns = [[] for _ in SCHEMA]


def _text(value: object) -> str | None:
    """Lone surrogates have no form in UTF-8; they stand in `record` as they were."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def _integer(bits: int) -> Callable[[object], int | None]:
    def fitting(value: object) -> int | None:
        return value if type(value) is int and -1 << bits - 1 <= value < 1 << bits - 1 else None

    return fitting


def _time(value: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


_FITTING: dict[str, Callable[[object], Any]] = {
    "string": _text,
    "int32": _integer(32),
    "int64": _integer(64),
    "timestamp": _time,
}
