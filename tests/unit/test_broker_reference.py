"""A reference to the node's own OpenBao is read under the secret's own name, in its version, and by nobody else."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from permits import credential, permit

from remit.broker.cache import Material
from remit.broker.openbao import reference
from remit.broker.sealed import Opener
from remit.broker.secrets import Broker
from remit.core.errors import Unavailable
from remit.core.reason import Reason, Refusal
from remit.core.secret import Secret
from remit.core.snapshot import Revoked, Rules, Snapshot
from remit.core.source import Kv, Source

PERMIT = permit(credential())
NAME = credential().secret


class Shelf:
    """`broker.secrets.Remote` over a table, that remembers what it was asked for."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, int | None], bytes] = {}
        self.asked: list[Source] = []

    async def obtain(self, source: Source, task: str, credential: str) -> Material:
        self.asked.append(source)
        assert isinstance(source, Kv)
        if (source.path, source.version) not in self.values:
            raise Unavailable("OpenBao has nothing there")
        now = time.monotonic()
        return Material(value=Secret(self.values[source.path, source.version]), until=now + 60, again=now + 30)

    async def probe(self, source: Source) -> Material:
        return await self.obtain(source, "", "")

    def keep(self, wanted: Callable[[str, str], bool], alive: frozenset[str]) -> None:
        pass


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def opener(tmp_path: Path) -> Opener:
    return Opener(tmp_path / "sealed.key")


def holding(blob: bytes | None, **fields: object) -> Snapshot:
    known = credential()
    sealed = {} if blob is None else {NAME: blob}
    return Snapshot(sealed=sealed, rules=Rules(credentials={known.name: known}), **fields)  # type: ignore[arg-type]


def with_shelf(opener: Opener, shelf: Shelf, wall: Callable[[], float] = time.time) -> Broker:
    broker = Broker(opener, time.monotonic, wall)
    broker.attach(shelf, own=True)
    return broker


async def got(broker: Broker) -> bytes | Refusal:
    found = await broker.obtain(PERMIT)
    assert found is not None
    return found if isinstance(found, Refusal) else found.reveal(PERMIT)


async def test_it_is_read_in_its_version_under_its_name_and_given_without_waiting_from_then_on(
    opener: Opener, shelf: Shelf
) -> None:
    shelf.values = {(f"remit/{NAME}", 1): b"first-value", (f"remit/{NAME}", 2): b"second-value"}
    broker = with_shelf(opener, shelf)
    broker.update(holding(reference.of(1, "0" * 16)))
    assert broker.lease(PERMIT) is None
    assert await got(broker) == b"first-value"
    broker.update(holding(reference.of(1, "0" * 16), epoch=2))
    assert isinstance(broker.lease(PERMIT), Secret)
    broker.update(holding(reference.of(2, "1" * 16)))
    assert broker.lease(PERMIT) is None
    assert await got(broker) == b"second-value"
    assert shelf.asked == [Kv(mount="secret", path=f"remit/{NAME}", key="value", version=n) for n in (1, 2)]
    await broker.close()


async def test_one_that_was_removed_and_put_again_is_another_though_its_version_is_the_same(
    opener: Opener, shelf: Shelf
) -> None:
    shelf.values = {(f"remit/{NAME}", 1): b"first-value"}
    broker = with_shelf(opener, shelf)
    broker.update(holding(reference.of(1, "0" * 16)))
    assert await got(broker) == b"first-value"
    shelf.values = {(f"remit/{NAME}", 1): b"put-again"}
    broker.update(holding(reference.of(1, "1" * 16)))
    assert await got(broker) == b"put-again"
    broker.update(holding(None))
    found = await got(broker)
    assert isinstance(found, Refusal) and found.detail == f"no secret {NAME} is stored"
    await broker.close()


async def test_revoked_expired_and_absent_are_denials_with_their_reasons(opener: Opener, shelf: Shelf) -> None:
    now = 1_700_000_000.0
    shelf.values = {(f"remit/{NAME}", 1): b"first-value"}
    broker, blob = with_shelf(opener, shelf, lambda: now), reference.of(1, "0" * 16)
    broker.update(holding(blob, revoked=Revoked(credentials=frozenset({credential().name}))))
    found = await got(broker)
    assert isinstance(found, Refusal) and found.reason is Reason.CREDENTIAL_REVOKED
    broker.update(holding(blob, expires={NAME: datetime.fromtimestamp(now + 10, UTC)}))
    assert await got(broker) == b"first-value"
    assert (await broker.probe(credential().name))["expires"].startswith("2023-11-14T22:13:")
    broker.update(holding(reference.of(1, "1" * 16), expires={NAME: datetime.fromtimestamp(now - 1, UTC)}))
    found = await got(broker)
    assert isinstance(found, Refusal) and found.reason is Reason.CREDENTIAL_EXPIRED
    broker.update(holding(reference.of(7, "2" * 16)))
    found = await broker.probe(credential().name)
    assert (found["ok"], found["detail"]) == (False, "OpenBao has nothing there")
    await broker.close()


async def test_a_store_that_is_not_the_nodes_own_is_not_asked_for_it(opener: Opener, shelf: Shelf) -> None:
    shelf.values = {(f"remit/{NAME}", 1): b"of-somebody-else"}
    broker = Broker(opener, time.monotonic)
    broker.attach(shelf)
    broker.update(holding(reference.of(1, "0" * 16)))
    found = await got(broker)
    assert isinstance(found, Refusal) and "does not run" in found.detail
    assert not shelf.asked


@pytest.mark.parametrize(
    "blob",
    [b"", b"remit-kept-1", b"remit-kept-1 0 " + b"0" * 16, b"remit-kept-1 -1 " + b"0" * 16,
     b"remit-kept-1 1 " + b"0" * 15, b"remit-kept-1 1 " + b"0" * 16 + b"\n", b"remit-kept-1 \xd9\xa1 " + b"0" * 16,
     b"remit-kept-1 1/../x " + b"0" * 16, b"remit-kept-1 " + b"9" * 13 + b" " + b"0" * 16],
)  # fmt: skip
def test_what_is_no_reference_is_none(blob: bytes) -> None:
    assert reference.source("github", blob) is None
    assert reference.source("github", reference.of(12, "0123456789abcdef")) is not None
