"""The intermediate is renewed while everything runs, and both are good as long as the old one lives."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509 import verification

from remit.boundary import ca, ca_renewal, sds
from remit.core.errors import Unavailable

START = datetime(2026, 11, 24, tzinfo=UTC)
NAME = "api.example"


def accepted(leaf: ca.Leaf, root: Path, now: datetime) -> None:
    """What a client in a cell does: up to the root that it trusts. Raises where it does not hold."""
    store = verification.Store([x509.load_pem_x509_certificate((root / ca.ROOT_CERTIFICATE).read_bytes())])
    verifier = verification.PolicyBuilder().store(store).time(now).build_server_verifier(x509.DNSName(NAME))
    first, *others = x509.load_pem_x509_certificates(leaf.chain)
    verifier.verify(first, others)


async def test_a_renewed_intermediate_is_taken_up_and_the_old_one_stays_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, node, later = tmp_path / "root", tmp_path / "node", START + ca.NODE_LIFE - ca.NODE_RENEW + timedelta(hours=1)
    ca.ensure(root, node, START)
    desk = sds.Desk(ca.load(node), Everybody())
    desk.govern([NAME])
    stream = sds.Stream(desk)
    answer = stream.receive([NAME], [], later)
    assert answer is not None
    before = answer.leaves[0]
    monkeypatch.setattr(ca_renewal, "RENEW_S", 0.01)
    monkeypatch.setattr(ca_renewal, "FOLLOW_S", 0.01)
    taken = asyncio.Event()

    def use(authority: ca.Authority) -> None:
        desk.use(authority)
        taken.set()

    jobs = [
        asyncio.ensure_future(ca_renewal.follow(node, use)),
        asyncio.ensure_future(ca_renewal.keep(root, node, lambda: later)),
    ]
    async with asyncio.timeout(60):
        await taken.wait()
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
    assert stream.due(later) is None, "nothing is pushed before it is due"
    accepted(before, root, later)
    due = stream.due(later + timedelta(hours=25))
    assert due is not None
    after = due.leaves[0]
    accepted(after, root, later + timedelta(hours=25))
    assert before.chain.split(b"-----END")[1] != after.chain.split(b"-----END")[1], "another intermediate"


def test_nothing_is_renewed_before_its_time(tmp_path: Path) -> None:
    root, node = tmp_path / "root", tmp_path / "node"
    assert ca.ensure(root, node, START)
    assert not ca.ensure(root, node, START + timedelta(days=59))
    assert ca.ensure(root, node, START + timedelta(days=61))


def test_a_key_and_a_certificate_that_do_not_belong_together_are_not_used(tmp_path: Path) -> None:
    """Between the two writes of a renewal."""
    ca.ensure(tmp_path / "root", tmp_path / "node", START)
    ca.ensure(tmp_path / "root", tmp_path / "other", START)
    (tmp_path / "node" / ca.NODE_KEY).write_bytes((tmp_path / "other" / ca.NODE_KEY).read_bytes())
    with pytest.raises(Unavailable, match="do not belong together"):
        ca.load(tmp_path / "node")


class Everybody:
    """A ration without end."""

    def take(self, name: str, now: datetime) -> bool:
        return True
