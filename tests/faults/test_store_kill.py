"""The secret store dies in the middle of load: every request is decided, nothing outlives its end, it comes back."""

import asyncio
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from bao import Bao
from permits import credential, permit

from remit.broker.openbao.source import OpenBao
from remit.broker.sealed import Opener
from remit.broker.secrets import Broker
from remit.core.reason import Reason, Refusal
from remit.core.secret import Secret
from remit.core.snapshot import Rules, Snapshot
from remit.core.source import Kv

pytestmark = pytest.mark.xdist_group("openbao")

REFRESH_S = 1.0
WORKERS = 32


async def test_kill_9_of_the_store_under_load(tmp_path: Path) -> None:
    bao = Bao(durable=True)
    opener = Opener(tmp_path / "sealed.key")
    broker = Broker(opener, time.monotonic)
    store = OpenBao(
        file=bao.file(tmp_path), ledger=tmp_path / "leases.jsonl", opener=opener, monotonic=time.monotonic,
        renewed=broker.renewed,
    )  # fmt: skip
    broker.attach(store)
    wanted = replace(credential(secret=""), source=Kv(mount="secret", path="apps/a", key="t", refresh_s=REFRESH_S))
    task = permit(None).candidate.task
    broker.update(Snapshot(rules=Rules(credentials={wanted.name: wanted}), tasks={task.id: task}))
    seen: Counter[str] = Counter()
    killed, stale, going = float("inf"), 0, True

    async def work() -> None:
        nonlocal stale
        while going:
            asked = permit(wanted)
            began = time.monotonic()
            found = broker.lease(asked)
            if found is None:
                found = await broker.obtain(asked)
            if isinstance(found, Refusal):
                assert found.reason is Reason.CREDENTIAL_UNAVAILABLE
                seen["refused"] += 1
            else:
                assert isinstance(found, Secret)
                assert found.reveal(asked) == b"version-1"
                seen["given"] += 1
                stale += began > killed + REFRESH_S
            await asyncio.sleep(0.005)

    async def until(kind: str) -> None:
        before = seen[kind]
        async with asyncio.timeout(60):
            while seen[kind] <= before + WORKERS:
                await asyncio.sleep(0.02)

    try:
        bao.put("apps/a", t="version-1")
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(work())
            await until("given")
            await asyncio.to_thread(bao.kill)
            killed = time.monotonic()
            await until("refused")
            assert stale == 0
            killed = float("inf")
            await asyncio.to_thread(bao.start)
            await asyncio.to_thread(bao.unseal)
            await until("given")
            going = False
    finally:
        await store.close()
        await broker.close()
        bao.stop()
