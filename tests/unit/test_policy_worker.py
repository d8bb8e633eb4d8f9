"""A policy that loops, allocates or kills its process costs a denial, never the node."""

import asyncio
import os
import signal
from datetime import UTC, datetime

import pytest

from remit.core.capability import Capability, Protocol
from remit.core.claims import Claims
from remit.core.decision import Candidate
from remit.core.request import Request
from remit.core.snapshot import Policy, Role, Rules, Snapshot
from remit.core.task import State, Task
from remit.node.policy_worker import Worker

LOOP = "deny contains 1 if { some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); a * b == -1 }"
ALLOCATE = "deny contains 1 if count([x | some a in numbers.range(1, 100000); some b in numbers.range(1, 10000); x := [a, b]]) < 0"


def asked(path: str = "/x", policies: tuple[str, ...] = ("p",)) -> Candidate:
    capability = Capability(name="c", hosts=("a.com",))
    return Candidate(
        claims=Claims(trust_domain="remit.local", role="r", task="t-aaaaaaaaaa", jti="", issued=0, expires=0),
        task=Task(id="t-aaaaaaaaaa", role="r", state=State.RUNNING, cell=1, created=datetime(2026, 1, 1, tzinfo=UTC)),
        role=Role(name="r", capabilities=(capability,), policies=policies),
        request=Request(
            method="GET", protocol=Protocol.HTTPS, host="a.com", port=443, path=path, query="", target=path,
            websocket=False, flow="100.64.0.1:1024", cell=1, headers={},
        ),
        capability=capability,
        credential=None,
    )  # fmt: skip


def knowing(body: str) -> Snapshot:
    module = f"package remit.p\nimport rego.v1\n{body}\n"
    return Snapshot(version="1", rules=Rules(policies={"p": Policy(name="p", module=module, package="remit.p")}))


@pytest.mark.parametrize(
    ("body", "why"), [(LOOP, "took longer than"), (ALLOCATE, "took longer than|died while it evaluated|cannot be evaluated")]
)
async def test_a_policy_that_runs_away_is_a_failure_and_the_next_one_is_answered(body: str, why: str) -> None:
    worker = Worker(timeout_s=0.5)
    try:
        worker.update(knowing(body))
        opinion = await worker.judge(asked())
        assert opinion.failure is not None
        assert any(part in opinion.failure for part in why.split("|"))
        worker.update(knowing('deny contains "no" if input.request.path == "/x"'))
        assert (await worker.judge(asked())).denials == (("p", "no"),)
        assert (await worker.judge(asked("/y"))).denials == ()
    finally:
        await worker.close()


async def test_a_killed_worker_is_a_failure_once() -> None:
    worker = Worker(timeout_s=5)
    try:
        worker.update(knowing("deny contains time.now_ns() if false"))
        assert (await worker.judge(asked())).failure is None
        assert worker._process is not None
        os.kill(worker._process.pid, signal.SIGKILL)
        await worker._process.wait()
        assert (await worker.judge(asked())).failure is None
    finally:
        await worker.close()


async def test_a_caller_that_gives_up_does_not_take_the_worker_with_it() -> None:
    worker = Worker(timeout_s=5)
    try:
        worker.update(knowing('deny contains "no" if input.request.path == "/x"'))
        giving_up = asyncio.ensure_future(worker.judge(asked()))
        await asyncio.sleep(0)
        giving_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await giving_up
        assert (await worker.judge(asked())).denials == (("p", "no"),)
    finally:
        await worker.close()


async def test_a_role_without_policies_never_wakes_the_worker() -> None:
    worker = Worker(timeout_s=5)
    assert (await worker.judge(asked(policies=()))).denials == ()
    assert worker._process is None
