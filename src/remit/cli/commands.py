"""Every command but the fast ones, as one typer application, and what happens when one fails.

The modules of all commands, and what those import (the models of manifests above all), take longer to import than most
commands take to work. So a command line that names its command first gets an application that knows this one only.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Mapping
from typing import Any, cast

import typer

from remit import __version__
from remit.cli import completion, errors, examples, options, output, run
from remit.core.errors import RemitError

_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""typer carries its own copy of click and does not export its base of usage errors."""

_EXAMPLES = """\b
Examples:
  remit up --detach
  remit apply -f examples/01-first-cell
  remit run --role devops --workspace . -- python3 agent.py
  remit audit list --decision deny
  remit why
  remit revoke task TASK
"""

_COMMANDS: Mapping[str, str] = {
    "up": "lifecycle",
    "down": "lifecycle",
    "status": "lifecycle",
    "doctor": "lifecycle",
    "apply": "manifests",
    "get": "manifests",
    "remove": "manifests",
    "schema": "manifests",
    "delegate": "delegate",
    "ps": "tasks",
    "logs": "tasks",
    "stop": "tasks",
    "diff": "tasks",
    "merge": "tasks",
    "prune": "tasks",
    "why": "audit",
    "explain": "explain",
    "revoke": "revoke",
    "restore": "revoke",
    "revocations": "revoke",
    "panic": "revoke",
    "whoami": "operators",
}
"""Command → the module that has a function of its name."""

_GROUPS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "budget": (("budget", "app"),),
    "policy": (("policy", "app"), ("decisions", "decisions")),
    "secret": (("secrets", "app"),),
    "audit": (
        ("audit", "app"),
        ("export", "export"),
        ("retire", "retire"),
        ("retire", "acknowledge"),
        ("retire", "retention"),
    ),
    "approvals": (("approvals", "app"),),
    "operator": (("operators", "app"),),
    "issuer": (("lifecycle", "issuer"),),
}
"""Group → (module, its application), then (module, function) of each command that joins it from elsewhere."""


def application(names: Iterable[str] = (*_COMMANDS, *_GROUPS)) -> typer.Typer:
    """An application of these commands, and of those that import nothing."""
    app = typer.Typer(
        name="remit",
        help="Run agents with full capability inside a cell and a governed boundary outside it.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        epilog=_EXAMPLES,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name in run.USAGE:
        app.command(name)(completion.described(name))
    app.command(epilog=examples.epilog("version"))(version)
    for name in names:
        if name in _COMMANDS:
            app.command(epilog=examples.epilog(name))(_found(_COMMANDS[name], name))
        else:
            app.add_typer(_group(name), name=name)
    return app


@functools.cache
def _group(name: str) -> typer.Typer:
    group, *joining = (_found(module, attribute) for module, attribute in _GROUPS[name])
    for command in joining:
        group.command()(command)
    for one in group.registered_commands:
        one.epilog = examples.epilog(f"{name} {one.name or one.callback.__name__}")
    return cast("typer.Typer", group)


def _found(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"remit.cli.{module}"), name)


def version(as_json: options.Json = False) -> None:
    """Show the version."""
    if as_json:
        output.line({"version": __version__})
    else:
        output.text(__version__)


def invoke(arguments: list[str]) -> int:
    """Run one command line; its exit code. Errors are told on stderr, never as a traceback."""
    if arguments[:1] == ["--version"]:
        arguments = ["version", *arguments[1:]]
    named = [name for name in arguments[:1] if name in _COMMANDS or name in _GROUPS]
    app = application(named) if named else application()
    try:
        code = app(args=arguments, prog_name="remit", standalone_mode=False)
    except RemitError as error:
        return errors.report(error)
    except typer.Abort:
        return errors.INTERRUPTED
    except KeyboardInterrupt:
        return errors.INTERRUPTED
    except _USAGE_ERROR as error:
        return _misused(error)
    return code if isinstance(code, int) else 0


def _misused(error: Exception) -> int:
    message = getattr(error, "format_message", lambda: str(error))()
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "remit"
    if type(error).__name__ == "NoArgsIsHelpError":
        output.say(message)
        return errors.EXIT_CODES["invalid"]
    output.say(f"error: {message}")
    output.say(f"hint: {path} --help")
    return errors.EXIT_CODES["invalid"]
