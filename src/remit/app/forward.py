"""The forwarder's process."""

from __future__ import annotations

import asyncio

from remit.cell import forward
from remit.node.notify import Notifier
from remit.settings import Settings


async def serve(settings: Settings, notifier: Notifier) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(
            forward.serve(
                forward_socket=settings.forward_socket,
                proxy_socket=settings.proxy_socket,
                dns_socket=settings.dns_socket,
            )
        )
        group.create_task(notifier.run())
