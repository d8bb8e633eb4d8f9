"""Figures of single parts, without Envoy or cells: the audit log and the sealed store."""

from __future__ import annotations

import asyncio
import resource
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop

from bench import checks
from remit.audit import head, verify
from remit.audit.index import Index
from remit.audit.journal import Journal
from remit.broker import sealed
from remit.broker.sealed import Opener
from remit.control.ports import Entry

FIELDS = {
    "task": "t-aaaaaaaaaa", "role": "devops", "decision": "permit", "reason": "permitted", "detail": "",
    "capability": "github-read", "credential": "github-token", "method": "GET", "scheme": "https",
    "host": "api.github.com", "port": 443, "path": "/repos/a/b/contents/x.py", "flow": "100.64.0.1:4123",
    "address": "140.82.121.6", "jti": "abcdefghijklmnop", "notes": {},
}  # fmt: skip
WIDTHS = (1, 16, 256)
"""Requests that wait for their record at once."""


def measure(directory: Path, *, quick: bool) -> dict[str, Any]:
    """Every figure by name. `directory` is on the disk that counts."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=directory) as made:
        for width in WIDTHS:
            here = Path(made) / str(width)
            here.mkdir()
            total = (300 if width == 1 else 400 * min(width, 64)) * (1 if quick else 3)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                rate, p50, p99, cpu, signed = runner.run(_append(here, width, total))
            found[f"audit_append_{width}_per_s"] = round(rate)
            found[f"audit_append_{width}_p50_ms"] = p50
            found[f"audit_append_{width}_p99_ms"] = p99
            found[f"audit_append_{width}_cpu_us"] = cpu
        start = time.perf_counter()
        report = verify.verify(here / "audit", [signed])
        found["audit_verify_per_s"] = round(report.records / (time.perf_counter() - start))
        if not report.ok:
            raise RuntimeError(f"the log of the bench does not verify: {report.problem}")
        decisions = Path(made) / "decisions"
        decisions.mkdir()
        found |= checks.measure(decisions, 1.0 if quick else 4.0)
        index = Index(Path(made) / "index.db", here / "audit")
        start = time.perf_counter()
        taken = index.ingest()
        found["audit_ingest_per_s"] = round(taken / (time.perf_counter() - start))
        index.close()
        opener = Opener(Path(made) / "sealed.key")
        blob = sealed.seal(opener.public, "github-token", b"x" * 40)
        found["secret_seal_us"] = _each(lambda: sealed.seal(opener.public, "github-token", b"x" * 40))
        found["secret_open_us"] = _each(lambda: opener.open("github-token", blob))
    return found


async def _append(directory: Path, width: int, total: int) -> tuple[float, float, float, float, dict[str, Any]]:
    signer = head.Signer(directory / "head.key")
    journal = Journal(directory / "audit", segment_bytes=64 << 20, signer=signer, now=lambda: datetime.now(UTC))
    taken: list[float] = []

    async def one() -> None:
        for _ in range(total // width):
            start = time.perf_counter()
            await journal.append(journal.new_id(), Entry(kind="decision", fields=FIELDS))
            taken.append(time.perf_counter() - start)

    before, start = _cpu_s(), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(width):
            group.create_task(one())
    seconds, cpu = time.perf_counter() - start, _cpu_s() - before
    signed = journal.head()
    journal.close()
    assert signed is not None
    taken.sort()
    count = len(taken)
    p50, p99 = (round(taken[int(count * share)] * 1e3, 3) for share in (0.5, 0.99))
    return count / seconds, p50, p99, round(cpu / count * 1e6, 1), signed


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _each(call: Callable[[], object], count: int = 500) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return round((time.perf_counter() - start) / count * 1e6, 1)
