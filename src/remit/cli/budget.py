"""`budget show` and `budget raise`: what is used of each budget, and more of it."""

from __future__ import annotations

from typing import Annotated

import typer

from remit.cli import client, options, output

app = typer.Typer(help="See what is used of budgets, and raise them.", no_args_is_help=True, rich_markup_mode=None)

COLUMNS = ("budget", "used", "limit", "left", "returns")


@app.command()
def show(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="The beginning of a budget's name, or a task's id.")
    ] = "",
    as_json: options.Json = False,
) -> None:
    """Show budgets in force and their use. Amounts are requests, bytes or seconds."""
    with client.connected() as api:
        found = api.get("/v1/budgets", name=name)["items"]
    output.rows(COLUMNS, found, as_json=as_json, empty="no budget is in force")


@app.command("raise")
def raise_(
    name: Annotated[str, typer.Argument(metavar="BUDGET", help="Its whole name (`remit budget show`).")],
    by: Annotated[str, typer.Option("--by", metavar="AMOUNT", help="How much more: 100, 10Mi or 30m.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is recorded.")],
    as_json: options.Json = False,
) -> None:
    """Allow more than a budget's limit. One with a window is raised until the window has passed."""
    with client.connected() as api:
        answer = api.post("/v1/budgets/raise", {"budget": name, "by": by, "reason": reason})
    if as_json:
        output.line(answer)
        return
    now = answer["budget"]
    output.text(f"{now['budget']}: {now['used']} of {now['limit']} used, {now['left']} left; record {answer['record']}")
