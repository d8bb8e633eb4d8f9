"""`remit doctor`: the checks of this machine, and whether an instance is up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from remit.app import lifecycle
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
    running = lifecycle.state(settings)
    checks = examination.examine(
        state_dir=settings.state_dir,
        run_dir=settings.run_dir,
        envoy=binary,
        ca_file=Path(settings.system_ca_file),
        api_port=0 if running else settings.api_port,
        limits=_limits,
    )
    return [asdict(check) for check in checks]


def _limits() -> tuple[Sequence[str], str]:
    where = limits.tree()
    return limits.tried(where), limits.kind(where)
