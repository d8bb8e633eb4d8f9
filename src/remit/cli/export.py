"""`audit export`: the audit log carried elsewhere, whole or narrowed as a list is, and counted.

A file appears under its name when all of it was written, or not at all: the control plane ends an export with the count
and the hash of what it gave, and what arrived is held against that.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from remit import __version__
from remit.cli import client, narrowing, options, output, parquet
from remit.core.errors import Conflict, Invalid, Unavailable
from remit.policy import decision_log

FORMATS = ("jsonl", "parquet", "opa-decision-log")
_MARK = b'{"export"'
_LABELS = {"id": "remit", "version": __version__}

Write = Callable[[bytes], None]


@narrowing.narrowed()
def export(
    query: narrowing.Query,
    form: Annotated[
        str, typer.Option("--format", help="jsonl: records as they are; parquet; opa-decision-log: as OPA logs.")
    ] = "jsonl",
    out: Annotated[
        Path | None, typer.Option(help="Write this file, whole or not at all, and say what is in it. Else: print.")
    ] = None,
    whole: Annotated[
        bool,
        typer.Option("--whole", help="Every line of the log as it stands there, completions too; narrow by time only."),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Give records to other systems, oldest first: print them, a JSON object a line, or write a file."""
    if form not in FORMATS:
        raise Invalid(f"there is no format {form[:40]!a}", hint=", ".join(FORMATS))
    if form == "parquet" and out is None:
        raise Invalid("a Parquet file cannot be printed", hint="--out FILE")
    query = {**query, "whole": "true" if whole else None}
    with client.connected() as api:
        if out is None:
            _all(api, query, _printed(form))
            return
        with _new(out) as (stream, finish):
            told = _written(api, query, form, stream)
            finish()
    found = {"file": str(out), "format": form, "bytes": out.stat().st_size, **told}
    if as_json:
        output.line(found)
    else:
        first, last = told["first"], told["last"]
        output.text(f"{out}: {output.counted(told['records'], 'record')}, {output.counted(found['bytes'], 'byte')}")
        if told["records"]:
            output.text(f"first: {first.get('seq')} {first.get('hash')}\nlast:  {last.get('seq')} {last.get('hash')}")


def _written(api: client.Client, query: Mapping[str, object], form: str, stream: BinaryIO) -> dict[str, Any]:
    if form != "parquet":
        return _all(api, query, _lined(form, stream))
    with parquet.Writer(stream) as writer:
        return _all(api, query, writer.write)


def _all(api: client.Client, query: Mapping[str, object], write: Write) -> dict[str, Any]:
    """Hand every row to `write`; the last word of the control plane, which is held against them.

    `Unavailable`: the export broke off. `Conflict`: the log is not what was written, or something else arrived.
    """
    digest, records, through = hashlib.sha256(), 0, 0
    with output.progress("records") as progress:
        for line in api.lines("/v1/audit/export", query):
            if not line.startswith(_MARK):
                write(line)
                digest.update(line + b"\n")
                records += 1
                if not records % 1000:
                    progress(_seq(line), through)
                continue
            said = json.loads(line)["export"]
            if "problem" in said:
                raise Conflict(str(said["problem"]["detail"]), hint=str(said["problem"]["hint"]))
            if "records" in said:
                if (said["records"], said["sha256"]) != (records, digest.hexdigest()):
                    raise Conflict("what arrived is not what the control plane sent", hint="export again")
                return dict(said)
            through = int(said["through"])
    raise Unavailable("the export broke off before its end", hint="remit status")


def _seq(line: bytes) -> int:
    found = json.loads(line).get("seq")
    return found if isinstance(found, int) else 0


def _shaped(form: str, line: bytes) -> bytes | None:
    if form != "opa-decision-log":
        return line
    told = decision_log.event(json.loads(line), _LABELS)
    return None if told is None else json.dumps(told, ensure_ascii=True, separators=(",", ":")).encode()


def _lined(form: str, stream: BinaryIO) -> Write:
    def write(line: bytes) -> None:
        shaped = _shaped(form, line)
        if shaped is not None:
            stream.write(shaped + b"\n")

    return write


def _printed(form: str) -> Write:
    def write(line: bytes) -> None:
        shaped = _shaped(form, line)
        if shaped is not None:
            output.text(shaped.decode())

    return write


@contextlib.contextmanager
def _new(path: Path) -> Iterator[tuple[BinaryIO, Callable[[], None]]]:
    """(a stream, what gives it the name `path`); nothing is left where that is never called. Mode 0600."""
    if path.exists():
        raise Conflict(f"{path} is there already", hint="give another name, or remove it")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb", buffering=1 << 20) as stream:

            def finish() -> None:
                stream.flush()
                os.fsync(stream.fileno())
                os.link(temporary, path)  # unlike a rename, never over a file that came meanwhile

            yield stream, finish
    except OSError as error:
        raise Invalid(f"{path} cannot be written: {error.strerror}", hint="give another path with --out") from error
    finally:
        temporary.unlink(missing_ok=True)
