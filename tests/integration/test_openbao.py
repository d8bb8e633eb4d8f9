"""A real OpenBao: what is stored, who may read it, and what happens when it is away, sealed or slow."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bao import Bao
from permits import credential, permit

from remit.broker import cache
from remit.broker.openbao.source import OpenBao
from remit.broker.sealed import Opener
from remit.broker.secrets import NO_STORE, Broker
from remit.core.credential import Credential
from remit.core.decision import Permit
from remit.core.errors import Unavailable
from remit.core.reason import Reason, Refusal
from remit.core.secret import Secret
from remit.core.snapshot import Revoked, Rules, Snapshot
from remit.core.source import Kv

pytestmark = pytest.mark.xdist_group("openbao")


@pytest.fixture(scope="module")
def bao() -> Iterator[Bao]:
    server = Bao()
    try:
        yield server
    finally:
        server.stop()


class Node:
    """A broker with its store, and a clock that can be moved."""

    def __init__(self, directory: Path, file: Path | None) -> None:
        self.late = 0.0
        opener = Opener(directory / "sealed.key")
        self.broker = Broker(opener, self.now)
        self.store: OpenBao | None = None
        if file is not None:
            self.store = OpenBao(
                file=file, ledger=directory / "leases.jsonl", opener=opener, monotonic=self.now,
                renewed=self.broker.renewed,
            )  # fmt: skip
            self.broker.attach(self.store)

    def now(self) -> float:
        return time.monotonic() + self.late

    def know(self, *credentials: Credential, revoked: frozenset[str] = frozenset()) -> None:
        task = permit(None).candidate.task
        self.broker.update(
            Snapshot(
                rules=Rules(credentials={c.name: c for c in credentials}),
                tasks={task.id: task},
                revoked=Revoked(credentials=revoked),
            )
        )

    async def get(self, asked: Permit) -> Secret | Refusal:
        found = self.broker.lease(asked)
        return found if found is not None else await self.broker.obtain(asked)

    async def close(self) -> None:
        if self.store is not None:
            await self.store.close()
        await self.broker.close()


def kv(path: str = "apps/github", key: str | None = "token", **more: object) -> Credential:
    return replace(credential(secret=""), source=Kv(mount="secret", path=path, key=key, **more))  # type: ignore[arg-type]


def value(found: Secret | Refusal) -> bytes:
    assert isinstance(found, Secret), found
    return found.reveal(permit(credential()))


def refused(found: Secret | Refusal, *said: str) -> None:
    assert isinstance(found, Refusal)
    assert found.reason is Reason.CREDENTIAL_UNAVAILABLE
    for text in said:
        assert text in found.detail


async def test_a_stored_value_is_read_once_and_then_at_hand(bao: Bao, tmp_path: Path) -> None:
    bao.put("apps/github", token="version-1", other="x")
    node = Node(tmp_path, bao.file(tmp_path))
    wanted = kv()
    node.know(wanted)
    assert node.broker.lease(permit(wanted)) is None
    answers = await asyncio.gather(*(node.get(permit(wanted)) for _ in range(20)))
    assert {value(answer) for answer in answers} == {b"version-1"}
    assert len({id(answer) for answer in answers}) == 1
    assert node.broker.lease(permit(wanted)) is answers[0]
    whole = replace(kv(key=None), name="whole")
    node.know(wanted, whole)
    assert b'"other":"x"' in value(await node.get(permit(whole)))
    await node.close()


async def test_a_new_version_is_used_after_the_refresh_and_an_old_one_never_after_its_end(
    bao: Bao, tmp_path: Path
) -> None:
    bao.put("apps/rotated", token="version-1")
    node = Node(tmp_path, bao.file(tmp_path))
    wanted = kv("apps/rotated", refresh_s=10.0)
    node.know(wanted)
    assert value(await node.get(permit(wanted))) == b"version-1"
    bao.put("apps/rotated", token="version-2")
    node.late += 6.0  # past half of it: still given, asked for anew meanwhile
    assert value(node.broker.lease(permit(wanted)) or pytest.fail()) == b"version-1"
    async with asyncio.timeout(60):
        while value(node.broker.lease(permit(wanted)) or pytest.fail()) != b"version-2":
            await asyncio.sleep(0.01)
    node.late += 11.0
    assert node.broker.lease(permit(wanted)) is None
    await node.close()


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (kv("apps/none"), "has nothing at secret/data/apps/none"),
        (kv("apps/github", "nokey"), "has no field nokey"),
        (kv("hidden/github"), "does not let this node use secret/data/hidden/github"),
        (kv("apps/split"), "control characters"),
    ],
)
async def test_what_cannot_be_used_is_refused_with_its_reason(
    bao: Bao, tmp_path: Path, wanted: Credential, said: str
) -> None:
    bao.put("apps/github", token="version-1")
    bao.put("hidden/github", token="version-1")
    bao.put("apps/split", token="a\r\nb: c")
    node = Node(tmp_path, bao.file(tmp_path))
    node.know(wanted)
    refused(await node.get(permit(wanted)), said)
    await node.close()


async def test_a_deleted_version_is_refused(bao: Bao, tmp_path: Path) -> None:
    bao.put("apps/deleted", token="version-1")
    bao.root("DELETE", "secret/data/apps/deleted")
    node = Node(tmp_path, bao.file(tmp_path))
    wanted = kv("apps/deleted")
    node.know(wanted)
    refused(await node.get(permit(wanted)), "has nothing at secret/data/apps/deleted")
    await node.close()


async def test_a_node_without_a_store_says_so(tmp_path: Path) -> None:
    node = Node(tmp_path, None)
    node.know(kv())
    refused(await node.get(permit(kv())), NO_STORE)


async def test_a_server_with_another_ca_gets_no_login(bao: Bao, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    from boundary_upstreams import TestAuthority

    stranger = TestAuthority(other, "Stranger")
    node = Node(tmp_path, bao.file(tmp_path, ca_file=str(stranger.file)))
    node.know(kv())
    refused(await node.get(permit(kv())), "cannot be reached", "CERTIFICATE_VERIFY_FAILED")
    await node.close()


async def test_a_sealed_store_is_a_denial_that_says_so_and_recovers(bao: Bao, tmp_path: Path) -> None:
    bao.put("apps/github", token="version-1")
    node = Node(tmp_path, bao.file(tmp_path))
    wanted = kv()
    node.know(wanted)
    assert value(await node.get(permit(wanted))) == b"version-1"
    bao.seal()
    try:
        assert value(await node.get(permit(wanted))) == b"version-1"  # as long as it lasts
        node.late += 11
        refused(await node.get(permit(wanted)), "is sealed")
        refused(node.broker.lease(permit(wanted)) or pytest.fail(), "is sealed")  # without asking again at once
    finally:
        bao.unseal()
    node.late += cache.QUIET_S
    assert value(await node.get(permit(wanted))) == b"version-1"
    await node.close()


async def test_a_store_that_hangs_costs_a_bounded_time(bao: Bao, tmp_path: Path) -> None:
    bao.put("apps/github", token="version-1")
    node = Node(tmp_path, bao.file(tmp_path))
    wanted = kv()
    node.know(wanted)
    bao.freeze()
    try:
        refused(await node.get(permit(wanted)), "has not answered within")
    finally:
        bao.thaw()
    async with asyncio.timeout(60):  # the question goes on: the next request finds its answer
        while isinstance(node.broker.lease(permit(wanted)), Refusal | None):
            await asyncio.sleep(0.01)
    assert value(await node.get(permit(wanted))) == b"version-1"
    await node.close()


async def test_a_revoked_credential_is_gone_at_once_also_while_it_is_obtained(bao: Bao, tmp_path: Path) -> None:
    bao.put("apps/github", token="version-1")
    node = Node(tmp_path, bao.file(tmp_path))
    wanted = kv()
    node.know(wanted)
    asking = asyncio.ensure_future(node.get(permit(wanted)))
    await asyncio.sleep(0)
    node.know(wanted, revoked=frozenset({wanted.name}))
    found = await asking
    assert isinstance(found, Refusal)
    assert found.reason is Reason.CREDENTIAL_REVOKED
    assert isinstance(node.broker.lease(permit(wanted)), Refusal)
    node.know(wanted)
    assert node.broker.lease(permit(wanted)) is None  # nothing was kept
    await node.close()


async def test_a_token_that_was_revoked_is_replaced(bao: Bao, tmp_path: Path) -> None:
    bao.put("apps/github", token="version-1")
    node = Node(tmp_path, bao.file(tmp_path))
    first, second = kv(), replace(kv(), name="second")
    node.know(first, second)
    assert value(await node.get(permit(first))) == b"version-1"
    assert node.store is not None
    bao.root("POST", "auth/token/revoke", {"token": node.store._session._token.value})  # type: ignore[union-attr]
    assert value(await node.get(permit(second))) == b"version-1"
    await node.close()


async def test_a_namespace_is_its_own(bao: Bao, tmp_path: Path) -> None:
    bao.root("POST", "sys/namespaces/team", {})
    bao.root("POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}}, namespace="team")
    bao.root("POST", "secret/data/apps/github", {"data": {"token": "theirs-only"}}, namespace="team")
    bao.put("apps/github", token="ours-only")
    node = Node(tmp_path, bao.file(tmp_path))
    ours, theirs = kv(), replace(kv(namespace="team"), name="theirs")
    node.know(ours, theirs)
    assert value(await node.get(permit(ours))) == b"ours-only"
    assert value(await node.get(permit(theirs))) == b"theirs-only"
    await node.close()


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        ("address = 'https://a'", 0o644, "can be read by others"),
        ("address = 'http://a'", 0o600, "never travel in the clear"),
        ("address = [", 0o600, "is not TOML"),
        ("address = 'https://a'\nsecret = 'x'", 0o600, "unknown field secret"),
        ("address = 'https://a'\n[auth]\nmethod = 'token'", 0o600, "none of approle, jwt, kubernetes"),
        ("address = 'https://a'\n[auth]\nmethod = 'approle'\nrole_id = 'r'", 0o600, "secret_id is missing"),
        ("address = 'https://a'\n[auth]\nmethod = 'jwt'\nrole = 'r'", 0o600, "jwt_file is missing"),
    ],
)
def test_a_configuration_that_is_not_sound_says_what_is_wrong(
    tmp_path: Path, content: str, mode: int, said: str
) -> None:
    from remit.broker.openbao import config

    path = tmp_path / "openbao.toml"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(Unavailable, match=said):
        config.read(path)
