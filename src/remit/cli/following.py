"""A stream of the control plane, followed across its restarts.

Whoever watches does so for days, and the control plane may be started anew meanwhile. It is waited for, and asked for
what came behind the last event that was printed; a stream whose events have no ids begins anew.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from remit.cli import client, output
from remit.core.errors import Unavailable

AGAIN_S = 0.5
"""Between two tries to find a control plane that has gone."""


def events(path: str, query: Mapping[str, object] | None = None) -> Iterator[dict[str, Any]]:
    """Until interrupted. `Unavailable` only where there is nobody from the start."""
    behind: str | None = None
    ever = away = False

    def begun() -> None:
        nonlocal ever, away
        if away:
            output.say("the control plane is back")
        ever, away = True, False

    while True:
        try:
            with client.connected() as api:
                for event in api.follow(path, query, behind=behind, begun=begun):
                    if event.data is not None:
                        yield event.data
                    behind = event.id
        except Unavailable:
            if not ever:
                raise
        if not away:
            output.say("the control plane has gone; waiting for it")
            away = True
        time.sleep(AGAIN_S)
