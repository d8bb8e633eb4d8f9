"""What is measured on the rig. Variants take turns (A B A B), so that a busy machine is busy for all of them."""

from __future__ import annotations

import contextlib
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench import clients, processes
from bench.rig import Rig, wait_until
from bench.streams import Streams

WIDTH = 16
"""Connections of the load generator."""
SETTLE_S = 0.5
CURL = ("-sk", "--max-time", "30", "-o", "/dev/null", "-w", "%{http_code}")
"""Certificates are not verified: cells do not trust mitmproxy's."""
HOST = "api.bench.example"
PARTS = {
    "governed": ("envoy", "decide", "forward"),
    "fixed": ("fixed", "answers", "forward"),
    "ungoverned": ("ungoverned", "forward"),
    "mitmproxy": ("mitmproxy", "adapter", "forward"),
}
"""The processes that serve a request, by variant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long everything takes. Seconds and counts."""

    rounds: int = 3
    load_s: float = 4.0
    latency_s: float = 4.0
    new_connections_s: float = 3.0
    cold_names: int = 150
    runs: int = 15
    cells: int = 10
    revocations: int = 20


QUICK = Plan(rounds=1, load_s=2, latency_s=2, new_connections_s=1.5, cold_names=40, runs=5, cells=4, revocations=5)


@dataclass(slots=True)
class Load:
    """One variant under load: requests a second by round, and microseconds of processor time a request by process."""

    per_s: list[float] = field(default_factory=list)
    cpu_us: dict[str, list[float]] = field(default_factory=dict)

    def rate(self) -> float:
        return statistics.median(self.per_s)


def warm(rig: Rig, variants: Sequence[str]) -> None:
    """One request through each variant: keys, certificates and pools are made on first use."""
    for variant in variants:
        rig.switch(variant)
        said = rig.in_cell("curl", *CURL, f"https://{HOST}:{rig.port}/v1/things")
        if said.strip() != "200":
            raise RuntimeError(f"{variant} answers {said[-200:]!r}")


def throughput(rig: Rig, variants: Sequence[str], rounds: int, seconds: float, *, new: bool) -> dict[str, Load]:
    """wrk in a cell, keep-alive or (`new`) one connection a request. `RuntimeError` where an answer is no 200."""
    found = {variant: Load() for variant in variants}
    extra = ["-H", "Connection: close"] if new else []
    command = [
        "wrk",
        "-t1",
        f"-c{WIDTH}",
        f"-d{max(1, round(seconds))}s",
        *extra,
        f"https://{HOST}:{rig.port}/v1/things",
    ]
    for _ in range(rounds):
        for variant in variants:
            rig.switch(variant)
            before = _cpu(rig, variant)
            said = rig.in_cell(*command)
            after = _cpu(rig, variant)
            rate, requests = wrk(said, variant)
            found[variant].per_s.append(rate)
            for name in PARTS[variant]:
                used = (after[name] - before[name]) / requests * 1e6
                found[variant].cpu_us.setdefault(name, []).append(used)
    return found


def latency(rig: Rig, variants: Sequence[str], rounds: int, seconds: float, rate: float) -> dict[str, dict[str, float]]:
    """Requests at a fixed rate over kept connections: median over the rounds of p50, p90, p99, in milliseconds."""
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
    for _ in range(rounds):
        for variant in variants:
            rig.switch(variant)
            arguments = [HOST, str(rig.port), str(rate), str(seconds), str(WIDTH)]
            said = json.loads(rig.in_cell(sys.executable, "-c", clients.FIXED_RATE, *arguments))
            if said["failed"]:
                raise RuntimeError(f"{variant}: {said['failed']} of {said['sent']} requests failed at {rate:.0f}/s")
            found[variant].append(said)
    return {
        variant: {name: statistics.median(one[name] for one in said) for name in ("p50_ms", "p90_ms", "p99_ms")}
        for variant, said in found.items()
    }


def names(rig: Rig, count: int) -> dict[str, dict[str, float]]:
    """New connections, governed, to names that nobody asked for before (`cold`), and to the same again (`warm`)."""
    rig.switch("governed")
    wanted = [f"c{number}.bench.example" for number in range(count)]
    found: dict[str, dict[str, float]] = {}
    for name in ("cold", "warm"):
        said = json.loads(rig.in_cell(sys.executable, "-c", clients.NEW_NAMES, str(rig.port), *wanted))
        if said["failed"]:
            raise RuntimeError(f"{name} names: {said['failed']} of {count} requests failed")
        found[name] = said
    return found


def start_ms(rig: Rig, runs: int) -> dict[str, float]:
    """`remit run -- true` from outside: process start to exit."""
    taken = sorted(_timed(lambda: rig.in_cell("true")) * 1e3 for _ in range(runs + 1))[: runs + 1]
    return {"median_ms": statistics.median(taken), "max_ms": taken[-1]}


def cell_memory_mb(rig: Rig, count: int) -> dict[str, float]:
    """What one more idle cell adds to all of Remit, without the agent (`sleep`): proportional set size."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(rig.running("sleep", "60"))
        _await_cells(rig, 1)
        time.sleep(SETTLE_S)
        before, agents_before = _memory(rig)
        for number in range(count):
            stack.enter_context(rig.running("sleep", "60"))
            _await_cells(rig, number + 2)
        time.sleep(SETTLE_S)
        after, agents_after = _memory(rig)
        assert first.poll() is None
    whole = (after - before) / count
    agents = (agents_after - agents_before) / count
    return {"cell_rss_mb": whole - agents, "agent_rss_mb": agents, "remit_idle_rss_mb": before - agents_before}


def revocation_ms(rig: Rig, streams: Streams, count: int) -> dict[str, float]:
    """From `remit revoke task` being asked of the API to an open stream of the task being cut at its upstream."""
    rig.switch("governed")
    taken: list[float] = []
    for number in range(count):
        name = f"s{number}"
        arguments = ["stream.bench.example", str(rig.streams), name]
        with rig.running(sys.executable, "-c", clients.STREAM, *arguments) as running:
            assert running.stdout is not None
            if "200" not in (said := running.stdout.readline()):
                raise RuntimeError(f"the stream to revoke did not open: {said}{running.stdout.readline()}")
            task = next(one["id"] for one in _tasks(rig) if one["state"] == "running")
            asked = time.monotonic()
            rig.post("/v1/revocations", {"kind": "task", "name": task})
            answered = time.monotonic()
            wait_until(lambda name=name: name in streams.ended, f"the end of stream {name}")
            taken.append((max(streams.ended[name], answered) - asked) * 1e3)
    taken.sort()
    at = min(len(taken) - 1, int(len(taken) * 0.99))
    return {"p50_ms": statistics.median(taken), "p99_ms": taken[at]}


def _tasks(rig: Rig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in rig.remit("ps", "--json").splitlines()]


def _await_cells(rig: Rig, count: int) -> None:
    wait_until(lambda: sum(one["state"] == "running" for one in _tasks(rig)) >= count, f"{count} cells")


def _memory(rig: Rig) -> tuple[float, float]:
    """(everything below the supervisor, the agents in it), in MB."""
    found = {pid: processes.memory_mb(pid) for pid in processes.descendants(rig.supervisor())}
    return sum(found.values()), sum(size for pid, size in found.items() if processes.name(pid) == "sleep")


def _cpu(rig: Rig, variant: str) -> dict[str, float]:
    pids = rig.pids()
    return {name: processes.cpu_s(pids[name]) for name in PARTS[variant]}


def wrk(said: str, variant: str) -> tuple[float, int]:
    """(requests a second, requests) of what wrk printed. `RuntimeError` where an answer was no 200."""
    rate = re.search(r"Requests/sec:\s+([0-9.]+)", said)
    requests = re.search(r"([0-9]+) requests in", said)
    wrong = re.search(r"Non-2xx or 3xx responses: ([0-9]+)", said)
    if rate is None or requests is None or wrong is not None or not int(requests[1]):
        raise RuntimeError(f"{variant}: wrk said {said[-600:]}")
    return float(rate[1]), int(requests[1])


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
