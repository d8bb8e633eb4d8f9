"""Heads count under a pinned key only, whatever key they name."""

from __future__ import annotations

from pathlib import Path

import control_plane
import pytest
from audit_log import filled

from remit import testing
from remit.audit import verify
from remit.control import audit_keys
from remit.control.ports_control import Head
from remit.core.errors import NotFound


def head(seq: int, key: str) -> Head:
    now = testing.ManualClock().now()
    return Head(seq=seq, hash=f"h{seq}", received=now, fields={"seq": seq, "hash": f"h{seq}", "key": key})


def test_the_first_key_is_pinned_and_another_is_refused_and_remembered() -> None:
    store, now = testing.MemoryStore(), testing.ManualClock().now()
    with store.unit() as unit:
        assert audit_keys.receive(unit, head(1, "one"), now)
        assert not audit_keys.receive(unit, head(2, "two"), now)
        assert audit_keys.receive(unit, head(3, "one"), now)
        assert [one.seq for one in unit.heads.all()] == [1, 3]
        assert {one.key: one.trusted for one in unit.audit_keys.all()} == {"one": True, "two": False}


def test_the_key_of_heads_that_were_kept_before_keys_were_pinned_is_the_one() -> None:
    store, now = testing.MemoryStore(), testing.ManualClock().now()
    with store.unit() as unit:
        unit.heads.add(head(1, "old"))
        assert not audit_keys.receive(unit, head(2, "new"), now)
        assert {one.key: one.trusted for one in unit.audit_keys.all()} == {"old": True, "new": False}


def test_refused_keys_do_not_fill_the_database() -> None:
    store, now = testing.MemoryStore(), testing.ManualClock().now()
    with store.unit() as unit:
        for number in range(100):
            audit_keys.receive(unit, head(number, f"key-{number}"), now)
        assert len(unit.audit_keys.all()) == audit_keys.REFUSED_MAX


async def test_an_operator_trusts_a_key_by_its_beginning_and_it_is_recorded(tmp_path: Path) -> None:
    plane = control_plane.build(tmp_path)
    now = plane.clock.now()
    with plane.store.unit() as unit:
        audit_keys.receive(unit, head(1, "one"), now)
        audit_keys.receive(unit, head(2, "two"), now)
    with pytest.raises(NotFound):
        await plane.services.audit_keys.trust("one", operator="ann")
    key, record = await plane.services.audit_keys.trust("tw", operator="ann")
    assert (key.key, key.trusted, bool(record)) == ("two", True, True)
    with plane.store.unit() as unit:
        assert audit_keys.receive(unit, head(3, "two"), now)
        assert audit_keys.receive(unit, head(4, "one"), now), "what the old one signed stays good"


async def test_a_head_that_is_signed_well_by_a_stranger_does_not_count(tmp_path: Path) -> None:
    signed = await filled(tmp_path, 3, 64 << 10)
    assert signed is not None
    ours = verify.Trust(trusted=frozenset({signed["key"]}))
    assert verify.verify(tmp_path / "audit", [signed], ours).ok
    report = verify.verify(tmp_path / "audit", [signed], verify.Trust(trusted=frozenset({"another"})))
    assert report.problem is not None and report.problem.kind is verify.Kind.KEY_CHANGED
    report = verify.verify(tmp_path / "audit", [signed], verify.Trust(trusted=ours.trusted, refused=("x",)))
    assert report.problem is not None and "signs with key x" in report.problem.detail
