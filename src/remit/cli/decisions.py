"""`policy decisions`: what an Open Policy Agent says it decided, and whether our engine comes to the same."""

from __future__ import annotations

from typing import Annotated

import typer

from remit.cli import client, options, output, policy
from remit.policy import compile as compiler
from remit.policy import trial, uploads
from remit.policy.uploads import Word

FAILED = 1


def decisions(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The latest so many.")] = 100,
    compare: Annotated[
        bool, typer.Option("--compare", help="Decide each again here; exit code 1 where one differs.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """List the decisions that an OPA uploaded, oldest first."""
    with client.connected() as api:
        events = api.get("/v1/decisions", limit=limit)["items"]
        rules = compiler.rules(policy.in_force(api)) if compare else None
    if rules is None:
        if as_json:
            output.rows((), events, as_json=True)
            return
        rows = [(output.clock(e.get("timestamp")), e["decision_id"], e.get("path"), output.shown(e.get("result")))
                for e in events]  # fmt: skip
        output.table(("time", "decision", "path", "result"), rows, empty="no OPA has uploaded a decision")
        return
    asks = trial.Regorus(rules)
    found = [(event, uploads.compared(event, rules.policies, asks)) for event in events]
    if as_json:
        for event, said in found:
            output.line({**event, "compared": said.word.value, "detail": said.detail})
    else:
        rows = [(output.clock(event.get("timestamp")), event["decision_id"], event.get("path"), said.detail)
                for event, said in found if said.word is Word.DIFFERS]  # fmt: skip
        output.table(("time", "decision", "path", "how"), rows, empty="none differs")
    counts = {word: sum(said.word is word for _, said in found) for word in Word}
    output.say(", ".join(f"{count} {word}" for word, count in counts.items()))
    if counts[Word.DIFFERS]:
        raise typer.Exit(FAILED)
