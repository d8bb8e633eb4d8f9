"""What a forwarder that comes back is told, however many cells there are."""

from __future__ import annotations

import array
import asyncio
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from remit.cell import forward_link
from remit.cell.forward_link import ForwardLink
from remit.core.errors import Unavailable

CELLS = 400
"""More than one socket holds (net.core.wmem_default) while nobody reads it."""


@pytest.fixture
def descriptors() -> Iterator[tuple[int, ...]]:
    number = os.open("/dev/null", os.O_RDONLY)
    yield (number,) * 6
    os.close(number)


@pytest.fixture
async def link(tmp_path: Path) -> Any:
    made = ForwardLink(tmp_path / "forward.sock", os.geteuid())
    made.start()
    yield made
    made.stop()


class _Forwarder:
    """Answers what it is told."""

    def __init__(self, path: Path, *, answers: bool = True) -> None:
        self._answers = answers
        self.told: list[dict[str, Any]] = []
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.connect(str(path))
        self._sock.setblocking(False)
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._readable)

    def _readable(self) -> None:
        data, rights, _, _ = self._sock.recvmsg(65536, socket.CMSG_SPACE(6 * 4))
        if not data:
            self.close()
            return
        for _, _, raw in rights:
            for number in array.array("i", raw):
                os.close(number)
        message = json.loads(data)
        self.told.append(message)
        if self._answers:
            self._sock.send(json.dumps({"id": message["id"], "ok": True, "closed": 0}).encode())

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._sock.close()


async def test_a_forwarder_that_comes_back_is_told_every_cell(
    link: ForwardLink, tmp_path: Path, descriptors: tuple[int, ...]
) -> None:
    first = _Forwarder(tmp_path / "forward.sock")
    for number in range(1, CELLS + 1):
        await link.open(number, "x" * 380, descriptors)
    await link.close(7)
    first.close()
    again = _Forwarder(tmp_path / "forward.sock")
    async with asyncio.timeout(60):
        while not again.told:
            await asyncio.sleep(0)
    await link.close(CELLS)  # while the others are told
    assert await link.cut(5) == 0
    opened = [message["cell"] for message in again.told if message["op"] == "open"]
    assert opened == [number for number in range(1, CELLS) if number != 7]
    assert [message["op"] for message in again.told[-2:]] == ["close", "cut"]
    again.close()


async def test_a_cell_that_a_slow_forwarder_may_open_yet_is_closed_there(
    link: ForwardLink, tmp_path: Path, descriptors: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else would: its task never began, and the listeners hold its network."""
    monkeypatch.setattr(forward_link, "ANSWER_TIMEOUT_S", 0.05)
    slow = _Forwarder(tmp_path / "forward.sock", answers=False)
    with pytest.raises(Unavailable, match="does not answer"):
        await link.open(5, "x", descriptors)
    async with asyncio.timeout(10):
        while len(slow.told) < 2:
            await asyncio.sleep(0)
    assert [(message["op"], message["cell"]) for message in slow.told] == [("open", 5), ("close", 5)]
    slow.close()
