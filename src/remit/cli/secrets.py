"""`secret put|rotate|rekey|import|list|test|usage|rm`: secrets from a prompt or stdin, never from an argument.

Arguments show in `ps` and in shell histories, so there is no option that takes a value.
"""

from __future__ import annotations

import base64
import getpass
import sys
from typing import Annotated, Any

import typer

from remit.cli import client, importing, narrowing, options, output
from remit.cli import drill as drilling
from remit.core.errors import Invalid
from remit.core.source import MAX_KEPT_BYTES

app = typer.Typer(no_args_is_help=True, help="Keep secrets: sealed, or in the OpenBao of the node.")


app.command("import")(importing.import_)
app.command()(drilling.drill)

Expires = Annotated[
    str | None, typer.Option("--expires", metavar="WHEN", help="When it ends: 2027-01-31, a time with zone, or 90d.")
]
Raw = Annotated[bool, typer.Option("--raw", help="Keep a newline at the end of stdin.")]


@app.command()
def put(
    name: Annotated[str, typer.Argument(help="The name that credentials use (spec.source.sealed.name).")],
    raw: Raw = False,
    expires: Expires = None,
    as_json: options.Json = False,
) -> None:
    """Store a secret, read from stdin or asked for; one of that name is replaced."""
    body, path = _body(_read(name, raw), expires), f"/v1/secrets/{client.part(name)}"
    with client.connected() as api:
        _tell(api.put(path, body), "stored", as_json=as_json)


@app.command()
def rotate(
    name: Annotated[str, typer.Argument(help="A secret that is stored.")],
    raw: Raw = False,
    expires: Expires = None,
    as_json: options.Json = False,
) -> None:
    """Store a new version of a secret: the next request uses it, open streams go on."""
    body, path = _body(_read(name, raw), expires), f"/v1/secrets/{client.part(name)}/rotate"
    with client.connected() as api:
        _tell(api.post(path, body), "rotated", as_json=as_json)


@app.command()
def rekey(as_json: options.Json = False) -> None:
    """Make a new sealing key: every secret is sealed for it and the key before is forgotten. Nothing is cut."""
    with client.connected() as api:
        done = api.post("/v1/sealing-key/rotate")
    if as_json:
        output.line(done)
    else:
        output.say(f"a new sealing key, and {output.counted(done['secrets'], 'secret')} sealed anew")


@app.command("list")
def list_secrets(as_json: options.Json = False) -> None:
    """List names, versions, ends and last uses; never values."""
    with client.connected() as api:
        answer = api.get("/v1/secrets")
    found = answer["items"]
    if not as_json:
        times = ("updated", "expires", "last_used")
        found = [{**item, **{name: output.clock(item.get(name)) for name in times}} for item in found]
    columns = ("name", "version", "state", "updated", "expires", "last_used", "credentials")
    output.rows(columns, found, as_json=as_json, empty="no secret is stored")
    if answer["needed"] and not as_json:
        output.say(f"credentials need, and nobody has stored: {', '.join(answer['needed'])}")
        output.say(f"hint: remit secret put {answer['needed'][0]}")


@app.command()
def test(
    name: Annotated[str, typer.Argument(help="A secret, or a credential.")], as_json: options.Json = False
) -> None:
    """Try whether a secret could be used now, without showing it. Exit code 1 where it could not."""
    with client.connected() as api:
        found = api.post(f"/v1/secrets/{client.part(name)}/test", {})["items"]
    rows = found if as_json else [{**one, "outcome": "ok" if one.get("ok") else "failed"} for one in found]
    output.rows(("credential", "outcome", "source", "expires", "hosts", "detail"), rows, as_json=as_json)
    if not all(one.get("ok") is True for one in found):
        raise typer.Exit(1)


@app.command()
def usage(
    name: Annotated[str, typer.Argument(help="A secret, or a credential.")],
    since: narrowing.Moment = None,
    as_json: options.Json = False,
) -> None:
    """Show who used a secret when, from the audit log."""
    with client.connected() as api:
        found = api.get(f"/v1/secrets/{client.part(name)}/usage", since=narrowing.moment(since))
    rows = found["items"]
    if not as_json:
        rows = [{**one, "first": output.clock(one["first"]), "last": output.clock(one["last"])} for one in rows]
    columns = ("credential", "task", "role", "count", "first", "last", "host")
    output.rows(columns, rows, as_json=as_json, empty=f"secret {name} was not used")
    if not found["whole"]:
        output.say("older uses were left out; narrow it with --since")


@app.command("rm")
def rm(name: Annotated[str, typer.Argument(help="A secret that is stored.")], as_json: options.Json = False) -> None:
    """Forget a secret. What uses it is refused from then on."""
    with client.connected() as api:
        answer = api.delete(f"/v1/secrets/{client.part(name)}")
    if as_json:
        output.line(answer)
    else:
        output.say(f"secret {name} removed")


def _body(value: bytes, expires: str | None) -> dict[str, str]:
    body = {"value_base64": base64.b64encode(value).decode()}
    return {**body, "expires": expires} if expires is not None else body


def _tell(answer: dict[str, Any], what: str, *, as_json: bool) -> None:
    if as_json:
        output.line(answer)
        return
    end = f"; it expires {output.clock(answer['expires'])}" if answer["expires"] else ""
    output.say(f"secret {answer['name']} {what} (version {answer['version']}){end}")


def _read(name: str, raw: bool) -> bytes:
    if sys.stdin.isatty():
        value = getpass.getpass(f"value of {name}: ").encode()
    else:
        value = sys.stdin.buffer.read(MAX_KEPT_BYTES + 2)
        if not raw:
            value = value.removesuffix(b"\n").removesuffix(b"\r")
    if not value:
        raise Invalid("the secret is empty", hint=f'printf %s "$TOKEN" | remit secret put {name}')
    if len(value) > MAX_KEPT_BYTES:
        raise Invalid(f"the secret is longer than {MAX_KEPT_BYTES} bytes")
    return value
