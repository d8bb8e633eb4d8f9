"""`remit run`, `remit exec` and `remit attach`: a command in a cell, as if it ran here.

The one part of the command line that is started for every command of every agent, so it imports nothing but the
standard library and not all of that (`argparse` alone would cost a quarter of the whole). The terminal of the user and
its descriptors stay here; bytes go back and forth over the socket of `cells`. Whatever happens, the terminal is put
back as it was, and the exit code is the command's.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any, NoReturn

from remit.cli import carry
from remit.cli.escaping import safe

_RUN = """\
usage: remit run --role ROLE [options] -- COMMAND [ARGUMENT…]

Run COMMAND as a task in a cell of its own, under ROLE. The exit code is the command's.

  --role ROLE        what the task may do (required; `remit get roles` lists them)
  --workspace DIR    what it works on: a copy-on-write view, see `remit diff` and `remit merge`
  --bind             let it write into the workspace directly (hooks and editor settings stay read-only)
  --cwd DIR          where to start, relative to the workspace
  --budget NAME=LIMIT at most so much for this task: requests=100, bytesOut=10Mi, bytesIn=1Gi, time=30m (repeatable)
  --capability NAME  give it only this one of its role's capabilities (repeatable)
  --parent TASK      make it a part of a running task: with a narrower role, and ended with it
  --env NAME[=VALUE] pass a variable on; without VALUE the one of this environment (repeatable)
  --detach           print the task's id and leave; `remit attach`, `remit logs -f`
  --tty, --no-tty    with or without a terminal (default: with, if stdin and stdout are terminals)
  --json             print JSON (with --detach)

examples:
  remit run --role devops -- curl -sS https://api.github.com/zen
  remit run --role devops --workspace . -- python3 agent.py        then: remit diff TASK, remit merge TASK
  remit run --role devops --detach -- ./long-job                   then: remit logs -f TASK, remit stop TASK

Exit codes: the command's; 127 where the cell has no such command, 128+N where signal N ended it; of remit itself
2 (usage), 4 (no such role), 5 (conflict), 6 (the node does not answer).
"""
_EXEC = """\
usage: remit exec [options] TASK -- COMMAND [ARGUMENT…]

Run a further COMMAND in the cell of a running task.

  --env NAME[=VALUE] pass a variable on (repeatable)
  --tty, --no-tty    with or without a terminal (default: with, if stdin and stdout are terminals)

examples:
  remit exec t-7k3m -- bash          (the first letters of a task's id are enough)
"""
_ATTACH = """\
usage: remit attach TASK

Watch a running task and type to it. Ctrl-] leaves it running.
"""
USAGE = {"run": _RUN, "exec": _EXEC, "attach": _ATTACH}


def main(argv: list[str]) -> int:
    """`argv`: run, exec or attach, then what follows it. The exit code."""
    try:
        verb = argv[0] if argv else "run"
        if verb == "exec":
            return _exec(argv[1:])
        if verb == "attach":
            return _attach(argv[1:])
        return _run(argv[1:] if verb == "run" else argv)
    except carry.Failed as failed:
        for name, text in (("error", failed.error), ("cause", failed.cause), ("hint", failed.hint)):
            if text:
                print(f"{name}: {safe(text)}", file=sys.stderr)
        return failed.code
    except BrokenPipeError:
        return 128 + signal.SIGPIPE


def _run(argv: list[str]) -> int:
    options, command = _options(
        argv,
        _RUN,
        valued=("role", "workspace", "cwd", "env", "budget", "capability", "parent"),
        flags=("bind", "detach", "tty", "no-tty", "json"),
    )
    if "role" not in options:
        raise carry.Failed(2, "--role is missing", "remit run --role ROLE -- COMMAND")
    if not command:
        raise carry.Failed(2, "there is no command to run", "remit run --role ROLE -- COMMAND")
    workspace = options.get("workspace")
    if workspace is None and ("bind" in options or "cwd" in options):
        raise carry.Failed(2, "--bind and --cwd need a --workspace", "remit run --workspace . …")
    detach = "detach" in options
    where = {"path": os.path.abspath(workspace), "mode": "bind" if "bind" in options else "cow"} if workspace else {}  # noqa: PTH100
    request = {
        "op": "run",
        "role": options["role"],
        "workspace": where,
        "cwd": options.get("cwd", ""),
        "detach": detach,
        "budgets": options.get("budget", []),
        "capabilities": options.get("capability", []),
        "parent": _task(options["parent"]) if "parent" in options else None,
        **_command(options, command, default_tty=not detach),
    }
    session = carry.Session(request)
    started = session.started()
    for name in started.get("absent", []):
        print(f"warning: this machine cannot hold the limit on {safe(name)}", file=sys.stderr)
    if detach:
        print(json.dumps({"task": started["task"]}) if "json" in options else started["task"])
        return 0
    return session.carry()


def _exec(argv: list[str]) -> int:
    options, command = _options(argv, _EXEC, valued=("env",), flags=("tty", "no-tty"), positional=1)
    if not command:
        raise carry.Failed(2, "there is no command to run", "remit exec TASK -- COMMAND")
    request = {"op": "exec", "task": _task(options["0"]), **_command(options, command, default_tty=True)}
    session = carry.Session(request)
    session.started()
    return session.carry()


def _attach(argv: list[str]) -> int:
    options, command = _options(argv, _ATTACH, valued=(), flags=(), positional=1)
    if command:
        raise carry.Failed(2, "attach takes no command", "remit exec TASK -- COMMAND")
    session = carry.Session({"op": "attach", "task": _task(options["0"]), "tty": False})
    session.tty = session.started().get("terminal") is True and os.isatty(0)
    session.leaves = True
    return session.carry()


def _options(
    argv: list[str], usage: str, *, valued: tuple[str, ...], flags: tuple[str, ...], positional: int = 0
) -> tuple[dict[str, Any], list[str]]:
    """(options by name, the command after `--`). `env` and `budget` are lists; positional arguments are named by
    their number."""
    found: dict[str, Any] = {}
    rest = list(argv)
    while rest:
        item = rest.pop(0)
        if item == "--":
            break
        if item in ("--help", "-h"):
            print(usage, end="")
            raise SystemExit(0)
        if not item.startswith("-"):
            count = sum(1 for name in found if name.isdigit())
            if count >= positional:
                # Like env(1) and sudo(8): the first word that is no option begins the command.
                rest.insert(0, item)
                break
            found[str(count)] = item
            continue
        name, equals, value = item.removeprefix("--").partition("=")
        if not item.startswith("--") or name not in valued + flags:
            raise carry.Failed(
                2, f"there is no option {item.partition('=')[0]}", usage.splitlines()[0].removeprefix("usage: ")
            )
        if name in flags:
            if equals:
                raise carry.Failed(2, f"--{name} takes no value", usage.splitlines()[0].removeprefix("usage: "))
            found[name] = True
            continue
        if not equals:
            if not rest:
                raise carry.Failed(2, f"--{name} needs a value", usage.splitlines()[0].removeprefix("usage: "))
            value = rest.pop(0)
        if name in ("env", "budget", "capability"):
            found.setdefault(name, []).append(value)
        else:
            found[name] = value
    if sum(1 for name in found if name.isdigit()) < positional:
        raise carry.Failed(2, "the task is missing", usage.splitlines()[0].removeprefix("usage: "))
    return found, rest


def _command(options: dict[str, Any], command: list[str], *, default_tty: bool) -> dict[str, Any]:
    passed: dict[str, str] = {}
    inherited = carry.environment()
    for item in options.get("env", []):
        name, equals, value = item.partition("=")
        if not equals and name not in inherited:
            raise carry.Failed(2, f"--env {name}: this environment has no such variable", f"--env {name}=VALUE")
        passed[name] = value if equals else inherited[name]
    tty = default_tty and os.isatty(0) and os.isatty(1)
    tty = "tty" in options or (tty and "no-tty" not in options)
    rows, columns = carry.window()
    return {
        "argv": command,
        "env": passed,
        "tty": tty,
        "rows": rows,
        "cols": columns,
        "term": inherited.get("TERM", ""),
        "path": inherited.get("PATH", ""),
    }


def _task(prefix: str) -> str:
    """The whole id that `prefix` stands for, among the running tasks; `t-` may be left out."""
    begins = prefix if prefix.startswith("t-") else f"t-{prefix}"
    if len(begins) == 12:
        return begins
    session = carry.Session({"op": "list"})
    found = [str(cell["task"]) for cell in session.event().get("cells", []) if str(cell["task"]).startswith(begins)]
    if len(found) != 1:
        problem = f"no running task begins with {prefix}" if not found else f"{len(found)} tasks begin with {prefix}"
        raise carry.Failed(4 if not found else 5, problem, "remit ps")
    return found[0]


def _program() -> NoReturn:
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    _program()
