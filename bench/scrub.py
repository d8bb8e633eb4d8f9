"""`python -m bench.scrub [--json FILE]`: what it costs to search answers for a credential, through the whole boundary.

Three paths of one host differ in nothing but their capability: `plain` has no credential, `injected` one whose answers
are trusted (`scrub: false`), `searched` one whose answers are searched. Measured are requests a second and processor
time of small answers (230 bytes), the time of a 10 MB JSON answer, and what others wait while such answers stream.
Exits with 1 where a 10 MB answer takes more than three times as long. As root.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import measures, processes
from bench.rig import Rig

KINDS = ("plain", "injected", "searched")
BIG_BYTES = 10_000_000
MOST = 3.0
MANIFESTS = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: bench}}
spec: {{capabilities: [plain, injected, searched]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: plain}}
spec:
  hosts: ["*.bench.example"]
  ports: [{port}]
  paths: [/plain/**]
  addresses: [127.0.0.0/8]
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: injected}}
spec:
  hosts: ["*.bench.example"]
  ports: [{port}]
  paths: [/injected/**]
  credential: trusted
  addresses: [127.0.0.0/8]
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: searched}}
spec:
  hosts: ["*.bench.example"]
  ports: [{port}]
  paths: [/searched/**]
  credential: searched
  addresses: [127.0.0.0/8]
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: trusted}}
spec:
  hosts: ["*.bench.example"]
  source: {{sealed: {{name: key}}}}
  inject: {{header: {{name: Authorization, format: "Bearer {{secret}}"}}}}
  scrub: false
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: searched}}
spec:
  hosts: ["*.bench.example"]
  source: {{sealed: {{name: key}}}}
  inject: {{header: {{name: Authorization, format: "Bearer {{secret}}"}}}}
"""
DOWNLOADS = """
import json, socket, ssl, sys, time
host, port, path, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
context, taken, buffer = ssl.create_default_context(), [], memoryview(bytearray(1 << 18))
with context.wrap_socket(socket.create_connection((host, port)), server_hostname=host) as sock:
    for number in range(count):
        begun = time.perf_counter()
        sock.sendall(f"GET {path} HTTP/1.1\\r\\nhost: {host}:{port}\\r\\n\\r\\n".encode())
        got = b""
        while b"\\r\\n\\r\\n" not in got:
            got += sock.recv(65536)
        head, _, rest = got.partition(b"\\r\\n\\r\\n")
        assert b" 200 " in head, head
        lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\\r\\n")[1:])
        left = int(lines[b"content-length"]) - len(rest)
        while left:
            left -= sock.recv_into(buffer)
        taken.append((time.perf_counter() - begun) * 1e3)
print(json.dumps(taken[1:]))
"""
"""One answer after the other on one connection; the first warms up."""


def main() -> int:
    options = argparse.ArgumentParser(prog="bench.scrub", description=__doc__)
    options.add_argument("--json", type=Path, help="write the figures there as one JSON object")
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        big = Path(directory) / "big.json"
        big.write_bytes(_json(BIG_BYTES))
        rig = Rig(streams=1, bodies={f"/{kind}/big": big for kind in KINDS})
        try:
            rig.start()
            rig.remit("apply", "-f", "-", given=MANIFESTS.format(port=rig.port))
            figures = _measured(rig, given.rounds)
        finally:
            rig.close()
    text = json.dumps({name: round(value, 3) for name, value in figures.items()}, indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")
    return 0 if figures["big_ratio"] <= MOST else 1


def _json(size: int) -> bytes:
    """Records as an API lists them."""
    one = len(json.dumps(_record(0))) + 2
    return json.dumps([_record(number) for number in range(size // one)]).encode()


def _record(number: int) -> dict[str, Any]:
    return {"id": f"{number:08d}", "name": f"user {number:08d}", "token": os.urandom(16).hex(), "active": True}


def _measured(rig: Rig, rounds: int) -> dict[str, float]:
    small: dict[str, measures.Load] = {kind: measures.Load() for kind in KINDS}
    big: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for kind in KINDS:
        _downloads(rig, f"/{kind}/x", 2)
    for _ in range(rounds):
        for kind in KINDS:
            _load(rig, f"/{kind}/x", small[kind])
        for kind in KINDS:
            big[kind] += _downloads(rig, f"/{kind}/big", 10)
    figures: dict[str, float] = {}
    for kind in KINDS:
        figures[f"small_{kind}_per_s"] = small[kind].rate()
        figures |= {f"small_{kind}_cpu_{part}_us": statistics.median(us) for part, us in small[kind].cpu_us.items()}
        figures[f"big_{kind}_ms"] = statistics.median(big[kind])
    for kind in KINDS[1:]:
        pairs = zip(small["plain"].per_s, small[kind].per_s, strict=True)
        figures[f"small_{kind}_cost"] = statistics.median(plain / other for plain, other in pairs) - 1
    figures["big_ratio"] = figures["big_searched_ms"] / figures["big_injected_ms"]
    return figures | _beside(rig)


def _load(rig: Rig, path: str, load: measures.Load) -> None:
    command = ["wrk", "-t1", f"-c{measures.WIDTH}", "-d3s", f"https://{measures.HOST}:{rig.port}{path}"]
    before = {name: processes.cpu_s(rig.pids()[name]) for name in measures.PARTS["governed"]}
    rate, requests = measures.wrk(rig.in_cell(*command), path)
    load.per_s.append(rate)
    for name, used in before.items():
        load.cpu_us.setdefault(name, []).append((processes.cpu_s(rig.pids()[name]) - used) / requests * 1e6)


def _downloads(rig: Rig, path: str, count: int) -> list[float]:
    """Milliseconds of each."""
    said = rig.in_cell(sys.executable, "-c", DOWNLOADS, measures.HOST, str(rig.port), path, str(count + 1))
    taken: list[float] = json.loads(said)
    return taken


def _beside(rig: Rig) -> dict[str, float]:
    """Latency of small requests without a credential, alone and while big answers are searched."""
    found: dict[str, float] = {}
    arguments = [sys.executable, "-c", DOWNLOADS, measures.HOST, str(rig.port)]
    for name in ("alone", "beside"):
        busy = [*arguments, "/searched/big", "100000" if name == "beside" else "1"]
        with rig.running(*busy):
            time.sleep(1)
            taken = sorted(_downloads(rig, "/plain/x", 1000))
        found |= {f"check_{name}_p50_ms": statistics.median(taken), f"check_{name}_p99_ms": taken[-10]}
    return found


if __name__ == "__main__":
    sys.exit(main())
