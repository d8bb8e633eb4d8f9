"""`operator add|list|rm|token`, `whoami`: who may act on this control plane."""

from __future__ import annotations

from typing import Annotated

import typer

from remit.cli import client, options, output
from remit.core.principal import OperatorKind, OperatorRole
from remit.policy import quantity

app = typer.Typer(no_args_is_help=True, help="Say who may act on this control plane.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The operator's name.")]


@app.command()
def add(
    name: Name,
    role: Annotated[OperatorRole, typer.Option("--role", help="What they may do.")],
    service: Annotated[bool, typer.Option("--service", help="A program, not a person.")] = False,
    uid: Annotated[int | None, typer.Option("--uid", help="Their user on this machine.")] = None,
    as_json: options.Json = False,
) -> None:
    """Add an operator."""
    kind = OperatorKind.SERVICE if service else OperatorKind.HUMAN
    body = {"name": name, "role": role.value, "kind": kind.value, "uid": uid}
    with client.connected() as api:
        answer = api.post("/v1/operators", body)
    if as_json:
        output.line(answer)
    else:
        output.say(f"operator {name} added as {role.value}")


@app.command("list")
def list_operators(as_json: options.Json = False) -> None:
    """List operators. Root and the user of the control plane are administrators without being listed."""
    with client.connected() as api:
        found = api.get("/v1/operators")["items"]
    if not as_json:
        found = [{**item, "created": output.clock(item.get("created"))} for item in found]
    output.rows(("name", "kind", "role", "uid", "created"), found, as_json=as_json, empty="there are no operators yet")


@app.command("rm")
def rm(name: Name, as_json: options.Json = False) -> None:
    """Remove an operator. Its tokens end at once."""
    with client.connected() as api:
        answer = api.delete(f"/v1/operators/{client.part(name)}")
    if as_json:
        output.line(answer)
    else:
        output.say(f"operator {name} removed")


@app.command()
def token(
    name: Name,
    ttl: Annotated[str, typer.Option("--ttl", help="How long it is good: 12h, 90d; a year at most.")] = "90d",
    revoke: Annotated[bool, typer.Option("--revoke", help="End every token of the operator instead.")] = False,
    as_json: options.Json = False,
) -> None:
    """Issue a token, printed once; use it in REMIT_TOKEN or as a bearer token of the API."""
    path, ttl_s = f"/v1/operators/{client.part(name)}/tokens", options.quantity_of(quantity.duration_s, ttl, "--ttl")
    with client.connected() as api:
        answer = api.delete(path) if revoke else api.post(path, {"ttl_s": ttl_s})
    if as_json:
        output.line(answer)
    elif revoke:
        output.say(f"{output.counted(answer['revoked'], 'token')} of {name} revoked")
    else:
        output.text(answer["token"])
        output.say(
            f"token {answer['id']} of {name}, good until {output.clock(answer['expires'])}; it is not shown again"
        )


def whoami(as_json: options.Json = False) -> None:
    """Show who you are to the control plane."""
    with client.connected() as api:
        answer = api.get("/v1/whoami")
    if as_json:
        output.line(answer)
    else:
        output.fields(answer)
