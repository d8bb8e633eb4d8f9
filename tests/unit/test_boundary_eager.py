"""A coroutine that runs without a task leaves its place, whatever becomes of what it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from remit.boundary.eager import Steps

ENDS: dict[str, Callable[[asyncio.Future[Any]], object]] = {
    "done": lambda future: future.set_result(1),
    "failed": lambda future: future.set_exception(OSError("gone")),
    "cancelled": lambda future: future.cancel(),
}


async def turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.parametrize("end", ENDS)
async def test_its_place_is_free_when_what_it_waits_for_has_ended(end: str) -> None:
    loop, under_way, told = asyncio.get_running_loop(), set[Steps](), list[dict[str, Any]]()
    loop.set_exception_handler(lambda _, context: told.append(context))
    future: asyncio.Future[int] = loop.create_future()

    async def wait() -> None:
        await future

    Steps(wait(), under_way).start()
    assert len(under_way) == 1
    ENDS[end](future)
    await turns()
    assert under_way == set()
    assert bool(told) is (end != "done"), "what nobody handles is told"


async def test_what_is_there_takes_no_place() -> None:
    under_way, done = set[Steps](), list[int]()

    async def go() -> None:
        done.append(1)

    Steps(go(), under_way).start()
    assert (under_way, done) == (set(), [1])


async def test_what_was_closed_does_not_go_on() -> None:
    under_way, done = set[Steps](), list[int]()
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def go() -> None:
        done.append(await future)

    steps = Steps(go(), under_way)
    steps.start()
    steps.close()
    future.set_result(1)
    await turns()
    assert (under_way, done) == (set(), [])
