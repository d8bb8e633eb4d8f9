"""A task begins without holding up the others, and ends whole whatever fails on the way."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from remit.cell import guard, network, output, request, tasks
from remit.core.errors import Conflict

TASK = "t-aaaaaaaaaa"


class _Control:
    def __init__(self) -> None:
        self.told: list[str] = []

    async def post(self, target: str, body: Any = None) -> dict[str, Any]:
        self.told.append(target)
        return {"task": TASK, "cell": 1, "token": "token", "limits": {}, "environment": {}}


async def test_a_workspace_is_looked_through_beside_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold a million files, and a loop that stands for some seconds costs every cell its life."""
    turned, closed = threading.Event(), list[bool]()

    def look(root: int) -> list[Any]:
        assert turned.wait(10), "the loop stands still"
        raise Conflict("looked through")

    monkeypatch.setattr(network, "create", lambda: SimpleNamespace(close=lambda: closed.append(True)))
    monkeypatch.setattr(guard, "look", look)
    control: Any = _Control()
    asked = request.run({"role": "r", "argv": ["true"], "workspace": {"path": str(tmp_path), "mode": "bind"}})
    site: Any = None
    link: Any = None
    asyncio.get_running_loop().call_later(0.01, turned.set)
    with pytest.raises(Conflict, match="looked through"):
        await tasks.start(
            asked,
            tmp_path,
            operator=0,
            name="root",
            site=site,
            control=control,
            link=link,
            ttl_s=60,
            ended=lambda task: None,
        )
    assert control.told == ["/v1/tasks", f"/v1/tasks/{TASK}/failed"]
    while not closed:
        await asyncio.sleep(0)


async def test_a_task_ends_whole_where_its_end_cannot_be_seen_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its client, its cell and whoever stops it would wait for ever."""

    def fails(directory: Path) -> str:
        raise RuntimeError("not foreseen")

    async def nothing(*_: Any) -> None: ...

    async def exits() -> int:
        return 3

    monkeypatch.setattr(tasks.stored, "look_after", fails)
    did: list[str] = []
    limits = SimpleNamespace(time_s=None, memory_bytes=None)
    cell: Any = SimpleNamespace(
        wanted=SimpleNamespace(task=TASK, number=1, limits=limits, bind=True),
        group=SimpleNamespace(kill=lambda: None, out_of_memory=lambda: False),
        hub=output.Hub(None),
        directory=Path("/nowhere"),
        dead=nothing,
    )

    async def end() -> None:
        did.append("cell")

    cell.end = end
    ended, writing = os.pipe()
    os.close(writing)
    main: Any = SimpleNamespace(outputs=[(b"1", ended)], wait=exits, close=lambda: did.append("main"))
    link: Any = SimpleNamespace(close=nothing)
    control: Any = _Control()
    task = tasks.Task(
        cell,
        main,
        role="r",
        parent=None,
        argv=("true",),
        operator="root",
        control=control,
        link=link,
        ttl_s=60,
        ended=lambda task: did.append("ended"),
    )
    task.keep({})
    async with asyncio.timeout(10):
        await task.done.wait()
    os.close(ended)
    assert (task.code, did) == (3, ["cell", "main", "ended"])
    assert control.told == [f"/v1/tasks/{TASK}/started", f"/v1/tasks/{TASK}/exited"]
