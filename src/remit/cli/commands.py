"""Every command but the fast ones, as one typer application, and what happens when one fails."""

from __future__ import annotations

from collections.abc import Callable

import typer

from remit import __version__
from remit.cli import (
    approvals,
    audit,
    budget,
    completion,
    decisions,
    delegate,
    errors,
    explain,
    export,
    lifecycle,
    manifests,
    operators,
    options,
    output,
    policy,
    retire,
    revoke,
    run,
    secrets,
    tasks,
)
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

app = typer.Typer(
    name="remit",
    help="Run agents with full capability inside a cell and a governed boundary outside it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _name in run.USAGE:
    app.command(_name)(completion.described(_name))


@app.command()
def version(as_json: options.Json = False) -> None:
    """Show the version."""
    if as_json:
        output.line({"version": __version__})
    else:
        output.text(__version__)


_PLAIN: tuple[Callable[..., None], ...] = (
    lifecycle.up,
    lifecycle.down,
    lifecycle.status,
    lifecycle.doctor,
    manifests.apply,
    manifests.get,
    manifests.remove,
    manifests.schema,
    delegate.delegate,
    tasks.ps,
    tasks.logs,
    tasks.stop,
    tasks.diff,
    tasks.merge,
    tasks.prune,
    audit.why,
    explain.explain,
    revoke.revoke,
    revoke.restore,
    revoke.revocations,
    revoke.panic,
    operators.whoami,
)
for _command in _PLAIN:
    app.command()(_command)
app.add_typer(budget.app, name="budget")
policy.app.command("decisions")(decisions.decisions)
app.add_typer(policy.app, name="policy")
app.add_typer(secrets.app, name="secret")
audit.app.command("export")(export.export)
audit.app.command("retire")(retire.retire)
app.add_typer(audit.app, name="audit")
app.add_typer(approvals.app, name="approvals")
app.add_typer(operators.app, name="operator")
app.add_typer(lifecycle.issuer, name="issuer")


def invoke(arguments: list[str]) -> int:
    """Run one command line; its exit code. Errors are told on stderr, never as a traceback."""
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
