"""`up`, `down`, `status`, `doctor`, `issuer rotate`: the daemons of this machine.

The processes are started by `remit.app`, which imports every part; it is imported only by the commands that need it.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from remit import settings as configuration
from remit.cli import client, options, output
from remit.core.errors import Invalid, RemitError, Unavailable

FULL_BYTES = 4 << 20
"""Less is free than what the database and a task's directory need: nothing can be changed or started."""

issuer = typer.Typer(no_args_is_help=True, help="The keys that sign tasks' tokens.")


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when everything is ready.")] = False,
    api_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Also serve the API on 127.0.0.1 at this port.")
    ] = None,
    secrets: Annotated[
        str | None, typer.Option(metavar="sealed|openbao", help="Where secrets are kept (default: sealed).")
    ] = None,
    rekey: Annotated[
        bool, typer.Option("--rekey", help="Give the node's own OpenBao new keys and logins; those before end.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Start the control plane and this node's boundary."""
    settings = configuration.load({"api_port": api_port, "secrets": secrets})
    if rekey and settings.secrets != "openbao":
        raise Invalid("--rekey is for an OpenBao of the node's own", hint="remit secret rekey, while the node is up")
    _app("lifecycle").up(settings, detach=detach, rekey=rekey)
    if detach and as_json:
        output.line({"up": True})
    elif detach:
        output.say("remit is up; remit status shows what is in force")


def down(as_json: options.Json = False) -> None:
    """Stop everything, cells included."""
    was_up = _app("running").down(configuration.load())
    if as_json:
        output.line({"was_up": was_up})
        return
    output.say("remit is down" if was_up else "remit was not up")


def status(as_json: options.Json = False) -> None:
    """Show whether everything works, and what is in force. Exit code 6 where it does not."""
    settings = configuration.load()
    supervisor = _app("running").state(settings)
    processes: dict[str, dict[str, Any]] = (supervisor or {}).get("processes", {})
    try:
        with client.connected() as api:
            found: dict[str, Any] = api.get("/v1/status")
        full = _full(settings.state_dir)
        behind, found["ok"] = not found["ok"], found["ok"] and not full
    except Unavailable as error:
        if as_json:
            output.line({"ok": False, "detail": error.detail, "processes": processes})
        elif processes:
            _processes(processes)
        if supervisor is not None:
            raise Unavailable(error.detail, hint="remit doctor") from error
        raise
    if as_json:
        output.line({**found, "processes": processes})
    else:
        _summary(found)
        if processes:
            output.text("\n")
            _processes(processes)
    if not as_json:
        if behind:
            output.say("the node does not have the latest change in force; without word it refuses after its lease")
            output.say("hint: remit doctor")
        if full:
            output.say("the disk is full: no task starts, nothing but a revocation can be changed")
            output.say(f"hint: free some below {settings.state_dir}")
        if found["panic"]:
            output.say('everything is revoked: no request passes\nhint: remit panic --lift --reason "WHY" ends it')
    if not found["ok"]:
        raise typer.Exit(6)


def _full(directory: Path) -> bool:
    with contextlib.suppress(OSError):
        return shutil.disk_usage(directory).free < FULL_BYTES
    return False  # not ours to see


def _summary(found: Mapping[str, Any]) -> None:
    node = found["node"]
    behind = found["epoch"] - node["acked_epoch"]
    summary = {
        "status": "ok" if found["ok"] else "not ok",
        "version": found.get("version"),
        "node": "not connected" if not node["connected"] else "up to date" if behind <= 0 else "behind",
        "tasks": ", ".join(f"{count} {name}" for name, count in found["tasks"].items()) or "none",
        **found["manifests"],
        "secrets": found["secrets"],
        "expiring": [f"{one['name']} {one['state']} ({output.clock(one['expires'])})" for one in found["expiring"]],
        "revocations": "everything (remit panic)" if found["panic"] else found["revocations"],
        "invalid": found["invalid"],
    }
    output.fields(summary)


def _processes(processes: Mapping[str, Mapping[str, Any]]) -> None:
    rows = [(name, p.get("state"), output.shown(p.get("pid")), p.get("restarts")) for name, p in processes.items()]
    output.table(("process", "state", "pid", "restarts"), rows)


def doctor(as_json: options.Json = False) -> None:
    """Check what this machine offers, and what is missing. Exit code 1 where something needed is."""
    checks: list[dict[str, Any]] = [*_app("doctor").doctor(configuration.load()), *_ends()]
    if as_json:
        output.rows((), checks, as_json=True)
    else:
        rows = [(c["check"], "ok" if c["ok"] else "failed" if c["needed"] else "absent", c["detail"]) for c in checks]
        output.table(("check", "outcome", "detail"), rows, wrap=True)
        for check in checks:
            if not check["ok"] and check["hint"]:
                output.say(f"hint: {check['check']}: {check['hint']}")
    if not all(check["ok"] or not check["needed"] for check in checks):
        raise typer.Exit(1)


def _ends() -> list[dict[str, Any]]:
    """A check that no secret ends soon; none where nobody can be asked."""
    try:
        with client.connected() as api:
            ending = api.get("/v1/status")["expiring"]
    except RemitError:
        return []
    detail = "; ".join(f"{one['name']} {one['state']}" for one in ending) or "none ends within 14 days"
    hint = f"remit secret rotate {ending[0]['name']}" if ending else ""
    return [{"check": "secrets", "ok": not ending, "detail": detail, "hint": hint, "needed": False}]


@issuer.command()
def rotate(
    compromised: Annotated[
        bool, typer.Option("--compromised", help="End what older keys signed at once, open connections too.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Sign tokens with a new key. Tasks go on."""
    with client.connected() as api:
        answer = api.post("/v1/issuer/rotate", {"compromised": compromised})
    if as_json:
        output.line(answer)
    else:
        output.text(f"key {answer['kid']} signs from now on")


def _app(module: str) -> Any:
    return importlib.import_module(f"remit.app.{module}")
