"""`up`, `down`, `status`, `doctor`: the daemons of this machine.

The processes are started by `remit.app`, which imports every part; it is imported only by the commands that need it.
"""

from __future__ import annotations

import importlib
from typing import Annotated, Any

import typer

from remit import settings as configuration
from remit.cli import client, options, output


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when everything is ready.")] = False,
    api_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Also serve the API on 127.0.0.1 at this port.")
    ] = None,
) -> None:
    """Start the control plane and this node's boundary."""
    settings = configuration.load({"api_port": api_port})
    raise typer.Exit(int(_app().up(settings, detach)))


def down() -> None:
    """Stop everything, cells included."""
    raise typer.Exit(int(_app().down(configuration.load())))


def status(as_json: options.Json = False) -> None:
    """Show whether everything works, and what is in force. Exit code 6 where it does not."""
    with client.connected() as api:
        found: dict[str, Any] = api.get("/v1/status")
    if as_json:
        output.line(found)
    else:
        node = found["node"]
        behind = found["epoch"] - node["acked_epoch"]
        state = "not connected" if not node["connected"] else "up to date" if behind <= 0 else "behind"
        summary = {
            "status": "ok" if found["ok"] else "not ok",
            "version": found.get("version"),
            "node": state,
            "tasks": ", ".join(f"{count} {name}" for name, count in found["tasks"].items()) or "none",
            **found["manifests"],
            "secrets": found["secrets"],
            "revocations": found["revocations"],
            "invalid": found["invalid"],
        }
        output.fields(summary)
        if state != "up to date":
            output.say(f"the node is {state}: requests are refused once its lease has ended")
            output.say("hint: remit doctor")
    if not found["ok"]:
        raise typer.Exit(6)


def doctor(as_json: options.Json = False) -> None:
    """Check what this machine offers, and what is missing. Exit code 1 where something needed is."""
    checks: list[dict[str, Any]] = _app().doctor(configuration.load())
    if as_json:
        output.rows((), checks, as_json=True)
    else:
        rows = [(c.get("check"), "ok" if c.get("ok") else "failed", c.get("detail")) for c in checks]
        output.table(("check", "outcome", "detail"), rows)
        for check in checks:
            if not check.get("ok") and check.get("hint"):
                output.say(f"hint: {check['hint']}")
    if not all(check.get("ok") for check in checks):
        raise typer.Exit(1)


def _app() -> Any:
    return importlib.import_module("remit.app")
