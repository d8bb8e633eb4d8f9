"""The control plane as a client of `cells`, whatever `cells` answers."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

from remit.api import cells, children
from remit.api import cells as module
from remit.api.cells import CellsClient
from remit.cell import daemon
from remit.core.errors import Unavailable


async def answering(path: Path, answer: bytes, asked: list[Any]) -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        header = await reader.readexactly(5)
        asked.append(json.loads(await reader.readexactly(int.from_bytes(header[1:], "big"))))
        writer.write(answer)
        await writer.drain()
        writer.close()

    return await asyncio.start_unix_server(serve, str(path))


def framed(message: Any) -> bytes:
    body = json.dumps(message).encode()
    return b"J" + len(body).to_bytes(4, "big") + body


async def test_cut_says_how_many_connections_were_closed(tmp_path: Path) -> None:
    asked: list[Any] = []
    async with await answering(tmp_path / "c", framed({"event": "done", "closed": 4}), asked):
        assert await CellsClient(tmp_path / "c").cut("t-abcdefghij") == 4
    assert asked == [{"op": "cut", "task": "t-abcdefghij"}]


async def test_a_task_without_a_cell_has_no_connections(tmp_path: Path) -> None:
    answer = framed({"event": "error", "kind": "not-found", "detail": "no cell"})
    async with await answering(tmp_path / "c", answer, []):
        assert await CellsClient(tmp_path / "c").cut("t-abcdefghij") == 0


async def test_running_names_the_tasks_that_have_a_cell(tmp_path: Path) -> None:
    answer = framed({"event": "list", "cells": [{"task": "t-a", "pid": 1}, {"task": "t-b"}]})
    async with await answering(tmp_path / "c", answer, []):
        assert await CellsClient(tmp_path / "c").running() == {"t-a", "t-b"}


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"J\x00",
        framed({"event": "error", "kind": "unavailable", "detail": "busy"}),
        framed({"event": "done"}),
        framed({"event": "done", "closed": "4"}),
        framed([]),
        b"1" + framed({})[1:],
        b"J\xff\xff\xff\xff",
        b"J\x00\x00\x00\x01{",
    ],
)
async def test_any_other_answer_is_unavailable(tmp_path: Path, answer: bytes) -> None:
    async with await answering(tmp_path / "c", answer, []):
        with pytest.raises(Unavailable):
            await CellsClient(tmp_path / "c").cut("t-abcdefghij")


async def test_nobody_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        await CellsClient(tmp_path / "c").running()


async def test_silence_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.05)
    done = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()
        writer.close()

    async with await asyncio.start_unix_server(silent, str(tmp_path / "c")):
        with pytest.raises(Unavailable, match="did not answer in"):
            await CellsClient(tmp_path / "c").running()
        done.set()


def test_what_the_control_plane_asks_is_what_cells_answer_it() -> None:
    source = inspect.getsource(cells) + inspect.getsource(children)
    asked = set(re.findall(r'"op": "([a-z-]+)"', source))
    assert asked == daemon.FOR_CONTROL
