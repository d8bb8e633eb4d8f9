"""Which engine evaluates policies: regorus in a process of its own, or an Open Policy Agent beside the node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remit.node.policy_worker import Worker
from remit.settings import Settings

if TYPE_CHECKING:
    from remit.node.opa import Opa


def engine(settings: Settings) -> Worker | Opa:
    """The engine that the settings choose. Whoever gets it closes it."""
    if not settings.opa_url:
        return Worker(timeout_s=settings.policy_timeout_s)
    from remit.node.opa import Opa  # brings an HTTP client in

    return Opa(settings.opa_url, timeout_s=settings.policy_timeout_s)
