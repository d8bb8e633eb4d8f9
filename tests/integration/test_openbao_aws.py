"""Leases of an AWS engine (a contract fake: the real server's wheel has none): temporary keys that a request is signed with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from openbao_aws import Aws
from permits import credential, permit

from remit.broker.openbao.source import OpenBao
from remit.broker.sealed import Opener
from remit.broker.secrets import Broker
from remit.core.decision import Permit
from remit.core.injections.sigv4 import SigV4Injection
from remit.core.secret import Secret
from remit.core.snapshot import Rules, Snapshot
from remit.core.source import Lease

SIGNED = SigV4Injection(services=frozenset({"s3"}), regions=frozenset({"eu-central-1"}))
DEPLOY = replace(credential(SIGNED, secret="", name="deploy"), source=Lease(mount="aws", role="deploy"))
USER = replace(credential(SIGNED, secret="", name="user"), source=Lease(mount="aws", role="user"))
TASKS = ("t-aaaaaaaaaa", "t-bbbbbbbbbb")


class Node:
    def __init__(self, aws: Aws, directory: Path) -> None:
        file = directory / "openbao.toml"
        auth = '[auth]\nmethod = "approle"\nrole_id = "r"\nsecret_id = "s"\n'
        file.write_text(f'address = "unix:{directory / "bao.sock"}"\n{auth}')
        file.chmod(0o600)
        opener = Opener(directory / "sealed.key")
        self.now = 1000.0
        self.aws, self.broker = aws, Broker(opener, lambda: self.now)
        self.store = OpenBao(
            file=file, ledger=directory / "leases.jsonl", opener=opener, monotonic=lambda: self.now,
            renewed=self.broker.renewed,
        )  # fmt: skip
        self.broker.attach(self.store)
        self.know(*TASKS)
        self.running = asyncio.ensure_future(self.store.run())

    def know(self, *tasks: str) -> None:
        one = permit(None).candidate.task
        rules = Rules(credentials={"deploy": DEPLOY, "user": USER})
        self.broker.update(Snapshot(rules=rules, tasks={task: replace(one, id=task) for task in tasks}))

    async def get(self, wanted: Permit) -> bytes:
        found = self.broker.lease(wanted) or await self.broker.obtain(wanted)
        assert isinstance(found, Secret), found
        return found.reveal(wanted)


def by(task: str, wanted: object) -> Permit:
    whole = permit(wanted)  # type: ignore[arg-type]
    return replace(whole, candidate=replace(whole.candidate, task=replace(whole.candidate.task, id=task)))


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    aws = Aws(tmp_path / "bao.sock")
    made = Node(aws, tmp_path)
    yield made
    made.running.cancel()
    await asyncio.gather(made.running, return_exceptions=True)
    await made.store.close()
    await made.broker.close()
    aws.stop()


async def until(condition: object) -> None:
    deadline = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(("wanted", "hidden"), [(DEPLOY, 3), (USER, 2)])
async def test_what_it_gives_signs_requests_and_every_part_is_hidden(node: Node, wanted: object, hidden: int) -> None:
    value = await node.get(by(TASKS[0], wanted))
    assert SIGNED.unfit(value) is None
    assert len(SIGNED.secrets(value, b"placeholder")) == hidden
    assert b"security_token" in value


async def test_each_task_has_keys_of_its_own_and_they_end_with_it(node: Node) -> None:
    first, second = [await node.get(by(task, DEPLOY)) for task in TASKS]
    assert first != second
    assert await node.get(by(TASKS[0], DEPLOY)) == first
    assert sorted(len(leases) for leases in node.aws.live.values()) == [1, 1]
    node.know(TASKS[1])
    await until(lambda: [len(leases) for leases in node.aws.live.values()] == [1])
    assert await node.get(by(TASKS[1], DEPLOY)) == second


async def test_keys_that_cannot_be_renewed_are_replaced_before_their_end(node: Node) -> None:
    first = await node.get(by(TASKS[0], DEPLOY))
    node.now += 1801
    assert await node.get(by(TASKS[0], DEPLOY)) == first
    await until(lambda: node.aws.made == 2)
    node.now += 1800
    assert await node.get(by(TASKS[0], DEPLOY)) != first


async def test_one_that_is_tried_is_taken_back(node: Node) -> None:
    found = await node.broker.probe("deploy")
    assert (found["ok"], node.aws.made, node.aws.live) == (True, 1, {})
    assert "ASIA" not in str(found)
