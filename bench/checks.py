"""What one decision costs the decision service, without Envoy and cells: real parts behind a real check socket."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import selectors
import socket
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import uvloop

from remit.app.clock import SystemClock
from remit.audit import head
from remit.audit.journal import Journal
from remit.boundary import check_server
from remit.broker import sealed
from remit.broker.secrets import Broker
from remit.control import deciding
from remit.control.decide import Decider
from remit.control.knowledge import Knowledge
from remit.control.openings import Openings
from remit.core import flow
from remit.core.claims import Claims
from remit.core.snapshot import Snapshot
from remit.core.task import State, Task
from remit.identity.issuer import Issuer
from remit.identity.verifier import Verifier
from remit.node.policy_worker import Worker
from remit.node.resolver import Resolver
from remit.policy import compile as compiler
from remit.policy import manifests

HOST = "api.bench.example"
TASK = "t-aaaaaaaaaa"
WIDTH = 16
RULES = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {name: bench}
spec: {capabilities: [api]}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {name: api}
spec: {hosts: ["*.bench.example"], methods: [GET], paths: [/v1/**], credential: key, addresses: [127.0.0.0/8]}
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {name: key}
spec: {hosts: ["*.bench.example"], inject: {header: {name: Authorization, format: "Bearer {secret}"}}}
"""


_HEADER = '{header: {name: Authorization, format: "Bearer {secret}"}}'
KINDS = {
    "check": (RULES, b"bench-secret-4711"),
    "check_bare": (RULES.replace(", credential: key", ""), b"bench-secret-4711"),
    "check_signed": (
        RULES.replace(_HEADER, "{sigv4: {services: [s3], regions: [eu-central-1]}}"),
        b'{"accessKeyId": "AKIABENCHBENCHBENCH0", "secretAccessKey": "bench/secret/key/4711"}',
    ),
}
"""Name → rules and secret: with a credential in a header, without one, with an AWS signature."""


def measure(directory: Path, seconds: float) -> dict[str, float]:
    """`…_cpu_us`: processor time of one permitted request in the decision service, its durable record included."""
    found: dict[str, float] = {}
    for name, (rules, secret) in KINDS.items():
        here = directory / name
        here.mkdir()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            cpu_us, per_s = runner.run(_measured(here, seconds, rules, secret))
        found |= {f"{name}_cpu_us": cpu_us, f"{name}_per_s": per_s}
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Service:
    decider: Decider
    openings: Openings
    policies: Worker
    journal: Journal
    token: str


def _service(directory: Path, rules: str, secret: bytes) -> _Service:
    """The decision service with these rules, and a token that it takes. Inside a running loop."""
    opener = sealed.Opener(directory / "sealed.key")
    task = Task(id=TASK, role="bench", state=State.RUNNING, cell=1, created=datetime(2026, 1, 1, tzinfo=UTC))
    knowledge = Knowledge(lease_s=3600, monotonic=time.monotonic)
    policies = Worker(timeout_s=0.2)
    broker = Broker(opener, time.monotonic)
    clock = SystemClock()
    journal = Journal(
        directory / "audit", segment_bytes=64 << 20, signer=head.Signer(directory / "head.key"), now=clock.now
    )
    verifier = Verifier(trust_domain="remit.local", clock=clock, connection_max_s=3600)
    openings = Openings(longest_s=3600, monotonic=time.monotonic)
    made = deciding.over(
        knowledge=knowledge,
        clock=clock,
        monotonic=time.monotonic,
        journal=journal,
        openings=openings,
        cut=_nothing_to_cut,
        verifier=verifier,
        policies=policies,
        resolver=Resolver(_Nowhere(), {HOST: "127.0.0.1"}, time.monotonic),
        secrets=broker,
        answer_max_s=60,
    )
    knowledge.on_change(broker.update)
    knowledge.replace(
        Snapshot(
            version="1",
            epoch=1,
            rules=compiler.rules(manifests.parse(rules, "bench")),
            tasks={TASK: task},
            sealed={"key": sealed.seal(opener.public, "key", secret)},
        )
    )
    knowledge.heard()
    claims = Claims(
        trust_domain="remit.local",
        role="bench",
        task=TASK,
        jti="j",
        issued=int(time.time()),
        expires=int(time.time()) + 3600,
    )
    issuer = Issuer(directory=directory / "issuer", clock=clock, retain_s=3600)
    verifier.replace_keys(issuer.public_keys())
    return _Service(
        decider=made.decider, openings=openings, policies=policies, journal=journal, token=issuer.mint(claims)
    )


async def _measured(directory: Path, seconds: float, rules: str, secret: bytes) -> tuple[float, float]:
    made = _service(directory, rules, secret)
    path = directory / "check.sock"
    serving = asyncio.ensure_future(check_server.serve_check(path, made.decider.check, made.decider.refuse, 4096))
    while not path.exists() or not path.stat().st_mode & 0o600:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    gc.freeze()
    gc.set_threshold(50_000)
    context = get_context("fork")
    ours, theirs = context.Pipe()
    client = context.Process(target=_load, args=(str(path), seconds, made.token, theirs))
    client.start()
    theirs.close()
    before, start, ended = _cpu_s(), time.perf_counter(), 0
    while client.is_alive():  # a thread that waits would count as the service's
        await asyncio.sleep(0.05)
        ended += 1
        made.openings.carried_by(ended)  # nobody here says that requests end, and a task has so many open at most
    cpu, wall = _cpu_s() - before, time.perf_counter() - start
    count = ours.recv()
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    await made.policies.close()
    made.journal.close()
    return cpu / count * 1e6, count / wall


def _nothing_to_cut(task: str, port: int | None) -> None:
    """Stands for the forwarder."""


class _Nowhere:
    async def look_up(self, name: str) -> tuple[tuple[()], float]:
        return (), 0.0


def _request(number: int, token: str) -> bytes:
    now = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    lines = [
        f"GET /v1/things/{number} HTTP/1.1", f"host: {HOST}", "content-length: 0", "user-agent: curl/8", "accept: */*",
        f"x-remit-connection: v=100.64.0.1:{1024 + number} /run/remit/boundary/forward.sock"
        f" {flow.virtual(HOST)[0]}:443 TLSv1.3 {HOST} {token}",
        "x-remit-length: v=-", f"x-amz-date: {now}", "x-amz-content-sha256: UNSIGNED-PAYLOAD",
        f"authorization: AWS4-HMAC-SHA256 Credential=AKIAPLACEHOLDER00000/{now[:8]}/eu-central-1/s3/aws4_request, "
        f"SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={'0' * 64}",
        "x-envoy-internal: true", "x-forwarded-for: 100.64.0.1", "x-envoy-expected-rq-timeout-ms: 1000",
    ]  # fmt: skip
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _load(path: str, seconds: float, token: str, said: Any) -> None:
    """Requests over `WIDTH` connections, one at a time each. Tells how many were answered with a permit."""
    chosen = selectors.DefaultSelector()
    for number in range(WIDTH):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        request = _request(number, token)
        chosen.register(connection, selectors.EVENT_READ, (connection, request))
        connection.sendall(request)
    count, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        for key, _ in chosen.select(1.0):
            connection, request = key.data
            answer = connection.recv(65536)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(answer[:300])
            count += 1
            connection.sendall(request)
    said.send(count)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
