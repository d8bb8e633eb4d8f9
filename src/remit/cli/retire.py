"""`audit retire|acknowledge|retention`: what an export has may leave the log, at once or by itself.

The export is read before anything is asked: it must be one unbroken chain, so that its last hash stands for every
record in it. The control plane holds that against the log, and the node does so once more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from remit.cli import client, narrowing, options, output, parquet
from remit.core.errors import Conflict, Invalid, NotFound

_HINT = "remit audit export --whole --out FILE"


_Export = Annotated[Path, typer.Argument(metavar="EXPORT", help="What `audit export --whole --out` wrote.")]


def retire(
    export: _Export,
    keep: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Keep what is younger: 90d, or a time. Default: only what must stay."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Remove from the log what EXPORT has, in whole segments, oldest first. Recorded; the chain goes on to verify."""
    body = {**_proof(export), "before": narrowing.moment(keep)}
    with client.connected() as api:
        done = api.post("/v1/audit/retire", body, patient=True)  # the control plane reads the log once
    if as_json:
        output.line(done)
    else:
        output.text(f"records up to {done['seq']} left the log (record {done['record']}); keep {export}")


def acknowledge(export: _Export, as_json: options.Json = False) -> None:
    """Say that EXPORT is kept elsewhere: what it has may leave the log by itself (settings audit_keep_*). Recorded."""
    with client.connected() as api:
        done = api.post("/v1/audit/acknowledge", _proof(export))
    if as_json:
        output.line(done)
    else:
        output.text(f"records up to {done['last']} are acknowledged (record {done['record']}); keep {export}")


def retention(as_json: options.Json = False) -> None:
    """Show what may leave the log by itself: within which bounds, and what was acknowledged to be elsewhere."""
    with client.connected() as api:
        found = api.get("/v1/audit/retention")
    if as_json:
        output.line(found)
        return
    kept = found["acknowledged"]
    bounds = {"records older than (s)": found["keep_s"], "log larger than (bytes)": found["keep_bytes"]}
    if not any(bounds.values()):
        output.text("nothing leaves the log by itself: set audit_keep_s or audit_keep_bytes")
    else:
        output.fields(bounds)
    if kept is None:
        output.text("no export was acknowledged: remit audit acknowledge EXPORT")
    else:
        output.text(f"{kept['operator']} keeps an export up to record {kept['last']} (record {kept['record']})")


def _proof(path: Path) -> dict[str, Any]:
    """Where the export begins and ends. `Conflict`: its records do not form one chain."""
    digest, prev, first, last = hashlib.sha256(), "", b"", b""
    with output.progress("records") as progress:
        for count, line in enumerate(_lines(path), start=1):
            if prev and not line.endswith(f',"prev":"{prev}"}}'.encode()):
                raise Conflict(
                    f"line {count} of {path} does not continue the one before: it is no whole export", hint=_HINT
                )
            prev = hashlib.sha256(line).hexdigest()
            digest.update(line + b"\n")
            first, last = first or line, line
            if not count % 10_000:
                progress(count, 0)
    if not last:
        raise Invalid(f"{path} has no records", hint=_HINT)
    return {"first": _seq(first, path), "last": _seq(last, path), "hash": prev, "sha256": digest.hexdigest()}


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            if stream.read(4) == b"PAR1":
                yield from parquet.records(path)
                return
            stream.seek(0)
            for line in stream:
                yield line.removesuffix(b"\n")
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}", hint=_HINT) from error
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}") from error


def _seq(line: bytes, path: Path) -> int:
    try:
        return int(json.loads(line)["seq"])
    except (ValueError, KeyError, TypeError) as error:
        raise Invalid(f"{path} is no export of the audit log", hint=_HINT) from error
