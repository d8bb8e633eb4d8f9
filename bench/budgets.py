"""`python -m bench.budgets [--kills N]`: 10,000 requests at once for the last 100 units of a budget.

Over 1,000 HTTP/2 connections of one cell. Prints one JSON object: what was permitted, what the upstream saw, what the
clients were told, and how long it took. With kills, the decision service dies (kill -9) in the middle of as many bursts
of the same size before the last. Exits with 1 where more or fewer than 100 were permitted, or more than 100 arrived. As
root; takes minutes with kills.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import ssl
import sys
import threading
import time
from typing import Any

from bench.certificates import Files
from bench.rig import Rig, wait_until

LIMIT, REQUESTS, CONNECTIONS, STREAMS = 100, 10_000, 1_000, 10
KILL_AFTER, KILL_WITHIN_S = 4, 2.5
"""The service is killed when so many requests have arrived, or so long after the start."""
MANIFEST = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: bench}}
spec: {{capabilities: [api], budgets: [{{requests: {limit}}}]}}
"""


class Counting:
    """An HTTPS upstream in a thread of its own that answers everything and counts."""

    def __init__(self) -> None:
        self.requests = 0
        self._loop = asyncio.new_event_loop()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls))
        self.port = int(self._server.sockets[0].getsockname()[1])
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def use(self, files: Files) -> None:
        self._tls.load_cert_chain(files.certificate, files.key)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                self.requests += 1
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        writer.close()


def burst(rig: Rig, upstream: Counting, *, kill: bool) -> dict[str, int]:
    """Answers by class, as `h2load` in a cell counts them."""
    url = f"https://api.bench.example:{upstream.port}/v1/burst"
    load = ("h2load", "-n", str(REQUESTS), "-c", str(CONNECTIONS), "-m", str(STREAMS), "-T", "20", url)
    with rig.running(*load) as process:
        if kill:
            before = rig.pids()["decide"]
            enough, late = upstream.requests + KILL_AFTER, time.monotonic() + KILL_WITHIN_S
            while upstream.requests < enough and time.monotonic() < late and process.poll() is None:
                time.sleep(0.001)
            os.kill(before, signal.SIGKILL)
            wait_until(lambda: rig.pids().get("decide") not in (None, before), "a new decision service")
            wait_until(lambda: resolves(rig), "names in cells")
        said, problem = process.communicate(timeout=180)
    found = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", said)
    if found is None and kill:
        return {}  # it could not even look the name up
    if found is None:
        raise RuntimeError(f"h2load: {said[-500:]}{problem[-500:]}")
    return dict(zip(("2xx", "3xx", "4xx", "5xx"), map(int, found.groups()), strict=True))


def resolves(rig: Rig) -> bool:
    try:
        return bool(rig.in_cell("getent", "hosts", "api.bench.example"))
    except RuntimeError:
        return False


def permits(rig: Rig) -> int:
    said = rig.remit("audit", "list", "--json", "--role", "bench", "--decision", "permit", "--limit", "1000")
    return len(said.splitlines())


def main() -> int:
    options = argparse.ArgumentParser(prog="bench.budgets", description=__doc__)
    options.add_argument("--kills", type=int, default=0)
    given = options.parse_args()
    upstream = Counting()
    rig = Rig(streams=upstream.port)
    upstream.use(rig.certificates)
    figures: dict[str, Any] = {"limit": LIMIT, "requests": REQUESTS, "connections": CONNECTIONS, "kills": given.kills}
    try:
        rig.start()
        rig.remit("apply", "-f", "-", given=MANIFEST.format(limit=LIMIT))
        figures["killed"] = [burst(rig, upstream, kill=True) for _ in range(given.kills)]
        started = time.monotonic()
        figures["answers"] = burst(rig, upstream, kill=False)
        figures["seconds"] = round(time.monotonic() - started, 1)
        figures |= {"permitted": permits(rig), "arrived": upstream.requests}
        figures["verified"] = rig.remit("audit", "verify").startswith("ok")
    finally:
        rig.close()
    print(json.dumps(figures))
    return 0 if figures["permitted"] == LIMIT and figures["arrived"] <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
