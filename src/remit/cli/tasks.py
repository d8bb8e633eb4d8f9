"""`ps`, `logs`, `stop`, `diff`, `merge`: tasks and the cells that run them.

Which tasks exist is asked of the control plane; their output and workspaces live with `cells`. What comes out of a
cell was written by an agent: on a terminal it is shown with its control characters escaped unless `--raw` says
otherwise; into a pipe or a file it goes as it is.
"""

from __future__ import annotations

import codecs
import os
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from remit.cli import cells, client, options, output
from remit.policy import quantity

_COLUMNS = ("id", "role", "state", "created", "exit", "command")
STOP_GRACE_S = 10.0


def ps(
    all_tasks: Annotated[bool, typer.Option("--all", "-a", help="Also those that have ended.")] = False,
    as_json: options.Json = False,
) -> None:
    """List tasks."""
    with client.connected() as api:
        found = api.get("/v1/tasks", all="true" if all_tasks else "false")["items"]
    if as_json:
        output.rows((), found, as_json=True)
        return
    rows = [_row(task) for task in found]
    output.table(_COLUMNS, rows, empty="no task runs" if not all_tasks else "there are no tasks yet")


def logs(
    task: options.TaskId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the task ends.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Do not escape control characters on a terminal.")] = False,
) -> None:
    """Print what a task has written."""
    escaped = {cells.STDOUT: not raw and sys.stdout.isatty(), cells.STDERR: not raw and sys.stderr.isatty()}
    decoders = {kind: codecs.getincrementaldecoder("utf-8")("backslashreplace") for kind in escaped}
    request = {"op": "logs", "task": full_id(task), "follow": follow}
    for kind, payload in cells.exchange(request, timeout_s=None if follow else 60.0):
        if kind == cells.JSON:
            cells.event(payload)
            return
        stream = sys.stderr if kind == cells.STDERR else sys.stdout
        if escaped.get(kind):
            stream.write(output.safe(decoders[kind].decode(payload), keep="\n\t"))
        else:
            stream.buffer.write(payload)
        stream.flush()


def stop(
    task: options.TaskId,
    grace: Annotated[float, typer.Option(help="Seconds between SIGTERM and the end.", min=0, max=300)] = STOP_GRACE_S,
    as_json: options.Json = False,
) -> None:
    """End a task: SIGTERM, then everything in its cell is killed."""
    wanted = full_id(task)
    answer = cells.ask({"op": "stop", "task": wanted, "grace_s": grace}, timeout_s=grace + 30)
    if as_json:
        output.line({"task": wanted, **{name: value for name, value in answer.items() if name != "event"}})
    else:
        output.say(f"task {wanted} stopped")


def diff(task: options.TaskId, as_json: options.Json = False) -> None:
    """Show what a task changed in its copy of the workspace."""
    answer = cells.ask({"op": "diff", "task": full_id(task)})
    if as_json:
        output.line({"changes": answer.get("changes", []), "patch": answer.get("patch", "")})
        return
    changes = answer.get("changes", [])
    output.table(("kind", "type", "path"), [(c.get("kind"), c.get("type"), c.get("path")) for c in changes])
    if not changes:
        output.say("nothing was changed")
    if answer.get("patch"):
        output.text("\n" + str(answer["patch"]))


def merge(
    task: options.TaskId,
    paths: Annotated[list[str] | None, typer.Argument(help="Only these, relative to the workspace.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Also what changed meanwhile or runs later.")] = False,
    as_json: options.Json = False,
) -> None:
    """Bring a task's changes into the workspace."""
    request: dict[str, Any] = {"op": "merge", "task": full_id(task), "force": force}
    if paths:
        request["paths"] = paths
    answer = cells.ask(request, timeout_s=300.0)
    merged, refused = answer.get("paths", []), answer.get("refused", [])
    if as_json:
        output.line({"paths": merged, "refused": refused, "untold": answer.get("untold", 0)})
    else:
        output.table(
            ("path", "outcome"),
            [*((path, "merged") for path in merged), *((r.get("path"), f"refused: {r.get('why')}") for r in refused)],
            empty="nothing to merge",
            wrap=True,
        )
    if answer.get("untold"):
        output.say(f"and {answer['untold']} more, merged or refused: remit diff {task} shows what is left")
    if refused:
        if not force:
            output.say(f"hint: remit diff {task}; remit merge --force {task} PATH takes it where that is safe")
        raise typer.Exit(5)


def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go.")] = False,
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Such as 7d or 12h, or 0 for all. Default: setting retention_s.")
    ] = None,
    total: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Such as 5Gi, of all together. Default: setting retention_bytes."),
    ] = None,
    unmerged: Annotated[bool, typer.Option("--unmerged", help="Also changes that nobody has merged.")] = False,
    as_json: options.Json = False,
) -> None:
    """Remove what is left of ended tasks: output, workspaces, their lines in `ps`. Runs by itself every hour."""
    request: dict[str, Any] = {"op": "prune", "dry_run": dry_run, "unmerged": unmerged}
    if older_than is not None:
        request["age_s"] = (
            0 if older_than == "0" else options.quantity_of(quantity.duration_s, older_than, "--older-than")
        )
    if total is not None:
        request["total_bytes"] = 0 if total == "0" else options.quantity_of(quantity.size_bytes, total, "--total")
    answer = cells.ask(request, timeout_s=600.0)
    gone, kept = answer.get("pruned", []), answer.get("kept", [])
    if as_json:
        output.line({name: value for name, value in answer.items() if name != "event"})
        return
    outcome = "would go" if dry_run else "pruned"
    rows = [*((one, f"{outcome}: {one['why']}") for one in gone), *((one, f"kept: {one['why']}") for one in kept)]
    output.table(
        ("task", "last written", "size", "outcome"),
        [(one["task"], _day(one["last"]), f"{one['bytes'] >> 20} MiB", what) for one, what in rows],
        empty="nothing is due",
    )
    if kept:
        output.say(f"hint: remit diff {kept[0]['task']}; remit merge {kept[0]['task']}; or remit prune --unmerged")
    if answer.get("more"):
        output.say(f"hint: {answer['more']} more are due: run it again")


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%MZ")


def full_id(prefix: str) -> str:
    """The id that `prefix` stands for."""
    with client.connected() as api:
        return str(api.get(f"/v1/tasks/{client.part(prefix)}")["id"])


def _row(task: dict[str, Any]) -> tuple[object, ...]:
    command = " ".join(task.get("command") or [])
    if sys.stdout.isatty():
        room = max(20, os.get_terminal_size().columns - 64)
        command = command if len(command) <= room else command[: room - 1] + "…"
    code = task.get("exit_code")
    ended = "-" if code is None else code
    return task["id"], task["role"], task["state"], output.clock(task["created"]), ended, command
