"""`explain`: what would be decided on a request that nobody sent, step by step."""

from __future__ import annotations

from typing import Annotated

import typer

from remit.cli import client, completion, options, output
from remit.core import observe
from remit.core.errors import Invalid

_MARKS = {"not_reached": "not reached"}
_OBSERVED = "it passes without a credential, its address and path being sound, with would_deny in its record"


def explain(
    method: Annotated[str, typer.Argument(help="Such as GET.")],
    url: Annotated[str, typer.Argument(help="Such as https://api.example.com/path.")],
    role: Annotated[
        str | None, typer.Option(help="Role of the supposed task.", autocompletion=completion.roles)
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Instead of a role: a task that runs, with its grants and those above it.")
    ] = None,
    header: Annotated[list[str] | None, typer.Option("--header", "-H", help="'Name: value'. Repeatable.")] = None,
    as_json: options.Json = False,
) -> None:
    """Say what would be decided, and why. Nothing is sent. Exit code 0 either way."""
    body = {"role": role, "task": task, "method": method, "url": url, "headers": _headers(header or [])}
    with client.connected() as api:
        answer = api.post("/v1/explain", body)
    if as_json:
        output.line(answer)
        return
    output.table(
        ("step", "outcome", "detail"),
        [(step["step"], _MARKS.get(step["outcome"], step["outcome"]), step["detail"]) for step in answer["steps"]],
        wrap=True,
    )
    if answer["above"]:
        output.text("\n")
        output.table(
            ("above", "role", "allows", "detail"),
            [
                (one["task"], one["role"], "yes" if one["capability"] else "no", one["detail"])
                for one in answer["above"]
            ],
            wrap=True,
        )
    output.text("\n")
    summary = {
        "decision": answer["decision"],
        "mode": answer["mode"] if answer["mode"] != "enforce" else None,
        "reason": answer["reason"],
        "detail": answer["detail"],
        "capability": answer["capability"],
        "credential": answer["credential"],
        "grant": answer["grant"],
        "observed": _OBSERVED if answer["mode"] == "observe" and answer["reason"] in observe.PASSED else None,
        "next": answer["next"] if answer["decision"] != "permit" else None,
    }
    output.fields(summary)


def _headers(given: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for text in given:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise Invalid(f"{text!r} is not a header", hint="write it like -H 'Content-Type: application/json'")
        headers[name.strip()] = value.strip()
    return headers
