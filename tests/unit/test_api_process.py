"""The control process as a whole: up, honest about its tasks, and down without a trace."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import control_plane
import httpx
from control_plane import MANIFESTS

from remit.api import process
from remit.api.link import NodeLink
from remit.core.task import State


async def test_it_serves_reconciles_and_ends(tmp_path: Path) -> None:
    plane = control_plane.build(tmp_path)
    await plane.services.manifests.apply(MANIFESTS, operator="ann")
    lost = (await plane.services.tasks.create("devops", ["sh"], operator="ann")).task
    plane.clock.advance(60)
    ready = asyncio.Event()
    serving = asyncio.ensure_future(
        process.serve(
            plane.services,
            link=NodeLink(store=plane.store, clock=plane.clock, cells=plane.cells),
            publisher=plane.publisher,
            cells=plane.cells,
            control_socket=tmp_path / "control.sock",
            node_socket=tmp_path / "node.sock",
            api_port=0,
            token_file=tmp_path / "token",
            ready=ready.set,
        )
    )
    async with asyncio.timeout(60):
        await ready.wait()
        transport = httpx.AsyncHTTPTransport(uds=str(tmp_path / "control.sock"))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as api:
            task = (await api.get(f"/v1/tasks/{lost.id}")).json()
        assert task["state"] == State.FAILED, "its cell is gone, so its authority is"
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
    assert not (tmp_path / "control.sock").exists()
    assert not (tmp_path / "node.sock").exists()
    assert not (tmp_path / "token").exists(), "no TCP, no token"
