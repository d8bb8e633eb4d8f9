"""The privileged process: namespaces, sandboxes, ptys."""

from __future__ import annotations

import asyncio
import os
from functools import partial

from remit.app import identities
from remit.cell import retention, service
from remit.node import fence
from remit.node.notify import Notifier
from remit.settings import Settings, environment


async def serve(settings: Settings, notifier: Notifier) -> None:
    ready, who = asyncio.Event(), identities.of(settings)
    async with asyncio.TaskGroup() as group:
        group.create_task(
            service.serve(
                cells_socket=settings.cells_socket,
                forward_socket=settings.forward_socket,
                control_socket=settings.control_socket,
                cells_dir=settings.cells_dir,
                ca_bundle=settings.ca_bundle,
                ca_certificate=settings.ca_certificate,
                forward_uid=who.forward if who else os.geteuid(),
                opens=partial(fence.opened, who.fence) if who else _nothing_is_closed,
                control_uid=who.control if who else os.geteuid(),
                search=settings.search_domains,
                token_ttl_s=settings.token_ttl_s,
                kept=retention.Retention(age_s=settings.retention_s, total_bytes=settings.retention_bytes),
                stage_dir=settings.run_dir / "stage",
                path=environment().get("PATH", ""),
                ready=ready.set,
            )
        )
        await ready.wait()
        group.create_task(notifier.run())


def _nothing_is_closed(_: list[tuple[str, int]]) -> None:
    """Without root there is no rule of the kernel on Envoy."""
