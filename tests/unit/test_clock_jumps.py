"""Somebody sets the clock, forward or back, by an hour or a year: nothing lives longer, what is good goes on, all heals.

Time that passes is not the time of day. The real parts are under test, with a clock that can be set.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from audit_log import DECISION
from cryptography import x509

from remit.app.clock import SystemClock
from remit.audit import head, verify
from remit.audit.journal import Journal
from remit.boundary import ca
from remit.boundary.leaf_ration import Allowance, Ration, nobody
from remit.boundary.sds import Desk, Stream
from remit.control.ends import Ends
from remit.control.ports import Entry
from remit.core.claims import Claims
from remit.core.errors import Unavailable
from remit.core.reason import Reason, Refusal
from remit.identity.issuer import Issuer
from remit.identity.verifier import Verifier
from remit.testing import ManualClock

HOUR, YEAR = 3600.0, 365 * 86400.0
JUMPS = [HOUR, -HOUR, YEAR, -YEAR]
LIFE_S, CONNECTION_S = 600, 3600.0


class Tokens:
    """An issuer and a verifier by one clock, as on one machine."""

    def __init__(self, directory: Path) -> None:
        self.clock = ManualClock(datetime(2026, 6, 1, tzinfo=UTC))
        self.issuer = Issuer(directory=directory, clock=self.clock, retain_s=LIFE_S + CONNECTION_S)
        self.verifier = Verifier(trust_domain="remit.local", clock=self.clock, connection_max_s=CONNECTION_S)
        self.verifier.replace_keys(self.issuer.public_keys())

    def mint(self) -> bytes:
        now = int(self.clock.now().timestamp())
        claims = Claims(
            trust_domain="remit.local", role="a", task="t-aaaaaaaaaa", jti="j", issued=now, expires=now + LIFE_S
        )
        return self.issuer.mint(claims).encode()

    def refused(self, token: bytes) -> Reason | None:
        found = self.verifier.verify(token)
        return found.reason if isinstance(found, Refusal) else None


@pytest.mark.parametrize("jump", JUMPS)
def test_a_token_that_is_known_stays_good_for_as_long_as_it_would_have(tmp_path: Path, jump: float) -> None:
    tokens = Tokens(tmp_path)
    token = tokens.mint()
    assert tokens.refused(token) is None
    tokens.clock.set_by(jump)
    assert tokens.refused(token) is None
    tokens.clock.advance(LIFE_S + CONNECTION_S - 1)
    assert tokens.refused(token) is None
    tokens.clock.advance(1)
    assert tokens.refused(token) is Reason.TOKEN_EXPIRED


@pytest.mark.parametrize("jump", JUMPS)
def test_a_token_from_before_that_nobody_has_seen_admits_nobody_and_the_next_one_does(
    tmp_path: Path, jump: float
) -> None:
    """A stolen one gains nothing by the jump; a cell gets its next token within half of the life of one."""
    tokens = Tokens(tmp_path)
    token = tokens.mint()
    tokens.clock.set_by(jump)
    assert tokens.refused(token) is (Reason.TOKEN_EXPIRED if jump > 0 else Reason.TOKEN_INVALID)
    tokens.clock.advance(LIFE_S / 2)
    tokens.verifier.replace_keys(tokens.issuer.public_keys())
    assert tokens.refused(tokens.mint()) is None


def test_ends_are_counted_apart_and_forgotten() -> None:
    clock = ManualClock()
    ends = Ends(clock)
    assert not ends.passed("a", clock.now() + timedelta(seconds=10))
    clock.set_by(-HOUR)
    assert not ends.passed("b", clock.now() + timedelta(seconds=20))
    until = clock.now() + timedelta(seconds=HOUR)
    clock.advance(10)
    assert ends.passed("a", until) and not ends.passed("b", until)
    ends.keep({"b"})
    assert not ends.passed("a", until), "seen for the first time again"


@pytest.mark.parametrize("jump", JUMPS)
async def test_the_audit_log_verifies_across_a_jump_and_repeats_no_id(tmp_path: Path, jump: float) -> None:
    clock, ids = ManualClock(datetime(2026, 6, 1, tzinfo=UTC)), []
    log = Journal(tmp_path / "audit", segment_bytes=4096, signer=head.Signer(tmp_path / "key"), now=clock.now)
    try:
        for number in range(60):
            if number in (20, 40):
                clock.set_by(jump if number == 20 else -jump)
            ids.append(log.new_id())
            await log.append(ids[-1], Entry(kind="decision", fields=DECISION))
        signed = log.head()
    finally:
        log.close()
    assert signed is not None
    report = verify.verify(tmp_path / "audit", [signed])
    assert report.ok, report.problem
    assert len(set(ids)) == 60


@pytest.mark.parametrize("jump", [-HOUR, -YEAR])
def test_a_clock_that_is_set_back_gives_no_certificates_for_nothing(jump: float) -> None:
    clock, allowance = ManualClock(), Allowance(2)
    assert [allowance.take(clock.now()) for _ in range(3)] == [True, True, False]
    clock.set_by(jump)
    assert not allowance.take(clock.now())
    clock.advance(60)
    assert allowance.take(clock.now()), "and it goes on from there"


@pytest.mark.parametrize("jump", JUMPS)
def test_certificates_that_a_wrong_clock_made_are_made_anew_once_it_is_right(tmp_path: Path, jump: float) -> None:
    """A leaf or an intermediate from a time to come would else be kept for good, and no handshake works."""
    clock = ManualClock(datetime(2026, 6, 1, tzinfo=UTC))
    root, node = tmp_path / "root", tmp_path / "node"
    ca.ensure(root, node, clock.now())
    desk = Desk(ca.load(node), Ration(nobody))
    stream = Stream(desk)
    clock.set_by(jump)
    with contextlib.suppress(Unavailable):  # before the root began
        ca.ensure(root, node, clock.now())
    desk.use(ca.load(node))
    answer = stream.receive(["api.test"], [], clock.now())
    clock.set_by(-jump)
    if ca.ensure(root, node, clock.now()):
        desk.use(ca.load(node))
    assert answer is not None
    if answer.removed:  # refused meanwhile, and so asked for at the next handshake
        answer = stream.receive(["api.test"], [], clock.now())
    answer = stream.due(clock.now()) or answer
    assert answer is not None
    (leaf,) = answer.leaves
    for certificate in x509.load_pem_x509_certificates(leaf.chain):
        assert certificate.not_valid_before_utc <= clock.now() < certificate.not_valid_after_utc
    assert desk.leaf("api.test", clock.now()) is leaf, "and it stays"


@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_no_certificate_is_made_where_the_authority_is_not_good_and_nothing_breaks(tmp_path: Path, jump: float) -> None:
    clock = ManualClock(datetime(2026, 6, 1, tzinfo=UTC))
    ca.ensure(tmp_path / "root", tmp_path / "node", clock.now())
    stream = Stream(Desk(ca.load(tmp_path / "node"), Ration(nobody)))
    stream.receive(["known.test"], [], clock.now())
    clock.set_by(jump)
    assert stream.due(clock.now()) is None, "what Envoy has it keeps"
    answer = stream.receive(["new.test"], [], clock.now())
    assert answer is not None and answer.removed == ("new.test",), "refused at once; a handshake does not wait"
    clock.set_by(-jump)
    answer = stream.receive(["new.test"], [], clock.now())
    assert answer is not None and [leaf.name for leaf in answer.leaves] == ["new.test"]


def test_the_clock_that_nobody_sets_is_the_kernels_own() -> None:
    first = SystemClock().elapsed()
    assert SystemClock().elapsed() >= first > 0
