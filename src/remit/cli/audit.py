"""`audit list|tail|show|verify|keys|trust` and `why`: what was decided, and that the log still says so.

`audit list --json` prints one record a line; its field names are relied on from outside and do not change.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

import typer

from remit.cli import client, following, narrowing, options, output
from remit.core.errors import NotFound, Unavailable

_COLUMNS = ("time", "id", "task", "role", "decision", "reason", "status", "request")
TABLE_ROWS = 100
PAGE = 1000
"""The most that the API gives at once."""

app = typer.Typer(no_args_is_help=True, help="List, follow, show and verify the audit log.")

RecordId = Annotated[str, typer.Argument(metavar="RECORD", help="Id of a record, or its first letters.")]


@app.command("list")
@narrowing.narrowed()
def list_records(
    query: narrowing.Query,
    limit: Annotated[int | None, typer.Option(min=1, help="The latest so many. Default: 100; all with --json.")] = None,
    as_json: options.Json = False,
) -> None:
    """List records, oldest first."""
    wanted = limit if limit is not None or as_json else TABLE_ROWS
    with client.connected() as api:
        if as_json:
            for record in _matching(api, query, wanted):
                output.line(record)
            return
        rows = [_row(record) for record in _matching(api, query, wanted)]
    output.table(_COLUMNS, rows, empty="no record matches")


@app.command()
@narrowing.narrowed(times=False)
def tail(query: narrowing.Query, as_json: options.Json = False) -> None:
    """Print records as they are written, until interrupted. A control plane that goes is waited for; of what is written
    meanwhile nothing is left out."""
    for record in following.events("/v1/audit/stream", query):
        if as_json:
            output.line(record)
        else:
            output.text(output.GAP.join(output.safe(output.shown(cell)) for cell in _row(record)))


@app.command()
def show(record: RecordId, as_json: options.Json = False) -> None:
    """Show one record, whole."""
    with client.connected() as api:
        found = api.get(f"/v1/audit/{client.part(record)}")
    if as_json:
        output.line(found["record"])
    else:
        output.fields(found["record"])


@app.command()
def verify(as_json: options.Json = False) -> None:
    """Walk the chain of hashes, and hold it against the signed heads that are kept elsewhere."""
    with client.connected() as api:
        report = _verified(api)
    if as_json:
        output.line(report)
    elif report["ok"]:
        gone = f"; {report['retired']} before them were exported and retired" if report.get("retired") else ""
        records, segments = output.counted(report["records"], "record"), output.counted(report["segments"], "segment")
        output.text(f"ok: {records} in {segments}, unbroken{gone}")
    if not report["ok"]:
        problem = report.get("problem") or {}
        if not as_json:
            output.say(f"error: the audit log is not what was written: {_told(problem)}")
            output.say("hint: keep the files as they are; compare with a backup from before")
        raise typer.Exit(1)


@app.command()
def keys(as_json: options.Json = False) -> None:
    """List the keys that signed heads of the log: which are trusted, and which were refused."""
    with client.connected() as api:
        items = api.get("/v1/audit/keys")["items"]
    if as_json:
        for item in items:
            output.line(item)
        return
    for item in items:
        output.text(f"{item['key']}  {'trusted' if item['trusted'] else 'REFUSED'}  since {item['since']}")


@app.command()
def trust(
    key: Annotated[str, typer.Argument(metavar="KEY", help="A refused key, or its first letters: remit audit keys.")],
    as_json: options.Json = False,
) -> None:
    """Let heads under a new key count, after the node's audit key was changed on purpose."""
    with client.connected() as api:
        found = api.post("/v1/audit/keys", {"key": key})
    if as_json:
        output.line(found)
    else:
        output.text(f"{found['key']} is trusted (record {found['record']})")


def why(
    record: Annotated[
        str | None, typer.Argument(metavar="RECORD", help="Id of a record, or its first letters; else the last denial.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Explain a decision that was made, and what to do about it."""
    with client.connected() as api:
        wanted = record if record is not None else _last_denial(api)
        found = api.get(f"/v1/audit/{client.part(wanted)}")
    if as_json:
        output.line(found)
        return
    for sentence in found["explanation"]:
        output.text(output.safe(sentence))
    output.say(f"record {found['record'].get('id')}")


def _verified(api: client.Client) -> dict[str, Any]:
    """The report. `Unavailable`: there is none, so nothing is known of the log."""
    with output.progress("records") as progress:
        for line in api.lines("/v1/audit/verify", silence_s=client.TIMEOUT_S):
            said: dict[str, Any] = json.loads(line)
            if "ok" in said:
                return said
            if "failure" in said:
                raise Unavailable(str(said["failure"]["detail"]), hint=str(said["failure"]["hint"]))
            progress(int(said["checked"]), int(said["of"]))
    raise Unavailable("the verification broke off before its end", hint="remit status")


def _matching(api: client.Client, query: Mapping[str, object], limit: int | None) -> Iterable[dict[str, Any]]:
    """The latest `limit` records, or all of them as they arrive."""
    if limit is not None and limit <= PAGE and query["since"] is None:
        yield from api.get("/v1/audit", **query, limit=limit)["records"]
        return
    everything = pages(api, query)
    yield from everything if limit is None else deque(everything, maxlen=limit)


def pages(api: client.Client, query: Mapping[str, object]) -> Iterator[dict[str, Any]]:
    after = "0"
    while True:
        page = api.get("/v1/audit", **query, limit=PAGE, after=after)
        yield from page["records"]
        if len(page["records"]) < PAGE or page["next"] is None:
            return
        after = page["next"]


def _last_denial(api: client.Client) -> str:
    """Of a request, where there is one: a refused lookup of the same name is recorded too, and often later."""
    for kinds in (("decision", "boundary"), (None,)):
        found = [
            record for kind in kinds for record in api.get("/v1/audit", decision="deny", kind=kind, limit=1)["records"]
        ]
        if found:
            return str(max(found, key=lambda record: record["seq"])["id"])
    raise NotFound("nothing was denied so far", hint="remit audit list")


def _row(record: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        output.clock(record.get("time")),
        record.get("id", "-"),
        record.get("task") or "-",
        record.get("role") or "-",
        record.get("decision") or record.get("action") or record.get("kind") or "-",
        record.get("reason") or "-",
        output.shown(record.get("status")),
        _request(record),
    )


def _request(record: Mapping[str, Any]) -> str:
    by = f"{record['operator']}: " if record.get("operator") else ""
    if record.get("host") is None:
        return f"{by}{record.get('detail') or '-'}"
    usual = {"https": 443, "http": 80}.get(str(record.get("scheme")))
    port = f":{record['port']}" if record.get("port") not in (None, usual) else ""
    where = f"{record.get('scheme') or 'tcp'}://{record['host']}{port}{record.get('path') or ''}"
    return f"{by}{record.get('method') or record.get('kind')} {where}"


def _told(problem: object) -> str:
    if isinstance(problem, Mapping):
        return ", ".join(f"{name} {output.shown(value)}" for name, value in problem.items() if value is not None)
    return str(problem)
