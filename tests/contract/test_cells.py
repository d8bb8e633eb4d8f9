"""What whoever runs cells keeps to: the daemon, as the control plane asks it, and the one in memory."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cells_rig import Rig
from cells_rig import node as node

from remit.api.cells import CellsClient
from remit.api.children import CellsChildren
from remit.control.ports_control import Cells
from remit.control.ports_delegates import Children, Ended, Said, Wanted
from remit.core.errors import NotFound, RemitError, Unavailable
from remit.testing import MemoryCells, MemoryChildren

AWAY = Path("/nonexistent/cells.sock")
HOLDING = """
import socket, time
kept = socket.create_connection(("192.0.2.1", 80))
kept.sendall(b"hold\\n")
time.sleep(600)
"""


@dataclass
class Subject:
    """`task` starts one with an open connection."""

    cells: Cells
    away: Cells
    children: Children
    none: Children
    task: Callable[[], str]


@pytest.fixture(params=["daemon", "memory"])
def subject(request: pytest.FixtureRequest) -> Subject:
    if request.param == "memory":
        cells, away, children, none = MemoryCells(), MemoryCells(), MemoryChildren(), MemoryChildren()
        away.available = False
        children.script = [Said(stream="stdout", data=b"out\n"), Ended(code=3, detail="")]
        none.error = NotFound("there is no such role")

        def begun() -> str:
            cells.flows["t-abcdefghij"] = 1
            return "t-abcdefghij"

        return Subject(cells, away, children, none, begun)
    rig: Rig = request.getfixturevalue("node")
    socket = rig.run_dir / "cells.sock"

    def started() -> str:
        before = len(rig.flows())
        task = rig.detached("--", "/usr/bin/python3", "-c", HOLDING)
        limit = time.monotonic() + 60
        while len(rig.flows()) == before:
            assert time.monotonic() < limit, "no connection came"
        return task

    return Subject(CellsClient(socket), CellsClient(AWAY), CellsChildren(socket), CellsChildren(socket), started)


async def test_the_connections_of_a_task_are_closed_once(subject: Subject) -> None:
    task = subject.task()
    assert task in await subject.cells.running()
    assert await subject.cells.cut(task) == 1
    assert await subject.cells.cut(task) == 0


async def test_every_connection_is_closed_and_the_tasks_stay(subject: Subject) -> None:
    task = subject.task()
    assert await subject.cells.cut_everything() == 1
    assert task in await subject.cells.running()


async def test_only_the_named_connections_are_closed(subject: Subject) -> None:
    task = subject.task()
    assert await subject.cells.cut(task, []) == 0
    assert await subject.cells.cut(task) == 1


async def test_a_task_without_a_cell_has_no_connections(subject: Subject) -> None:
    assert await subject.cells.cut("t-zzzzzzzzzz") == 0


async def test_away_nothing_is_promised(subject: Subject) -> None:
    for asked in (subject.away.cut("t-abcdefghij"), subject.away.cut_everything(), subject.away.reach(frozenset())):
        with pytest.raises(Unavailable):
            await asked


async def test_a_child_says_what_it_writes_and_then_its_end(subject: Subject) -> None:
    wanted = Wanted(role="notifier", command=("sh", "-c", "echo out; exit 3"))
    child = await subject.children.start(subject.task(), "r-1", wanted)
    said = [one async for one in child.said()]
    assert b"".join(one.data for one in said if isinstance(one, Said)) == b"out\n"
    assert [one.code for one in said if isinstance(one, Ended)] == [3]
    assert isinstance(said[-1], Ended)
    await child.end()


async def test_a_child_of_a_role_that_is_not_there_is_not_started(subject: Subject) -> None:
    with pytest.raises(RemitError, match=r"no such role|no role unknown"):
        await subject.none.start(subject.task(), "r-1", Wanted(role="unknown", command=("true",)))
