"""Options that several commands have, so that they are spelled, explained and read once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from remit.cli import completion
from remit.core.errors import Invalid

Number = TypeVar("Number", int, float)
Json = Annotated[bool, typer.Option("--json", help="Print JSON: one object a line for lists.")]
TaskId = Annotated[
    str,
    typer.Argument(
        metavar="TASK",
        help="Id of a task, or its first letters; t- may be left out.",
        autocompletion=completion.tasks,
    ),
]


def quantity_of(read: Callable[[str], Number], text: str, option: str) -> Number:
    """What `read` (of `policy.quantity`) makes of what was given for `option`. `Invalid`: nothing."""
    try:
        return read(text)
    except ValueError as error:
        raise Invalid(f"{option} {text!r}: {error}") from error
