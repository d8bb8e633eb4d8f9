"""The forwarder's process: everything is imported before the user id is given up, since code may lie under /root."""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401
import os
import resource

from remit.app.layout import FORWARD_UID
from remit.cell import forward
from remit.node.notify import Notifier
from remit.settings import Settings, rootless


async def serve(settings: Settings, notifier: Notifier) -> None:
    if not rootless():
        os.setgroups([])
        os.setresgid(FORWARD_UID, FORWARD_UID, FORWARD_UID)
        os.setresuid(FORWARD_UID, FORWARD_UID, FORWARD_UID)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    async with asyncio.TaskGroup() as group:
        group.create_task(
            forward.serve(
                forward_socket=settings.forward_socket,
                proxy_socket=settings.proxy_socket,
                dns_socket=settings.dns_socket,
            )
        )
        group.create_task(notifier.run())
