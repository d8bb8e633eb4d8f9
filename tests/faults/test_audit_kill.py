"""The log against kill -9 and a full disk, with a real writer process and a real file system."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from audit_log import DECISION, content, filled, journal

from remit.audit import verify
from remit.control.ports import Entry
from remit.core.errors import Unavailable

WRITER = """
import asyncio, os, sys
from pathlib import Path
from audit_log import DECISION, journal
from remit.control.ports import Entry

async def main():
    with journal(Path(sys.argv[1]), int(sys.argv[2])) as log:
        async def one(n):
            while True:
                record = log.new_id()
                await log.append(record, Entry(kind="decision", fields={**DECISION, "pad": "x" * (n * 50)}))
                os.write(1, (record + "\\n").encode())
                if n == 0:
                    log.head()
        await asyncio.gather(*(one(n) for n in range(24)))

asyncio.run(main())
"""


@pytest.mark.parametrize("segment_bytes", [16 << 10, 1 << 20])
def test_every_acknowledged_record_survives_kill_9(tmp_path: Path, segment_bytes: int) -> None:
    acknowledged: list[str] = []
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    for kill_after in (1, 80, 333, 1000):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(segment_bytes)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
            assert child.stdout is not None
            acknowledged += [child.stdout.readline().decode() for _ in range(kill_after)]
            os.kill(child.pid, signal.SIGKILL)
            acknowledged += [line.decode() for line in child.stdout if line.endswith(b"\n")]
        report = verify.verify(tmp_path / "audit")
        assert report.ok, report.problem
    signed = asyncio.run(filled(tmp_path, 1, segment_bytes))
    report = verify.verify(tmp_path / "audit", [signed])
    assert report.ok, report.problem
    written = content(tmp_path)
    assert len(acknowledged) > 1400
    assert all(f'"id":"{one.strip()}"'.encode() in written for one in acknowledged)
    assert len(set(acknowledged)) == len(acknowledged)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "remit-test", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


async def test_a_full_disk_refuses_and_loses_nothing_and_heals(small_disk: Path) -> None:
    acknowledged: list[str] = []

    async def one() -> None:
        record = log.new_id()
        await log.append(record, Entry(kind="decision", fields=DECISION))
        acknowledged.append(record)

    with journal(small_disk, 128 << 10) as log:
        await one()
        ballast = small_disk / "ballast"
        descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)
        with pytest.raises(OSError, match="No space"):
            while True:
                os.write(descriptor, bytes(4096))
        os.close(descriptor)
        with pytest.raises(Unavailable, match="No space left"):
            for _ in range(2000):
                await one()
        before = len(acknowledged)
        assert before > 100, "what is allocated already can still be written"
        ballast.unlink()
        async with asyncio.timeout(60):
            while len(acknowledged) == before:
                try:
                    await one()
                except Unavailable:
                    await asyncio.sleep(0.02)
        signed = log.head()
    assert signed is not None
    report = verify.verify(small_disk / "audit", [signed])
    assert report.ok, report.problem
    written = content(small_disk)
    assert all(record.encode() in written for record in acknowledged)


async def test_a_disk_that_turns_read_only_refuses_at_once(small_disk: Path) -> None:
    await filled(small_disk, 3, 64 << 10)
    remount(small_disk, "ro")
    try:
        with pytest.raises(Unavailable, match="Read-only"), journal(small_disk, 64 << 10) as log:
            await log.append(log.new_id(), Entry(kind="decision", fields=DECISION))
    finally:
        remount(small_disk, "rw")
    signed = await filled(small_disk, 1, 64 << 10)
    assert verify.verify(small_disk / "audit", [signed]).ok
