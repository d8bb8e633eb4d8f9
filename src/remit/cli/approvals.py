"""`approvals list|show|approve|deny|watch|grants|revoke`: what agents wait for, and what humans say to it.

Everything that is shown of a request was written by an agent; `cli.output` escapes it.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from remit.cli import client, following, options, output
from remit.core.grant import Scope
from remit.policy import quantity

app = typer.Typer(no_args_is_help=True, help="Answer agents that wait for a human.")

Id = Annotated[str, typer.Argument(metavar="APPROVAL", help="Its id, or the first letters; a- may be left out.")]
Note = Annotated[str, typer.Option("--note", help="Why; it is recorded, and the agent is told a refusal's.")]


@app.command("list")
def list_approvals(
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also those of the last day.")] = False,
    as_json: options.Json = False,
) -> None:
    """List what waits."""
    with client.connected() as api:
        found = api.get("/v1/approvals", all="true" if everything else "false")["items"]
    if as_json:
        output.rows((), found, as_json=True)
        return
    rows = [
        (one["id"], one["state"], output.clock(one["expires"]), one["question"]["task"], _what(one)) for one in found
    ]
    output.table(("id", "state", "expires", "task", "wants"), rows, empty="nothing waits for a human")


@app.command()
def show(approval: Id, as_json: options.Json = False) -> None:
    """Show all that an answer would be bound to, and what each answer would allow."""
    with client.connected() as api:
        found = api.get(f"/v1/approvals/{client.part(approval)}")
    if as_json:
        output.line(found)
    else:
        _tell(found)


@app.command()
def approve(
    approval: Id,
    scope: Annotated[Scope, typer.Option("--scope", help="What to allow, narrowest first.")] = Scope.ONCE,
    duration: Annotated[str, typer.Option("--for", help="For how long: 10m; never longer than the scope.")] = "",
    uses: Annotated[int | None, typer.Option("--uses", min=1, help="How often; default: as the scope says.")] = None,
    note: Note = "",
    as_json: options.Json = False,
) -> None:
    """Allow it. The request that waits is decided again, from the start."""
    body: dict[str, Any] = {"scope": scope.value, "note": note}
    if duration:
        body["for_s"] = options.quantity_of(quantity.duration_s, duration, "--for")
    if uses is not None:
        body["uses"] = uses
    with client.connected() as api:
        done = api.post(f"/v1/approvals/{client.part(approval)}/approve", body)
    if as_json:
        output.line(done)
        return
    grant = done["grant"]
    output.say(f"approved ({grant['id']}): {grant['allows']}")
    if done.get("proposal"):
        output.say("to allow it always, apply this (it is only proposed) and name it in the role:")
        output.text(json.dumps(done["proposal"], indent=2))


@app.command()
def deny(approval: Id, note: Note = "", as_json: options.Json = False) -> None:
    """Refuse it. The same request is not shown again for a while."""
    with client.connected() as api:
        done = api.post(f"/v1/approvals/{client.part(approval)}/deny", {"note": note})
    if as_json:
        output.line(done)
    else:
        output.say(f"denied: {done['approval']['id']}")


@app.command()
def watch(as_json: options.Json = False) -> None:
    """Print approvals as they come and are answered, until interrupted. A control plane that goes is waited for."""
    known: dict[str, str] = {}
    for one in following.events("/v1/approvals/stream"):
        if known.get(one["id"]) == one["state"]:
            continue  # told before the stream broke off
        first = one["id"] not in known
        known[one["id"]] = one["state"]
        if as_json:
            output.line(one)
        elif first and one["state"] == "pending":
            _tell(one)
        else:
            by = f" by {one['author']}" if one["author"] else ""
            output.text(f"{one['id']} {one['state']}{by}")


@app.command()
def grants(as_json: options.Json = False) -> None:
    """List grants in force."""
    with client.connected() as api:
        found = api.get("/v1/grants")["items"]
    if as_json:
        output.rows((), found, as_json=True)
        return
    rows = [
        (one["id"], one["task"], output.clock(one["expires"]), _used(one), one["author"], one["allows"])
        for one in found
    ]
    output.table(("id", "task", "until", "used", "by", "allows"), rows, empty="no grant is in force")


@app.command()
def revoke(
    grant: Annotated[str, typer.Argument(metavar="GRANT", help="Its whole id (`remit approvals grants`).")],
    as_json: options.Json = False,
) -> None:
    """Take a grant back, and cut what is open under it; one that is used up too."""
    with client.connected() as api:
        done = api.delete(f"/v1/grants/{client.part(grant)}")
    if as_json:
        output.line(done)
    else:
        output.say(f"grant {grant} revoked")


def _what(one: dict[str, Any]) -> str:
    asked = one["question"]
    return f"{asked['method']} {asked['protocol']}://{asked['host']}:{asked['port']}{asked['path']}"


def _used(one: dict[str, Any]) -> str:
    return f"{one['used']} of {one['uses']}" if one["uses"] is not None else str(one["used"])


def _tell(one: dict[str, Any]) -> None:
    asked = one["question"]
    output.fields(
        {
            "approval": one["id"],
            "state": one["state"],
            "answered by": one["author"],
            "note": one["note"],
            "task": f"{asked['task']} (role {asked['role']})",
            "wants": f"{asked['method']} {asked['protocol']}://{asked['host']}:{asked['port']}{asked['target']}",
            "credential": asked["credential"],
            "headers": "; ".join(asked["headers"]),
            "why": "; ".join(asked["reasons"]),
            "expires": f"{output.clock(one['expires'])}, then it is denied",
            **{f"--scope {offer['scope']}": offer["allows"] for offer in one["offers"]},
            "body": _size(asked),
        }
    )
    for line in asked["body_text"].split("\n") if asked["body_text"] else ():
        output.text(f"  | {line}")  # no line of an agent's stands where one of ours could


def _size(asked: dict[str, Any]) -> str:
    size, shown = asked["body_bytes"], len(asked["body_text"].encode())
    if not size:
        return "none"
    what = "all of it" if shown == size else f"its first {shown} bytes" if shown else "not text, so not shown"
    return f"{output.counted(size, 'byte')}, SHA-256 {asked['body']}; {what}"
