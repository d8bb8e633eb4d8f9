"""`secret import`: many secrets at once, from a `.env` file or the environment, with 1Password references in either.

Values are read here, by the client, as whoever runs it; the control plane seals each to the node at once and keeps
nothing in the clear. Everything is read and named before anything is stored.
"""

from __future__ import annotations

import base64
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from remit import settings
from remit.cli import client, dotenv, options, output, references
from remit.core.claims import ROLE_NAME
from remit.core.errors import Invalid, NotFound, Unavailable

ENVIRONMENT = "env"


def import_(
    source: Annotated[
        str, typer.Option("--from", metavar="FILE", help="A .env file; - for stdin; env for this environment.")
    ],
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="VARIABLE", help="Only this one; may be given several times.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Name what would be stored, and store nothing.")] = False,
    as_json: options.Json = False,
) -> None:
    """Store secrets from a .env file or the environment: GITHUB_TOKEN becomes github-token.

    A value that is an op:// reference is read with 1Password's op.
    """
    if source == ENVIRONMENT and not only:
        raise Invalid("name the variables: an environment holds much that is no secret", hint="--only GITHUB_TOKEN")
    wanted = _chosen(settings.environment() if source == ENVIRONMENT else _file(source), only or (), source)
    named = _named(wanted)
    if dry_run:
        rows = [{"name": name, "variable": variable} for name, variable in named.items()]
        output.rows(("name", "variable"), rows, as_json=as_json, empty="nothing would be stored")
        return
    values = {name: _value(wanted[variable]) for name, variable in named.items()}
    empty = [named[name] for name, value in values.items() if not value]
    if empty:
        raise Invalid(f"{empty[0]} is empty", hint="leave it out with --only")
    with client.connected() as api:
        for name, value in values.items():
            body = {"value_base64": base64.b64encode(value).decode()}
            answer = api.put(f"/v1/secrets/{client.part(name)}", body)
            if as_json:
                output.line({**answer, "variable": named[name]})
            else:
                output.say(f"secret {name} stored (version {answer['version']})")


def _file(source: str) -> Mapping[str, str]:
    try:
        if source == "-":
            data = sys.stdin.buffer.read(dotenv.MAX_BYTES + 1)
        else:
            with Path(source).open("rb") as opened:
                if stat.S_IMODE(os.fstat(opened.fileno()).st_mode) & 0o077:
                    output.say(f"warning: {source} can be read by others (chmod 600 {source})")
                data = opened.read(dotenv.MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {source}") from error
    except OSError as error:
        raise Unavailable(f"{source} cannot be read: {error.strerror}") from error
    if len(data) > dotenv.MAX_BYTES:
        raise Invalid(f"{source} is longer than {dotenv.MAX_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise Invalid(f"{source} is not UTF-8") from None
    return dotenv.parse(text, source)


def _chosen(found: Mapping[str, str], only: Sequence[str], source: str) -> Mapping[str, str]:
    missing = [name for name in only if name not in found]
    if missing:
        raise NotFound(f"{source} has no variable {missing[0][:80]!a}")
    return {name: found[name] for name in only} if only else found


def _named(wanted: Mapping[str, str]) -> Mapping[str, str]:
    """Variable by the name of its secret. `Invalid` where a name cannot be made, or two variables make one."""
    named: dict[str, str] = {}
    for variable in wanted:
        name = variable.lower().replace("_", "-").strip("-")
        if not ROLE_NAME.fullmatch(name):
            raise Invalid(f"{variable[:80]!a} makes no name of a secret", hint="remit secret put NAME")
        if name in named:
            raise Invalid(f"{named[name]} and {variable} would both be secret {name}", hint="choose with --only")
        named[name] = variable
    return named


def _value(text: str) -> bytes:
    return references.read(text) if references.is_one(text) else text.encode(errors="surrogateescape")
