"""A policy that loops, allocates or ends its process costs a denial, never the node."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from remit.core.capability import Capability, Protocol
from remit.core.claims import Claims
from remit.core.decision import Candidate, Opinion
from remit.core.request import Request
from remit.core.snapshot import Policy, Role, Rules, Snapshot
from remit.core.task import State, Task
from remit.node import policy_places, policy_process, policy_worker
from remit.node.policy_worker import Worker

LOOP = "deny contains 1 if { some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); a * b == -1 }"
ALLOCATE = "deny contains 1 if { x := numbers.range(1, 100000000); count(x) < 0 }"
PLAIN = 'deny contains "no" if input.request.path == "/x"'
UNSTEADY = 'deny contains "no" if { input.request.path == "/x"; time.now_ns() > 0 }'


def asked(path: str = "/x", policies: tuple[str, ...] = ("p",), task: str = "t-aaaaaaaaaa") -> Candidate:
    capability = Capability(name="c", hosts=("a.com",))
    return Candidate(
        claims=Claims(trust_domain="remit.local", role="r", task=task, jti="", issued=0, expires=0),
        task=Task(id=task, role="r", state=State.RUNNING, cell=1, created=datetime(2026, 1, 1, tzinfo=UTC)),
        role=Role(name="r", capabilities=(capability,), policies=policies),
        request=Request(
            method="GET", protocol=Protocol.HTTPS, host="a.com", port=443, path=path, query="", target=path,
            websocket=False, flow="100.64.0.1:1024", cell=1, headers={},
        ),
        capability=capability,
        credential=None,
    )  # fmt: skip


def knowing(**bodies: str) -> Snapshot:
    policies = {
        name: Policy(name=name, module=f"package remit.{name}\nimport rego.v1\n{body}\n", package=f"remit.{name}")
        for name, body in bodies.items()
    }
    return Snapshot(version="1", rules=Rules(policies=policies))


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is slow to start, on a busy machine, is none of what is tested here."""
    monkeypatch.setattr(policy_worker, "PATIENCE_S", 60.0)
    monkeypatch.setattr(policy_worker, "LOAD_TIMEOUT_S", 60.0)


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    made = Worker(timeout_s=20)
    yield made
    await made.close()


@pytest.fixture
async def strict() -> AsyncIterator[Worker]:
    """One that gives an evaluation little time."""
    made = Worker(timeout_s=0.5)
    yield made
    await made.close()


async def answered(worker: Worker, candidate: Candidate) -> Opinion:
    """The first opinion that is no failure: even a quick evaluation can be late on a busy machine."""
    async with asyncio.timeout(60):
        while (opinion := await worker.judge(candidate)).failure is not None:
            pass
    return opinion


@pytest.mark.parametrize(
    ("body", "reasons"),
    [
        (LOOP, {"p: took longer than 0.5 s"}),
        (ALLOCATE, {"p: took longer than 0.5 s", "p: the policy worker died while it evaluated"}),
    ],
)
async def test_a_policy_that_runs_away_is_a_failure_and_the_next_is_answered(
    strict: Worker, body: str, reasons: set[str]
) -> None:
    strict.update(knowing(p=body, q=PLAIN))
    await answered(strict, asked(policies=("q",)))
    assert (await strict.judge(asked())).failure in reasons
    assert (await answered(strict, asked(policies=("q",)))).denials == (("q", "no"),)
    assert (await answered(strict, asked("/y", policies=("q",)))).denials == ()


async def test_a_task_that_made_a_policy_run_away_rests_and_others_do_not(
    strict: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict.update(
        knowing(
            p=f'{LOOP}\ndeny contains "no" if input.request.path == "/x"'.replace(
                "{ some a", '{ input.request.path == "/loop"; some a'
            )
        )
    )
    assert (await answered(strict, asked())).denials == (("p", "no"),)
    monkeypatch.setattr(policy_worker, "REST_S", 600.0)
    assert "took longer" in ((await strict.judge(asked("/loop"))).failure or "")
    assert "ran away on a request of this task" in ((await strict.judge(asked("/y"))).failure or "")
    monkeypatch.setattr(policy_worker, "REST_S", 0.0)
    assert (await answered(strict, asked(task="t-bbbbbbbbbb"))).denials == (("p", "no"),)
    assert "ran away on a request of this task" in ((await strict.judge(asked("/z"))).failure or "")
    strict.update(knowing(p=PLAIN))
    assert (await answered(strict, asked())).denials == (("p", "no"),)


async def test_a_module_that_the_engine_cannot_read_breaks_only_itself(worker: Worker) -> None:
    worker.update(knowing(p="deny := " + "[" * 40 + "]" * 40, q=PLAIN, s="f(n) := f(n + 1)\ndeny contains f(1)"))
    assert "brackets" in ((await worker.judge(asked())).failure or "")
    assert "calls itself" in ((await worker.judge(asked(policies=("s",)))).failure or "")
    assert (await worker.judge(asked(policies=("q",)))).denials == (("q", "no"),)


async def test_a_worker_that_is_killed_is_a_failure_at_most_once(worker: Worker) -> None:
    worker.update(knowing(p=UNSTEADY))
    assert (await worker.judge(asked())).failure is None
    for _ in range(2):
        assert worker._process is not None
        os.kill(worker._process.pid, signal.SIGKILL)
        first, second = await worker.judge(asked()), await worker.judge(asked())
        assert first.failure in (None, "p: the policy worker died while it evaluated")
        assert second.failure in (
            None,
            f"p: ran away on a request of this task; asked again in {policy_worker.REST_S:g} s",
        )
    assert (await worker.judge(asked(task="t-bbbbbbbbbb"))).denials == (("p", "no"),)


def ticks(pid: int) -> int:
    """Of the processor that it has used (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def test_a_worker_killed_in_the_middle_is_a_denial_with_its_reason_then_it_recovers(worker: Worker) -> None:
    worker.update(knowing(p=LOOP, q=PLAIN))
    assert (await worker.judge(asked(policies=("q",)))).denials
    assert worker._process is not None
    pid = worker._process.pid
    before = ticks(pid)
    looping = asyncio.ensure_future(worker.judge(asked()))
    while ticks(pid) < before + 3:  # until it is in its loop
        await asyncio.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    assert (await looping).failure == "p: the policy worker died while it evaluated"
    assert (await worker.judge(asked("/z", policies=("q",)))).failure is None


async def test_a_caller_that_gives_up_does_not_take_the_worker_with_it(worker: Worker) -> None:
    worker.update(knowing(p=UNSTEADY))
    assert (await worker.judge(asked())).denials
    process = worker._process
    callers = [asyncio.ensure_future(worker.judge(asked())) for _ in range(20)]
    await asyncio.sleep(0)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    assert (await worker.judge(asked())).denials == (("p", "no"),)
    assert worker._process is process


async def test_one_task_cannot_fill_the_queue(worker: Worker) -> None:
    worker.update(knowing(p=UNSTEADY))
    many = [worker.judge(asked()) for _ in range(policy_places.MAX_WAITING_OF_TASK + 10)]
    opinions = await asyncio.gather(*many, worker.judge(asked(task="t-bbbbbbbbbb")))
    refused = [o for o in opinions[:-1] if o.failure == "too many requests wait for the policies"]
    assert len(refused) == 10
    assert opinions[-1].denials == (("p", "no"),)


async def test_many_tasks_cannot_fill_the_queue_for_another(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those that one agent delegates to."""
    monkeypatch.setattr(policy_places, "MAX_WAITING", 64)
    worker.update(knowing(p=UNSTEADY))
    tasks = [f"t-{letter * 10}" for letter in "abcd"]
    many = [worker.judge(asked(task=task)) for _ in range(30) for task in tasks]
    other = [worker.judge(asked(task="t-zzzzzzzzzz")) for _ in range(policy_places.SHARE)]
    opinions = await asyncio.gather(*many, *other)
    assert [one.failure for one in opinions].count(policy_places.FULL) == 120 - 64
    assert [one.denials for one in opinions[120:]] == [(("p", "no"),)] * policy_places.SHARE


async def test_a_changed_policy_is_asked_anew_and_nothing_of_the_old_one_is_remembered(worker: Worker) -> None:
    worker.update(knowing(p=PLAIN))
    assert (await worker.judge(asked())).denials == (("p", "no"),)
    process = worker._process
    worker.update(knowing(p=PLAIN.replace("no", "never")))
    assert (await worker.judge(asked())).denials == (("p", "never"),)
    worker.update(knowing(q=PLAIN))
    assert (await worker.judge(asked())).failure == "p: the policy does not exist"
    assert worker._process is process


async def test_what_is_remembered_does_not_wake_the_worker(worker: Worker) -> None:
    worker.update(knowing(p=PLAIN))
    assert (await worker.judge(asked())).denials == (("p", "no"),)
    await worker._end()
    assert (await worker.judge(asked(task="t-bbbbbbbbbb"))).denials == (("p", "no"),)
    assert worker._process is None


async def test_a_role_without_policies_never_wakes_the_worker(worker: Worker) -> None:
    assert (await worker.judge(asked(policies=()))).denials == ()
    assert worker._process is None


async def test_a_worker_that_does_not_start_is_a_failure(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_process.sys, "executable", "/nonexistent")
    worker.update(knowing(p=PLAIN))
    assert (await worker.judge(asked())).failure == "the policy worker does not start"


async def test_an_input_that_is_too_large_is_a_failure(worker: Worker) -> None:
    worker.update(knowing(p=UNSTEADY))
    assert "over 65536 bytes" in ((await worker.judge(asked("/" + "a" * 70000))).failure or "")


async def test_the_process_ends_with_its_parents_end_of_the_socket(worker: Worker) -> None:
    worker.update(knowing(p=PLAIN))
    await worker.judge(asked())
    process = worker._process
    assert process is not None
    process._writer.close()
    async with asyncio.timeout(60):
        assert await process._process.wait() == 0
