"""The log of a task: bounded, followed, and lost rather than in the task's way."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from remit.cell import output


@pytest.fixture
def log(tmp_path: Path) -> output.Log:
    return output.Log(tmp_path, 40)


def kept(directory: Path) -> bytes:
    return b"".join(output.stored(directory))


def test_the_older_half_goes_when_the_log_is_full(log: output.Log, tmp_path: Path) -> None:
    for n in range(10):
        log.write(b"%d" % n * 10)
    assert kept(tmp_path) == b"".join(b"%d" % n * 10 for n in (6, 7, 8, 9))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output.log", "output.log.1"]


def test_a_full_disk_loses_the_log_and_nothing_else(
    log: output.Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.write(b"a" * 20)
    really = os.open

    def full(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, "no space left on device")
        return really(path, flags, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        log.write(b"b" * 20)
        log.write(b"c" * 20)
    assert kept(tmp_path) == b"a" * 20
    log.write(b"d" * 20)
    assert kept(tmp_path) == b"a" * 20 + b"d" * 20


async def test_a_follower_sees_all_that_is_kept_and_the_end(log: output.Log) -> None:
    seen = bytearray()

    async def follow() -> None:
        async for data in log.follow():
            seen.extend(data)

    following = asyncio.ensure_future(follow())
    for n in range(4):
        log.write(b"%d" % n * 10)
        for _ in range(5):
            await asyncio.sleep(0)
    log.close()
    await following
    assert bytes(seen) == b"".join(b"%d" % n * 10 for n in range(4))
