"""Options that several commands have, so that they are spelled and explained once."""

from __future__ import annotations

from typing import Annotated

import typer

from remit.cli import completion

Json = Annotated[bool, typer.Option("--json", help="Print JSON: one object a line for lists.")]
TaskId = Annotated[
    str,
    typer.Argument(
        metavar="TASK",
        help="Id of a task, or its first letters; t- may be left out.",
        autocompletion=completion.tasks,
    ),
]
