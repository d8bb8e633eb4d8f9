"""The process `cells`: what it needs made, its socket opened, its daemon run, and everything taken down again."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import resource
from collections.abc import Callable, Coroutine
from pathlib import Path

from remit.cell import cell as cells
from remit.cell import control_client, forward_link, limits, machine, process, retention, stage, stored, wire
from remit.cell.daemon import Daemon, Opens

log = logging.getLogger(__name__)


async def serve(
    *,
    cells_socket: Path,
    forward_socket: Path,
    control_socket: Path,
    cells_dir: Path,
    ca_bundle: Path,
    forward_uid: int,
    control_uid: int,
    opens: Opens,
    token_ttl_s: float,
    kept: retention.Retention,
    ca_certificate: Path | None = None,
    search: tuple[str, ...] = (),
    stage_dir: Path | None = None,
    path: str = "",
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Run until cancelled. Enters a mount namespace of its own: give it a process of its own.

    `stage_dir`: a directory that every uid can walk to (default: one in /run, named after `cells_dir`).
    `control_uid`: of the control plane, which may ask `FOR_CONTROL` and nothing else. `search`: of resolv.conf.
    `opens`: lets Envoy dial exactly these (range, port) from now on, of what a rule of the kernel keeps it from.
    `path`: PATH in which toolchains are looked for when a client sends none. `ready` is called when it accepts.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    process.reserve()
    mark = f"remit-{hashlib.blake2s(os.fsencode(cells_dir), digest_size=4).hexdigest()}-"
    tree = limits.tree()
    if left := limits.sweep(tree, mark):
        log.warning("ended %d cells that an earlier daemon left", left)
    cells_dir.mkdir(parents=True, exist_ok=True)
    staging = stage.Stage(stage_dir or Path("/run") / f"{mark}cells")
    staging.open()
    try:
        # Not before: a thread keeps the mount namespace in which it began.
        await asyncio.to_thread(stored.look_after_all, cells_dir)
        etc = machine.Etc(staging.root / "etc", bundle=ca_bundle, certificate=ca_certificate, search=search)
        etc.write()
        site = cells.Site(
            stage=staging,
            etc=etc,
            tree=limits.around(tree, mark, limits.together()),
            mark=mark,
            system=machine.system(),
            cells=cells_dir,
            path=path,
        )
        link = forward_link.ForwardLink(forward_socket, forward_uid)
        client = control_client.ControlClient(control_socket)
        daemon = Daemon(site, client, link, token_ttl_s, control_uid, kept, opens)
        await _run(daemon, link, _listen(daemon, cells_socket, control_uid, ready))
    finally:
        staging.close()
        limits.sweep(tree, mark)


async def _run(daemon: Daemon, link: forward_link.ForwardLink, listening: Coroutine[None, None, None]) -> None:
    link.start()
    pruning = asyncio.ensure_future(daemon.keep_pruned())
    try:
        await listening
    finally:
        pruning.cancel()
        with contextlib.suppress(Exception):
            await daemon.end()
        link.stop()


async def _listen(daemon: Daemon, path: Path, control_uid: int, ready: Callable[[], None]) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    previous = os.umask(0o177)
    try:
        server = await asyncio.start_unix_server(daemon.client, str(path), limit=wire.MAX_JSON, backlog=256)
    finally:
        os.umask(previous)
    if control_uid != os.geteuid():
        os.chown(path, -1, control_uid)
        path.chmod(0o660)
    ready()
    try:
        async with server:
            await server.serve_forever()
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
