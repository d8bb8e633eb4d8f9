"""The options that narrow audit records, said once: whatever lists records has all of them.

typer makes options of a command's signature, so `narrowed` puts these there, and gives the command one query instead.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from remit.cli import completion
from remit.core.errors import Invalid
from remit.policy import quantity

Query = Mapping[str, object]
Role = Annotated[str | None, typer.Option(help="Name of a role.", autocompletion=completion.roles)]
Moment = Annotated[str | None, typer.Option(metavar="TIME", help="RFC 3339, or how long ago: 90s, 30m, 1h, 2d.")]
_FIELDS: Mapping[str, Any] = {
    "task": Annotated[
        str | None, typer.Option(help="Id of a task, or its first letters.", autocompletion=completion.tasks)
    ],
    "tree": Annotated[
        str | None, typer.Option(help="Likewise: of it and of every task below it.", autocompletion=completion.tasks)
    ],
    "role": Role,
    "decision": Annotated[str | None, typer.Option(help="permit, hold or deny.")],
    "reason": Annotated[str | None, typer.Option(help="Such as no_capability; docs/reference lists them.")],
    "capability": Annotated[str | None, typer.Option(help="Name of a capability.")],
    "credential": Annotated[str | None, typer.Option(help="Name of a credential.")],
    "host": Annotated[str | None, typer.Option(help="Name of a host, as it was asked for.")],
    "kind": Annotated[
        str | None,
        typer.Option(
            help="decision, operator, approval, dns, boundary or budget. Listed only where this names them: "
            "completion, reservation, checkpoint and segment."
        ),
    ],
}
_TIMES: Mapping[str, Any] = {"since": Moment, "until": Moment}


def narrowed(*, times: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command with these options where its parameter `query` stands, which is a query of the API. `times`: those
    that bound the time too."""
    added = {**_FIELDS, **(_TIMES if times else {})}

    def wrap(command: Callable[..., None]) -> Callable[..., None]:
        def narrowing(**given: Any) -> None:
            query = {name: given.pop(name) for name in added}
            command(query={**query, **{name: moment(query[name]) for name in _TIMES if times}}, **given)

        parameters: list[inspect.Parameter] = []
        for own in inspect.signature(command, eval_str=True).parameters.values():
            if own.name == "query":
                parameters += [own.replace(name=name, annotation=kind, default=None) for name, kind in added.items()]
            else:
                parameters.append(own)
        narrowing.__name__, narrowing.__doc__ = command.__name__, command.__doc__
        narrowing.__annotations__ = {one.name: one.annotation for one in parameters}
        narrowing.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
        )
        return narrowing

    return wrap


def moment(text: str | None) -> str | None:
    """A point in time that people write, in RFC 3339. `Invalid`: it is none."""
    if text is None:
        return None
    try:
        ago = quantity.duration_s(text)
    except ValueError:
        pass
    else:
        return datetime.fromtimestamp(max(0.0, time.time() - ago), UTC).isoformat()
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise Invalid(f"{text!r} is not a time", hint="write 2026-01-31T12:00:00Z, or 30m (30 minutes ago)") from error
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).isoformat()
