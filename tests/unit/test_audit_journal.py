"""The journal: durable before it answers, one writer, refusing while the disk refuses, healing by itself."""

import asyncio
import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from audit_log import DECISION, content, filled, journal
from synced import Synced

from remit.audit import head, record, segments, verify
from remit.audit import journal as journaling
from remit.audit.journal import Journal
from remit.audit.syncs import Syncs
from remit.control.ports import Entry
from remit.core.errors import Conflict, Unavailable

ENTRY = Entry(kind="decision", fields=DECISION)


async def healed(log: Journal) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                return await log.append(log.new_id(), ENTRY)
            except Unavailable:
                await asyncio.sleep(0.02)


def verified(directory: Path, *heads: dict[str, object]) -> verify.Report:
    report = verify.verify(directory / "audit", heads)
    assert report.ok, report.problem
    return report


async def test_what_was_written_verifies_across_segments_and_restarts(tmp_path: Path) -> None:
    first = await filled(tmp_path)
    second = await filled(tmp_path)
    report = verified(tmp_path, first, second)
    assert report.segments > 2
    assert report.records == second["seq"] > first["seq"]


async def test_a_record_is_on_the_disk_when_append_returns(tmp_path: Path) -> None:
    with journal(tmp_path) as log:
        one = log.new_id()
        await log.append(one, ENTRY)
        assert one.encode() in content(tmp_path)


async def test_records_that_arrive_together_share_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []
    real = os.pwrite
    with journal(tmp_path, 1 << 20) as log:
        monkeypatch.setattr(os, "pwrite", lambda *given: writes.append(len(given[1])) or real(*given))
        ids = [log.new_id() for _ in range(200)]
        await asyncio.gather(*(log.append(one, ENTRY) for one in ids))
    assert len(writes) <= 3
    assert [line["id"] for line in map(json.loads, content(tmp_path).splitlines())][1:] == ids


async def test_ids_sort_by_time_and_never_repeat(tmp_path: Path) -> None:
    with journal(tmp_path) as log:
        ids = [log.new_id() for _ in range(5000)]
    assert ids == sorted(set(ids))


async def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with journal(tmp_path), pytest.raises(Conflict, match="another process writes"), journal(tmp_path):
        pass


async def test_the_head_is_signed_and_names_the_last_durable_record(tmp_path: Path) -> None:
    with journal(tmp_path) as log:
        await log.append(log.new_id(), ENTRY)
        signed = log.head()
    assert signed is not None
    assert head.valid(signed)
    assert (signed["seq"], signed["hash"]) == (2, record.digest(content(tmp_path).splitlines()[-1]))
    for name in ("seq", "hash", "segment", "offset", "time"):
        assert not head.valid({**signed, name: 99})
    assert not head.valid({**signed, "signature": "!"})


async def test_a_key_of_heads_that_others_can_read_is_refused(tmp_path: Path) -> None:
    head.Signer(tmp_path / "k")
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
    (tmp_path / "k").chmod(0o640)
    with pytest.raises(Unavailable, match="read by others"):
        head.Signer(tmp_path / "k")


async def test_a_new_key_of_heads_is_on_the_disk_before_it_signs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = Synced(monkeypatch)
    head.Signer(tmp_path / "k")
    assert synced.seen == [32, {"k"}]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
async def test_a_disk_that_refuses_makes_records_unavailable_and_heals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real, calls = os.pwrite, 0

    def half(descriptor: int, data: bytes, at: int) -> int:
        nonlocal calls
        calls += 1
        if calls % 2:
            return real(descriptor, data[: len(data) // 2], at)
        raise OSError(number, os.strerror(number))

    with journal(tmp_path, 1 << 20) as log:
        await log.append(log.new_id(), ENTRY)
        monkeypatch.setattr(os, "pwrite", half)
        said = await asyncio.gather(*(log.append(log.new_id(), ENTRY) for _ in range(20)), return_exceptions=True)
        assert all(isinstance(one, Unavailable) and os.strerror(number) in one.detail for one in said)
        with pytest.raises(Unavailable, match=os.strerror(number)):
            await log.append(log.new_id(), ENTRY)
        monkeypatch.setattr(os, "pwrite", real)
        await healed(log)
        signed = log.head()
    assert signed is not None
    assert verified(tmp_path, signed).records == 3


async def test_a_segment_that_cannot_begin_refuses_and_heals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.posix_fallocate

    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    acknowledged = 0
    with journal(tmp_path, 2048) as log:
        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(Unavailable, match="No space left"):
            for _ in range(20):
                await log.append(log.new_id(), ENTRY)
                acknowledged += 1
        assert segments.numbers(tmp_path / "audit") == [1]
        monkeypatch.setattr(os, "posix_fallocate", real)
        await healed(log)
    report = verified(tmp_path)
    assert (report.segments, report.records) == (2, acknowledged + 3)


async def test_a_checkpoint_that_cannot_be_made_stops_no_record(tmp_path: Path) -> None:
    def broken() -> tuple[()]:
        raise RuntimeError("a fault")

    with journal(tmp_path, 2048, checkpoint=broken) as log:
        async with asyncio.timeout(60):
            for _ in range(20):
                await log.append(log.new_id(), ENTRY)
    assert verified(tmp_path).segments > 2


async def test_a_disk_that_refuses_at_the_start_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.posix_fallocate

    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with journal(tmp_path) as log:
        with pytest.raises(Unavailable, match="No space left"):
            await log.append(log.new_id(), ENTRY)
        assert log.head() is None
        monkeypatch.setattr(os, "posix_fallocate", real)
        await healed(log)
    verified(tmp_path)


async def test_a_segment_removed_while_open_is_noticed(tmp_path: Path) -> None:
    with journal(tmp_path, 1 << 20) as log:
        await log.append(log.new_id(), ENTRY)
        segments.path(tmp_path / "audit", 1).unlink()
        with pytest.raises(Unavailable, match="the open segment was removed"):
            await log.append(log.new_id(), ENTRY)


async def test_a_closed_journal_refuses_and_answers_everyone_who_waits(tmp_path: Path) -> None:
    with journal(tmp_path) as log:
        waiting = [asyncio.ensure_future(log.append(log.new_id(), ENTRY)) for _ in range(10)]
        await asyncio.sleep(0)
    async with asyncio.timeout(60):
        said = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(one is None or isinstance(one, Unavailable) for one in said)
    with pytest.raises(Unavailable):
        await log.append(log.new_id(), ENTRY)
    verified(tmp_path)


async def test_a_waiter_that_gives_up_does_not_disturb_the_others(tmp_path: Path) -> None:
    with journal(tmp_path) as log:
        ones = [asyncio.ensure_future(log.append(log.new_id(), ENTRY)) for _ in range(10)]
        await asyncio.sleep(0)
        for one in ones[::2]:
            one.cancel()
        said = await asyncio.gather(*ones, return_exceptions=True)
        assert said[1::2] == [None] * 5
        await log.append(log.new_id(), ENTRY)
    verified(tmp_path)


async def test_half_a_line_of_a_crash_is_put_aside_and_said(tmp_path: Path) -> None:
    signed = await filled(tmp_path, 3, 1 << 16)
    file = segments.path(tmp_path / "audit", 1)
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"seq":5,"id":"r-half' + bytes(5000))
    assert verify.verify(tmp_path / "audit", [signed]).ok
    await filled(tmp_path, 1, 1 << 16)
    assert (tmp_path / "audit" / f"00000001-{len(whole)}.torn").read_bytes() == b'{"seq":5,"id":"r-half'
    assert verified(tmp_path, signed).records == signed["seq"] + 2
    said = json.loads(content(tmp_path).splitlines()[-2])
    assert said["kind"] == "boundary"
    assert "21 bytes" in said["detail"]


async def test_a_write_of_which_only_some_pages_arrived_is_put_aside(tmp_path: Path) -> None:
    signed = await filled(tmp_path, 3, 1 << 16)
    file = segments.path(tmp_path / "audit", 1)
    file.write_bytes(file.read_bytes() + bytes(4096) + b'"prev":"0"}\n{"seq":9}\n' + bytes(4096))
    await filled(tmp_path, 1, 1 << 16)
    verified(tmp_path, signed)


async def test_a_rotation_that_a_crash_cut_short_is_begun_again(tmp_path: Path) -> None:
    signed = await filled(tmp_path, 3, 1 << 16)
    segments.path(tmp_path / "audit", 2).write_bytes(b'{"seq":5,"id":"r-h' + bytes(60000))
    await filled(tmp_path, 1, 1 << 16)
    assert verified(tmp_path, signed).segments == 1


def cut_line(data: bytes) -> bytes:
    return b"".join(data.splitlines(keepends=True)[:-1])


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (cut_line, "was durable and is gone"),
        (lambda data: data[: len(data) // 2], "was durable and is gone"),
        (lambda data: data.replace(b"devops", b"devoqs", 1), "was durable and is gone"),
        (lambda data: data + b"x" * (segments.MAX_WRITE + 1), "altered"),
        (lambda data: b"", "was durable and is gone"),
    ],
)
async def test_the_journal_does_not_go_on_behind_a_log_that_was_tampered_with(
    tmp_path: Path, damage: Callable[[bytes], bytes], why: str
) -> None:
    await filled(tmp_path, 5, 1 << 16)
    file = segments.path(tmp_path / "audit", 1)
    file.write_bytes(damage(file.read_bytes()))
    before = content(tmp_path)
    with pytest.raises(Unavailable, match=why), journal(tmp_path, 1 << 16):
        pass
    assert content(tmp_path) == before


async def test_the_journal_does_not_go_on_where_a_segment_is_missing(tmp_path: Path) -> None:
    await filled(tmp_path)
    segments.path(tmp_path / "audit", 2).unlink()
    with pytest.raises(Unavailable, match="a segment is missing"), journal(tmp_path):
        pass


@pytest.mark.parametrize("offered", [True, False])
async def test_a_slow_disk_does_not_hold_up_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offered: bool
) -> None:
    """With the kernel's own syncs, and on a system that offers none."""
    start, sync = Syncs.start, os.fdatasync
    released = threading.Event()

    def slow(descriptor: int) -> None:
        released.wait(10)
        sync(descriptor)

    def late(syncs: Syncs, descriptor: int, done: Callable[[OSError | None], None]) -> None:
        waiting = asyncio.get_running_loop().run_in_executor(None, released.wait, 10)
        waiting.add_done_callback(lambda _: start(syncs, descriptor, done))

    if not offered:
        monkeypatch.setattr(Syncs, "offered", lambda loop: None)
    with journal(tmp_path, 1 << 20) as log:
        monkeypatch.setattr(os, "fdatasync", slow)
        monkeypatch.setattr(Syncs, "start", late)
        written = asyncio.ensure_future(log.append(log.new_id(), ENTRY))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not written.done()
        released.set()
        await written
        monkeypatch.undo()
    verified(tmp_path)


async def test_a_write_that_stands_still_on_a_slow_disk_does_not_hold_up_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a write to the page cache can: what follows a slow batch is a thread's."""
    write, released = os.pwrite, threading.Event()

    def stalled(descriptor: int, data: bytes, at: int) -> int:
        assert threading.current_thread() is not threading.main_thread()
        released.wait(60)
        return write(descriptor, data, at)

    with journal(tmp_path, 1 << 20) as log:
        monkeypatch.setattr(journaling, "SLOW_S", -1.0)
        await log.append(log.new_id(), ENTRY)
        monkeypatch.setattr(os, "pwrite", stalled)
        written = asyncio.ensure_future(log.append(log.new_id(), ENTRY))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not written.done()
        released.set()
        await written
        monkeypatch.undo()
        await log.append(log.new_id(), ENTRY)
    verified(tmp_path)


async def test_a_head_is_signed_once_and_kept_beside_the_log(tmp_path: Path) -> None:
    with journal(tmp_path, 1 << 20) as log:
        await log.append(log.new_id(), ENTRY)
        signed = log.head()
        assert log.head() is signed
        await log.append(log.new_id(), ENTRY)
        later = log.head()
        assert signed is not None and later is not None
        assert later["seq"] == signed["seq"] + 1
    assert json.loads((tmp_path / "audit" / "head.json").read_bytes()) == later


async def test_a_system_without_asynchronous_syncs_writes_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "fs.aio-max-nr")

    monkeypatch.setattr("caio.linux_aio.Context", none)
    await filled(tmp_path)
    verified(tmp_path)


async def test_a_sync_that_fails_refuses_its_records_and_what_was_durable_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(syncs: Syncs, descriptor: int, done: Callable[[OSError | None], None]) -> None:
        asyncio.get_running_loop().call_soon(done, OSError(errno.EIO, "Input/output error"))

    with journal(tmp_path, 1 << 20) as log:
        await log.append(log.new_id(), ENTRY)
        with monkeypatch.context() as broken:
            broken.setattr(Syncs, "start", failing)
            with pytest.raises(Unavailable, match="Input/output error"):
                await log.append(log.new_id(), ENTRY)
        await healed(log)
    assert verified(tmp_path).records >= 3
