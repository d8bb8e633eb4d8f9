"""`remit delegate`, where it does not work: outside of cells. Inside, a program of its own has this name."""

from __future__ import annotations

from typing import Annotated

import typer

from remit.core.errors import Invalid


def delegate(
    command: Annotated[list[str], typer.Argument(help="The command and its arguments.")],
    role: Annotated[str, typer.Option(help="One that the role of the task delegates to (spec.delegates).")],
    capability: Annotated[
        list[str] | None, typer.Option(help="Give it only this one of its role's capabilities (repeatable).")
    ] = None,
    budget: Annotated[
        list[str] | None, typer.Option(help="At most so much: requests=3, or just 3; time=5m (repeatable).")
    ] = None,
    stdin: Annotated[bool, typer.Option("--stdin", help="Hand standard input over, up to 512 KiB.")] = False,
) -> None:
    """Inside a cell: run COMMAND as a narrower task in a cell of its own, as a part of the task that asks.

    What it writes comes out here, and its exit code is this one's. It ends when this ends. Exit codes of its own: 2
    (usage), 5 (refused), 6 (a part of the node is missing, or the task was lost).
    """
    raise Invalid(
        "remit delegate works inside of cells: whose part the task is, is said by the cell that asks",
        hint=f"from outside: remit run --role {role if role.isidentifier() else 'ROLE'} --parent TASK -- COMMAND",
    )
