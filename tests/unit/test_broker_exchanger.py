"""Exchanges are driven once for all who wait, and nothing that a service replaced is lost or used twice."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from permits import credential, permit

from remit.broker import cache, sealed, signing, whole
from remit.broker.exchanger import Exchanger
from remit.broker.rotations import Rotations
from remit.broker.sealed import Opener
from remit.broker.secrets import Broker
from remit.core import decision
from remit.core.errors import Unavailable
from remit.core.exchange import Answer, Call, Endpoint
from remit.core.exchanges.oauth2 import Authentication, Client, ClientCredentials, RefreshToken
from remit.core.reason import Reason, Refusal
from remit.core.secret import Secret
from remit.core.snapshot import Rules, Snapshot

TOKENS = Endpoint(host="auth.example.com", port=443, target="/oauth/token")
CLIENT = Client(endpoint=TOKENS, client_id="agent", authentication=Authentication.NONE)
REFRESHED = replace(credential(), exchange=RefreshToken(client=CLIENT))
GRANTED = replace(credential(), exchange=ClientCredentials(client=replace(CLIENT, authentication=Authentication.POST)))
PERMIT = permit(REFRESHED)


class Service:
    """A token endpoint whose refresh tokens are good for one use; the reuse of one ends the family (RFC 9700)."""

    def __init__(self) -> None:
        self.calls = 0
        self.good, self.dead = "rt-0", False
        self.lasts_s = 600
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken: Exception | None = None

    async def __call__(self, call: Call) -> Answer:
        self.calls += 1
        await self.gate.wait()
        if self.broken is not None:
            raise self.broken
        form = {name: value for name, (value,) in parse_qs(call.body.decode()).items()}
        if form["grant_type"] == "refresh_token":
            self.dead = self.dead or form["refresh_token"] != self.good
            if self.dead:
                return Answer(status=400, body=b'{"error": "invalid_grant"}')
            self.good = f"rt-{self.calls}"
        said = {"access_token": f"access-{self.calls}", "refresh_token": self.good, "expires_in": self.lasts_s}
        return Answer(status=200, body=json.dumps(said).encode())


class World:
    def __init__(self, directory: Path) -> None:
        self.time = 1000.0
        self.directory = directory
        self.opener = Opener(directory / "sealed.key")
        self.service = Service()
        self.stored = b"rt-0"
        self.start()

    def start(self) -> None:
        """As after a crash: nothing is in memory."""
        self.broker = Broker(self.opener, lambda: self.time)
        self.rotations = Rotations(self.directory / "rotated", self.opener)
        self.broker.exchange_with(
            Exchanger(
                dial=self.service,
                sign=signing.local,
                rotations=self.rotations,
                monotonic=lambda: self.time,
                now=lambda: datetime(2026, 11, 24, tzinfo=UTC),
            )
        )
        self.store(self.stored)

    def store(self, value: bytes, wanted: object = REFRESHED) -> None:
        self.stored = value
        self.blob = sealed.seal(self.opener.public, "github", value)
        self.update(wanted)

    def update(self, wanted: object = REFRESHED) -> None:
        rules = Rules(credentials={"github-token": wanted})  # type: ignore[dict-item]
        task = PERMIT.candidate.task
        self.broker.update(Snapshot(rules=rules, sealed={"github": self.blob}, tasks={task.id: task}))

    async def token(self, asked: decision.Permit = PERMIT) -> str:
        found = self.broker.lease(asked)
        if found is None:
            found = await self.broker.obtain(asked)
        assert found is not None
        return found.reveal(asked).decode() if isinstance(found, Secret) else f"refused: {found.detail}"


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_fifty_at_once_ask_once(world: World) -> None:
    assert set(await asyncio.gather(*(world.token() for _ in range(50)))) == {"access-1"}
    assert world.service.calls == 1
    assert await world.token() == "access-1"


async def test_whoever_has_time_waits_for_a_slow_service(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "WAIT_S", 0.01)
    world.service.gate.clear()
    assert await world.broker.obtain(PERMIT) is None
    waiting = asyncio.ensure_future(world.broker.obtain(PERMIT, patient=True))
    assert await world.broker.obtain(PERMIT) is None
    world.service.gate.set()
    found = await waiting
    assert isinstance(found, Secret)
    assert world.service.calls == 1


async def test_fifty_that_were_answered_401_ask_once_more(world: World) -> None:
    assert await world.token() == "access-1"
    for _ in range(50):
        world.broker.rejected("github-token")
    assert set(await asyncio.gather(*(world.token() for _ in range(50)))) == {"access-2"}
    assert world.service.calls == 2


async def test_an_upstream_that_always_says_401_cannot_hammer_the_token_endpoint(world: World) -> None:
    asked = []
    for _ in range(7200):
        world.time += 1
        world.broker.rejected("github-token")
        await world.token()
        asked.append(world.service.calls)
    assert asked[-1] <= 20  # of which the token's own end takes 14


async def test_a_rejected_token_is_used_on_where_no_other_can_be_had(world: World) -> None:
    assert await world.token() == "access-1"
    world.service.broken = Unavailable("auth.example.com does not answer")
    world.broker.rejected("github-token")
    assert await world.token() == "access-1"
    assert await world.token() == "access-1"
    world.service.broken = None
    world.time += cache.QUIET_S
    assert await world.token() == "access-3"


async def test_a_token_is_not_used_to_its_very_end_and_renewed_before(world: World) -> None:
    assert await world.token() == "access-1"
    world.time += 600 - 30 - 1
    assert await world.token() == "access-1"
    for _ in range(20):  # asked for again in the background
        await asyncio.sleep(0)
    assert await world.token() == "access-2"
    world.time += 600 - 29
    assert await world.token() == "access-3"


async def test_a_rotated_refresh_token_outlives_a_crash(world: World) -> None:
    for n in range(1, 4):
        world.start()
        assert await world.token() == f"access-{n}"
    kept = b"".join(file.read_bytes() for file in (world.directory / "rotated").iterdir())
    assert b"rt-" not in kept
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in (world.directory / "rotated").iterdir())


async def test_a_rotated_refresh_token_is_on_disk_before_anything_is_used(world: World) -> None:
    in_the_way = whole.fresh(world.directory / "rotated" / (hashlib.sha256(b"github").hexdigest()[:32] + ".sealed"))
    in_the_way.mkdir(parents=True)
    assert "cannot be written" in await world.token()
    in_the_way.rmdir()
    world.time += cache.QUIET_S
    assert await world.token() == "access-2"  # with rt-1, which was kept until it could be written
    world.start()
    assert await world.token() == "access-3"


async def test_what_an_operator_stores_anew_takes_the_place_of_what_the_service_gave(world: World) -> None:
    assert await world.token() == "access-1"
    world.service.good = "rt-new"
    world.store(b"rt-new")
    assert await world.token() == "access-2"
    world.service.dead = True
    world.start()
    assert await world.token() == "refused: auth.example.com refuses a token: invalid_grant"


async def test_a_successor_that_cannot_be_opened_is_a_refusal(world: World) -> None:
    await world.token()
    (file,) = (world.directory / "rotated").iterdir()
    file.write_bytes(b"garbage")
    world.start()
    assert "cannot be opened" in await world.token()


async def test_two_credentials_of_one_refresh_token_do_not_end_each_other(world: World) -> None:
    other = replace(REFRESHED, name="second")
    world.broker.update(
        Snapshot(rules=Rules(credentials={"github-token": REFRESHED, "second": other}), sealed={"github": world.blob})
    )
    assert sorted(await asyncio.gather(world.token(), world.token(permit(other)))) == ["access-1", "access-2"]
    assert not world.service.dead


@pytest.mark.parametrize(
    ("access", "why"),
    [("at\r\nx-admin: 1", "control characters"), ("at ", "ends with a space"), ("at\x00", "control characters")],
)
async def test_a_token_that_would_split_a_header_is_refused(world: World, access: str, why: str) -> None:
    async def dial(call: Call) -> Answer:
        return Answer(status=200, body=json.dumps({"access_token": access}).encode())

    world.broker.exchange_with(_exchanger(world, dial))
    said = await world.token()
    assert why in said
    assert "admin" not in said


async def test_a_revoked_credential_asks_nobody(world: World) -> None:
    world.broker.update(replace(Snapshot(sealed={"github": world.blob}), revoked=_revoked("github-token")))
    found = world.broker.lease(PERMIT)
    assert isinstance(found, Refusal)
    assert found.reason is Reason.CREDENTIAL_REVOKED
    assert world.service.calls == 0


async def test_nothing_is_logged_of_a_failure_but_its_kind(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.service.broken = RuntimeError("rt-0 is in here")
    with caplog.at_level(logging.DEBUG):
        assert await world.token() == "refused: credential github-token could not be obtained"
    assert "rt-0" not in caplog.text


async def test_a_client_secret_replaced_by_its_operator_is_used_at_the_next_request(world: World) -> None:
    world.store(b"secret-1", GRANTED)
    asked = permit(GRANTED)
    first = await world.token(asked)
    assert await world.token(asked) == first
    world.store(b"secret-2", GRANTED)
    assert await world.token(asked) != first


def test_no_request_of_an_agent_reaches_the_token_endpoint_with_what_was_granted() -> None:
    wanted = replace(REFRESHED, hosts=("auth.example.com",))
    for target, refused in [
        ("/oauth/token", True),
        ("/oauth/token/", True),
        ("/oauth/%74oken", True),
        ("/oauth", False),
    ]:
        asked = permit(wanted, "auth.example.com").candidate
        path = "/oauth/token" if "%74" in target else target
        candidate = replace(asked, request=replace(asked.request, target=target, path=path))
        found = decision.grant(Snapshot(), candidate, decision.Opinion(), (PERMIT.address,))
        assert isinstance(found, Refusal) is refused
        if isinstance(found, Refusal):
            assert "only the node asks https://auth.example.com/oauth/token" in found.detail


def _exchanger(world: World, dial: Callable[[Call], Awaitable[Answer]]) -> Exchanger:
    return Exchanger(
        dial=dial, sign=signing.local, rotations=world.rotations, monotonic=lambda: world.time,
        now=lambda: datetime(2026, 11, 24, tzinfo=UTC),
    )  # fmt: skip


def _revoked(name: str) -> object:
    from remit.core.snapshot import Revoked

    return Revoked(credentials=frozenset({name}))
