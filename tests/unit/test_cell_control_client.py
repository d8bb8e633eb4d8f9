"""Answers of a control plane that is not itself: always an error that the caller expects."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from remit.cell.control_client import ControlClient
from remit.core.errors import Unavailable


def _with(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


ANSWERS = {
    "nothing": b"",
    "no status": b"HTTP/1.1\r\n\r\n",
    "no number": b"HTTP/1.1 many\r\n\r\n",
    "no length": b"HTTP/1.1 200\r\n\r\n",
    "no object": _with(b"[]"),
    "too deep": _with(b"[" * 100_000),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_an_answer_that_is_none_is_no_answer(tmp_path: Path, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    path = tmp_path / "control.sock"
    async with await asyncio.start_unix_server(serve, str(path)):
        with pytest.raises(Unavailable):
            await ControlClient(path).post("/v1/tasks")
