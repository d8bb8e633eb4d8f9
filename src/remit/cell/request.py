"""What a client may ask of `cells`, checked into values before anything is done."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from remit.cell import environment, retention
from remit.core import claims
from remit.core.errors import Invalid
from remit.core.task import TASK_ID

MAX_ARGUMENTS, MAX_ARGUMENT_BYTES = 4096, 128 << 10
MAX_SIDE = 4096
MAX_CAPABILITIES = 256
MAX_BUDGETS, MAX_BUDGET = 8, 80
"""As many as the control plane takes, and characters of each."""
_TERMINAL = re.compile(r"[A-Za-z0-9._+-]{1,64}")
_RECORD = re.compile(r"[A-Za-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """`terminal`: (rows, columns) where one is wanted. `path`: the client's PATH, to find toolchains."""

    argv: tuple[str, ...]
    environment: dict[str, str]
    terminal: tuple[int, int] | None
    terminal_kind: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    role: str
    command: Command
    workspace: object
    bind: bool
    cwd: str
    detach: bool
    budgets: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    parent: str | None = None
    """The task it is a part of."""
    request: str | None = None
    """The record of the request by which that task asked for it, if it asked itself."""


def run(message: Mapping[str, Any]) -> Run:
    role = message.get("role")
    if not isinstance(role, str) or not claims.ROLE_NAME.fullmatch(role):
        raise Invalid(f"{str(role)[:80]!r} is no name of a role", hint="--role NAME; remit get roles")
    workspace = message.get("workspace") or {}
    if not isinstance(workspace, dict) or workspace.get("mode", "cow") not in ("cow", "bind"):
        raise Invalid("the workspace is neither cow nor bind")
    cwd = message.get("cwd") or ""
    if not isinstance(cwd, str) or not environment.sayable(cwd) or len(cwd) > 4096:
        raise Invalid("cwd is not a path")
    if PurePosixPath(cwd).is_absolute() or ".." in PurePosixPath(cwd).parts:
        raise Invalid(f"--cwd {cwd}: name a directory inside the workspace, relative to it")
    return Run(
        role=role,
        command=command(message),
        workspace=workspace.get("path"),
        bind=workspace.get("mode") == "bind",
        cwd=cwd,
        detach=message.get("detach") is True,
        budgets=_budgets(message.get("budgets") or []),
        capabilities=_capabilities(message.get("capabilities") or []),
        parent=task({"task": message["parent"]}) if message.get("parent") else None,
    )


def delegated(message: Mapping[str, Any]) -> Run:
    """What a running task asked for: of a `run` only this may be said, so nothing else can be smuggled in."""
    wanted, parent = message.get("request"), task({"task": message.get("parent")})
    if not isinstance(wanted, str) or not _RECORD.fullmatch(wanted):
        raise Invalid("request is not the id of a record")
    only = {name: message[name] for name in ("role", "argv", "budgets", "capabilities") if name in message}
    return replace(run({**only, "parent": parent}), request=wanted)


def _budgets(items: object) -> tuple[str, ...]:
    """As they were written; the control plane reads them."""
    if not isinstance(items, list) or not all(isinstance(item, str) and len(item) <= MAX_BUDGET for item in items):
        raise Invalid("budgets is not a list of budgets", hint="--budget requests=100")
    if len(items) > MAX_BUDGETS:
        raise Invalid(f"a task has {MAX_BUDGETS} budgets of its own at most")
    return tuple(items)


def _capabilities(items: object) -> tuple[str, ...]:
    """Names; the control plane knows which there are."""
    if not isinstance(items, list) or not all(isinstance(item, str) and len(item) <= 80 for item in items):
        raise Invalid("capabilities is not a list of names", hint="--capability NAME")
    if len(items) > MAX_CAPABILITIES:
        raise Invalid(f"{len(items)} capabilities are named, at most {MAX_CAPABILITIES}")
    return tuple(items)


def command(message: Mapping[str, Any]) -> Command:
    argv = message.get("argv")
    if not isinstance(argv, list) or not argv or not all(isinstance(item, str) for item in argv):
        raise Invalid("there is no command to run", hint="remit run --role NAME -- COMMAND…")
    if not argv[0] or not all(map(environment.sayable, argv)):
        raise Invalid("the command has an empty name, a NUL or half a character")
    if len(argv) > MAX_ARGUMENTS or sum(len(os.fsencode(item)) for item in argv) > MAX_ARGUMENT_BYTES:
        raise Invalid(f"the command is longer than {MAX_ARGUMENTS} arguments or {MAX_ARGUMENT_BYTES} bytes")
    given = message.get("env") or {}
    if not isinstance(given, dict):
        raise Invalid("env is not an object")
    kind, path = message.get("term"), message.get("path")
    return Command(
        argv=tuple(argv),
        environment=environment.checked(given, "--env"),
        terminal=size(message.get("rows"), message.get("cols")) if message.get("tty") is True else None,
        terminal_kind=kind if isinstance(kind, str) and _TERMINAL.fullmatch(kind) else "",
        path=path if isinstance(path, str) and len(path) <= 16384 and "\0" not in path else "",
    )


def size(rows: object, columns: object) -> tuple[int, int]:
    if isinstance(rows, int) and isinstance(columns, int) and 0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE:
        return rows, columns
    return 24, 80


def task(message: Mapping[str, Any]) -> str:
    """A whole task id; the command line resolves abbreviations with the control plane."""
    wanted = message.get("task")
    if not isinstance(wanted, str) or not TASK_ID.fullmatch(wanted):
        raise Invalid(f"{str(wanted)[:80]!r} is no task id", hint="remit ps")
    return wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune:
    kept: retention.Retention
    unmerged_too: bool = False
    dry_run: bool = False


def prune(message: Mapping[str, Any], usual: retention.Retention) -> Prune:
    """What is not asked for is as the settings say."""
    age, total = message.get("age_s", usual.age_s), message.get("total_bytes", usual.total_bytes)
    if not isinstance(age, int | float) or isinstance(age, bool) or not 0 <= age < float("inf"):
        raise Invalid("age_s is not a number of seconds", hint="remit prune --older-than 7d")
    if not isinstance(total, int) or isinstance(total, bool) or total < 0:
        raise Invalid("total_bytes is not a number of bytes", hint="remit prune --total 10Gi")
    return Prune(
        kept=retention.Retention(age_s=float(age), total_bytes=total),
        unmerged_too=message.get("unmerged") is True,
        dry_run=message.get("dry_run") is True,
    )


def reach(message: dict[str, Any]) -> list[tuple[str, int]]:
    """The (address range, port) pairs of `open`; whether they are such is not looked at. `Invalid` for no list."""
    asked = message.get("open")
    if not isinstance(asked, list) or not all(
        isinstance(one, list) and len(one) == 2 and type(one[0]) is str and type(one[1]) is int for one in asked
    ):
        raise Invalid("open is not a list of ranges and ports")
    return [(one[0], one[1]) for one in asked]
