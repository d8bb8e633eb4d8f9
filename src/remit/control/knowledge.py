"""What this node knows right now, and whether it may still act on it.

A node decides from memory, so it must notice when that memory goes stale: a control plane that cannot be heard may
have revoked something. After the lease the node refuses everything until it hears again (law 6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from remit.core.reason import Reason, Refusal
from remit.core.snapshot import Snapshot

Listener = Callable[[Snapshot], None]


class Knowledge:
    """The current snapshot. `monotonic` gives seconds that never step back; `lease_s` is how long silence is borne."""

    def __init__(self, *, lease_s: float, monotonic: Callable[[], float]) -> None:
        self.snapshot = Snapshot()
        self._lease_s = lease_s
        self._monotonic = monotonic
        self._heard = float("-inf")
        self._informed = asyncio.Event()
        self._listeners: list[Listener] = []

    def on_change(self, listener: Listener) -> None:
        """Call `listener` with every new snapshot, before anything is decided from it."""
        self._listeners.append(listener)

    def heard(self) -> None:
        """The control plane spoke: the lease begins anew."""
        self._heard = self._monotonic()
        if self.snapshot.version:
            self._informed.set()

    async def informed(self) -> None:
        """Returns once there is a snapshot and the control plane has been heard."""
        await self._informed.wait()

    def replace(self, snapshot: Snapshot) -> None:
        """Decide from `snapshot` from now on."""
        for listener in self._listeners:
            listener(snapshot)
        self.snapshot = snapshot

    def refusal(self) -> Refusal | None:
        """Why this node may decide nothing at the moment, or None."""
        if not self.snapshot.version:
            return Refusal(Reason.NOT_READY, "no snapshot has arrived from the control plane")
        silence = self._monotonic() - self._heard
        if silence > self._lease_s:
            return Refusal(
                Reason.CONTROL_PLANE_LOST,
                f"the control plane has been silent for longer than the lease of {self._lease_s:g} s",
            )
        return None
