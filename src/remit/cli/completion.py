"""What a shell may complete: the options of the fast commands, and names that only the node knows.

`cli.run` reads its command line itself, so typer knows nothing of it. Here its usage text, which is what a user reads,
becomes a signature that typer completes from. Names are asked of the node; a node that does not answer completes
nothing, and says nothing into a half-typed line.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any

import typer

from remit.cli import client, run
from remit.core.errors import RemitError

_OPTION = re.compile(r"^  (--[a-z-]+)(?:, (--[a-z-]+))?(?: ([A-Z][A-Z=\[\]]*))? +(.*)$", re.MULTILINE)


def roles(incomplete: str) -> list[str]:
    return _asked("/v1/roles", lambda item: item["metadata"]["name"], incomplete)


def tasks(incomplete: str) -> list[str]:
    """Of the tasks that run."""
    return _asked("/v1/tasks", lambda item: item["id"], incomplete)


_NAMES: dict[str, Callable[[str], list[str]]] = {"ROLE": roles, "TASK": tasks}


def described(name: str) -> Callable[..., None]:
    """Fast command `name` for typer's eyes. `cli.main` dispatches it before typer is imported."""

    def command(**_: Any) -> None:
        raise typer.Exit(run.main([name, "--help"]))

    usage = run.USAGE[name]
    parameters = list(_options(usage))
    if " TASK" in usage.splitlines()[0]:
        parameters.insert(0, _parameter("task", Annotated[str, typer.Argument(autocompletion=tasks)]))
    command.__doc__ = usage.split("\n\n")[1].replace("\n", " ")
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def _options(usage: str) -> Any:
    for long, also, value, meaning in _OPTION.findall(usage):
        complete = _NAMES.get(value)
        for option in filter(None, (long, also)):
            shape: Any = str if value else bool
            declared = typer.Option(option, help=meaning, autocompletion=complete)
            yield _parameter(option.removeprefix("--").replace("-", "_"), Annotated[shape | None, declared])


def _parameter(name: str, annotation: object) -> inspect.Parameter:
    default = inspect.Parameter.empty if name == "task" else None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _asked(path: str, name: Callable[[Any], str], incomplete: str) -> list[str]:
    try:
        with client.connected(talks=False) as api:
            return [found for item in api.get(path)["items"] if (found := name(item)).startswith(incomplete)]
    except RemitError:
        return []
