"""`python -m bench.audit [--records N] [--directory D] [--json FILE]`: the audit log when it is long.

Writes a log of N records (10 million: 5 GB, removed at the end) as a busy node would have: tasks that come and go, each
decision followed by its completion, refusals, names asked for. Then measures what people do with it, through the class
that the control plane uses: take it in, verify it, ask it. Exits with 1 where a figure misses its aim.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from bench import history
from remit.audit import verify
from remit.audit.reader import Reader
from remit.control.ports_audit import AuditFilter
from remit.core.errors import Unavailable

ROUNDS = 40
"""Times that each kind of question is asked, each time with other values."""
AIMS = {"ingest_per_s": 20_000, "verify_per_s": 200_000}
P95_AIM_MS = 200.0


def main() -> int:
    options = argparse.ArgumentParser(prog="bench.audit", description=__doc__)
    options.add_argument("--records", type=int, default=10_000_000)
    options.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="on the disk that counts")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(dir=given.directory, prefix="rmta-") as made:
        figures = measured(Path(made), given.records)
    text = json.dumps(figures, indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")
    missed = [name for name, least in AIMS.items() if figures[name] < least]
    return 1 if missed or figures["query_p95_ms"] >= P95_AIM_MS else 0


def measured(directory: Path, records: int) -> dict[str, Any]:
    log, file = directory / "audit", directory / "index.db"
    start = time.perf_counter()
    head, drawn = history.write(directory, records)
    found: dict[str, Any] = {"records": records, "generate_s": round(time.perf_counter() - start, 1)}
    found["log_mb"] = round(sum(one.stat().st_size for one in log.glob("*.log")) / 1e6)
    start = time.perf_counter()
    report = verify.verify(log, [head])
    found["verify_per_s"] = round(report.records / (time.perf_counter() - start))
    if not report.ok:
        raise RuntimeError(f"the log of the bench does not verify: {report.problem}")
    reader = Reader(directory=log, file=file)
    start, cpu = time.perf_counter(), _cpu_s()
    asyncio.run(_taken_in(reader, records))
    found["ingest_per_s"] = round(records / (time.perf_counter() - start))
    found["ingest_cpu_us"] = round((_cpu_s() - cpu) / records * 1e6, 1)
    found["index_mb"] = round(sum(one.stat().st_size for one in directory.glob("index.db*")) / 1e6)
    found["index_bytes_per_record"] = round(found["index_mb"] * 1e6 / records, 1)
    found |= asyncio.run(_asked(reader, drawn))
    reader.close()
    start = time.perf_counter()
    reader = Reader(directory=log, file=file)
    asyncio.run(reader.query(AuditFilter(limit=1)))
    found["reopen_ms"] = round((time.perf_counter() - start) * 1e3)
    reader.close()
    found["rss_max_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
    return found


async def _taken_in(reader: Reader, records: int) -> None:
    """As the control plane does it beside its work."""
    keeping = asyncio.ensure_future(reader.keep_up())
    while not (page := (await _latest(reader))) or page[0]["seq"] < records - 1:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    keeping.cancel()


async def _latest(reader: Reader) -> Any:
    try:
        return (await reader.query(AuditFilter(limit=1))).records
    except Unavailable:
        return []


async def _asked(reader: Reader, drawn: history.Drawn) -> dict[str, Any]:
    taken: list[float] = []
    by_kind: dict[str, dict[str, float]] = {}
    for name, questions in _mix(drawn):
        mine: list[float] = []
        rows = 0
        for wanted in questions:
            start = time.perf_counter()
            page = await reader.query(wanted)
            mine.append((time.perf_counter() - start) * 1e3)
            rows += len(page.records)
        mine.sort()
        taken += mine
        p50, p95 = _at(mine, 0.5), _at(mine, 0.95)
        by_kind[name] = {"p50_ms": p50, "p95_ms": p95, "max_ms": round(mine[-1], 1), "rows": round(rows / len(mine), 1)}
    by_id = []
    for _ in range(ROUNDS):
        (one,) = (await reader.query(AuditFilter(limit=1, after=str(random.randrange(drawn.records // 2))))).records
        start = time.perf_counter()
        await reader.get(one["id"][:20])
        by_id.append((time.perf_counter() - start) * 1e3)
    by_id.sort()
    by_kind["by the start of its id"] = {"p50_ms": _at(by_id, 0.5), "p95_ms": _at(by_id, 0.95)}
    taken = sorted(taken + by_id)
    return {"query_p50_ms": _at(taken, 0.5), "query_p95_ms": _at(taken, 0.95), "query_max_ms": round(taken[-1], 1),
            "queries": len(taken), "by_kind": by_kind}  # fmt: skip


def _mix(drawn: history.Drawn) -> Iterator[tuple[str, list[AuditFilter]]]:
    """What people ask: one filter, several, a time, older pages, and what is not there at all."""
    chance = random.Random(7)

    def moment(share: float) -> datetime:
        return drawn.first + (drawn.last - drawn.first) * share

    def some(**fields: Any) -> list[AuditFilter]:
        return [
            AuditFilter(**{name: value() if callable(value) else value for name, value in fields.items()})
            for _ in range(ROUNDS)
        ]

    def pick(values: Any) -> Any:
        return lambda: chance.choice(values)

    def seq() -> str:
        return str(chance.randrange(drawn.records))

    yield "latest", some()
    yield "task", some(task=pick(drawn.tasks))
    yield "task, all of it", some(task=pick(drawn.tasks), after="0", limit=1000)
    yield "tree", some(tree=pick(drawn.parents))
    yield "tree, all of it", some(tree=pick(drawn.parents), after="0", limit=1000)
    yield "tree of a twentieth of all tasks", some(tree=drawn.tasks[0])
    yield (
        "tree of a twentieth of all tasks, denied, from the start",
        some(tree=drawn.tasks[0], decision="deny", after="0"),
    )
    yield "role", some(role=pick(history.ROLES))
    yield "decision", some(decision=pick(("permit", "deny")))
    yield "reason", some(reason=pick(history.REASONS))
    yield "host", some(host=pick(drawn.hosts))
    yield "host that was asked for once", some(host=pick(drawn.strange))
    yield "capability", some(capability=pick(history.CAPABILITIES))
    yield "credential", some(credential=pick(history.CREDENTIALS))
    yield "kind", some(kind=pick(("operator", "dns", "completion")))
    yield "role that ended long ago", some(role=history.FORMER)
    yield "common and common, never together", some(role=history.ROLES[0], capability=history.CAPABILITIES[-1])
    yield "rare and common", some(host=pick(drawn.strange), decision="permit")
    yield "three", some(role=pick(history.ROLES), decision="deny", host=pick(drawn.hosts))
    yield "four", some(role=pick(history.ROLES), capability=pick(history.CAPABILITIES), reason="permitted",
                       credential=pick(history.CREDENTIALS))  # fmt: skip
    yield "since", some(since=lambda: moment(chance.random()))
    yield (
        "an hour",
        [
            AuditFilter(since=at, until=at + timedelta(hours=1), decision="deny")
            for at in (moment(chance.random()) for _ in range(ROUNDS))
        ],
    )
    yield (
        "until, denied, by role",
        some(until=lambda: moment(chance.random()), decision="deny", role=pick(history.ROLES)),
    )
    yield "page of 1000 from the middle", some(after=seq, limit=1000)
    yield "page of denials from the middle", some(after=seq, decision="deny")
    yield "nothing matches", some(task="t-zzzzzzzzzz")


def _at(ordered: list[float], share: float) -> float:
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 2)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
