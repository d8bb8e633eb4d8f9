"""What every engine of policies keeps to: the worker with regorus, OPA over its REST API, and the one for tests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from remit.boundary.eager import Steps
from remit.control.ports_control import CurrentPolicies
from remit.core.capability import Capability, Protocol
from remit.core.claims import Claims
from remit.core.decision import Candidate, Opinion
from remit.core.request import Request
from remit.core.snapshot import Policy, Role, Rules, Snapshot
from remit.core.task import State, Task
from remit.node.opa import Opa
from remit.node.policy_worker import Worker
from remit.policy import bundle
from remit.testing import DirectPolicies

Put = Callable[..., None]


def asked(
    path: str = "/x", policies: tuple[str, ...] = ("p",), task: str = "t-aaaaaaaaaa", **headers: str
) -> Candidate:
    capability = Capability(name="c", hosts=("a.com",))
    return Candidate(
        claims=Claims(trust_domain="remit.local", role="r", task=task, jti="", issued=0, expires=0),
        task=Task(id=task, role="r", state=State.RUNNING, cell=1, created=datetime(2026, 1, 1, tzinfo=UTC)),
        role=Role(name="r", capabilities=(capability,), policies=policies),
        request=Request(
            method="GET", protocol=Protocol.HTTPS, host="a.com", port=443, path=path, query="", target=path,
            websocket=False, flow="100.64.0.1:1024", cell=1, headers=headers,
        ),
        capability=capability,
        credential=None,
    )  # fmt: skip


class Engine:
    """An engine and the way policies come to it."""

    def __init__(self, policies: CurrentPolicies, deliver: Callable[[bytes], None]) -> None:
        self.policies = policies
        self._deliver = deliver

    def put(self, **bodies: str) -> None:
        """Bring policies in force: name → the rules of a module."""
        found = {
            name: Policy(name=name, module=f"package remit.{name}\nimport rego.v1\n{body}\n", package=f"remit.{name}")
            for name, body in bodies.items()
        }
        self._deliver(bundle.archive(found))
        self.policies.update(Snapshot(version="1", rules=Rules(policies=found)))

    async def judge(self, candidate: Candidate) -> Opinion:
        return await self.policies.judge(candidate)


@pytest.fixture(params=["worker", "opa", "direct"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    if request.param == "worker":
        worker = Worker(timeout_s=2.0)
        yield Engine(worker, lambda _: None)
        await worker.close()
    elif request.param == "direct":
        yield Engine(DirectPolicies(), lambda _: None)
    else:
        pytest.importorskip("opa_bindings", reason="scripts/setup.sh dev installs it where there is a wheel")
        import opa_server

        with opa_server.served() as server:
            opa = Opa(server.url, timeout_s=2.0)
            yield Engine(opa, server.load)
            await opa.close()


async def test_no_policies_have_no_objection(engine: Engine) -> None:
    assert await engine.judge(asked(policies=())) == Opinion()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('deny contains {"msg": "no"} if input.request.path == "/x"', Opinion(denials=(("p", "no"),))),
        ('deny contains {"msg": "no"} if input.request.path == "/y"', Opinion()),
        ('deny contains "plain"', Opinion(denials=(("p", "plain"),))),
        ("deny := true", Opinion(denials=(("p", "true"),))),
        ("deny := false", Opinion()),
        ('hold contains {"msg": "ask"}', Opinion(holds=(("p", "ask"),))),
        ('obligations := {"audit": {"a": "b"}, "headers": {"x-team": "c"}}', Opinion(notes={"a": "b"}, headers={"x-team": "c"})),
        ('deny contains {"msg": input.request.headers["user-agent"]}', Opinion()),
        ('deny contains {"msg": "two"} \n deny contains {"msg": "one"}', Opinion(denials=(("p", "one"), ("p", "two")))),
    ],
)  # fmt: skip
async def test_an_opinion(engine: Engine, body: str, expected: Opinion) -> None:
    engine.put(p=body)
    assert await engine.judge(asked()) == expected


@pytest.mark.parametrize(
    "body",
    [
        'deny contains "x" if to_number("abc") > 1',
        'deny contains "x" if 1 / 0 > 1',
        "obligations := 7",
        'obligations := {"launch": {}}',
        'obligations := {"headers": {"authorization": "mine"}}',
        'deny := "a"\ndeny := "b"',
    ],
)
async def test_what_has_no_clear_meaning_is_a_failure(engine: Engine, body: str) -> None:
    engine.put(p=body)
    found = await engine.judge(asked())
    assert (found.failure or "").startswith("p: ")
    assert not found.headers


async def test_a_policy_that_does_not_exist_is_a_failure(engine: Engine) -> None:
    engine.put(q='deny contains "x" if false')
    assert (await engine.judge(asked())).failure == "p: the policy does not exist"


async def test_a_broken_policy_fails_alone(engine: Engine) -> None:
    engine.put(p="deny contains nonsense(1)", q='deny contains "no"')
    assert "expected a function that exists" in ((await engine.judge(asked())).failure or "")
    assert (await engine.judge(asked(policies=("q",)))).denials == (("q", "no"),)


async def test_all_that_apply_are_heard(engine: Engine) -> None:
    engine.put(p='deny contains "one"', q='hold contains "two"')
    found = await engine.judge(asked(policies=("p", "q")))
    assert (found.denials, found.holds) == ((("p", "one"),), (("q", "two"),))


async def test_the_policies_in_force_are_the_ones_that_count(engine: Engine) -> None:
    engine.put(p='deny contains "old"')
    assert (await engine.judge(asked())).denials == (("p", "old"),)
    engine.put(p='deny contains "new"')
    assert (await engine.judge(asked())).denials == (("p", "new"),)


async def test_an_answer_is_never_given_to_another_request(engine: Engine) -> None:
    engine.put(p='deny contains sprintf("%s of %s", [input.request.path, input.identity.task])')
    for _ in range(2):
        for path in ("/x", "/y"):
            for task in ("t-aaaaaaaaaa", "t-bbbbbbbbbb"):
                assert (await engine.judge(asked(path, task=task))).denials == (("p", f"{path} of {task}"),)


async def test_an_input_without_end_is_a_failure(engine: Engine) -> None:
    engine.put(p='deny contains "x" if false')
    assert "the input of the policies is over" in ((await engine.judge(asked("/" + "x" * 70000))).failure or "")


async def test_usage_is_told(engine: Engine) -> None:
    engine.put(p='deny contains "enough" if { some one in input.usage; one.left == 0 }')
    used: Any = ({"budget": "role/r/requests", "left": 0},)
    assert (await engine.judge(replace(asked(), usage=used))).denials == (("p", "enough"),)
    assert (await engine.judge(asked())).denials == ()


async def test_whoever_decides_may_run_without_a_task(engine: Engine) -> None:
    """As the check server does (`boundary.eager`)."""
    engine.put(p='deny contains "no"')
    answer: asyncio.Future[Opinion] = asyncio.get_running_loop().create_future()
    under_way: set[Steps] = set()

    async def ask() -> None:
        answer.set_result(await engine.judge(asked()))

    Steps(ask(), under_way).start()
    assert (await answer).denials == (("p", "no"),)
