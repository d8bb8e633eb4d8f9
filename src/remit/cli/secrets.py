"""`secret put|list|remove`: secrets from a prompt or stdin, never from an argument.

Arguments show in `ps` and in shell histories, so there is no option that takes a value.
"""

from __future__ import annotations

import base64
import getpass
import sys
from typing import Annotated

import typer

from remit.cli import client, options, output
from remit.core.errors import Invalid

MAX_SECRET_BYTES = 64 << 10

app = typer.Typer(no_args_is_help=True, help="Keep secrets in the sealed store.")


@app.command()
def put(
    name: Annotated[str, typer.Argument(help="The name that credentials use (spec.source.sealed.name).")],
    raw: Annotated[bool, typer.Option("--raw", help="Keep a newline at the end of stdin.")] = False,
    as_json: options.Json = False,
) -> None:
    """Store a secret, read from stdin or asked for; one of that name is replaced."""
    path = f"/v1/secrets/{client.part(name)}"
    value = _read(name, raw)
    with client.connected() as api:
        answer = api.put(path, {"value_base64": base64.b64encode(value).decode()})
    if as_json:
        output.line(answer or {"name": name})
    else:
        output.say(f"secret {name} stored")


@app.command("list")
def list_secrets(as_json: options.Json = False) -> None:
    """List names, never values."""
    with client.connected() as api:
        found = api.get("/v1/secrets")["items"]
    if not as_json:
        found = [{**item, "updated": output.clock(item.get("updated"))} for item in found]
    output.rows(("name", "updated", "credentials"), found, as_json=as_json, empty="no secret is stored")


@app.command("rm")
def rm(name: Annotated[str, typer.Argument()], as_json: options.Json = False) -> None:
    """Forget a secret. What uses it is refused from then on."""
    with client.connected() as api:
        answer = api.delete(f"/v1/secrets/{client.part(name)}")
    if as_json:
        output.line(answer or {"name": name})
    else:
        output.say(f"secret {name} removed")


def _read(name: str, raw: bool) -> bytes:
    if sys.stdin.isatty():
        value = getpass.getpass(f"value of {name}: ").encode()
    else:
        value = sys.stdin.buffer.read(MAX_SECRET_BYTES + 2)
        if not raw:
            value = value.removesuffix(b"\n").removesuffix(b"\r")
    if not value:
        raise Invalid("the secret is empty", hint=f'printf %s "$TOKEN" | remit secret put {name}')
    if len(value) > MAX_SECRET_BYTES:
        raise Invalid(f"the secret is longer than {MAX_SECRET_BYTES} bytes")
    return value
