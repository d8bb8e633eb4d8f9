"""Leases on a real PostgreSQL: made for one task, renewed while it lives, gone when it is not."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bao import Bao, Postgres
from permits import credential, permit

from remit.broker.openbao.source import OpenBao
from remit.broker.sealed import Opener
from remit.broker.secrets import Broker
from remit.core.credential import Credential
from remit.core.decision import Permit
from remit.core.reason import Reason, Refusal
from remit.core.secret import Secret
from remit.core.snapshot import Revoked, Rules, Snapshot
from remit.core.source import Lease
from remit.core.task import State

pytestmark = pytest.mark.xdist_group("openbao")

READER = replace(credential(secret="", name="db"), source=Lease(mount="database", role="reader"))
OTHER = replace(READER, name="other")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def bao(postgres: Postgres) -> Iterator[Bao]:
    server = Bao()
    try:
        server.database(postgres, ttl="1h")
        yield server
    finally:
        server.stop()


class Node:
    def __init__(self, bao: Bao, directory: Path) -> None:
        opener = Opener(directory / "sealed.key")
        self.broker = Broker(opener, time.monotonic)
        self.store = OpenBao(
            file=bao.file(directory), ledger=directory / "leases.jsonl", opener=opener, monotonic=time.monotonic,
            renewed=self.broker.renewed,
        )  # fmt: skip
        self.broker.attach(self.store)
        self.running = asyncio.ensure_future(self.store.run())

    def know(self, tasks: dict[str, State], *revoked: str) -> None:
        one = permit(None).candidate.task
        self.broker.update(
            Snapshot(
                rules=Rules(credentials={"db": READER, "other": OTHER}),
                tasks={name: replace(one, id=name, state=state) for name, state in tasks.items()},
                revoked=Revoked(credentials=frozenset(revoked)),
            )
        )

    async def get(self, task: str, wanted: Credential = READER) -> tuple[str, str]:
        found = await self.asked(task, wanted)
        assert isinstance(found, Secret), found
        said = json.loads(found.reveal(permit(credential())))
        return said["username"], said["password"]

    async def asked(self, task: str, wanted: Credential = READER) -> Secret | Refusal:
        asked = by(task, wanted)
        found = self.broker.lease(asked)
        return found if found is not None else await self.broker.obtain(asked)

    async def kill(self) -> None:
        """As after kill -9: nothing is taken back."""
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        await self.store._client.close()

    async def close(self) -> None:
        await self.kill()


def by(task: str, wanted: Credential) -> Permit:
    whole = permit(wanted)
    return replace(whole, candidate=replace(whole.candidate, task=replace(whole.candidate.task, id=task)))


@pytest.fixture
async def node(bao: Bao, postgres: Postgres, tmp_path: Path):
    found = Node(bao, tmp_path)
    yield found
    found.know({})
    await until(lambda: not postgres.users())
    await found.close()


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)


A, B = "t-aaaaaaaaaa", "t-bbbbbbbbbb"
ALIVE = State.RUNNING


async def test_each_task_has_its_own_and_it_works(node: Node, postgres: Postgres) -> None:
    node.know({A: ALIVE, B: ALIVE})
    ours, again, theirs = await asyncio.gather(node.get(A), node.get(A), node.get(B))
    assert ours == again != theirs
    for user, password in (ours, theirs):
        assert postgres.admits(user, password)


@pytest.mark.parametrize("ended", [State.EXITED, State.REVOKED, State.STOPPED, None])
async def test_it_is_taken_back_when_its_task_ends(node: Node, postgres: Postgres, ended: State | None) -> None:
    node.know({A: ALIVE, B: ALIVE})
    (user, password), theirs = await node.get(A), await node.get(B)
    node.know({A: ended, B: ALIVE} if ended else {B: ALIVE})
    await until(lambda: not postgres.admits(user, password))
    assert postgres.admits(*theirs)


async def test_it_is_taken_back_when_its_credential_is_revoked(node: Node, postgres: Postgres) -> None:
    node.know({A: ALIVE})
    revoked, kept = await node.get(A), await node.get(A, OTHER)
    node.know({A: ALIVE}, "db")
    await until(lambda: not postgres.admits(*revoked))
    assert postgres.admits(*kept)
    found = await node.asked(A)
    assert isinstance(found, Refusal)
    assert found.reason is Reason.CREDENTIAL_REVOKED
    node.know({A: ALIVE})
    assert (await node.get(A)) != revoked


async def test_a_task_that_ends_while_it_is_asked_for_gets_nothing(node: Node, postgres: Postgres) -> None:
    node.know({A: ALIVE})
    asking = asyncio.ensure_future(node.asked(A))
    while not (A in node.store._leases._tasks and node.store._leases._tasks[A].entries):
        await asyncio.sleep(0)
    node.know({})  # the task's token is there, and a lease is being made with it
    assert isinstance(await asking, Refusal)
    await until(lambda: not postgres.users())


async def test_after_kill_9_a_restart_takes_everything_back(bao: Bao, postgres: Postgres, tmp_path: Path) -> None:
    node = Node(bao, tmp_path)
    node.know({A: ALIVE, B: ALIVE})
    ours, theirs = await node.get(A), await node.get(B)
    await node.kill()
    assert postgres.admits(*ours)
    written = (tmp_path / "leases.jsonl").read_text()
    assert "s." not in written and ours[1] not in written  # neither a token nor a password in clear
    fresh = Node(bao, tmp_path)
    fresh.know({A: ALIVE, B: ALIVE})  # also of tasks that still live: their values died with the process
    await until(lambda: not postgres.admits(*ours) and not postgres.admits(*theirs))
    assert (await fresh.get(A)) != ours
    fresh.know({})
    await until(lambda: not postgres.users())
    await until(lambda: fresh.store._leases._ending == {})
    assert not fresh.store._leases._ledger.left()
    await fresh.close()


async def test_a_store_that_is_away_takes_it_back_when_it_is_there_again(
    node: Node, bao: Bao, postgres: Postgres
) -> None:
    node.know({A: ALIVE})
    ours = await node.get(A)
    bao.seal()
    try:
        node.know({})
        found = await node.asked(A)
        assert isinstance(found, Refusal)
        assert found.reason is Reason.CREDENTIAL_UNAVAILABLE
        assert "is sealed" in found.detail
        assert postgres.admits(*ours)  # nobody could say otherwise
    finally:
        bao.unseal()
    await until(lambda: not postgres.admits(*ours))


async def test_it_is_renewed_while_the_task_lives_and_another_is_taken_near_its_end(
    bao: Bao, postgres: Postgres, tmp_path: Path
) -> None:
    bao.root("POST", "database/roles/brief", {**_role(bao), "default_ttl": "3s", "max_ttl": "8s"})
    brief = replace(READER, source=Lease(mount="database", role="brief"))
    node = Node(bao, tmp_path)
    one = permit(None).candidate.task
    node.broker.update(Snapshot(rules=Rules(credentials={"db": brief}), tasks={A: replace(one, id=A)}))
    first, begun = await node.get(A, brief), time.monotonic()
    seen = [first]
    while len(seen) == 1:
        current = await node.get(A, brief)
        if not await asyncio.to_thread(postgres.admits, *current):
            assert await node.get(A, brief) != current, "a value that has ended"  # it may end while it is tried
        if current != first:
            seen.append(current)
        assert time.monotonic() - begun < 60
        await asyncio.sleep(0.1)
    assert time.monotonic() - begun > 3.5  # the first one outlived its first life: it was renewed
    node.broker.update(Snapshot())
    await until(lambda: not postgres.users())
    await node.close()


def _role(bao: Bao) -> dict[str, object]:
    return {k: v for k, v in bao.root("GET", "database/roles/reader")["data"].items() if k.endswith(("name", "ments"))}


async def test_a_certificate_is_a_lease_too(bao: Bao, tmp_path: Path) -> None:
    bao.root("POST", "sys/mounts/pki", {"type": "pki"})
    bao.root("POST", "pki/root/generate/internal", {"common_name": "root", "ttl": "24h"})
    for role, lease in (("leased", True), ("bare", False)):
        body = {"allow_any_name": True, "ttl": "1h", "generate_lease": lease, "no_store": False}
        bao.root("POST", f"pki/roles/{role}", body)

    def issued(role: str) -> Credential:
        parameters = (("commonName", "agent.example"),)
        return replace(READER, source=Lease(mount="pki", role=role, issue=True, parameters=parameters))

    node = Node(bao, tmp_path)
    one = permit(None).candidate.task

    def know(*credentials: Credential) -> None:
        node.broker.update(
            Snapshot(rules=Rules(credentials={c.name: c for c in credentials}), tasks={A: replace(one, id=A)})
        )

    know(issued("leased"))
    found = await node.asked(A, issued("leased"))
    assert isinstance(found, Secret)
    serial = json.loads(found.reveal(permit(credential())))["serial_number"]
    assert bao.root("GET", f"pki/cert/{serial}")["data"]["revocation_time"] == 0
    node.broker.update(Snapshot())
    await until(lambda: bao.root("GET", f"pki/cert/{serial}")["data"]["revocation_time"] > 0)
    know(issued("bare"))
    refused = await node.asked(A, issued("bare"))
    assert isinstance(refused, Refusal)
    assert "gives no lease" in refused.detail
    await node.close()
