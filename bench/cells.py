"""`python -m bench.cells [--cells N] [--minutes M] [--json FILE]`: many cells on one node, each asking all the time.

Starts N cells (200) that all begin at one moment, and after a settling time counts for M minutes (30) what each of them
was permitted, from the audit log. `least_share`: what the poorest cell had of its equal share. Meanwhile the memory of
every part of Remit is sampled; `mb_per_minute` is the slope over the second half. As root; a cell's `wrk` keeps two
connections busy. How it goes is said every half minute. Passes (exit code 0) where every cell ran to the end and had at
least half its share, nothing was refused, no part was started anew, and none grew in the second half by more than is
explained; else says what did not hold and exits with 1.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bench import processes
from bench.rig import REMIT, Rig
from remit.audit import segments

SAMPLE_S = 5.0
TOLD_S = 30.0
SETTLE_S = 20.0
EACH_S = 0.2
"""What starting a cell may take: all of them begin when the last one should be there."""
LEAST_SHARE = 0.5
NOISE_MB = 4.0
"""What a part may grow by in the second half without a reason: allocators keep and give back pages as they like."""
EXPLAINED_MB = {"control": 10.0}
"""The audit index has its first blocks within 250,000 records, wherever in the run they fall."""
PARTS = ("supervisor", "control", "decide", "envoy", "cells", "forward")

Memory = dict[str, list[tuple[float, float]]]


def main() -> int:
    options = argparse.ArgumentParser(prog="bench.cells", description=__doc__)
    options.add_argument("--cells", type=int, default=200)
    options.add_argument("--minutes", type=float, default=30.0)
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # through `finally`: nothing is left
    rig = Rig(streams=1)
    cells: list[subprocess.Popen[bytes]] = []
    try:
        rig.start()
        figures = measured(rig, cells, given.cells, given.minutes * 60)
    finally:
        say("ending")
        for one in cells:
            one.kill()
        for one in cells:
            one.wait()
        rig.close()
    figures["failed"] = list(wrong(figures, given.cells))
    text = json.dumps(figures, indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")
    say(f"FAILED: {'; '.join(figures['failed'])}" if figures["failed"] else "PASSED")
    return 1 if figures["failed"] else 0


def say(what: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {what}", file=sys.stderr, flush=True)


def measured(rig: Rig, cells: list[subprocess.Popen[bytes]], count: int, seconds: float) -> dict[str, Any]:
    found, said = started(rig, cells, count, seconds)
    since = datetime.now(UTC)
    memory = watched(rig, cells, seconds)
    until = datetime.now(UTC)
    early = [file.read_text().strip()[-200:] for file, one in zip(said, cells, strict=True) if one.poll() is not None]
    found |= {"ended_early": len(early), "ended_with": Counter(early).most_common(3), "restarts": restarts(rig)}
    say("counting what was permitted")
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
        "memory_mb": {name: grown(taken) for name, taken in memory.items()},
    }


def started(
    rig: Rig, cells: list[subprocess.Popen[bytes]], count: int, seconds: float
) -> tuple[dict[str, Any], list[Path]]:
    """Start the cells; returns when they have begun to ask and settled. With the files of what each one says."""
    begin = time.time() + count * EACH_S + 5
    lasting = int(count * EACH_S * 2 + SETTLE_S + seconds + 120)
    load = f"https://api.bench.example:{rig.port}/v1/things"
    wait = f"sleep $(( {int(begin)} - $(date +%s) )) 2>/dev/null; exec wrk -t 1 -c 2 -d {lasting}s --timeout 10s {load}"
    since, cpu_s = time.monotonic(), cpu(rig)
    said = [rig.directory / f"cell-{number}.log" for number in range(count)]
    for number, file in enumerate(said):
        with file.open("wb") as log:
            cells.append(
                subprocess.Popen(
                    [str(REMIT), "run", "--role", "bench", "--no-tty", "--", "sh", "-c", wait],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=rig.environment,
                )
            )  # fmt: skip
        time.sleep(EACH_S / 2)
        if number % 50 == 49:
            say(f"started {number + 1} of {count} cells")
    while running(rig) < count and time.monotonic() - since < count * EACH_S * 3 + 60:
        time.sleep(1)
    found: dict[str, Any] = {"cells": running(rig), "start_s": round(time.monotonic() - since, 1)}
    found["start_cpu_ms_each"] = {
        name: round(1000 * (used - cpu_s[name]) / count, 1) for name, used in cpu(rig).items()
    }
    say(f"{found['cells']} cells stand; they ask from {datetime.fromtimestamp(begin, UTC):%H:%M:%S} on")
    time.sleep(max(0.0, begin - time.time()) + SETTLE_S)
    return found, said


def watched(rig: Rig, cells: list[subprocess.Popen[bytes]], seconds: float) -> Memory:
    """The memory of each part in MB (without pages of files), each with its time of a clock that does not step back."""
    memory: Memory = {}
    begun, told = time.monotonic(), 0.0
    while (left := begun + seconds - time.monotonic()) > 0:
        for name, pid in {**rig.pids(), "supervisor": rig.supervisor()}.items():
            memory.setdefault(name, []).append((time.monotonic(), processes.memory_mb(pid, own=True)))
        if time.monotonic() - told >= TOLD_S:
            told = time.monotonic()
            sizes = ", ".join(f"{name} {memory[name][-1][1]:.0f}" for name in PARTS if name in memory)
            alive = sum(one.poll() is None for one in cells)
            again = f"; started anew: {restarts(rig)}" if restarts(rig) else ""
            say(f"{(told - begun) / 60:.1f} of {seconds / 60:.1f} minutes: {alive} cells run; MB: {sizes}{again}")
        time.sleep(min(SAMPLE_S, left))
    return memory


def wrong(figures: dict[str, Any], count: int) -> Iterator[str]:
    """What did not hold, in words."""
    if figures["cells"] != count:
        yield f"{figures['cells']} of {count} cells started"
    if figures["ended_early"]:
        yield f"{figures['ended_early']} cells ended early: {figures['ended_with'][0][0]}"
    if figures["least_share"] < LEAST_SHARE:
        yield f"a cell had {figures['least_share']} of its share"
    if figures["not_permitted"]:
        yield f"not permitted: {figures['not_permitted']}"
    if figures["restarts"]:
        yield f"started anew: {figures['restarts']}"
    for name in PARTS:
        more = figures["memory_mb"].get(name, {}).get("second_half_mb", 0.0)
        if more > NOISE_MB + EXPLAINED_MB.get(name, 0.0):
            yield f"{name} grew by {more} MB in the second half"


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


def running(rig: Rig) -> int:
    return sum('"running"' in line for line in rig.remit("ps", "--json").splitlines())


def restarts(rig: Rig) -> dict[str, int]:
    """Parts that were started anew, and how often."""
    state = json.loads(rig.settings.supervisor_file.read_text())
    return {name: part["restarts"] for name, part in state["processes"].items() if part.get("restarts")}


def cpu(rig: Rig) -> dict[str, float]:
    """Seconds of processor time that each part has used."""
    return {name: processes.cpu_s(pid) for name, pid in rig.pids().items() if name in PARTS}


def grown(taken: list[tuple[float, float]]) -> dict[str, float]:
    """First and last size in MB; the slope over the second half, and what that makes over its length."""
    half = taken[len(taken) // 2 :]
    slope = 0.0
    if len(half) >= 3:
        slope = statistics.linear_regression([at / 60 for at, _ in half], [mb for _, mb in half]).slope
    length = (half[-1][0] - half[0][0]) / 60
    return {
        "first": round(taken[0][1], 1),
        "last": round(taken[-1][1], 1),
        "mb_per_minute": round(slope, 3),
        "second_half_mb": round(slope * length, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
