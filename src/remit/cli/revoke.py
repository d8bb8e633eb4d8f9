"""`revoke`, `restore`, `revocations`, `panic`: authority taken away and given back.

A revocation that answers has happened: the node refuses the next request and what was open is cut. One that fails
says how far it got, and exits with 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from remit.cli import client, options, output
from remit.core.errors import Invalid

KINDS = ("task", "role", "capability", "credential")

Kind = Annotated[str, typer.Argument(metavar="KIND", help="task, role, capability or credential.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Id of a task (or its first letters), or a manifest's name.")]


def revoke(kind: Kind, name: Name, as_json: options.Json = False) -> None:
    """Take authority away, also from what is already open."""
    with client.connected() as api:
        answer = api.post("/v1/revocations", {"kind": _kind(kind), "name": name})
    if as_json:
        output.line(answer)
        return
    output.text(f"{answer['kind']} {answer['name']} revoked; {_cut(answer)}")
    _pending(answer)
    if kind != "task":
        output.say(f"hint: remit restore {kind} {answer['name']} gives it back")


def restore(kind: Kind, name: Name, as_json: options.Json = False) -> None:
    """Give a revoked role, capability or credential back. A task cannot be restored."""
    with client.connected() as api:
        answer = api.delete(f"/v1/revocations/{_kind(kind)}/{client.part(name)}")
    if as_json:
        output.line(answer)
    else:
        output.text(f"{kind} {name} restored")


def revocations(as_json: options.Json = False) -> None:
    """List what is revoked."""
    with client.connected() as api:
        found = api.get("/v1/revocations")["items"]
    output.rows(("kind", "name", "time", "operator", "pending"), found, as_json=as_json, empty="nothing is revoked")


def panic(
    reason: Annotated[str, typer.Option(help="Why: stands in the audit record. Needed to lift.")] = "",
    lift: Annotated[bool, typer.Option("--lift", help="End it.")] = False,
    as_json: options.Json = False,
) -> None:
    """Take everything from everybody at once: every connection is cut, no request passes, no task starts."""
    if lift and not reason.strip():
        raise Invalid("a panic is lifted only with a reason", hint='remit panic --lift --reason "what was found"')
    with client.connected() as api:
        if lift:
            answer = api.post("/v1/revocations/everything/lift", {"reason": reason})
        else:
            answer = api.post("/v1/revocations/everything", {"reason": reason or "no reason was given"})
    if as_json:
        output.line(answer)
    elif lift:
        output.text("lifted; what was revoked on its own stays revoked")
    else:
        output.text(f"everything revoked; {_cut(answer)}")
        _pending(answer)
        output.say('hint: remit panic --lift --reason "WHY" ends it')


def _cut(answer: Mapping[str, Any]) -> str:
    return f"{output.counted(answer['flows_closed'], 'open connection')} cut"


def _pending(answer: Mapping[str, Any]) -> None:
    if answer.get("pending"):
        output.say(f"warning: it is in force and survives a restart, but is not recorded yet: {answer['pending']}")
        output.say("hint: free some disk; remit revocations shows what is pending")


def _kind(text: str) -> str:
    if text not in KINDS:
        raise Invalid(f"{text!r} cannot be revoked or restored", hint=f"one of: {', '.join(KINDS)}")
    return text
