"""`python -m bench.cells [--cells N] [--minutes M] [--json FILE]`: many cells on one node, each asking all the time.

Starts N cells (200) that all begin at one moment, and after a settling time counts for M minutes (30) what each of them
was permitted, from the audit log. `least_share`: what the poorest cell had of its equal share. Meanwhile the memory of
every part of Remit is sampled; `mb_per_minute` is the slope over the second half. As root; a cell's `wrk` keeps two
connections busy. Exits with 1 where a cell had less than half its share.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bench import processes
from bench.rig import REMIT, Rig
from remit.audit import segments

SAMPLE_S = 5.0
SETTLE_S = 20.0
EACH_S = 0.6
"""What starting a cell may take: all of them begin when the last one should be there."""


def main() -> int:
    options = argparse.ArgumentParser(prog="bench.cells", description=__doc__)
    options.add_argument("--cells", type=int, default=200)
    options.add_argument("--minutes", type=float, default=30.0)
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    rig = Rig(streams=1)
    cells: list[subprocess.Popen[bytes]] = []
    try:
        rig.start()
        figures = measured(rig, cells, given.cells, given.minutes * 60)
    finally:
        for one in cells:
            one.kill()
        for one in cells:
            one.wait()
        rig.close()
    text = json.dumps(figures, indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")
    return 0 if figures["least_share"] >= 0.5 else 1


def measured(rig: Rig, cells: list[subprocess.Popen[bytes]], count: int, seconds: float) -> dict[str, Any]:
    begin = time.time() + count * EACH_S + 5
    lasting = int(count * EACH_S * 2 + SETTLE_S + seconds + 120)
    load = f"https://api.bench.example:{rig.port}/v1/things"
    wait = f"sleep $(( {int(begin)} - $(date +%s) )) 2>/dev/null; exec wrk -t 1 -c 2 -d {lasting}s --timeout 10s {load}"
    started = time.monotonic()
    said = [rig.directory / f"cell-{number}.log" for number in range(count)]
    for file in said:
        with file.open("wb") as log:
            cells.append(
                subprocess.Popen(
                    [str(REMIT), "run", "--role", "bench", "--no-tty", "--", "sh", "-c", wait],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=rig.environment,
                )
            )  # fmt: skip
        time.sleep(EACH_S / 2)
    while _running(rig) < count and time.monotonic() - started < count * EACH_S * 3 + 60:
        time.sleep(1)
    found: dict[str, Any] = {"cells": _running(rig), "start_s": round(time.monotonic() - started, 1)}
    time.sleep(max(0.0, begin - time.time()) + SETTLE_S)
    since = datetime.now(UTC)
    memory: dict[str, list[tuple[float, float]]] = {}
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        for name, pid in {**rig.pids(), "supervisor": rig.supervisor()}.items():
            memory.setdefault(name, []).append((time.monotonic(), processes.memory_mb(pid)))
        time.sleep(min(SAMPLE_S, left))
    until = datetime.now(UTC)
    early = [file.read_text().strip()[-200:] for file, one in zip(said, cells, strict=True) if one.poll() is not None]
    found |= {"ended_early": len(early), "ended_with": Counter(early).most_common(3)}
    permits, others = counted(rig.settings.audit_dir, since, until)
    share = sum(permits.values()) / max(1, count)
    ordered = sorted((permits[task] for task in permits), reverse=True) + [0] * (count - len(permits))
    return {
        **found,
        "seconds": round(seconds),
        "permits_per_s": round(sum(permits.values()) / seconds),
        "least_share": round(min(ordered) / share, 3) if share else 0.0,
        "least_share_of_those_that_asked": round(min(permits.values()) / share, 3) if permits else 0.0,
        "most_share": round(max(ordered) / share, 3) if share else 0.0,
        "spread": round(statistics.pstdev(ordered) / share, 3) if share else 0.0,
        "not_permitted": dict(others),
        "memory_mb": {
            name: {"first": round(taken[0][1], 1), "last": round(taken[-1][1], 1), "mb_per_minute": _slope(taken)}
            for name, taken in memory.items()
        },
    }


def counted(log: Path, since: datetime, until: datetime) -> tuple[Counter[str], Counter[str]]:
    """(permits by task, other decisions by reason) of a time."""
    early, late = (f'"time":"{at.isoformat()[:19]}'.encode() for at in (since, until + timedelta(seconds=1)))
    permits, others = Counter[str](), Counter[str]()
    for number in segments.numbers(log):
        for _, lines in segments.blocks(segments.path(log, number)):
            for line in lines:
                at = line.find(b'"time":"')
                if b'"kind":"decision"' not in line or not early <= line[at : at + len(early)] < late:
                    continue
                said = json.loads(line)
                if said["decision"] == "permit":
                    permits[said["task"]] += 1
                else:
                    others[said["reason"]] += 1
    return permits, others


def _running(rig: Rig) -> int:
    return sum('"running"' in line for line in rig.remit("ps", "--json").splitlines())


def _slope(taken: list[tuple[float, float]]) -> float:
    """Megabytes a minute over the second half."""
    half = taken[len(taken) // 2 :]
    if len(half) < 3:
        return 0.0
    return round(statistics.linear_regression([at / 60 for at, _ in half], [mb for _, mb in half]).slope, 3)


if __name__ == "__main__":
    sys.exit(main())
