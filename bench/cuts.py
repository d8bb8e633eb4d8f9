"""`python -m bench.cuts [--count N] [--json FILE]`: how fast what is open ends when its authority does.

For each kind of authority (a capability, a role, a credential, an opaque TCP connection's capability, everything), N
times: milliseconds from asking the API until it has answered and the open stream was cut at its upstream. And how late
a byte budget cuts: from the moment that the cell had as much as the budget has, to the cut. As root.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import clients
from bench.rig import Rig, wait_until
from bench.streams import FLOOD_LIMIT, Streams

EXTRA = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: bench}}
spec: {{capabilities: [api, raw]{budgets}}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: raw}}
spec: {{protocol: tcp, hosts: [stream.bench.example], ports: [{tcp}], addresses: [127.0.0.0/8]}}
"""
BYTES = f", budgets: [{{bytesIn: '{FLOOD_LIMIT}', each: task}}]"
KINDS = {"capability": "api", "role": "bench", "credential": "key", "tcp": "raw", "everything": ""}
AIM_MS = 100.0


def main() -> int:
    options = argparse.ArgumentParser(prog="bench.cuts", description=__doc__)
    options.add_argument("--count", type=int, default=20)
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    streams = Streams()
    rig = Rig(streams=streams.port)
    figures: dict[str, Any] = {"count": given.count}
    try:
        streams.use(rig.certificates)
        rig.start()
        rig.remit("apply", "-f", "-", given=EXTRA.format(budgets="", tcp=streams.tcp_port))
        for kind in KINDS:
            figures |= _row(f"revoke_{kind}", [_revoked(rig, streams, kind, n) for n in range(given.count)])
        rig.remit("apply", "-f", "-", given=EXTRA.format(budgets=BYTES, tcp=streams.tcp_port))
        over = [_over(rig, n) for n in range(given.count)]
        figures |= _row("bytes_late", [late_ms for late_ms, _ in over])
        figures["bytes_over_max"] = max(size for _, size in over)
    finally:
        rig.close()
        streams.close()
    text = json.dumps(figures, indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")
    return 0 if all(figures[f"revoke_{kind}_p99_ms"] < AIM_MS for kind in KINDS) else 1


def _row(name: str, taken: list[float]) -> dict[str, float]:
    taken.sort()
    at = min(len(taken) - 1, int(len(taken) * 0.99))
    return {f"{name}_p50_ms": round(statistics.median(taken), 1), f"{name}_p99_ms": round(taken[at], 1)}


def _revoked(rig: Rig, streams: Streams, kind: str, number: int) -> float:
    name = f"{kind}-{number}"
    client = clients.RAW if kind == "tcp" else clients.STREAM
    port = streams.tcp_port if kind == "tcp" else rig.streams
    with rig.running(sys.executable, "-c", client, "stream.bench.example", str(port), name) as running:
        wait_until(lambda: name in streams.open or running.poll() is not None, f"stream {name}")
        asked = time.monotonic()
        undo = _revoke(rig, kind)
        answered = time.monotonic()
        wait_until(lambda: name in streams.ended, f"the end of stream {name}")
    undo()
    return (max(streams.ended[name], answered) - asked) * 1e3


def _revoke(rig: Rig, kind: str) -> Callable[[], object]:
    """Take it away; what gives it back."""
    if kind == "everything":
        rig.post("/v1/revocations/everything", {"reason": "bench"})
        return lambda: rig.post("/v1/revocations/everything/lift", {"reason": "bench"})
    kept = "capability" if kind == "tcp" else kind
    rig.post("/v1/revocations", {"kind": kept, "name": KINDS[kind]})
    return lambda: rig.remit("restore", kept, KINDS[kind])


def _over(rig: Rig, number: int) -> tuple[float, int]:
    """(milliseconds, bytes) that a stream went on beyond its budget, as its cell saw it."""
    arguments = ("stream.bench.example", str(rig.streams), f"flood-{number}", str(FLOOD_LIMIT))
    with rig.running(sys.executable, "-c", clients.FLOOD, *arguments) as running:
        assert running.stdout is not None
        said = running.stdout.readline().split()
    if len(said) != 2:
        raise RuntimeError(f"the stream did not run up to its budget: {said}")
    return float(said[0]), int(said[1])


if __name__ == "__main__":
    sys.exit(main())
