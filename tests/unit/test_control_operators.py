"""Operators and their tokens: who is known, until when, and what is recorded of it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import control_plane
import pytest
from control_plane import Plane

from remit.control.operators import REFUSALS_A_MINUTE
from remit.core.errors import Conflict, Invalid, NotFound, Unavailable
from remit.core.principal import RIGHTS, OperatorKind, OperatorRole, Principal, Right

DAY = timedelta(days=1)


@pytest.fixture
def plane(tmp_path: Path) -> Plane:
    return control_plane.build(tmp_path)


async def add(
    plane: Plane, name: str = "alice", role: OperatorRole = OperatorRole.APPROVER, uid: int | None = None
) -> None:
    await plane.services.operating.add(name, kind=OperatorKind.HUMAN, role=role, uid=uid, author="root")


async def test_a_token_proves_its_operator_until_it_expires(plane: Plane) -> None:
    await add(plane)
    issued = await plane.services.operating.issue("alice", ttl=DAY, author="root")
    known = plane.services.operating.by_token(issued.token)
    assert known == Principal(name="alice", role=OperatorRole.APPROVER, proof=f"token:{issued.kept.id}")
    plane.clock.advance(86399)
    assert plane.services.operating.by_token(issued.token) is not None
    plane.clock.advance(1)
    assert plane.services.operating.by_token(issued.token) is None


async def test_the_token_itself_is_kept_nowhere(plane: Plane) -> None:
    await add(plane)
    issued = await plane.services.operating.issue("alice", ttl=DAY, author="root")
    with plane.store.unit() as unit:
        assert issued.token not in repr(unit.operators.tokens("alice"))
    assert issued.token not in repr(plane.node.records)


async def test_every_change_is_recorded_with_its_author(plane: Plane) -> None:
    await add(plane)
    await plane.services.operating.issue("alice", ttl=DAY, author="root")
    await plane.services.operating.revoke_tokens("alice", author="carol")
    await plane.services.operating.remove("alice", author="carol")
    done = [(fields["action"], fields["operator"], fields["subject"]) for _, fields in plane.node.records]
    assert done == [
        ("operator.add", "root", "alice"),
        ("operator.token", "root", "alice"),
        ("operator.token.revoke", "carol", "alice"),
        ("operator.remove", "carol", "alice"),
    ]


async def test_nothing_is_widened_without_a_record(plane: Plane) -> None:
    await add(plane)
    plane.node.connected = False
    with pytest.raises(Unavailable, match="nothing was changed"):
        await add(plane, "bob")
    with pytest.raises(Unavailable, match="nothing was changed"):
        await plane.services.operating.issue("alice", ttl=DAY, author="root")
    assert [one.name for one in plane.services.operating.all()] == ["alice"]
    with plane.store.unit() as unit:
        assert unit.operators.tokens("alice") == []


async def test_taking_away_does_not_wait_for_a_record(plane: Plane) -> None:
    await add(plane)
    issued = await plane.services.operating.issue("alice", ttl=DAY, author="root")
    plane.node.connected = False
    with pytest.raises(Unavailable, match="it is done"):
        await plane.services.operating.revoke_tokens("alice", author="root")
    assert plane.services.operating.by_token(issued.token) is None


async def test_a_removed_operator_takes_its_tokens_along_even_when_added_again(plane: Plane) -> None:
    await add(plane)
    issued = await plane.services.operating.issue("alice", ttl=DAY, author="root")
    await plane.services.operating.remove("alice", author="root")
    await add(plane, role=OperatorRole.ADMIN)
    assert plane.services.operating.by_token(issued.token) is None


async def test_a_uid_proves_one_operator(plane: Plane) -> None:
    await add(plane, uid=4242)
    known = plane.services.operating.by_uid(4242)
    assert known is not None and (known.name, known.proof) == ("alice", "uid:4242")
    assert plane.services.operating.by_uid(4243) is None
    with pytest.raises(Conflict, match="uid 4242 is operator alice"):
        await add(plane, "bob", uid=4242)


@pytest.mark.parametrize("name", ["root", "token", "remit", "t-aaaaaaaaaa"])
async def test_nobody_takes_the_name_of_someone_built_in_or_of_a_task(plane: Plane, name: str) -> None:
    with pytest.raises(Conflict, match="built-in"):
        await add(plane, name)


@pytest.mark.parametrize("name", ["", "A", "a b", "a\x1b[2J", "-a", "a" * 64, "a\n"])
async def test_a_name_is_plain(plane: Plane, name: str) -> None:
    with pytest.raises(Invalid, match="an operator's name"):
        await add(plane, name)


@pytest.mark.parametrize("text", ["", "x", "remit_op_", "remit_op_" + "a" * 43, "remit_op_" + "a" * 500])
async def test_a_wrong_token_is_nobody(plane: Plane, text: str) -> None:
    await add(plane)
    assert plane.services.operating.by_token(text) is None


async def test_a_token_for_nobody_or_for_ever_is_refused(plane: Plane) -> None:
    with pytest.raises(NotFound):
        await plane.services.operating.issue("alice", ttl=DAY, author="root")
    await add(plane)
    with pytest.raises(Invalid, match="a year at most"):
        await plane.services.operating.issue("alice", ttl=DAY * 400, author="root")


def test_an_auditor_reads_and_an_approver_approves_and_only_an_admin_changes() -> None:
    assert RIGHTS[OperatorRole.AUDITOR] == {Right.READ}
    assert RIGHTS[OperatorRole.APPROVER] == {Right.READ, Right.APPROVE}
    assert RIGHTS[OperatorRole.ADMIN] == set(Right)


async def test_who_is_refused_without_end_fills_no_log(plane: Plane) -> None:
    known = Principal(name="alice", role=OperatorRole.AUDITOR, proof="token:x")

    async def tried(times: int) -> list[str]:
        before = len(plane.node.records)
        for _ in range(times):
            await plane.services.operating.refused(known, "POST /v1/apply")
        return [fields["detail"] for _, fields in plane.node.records[before:]]

    assert await tried(REFUSALS_A_MINUTE + 7) == ["POST /v1/apply refused: auditor may not"] * REFUSALS_A_MINUTE
    plane.clock.advance(60)
    first, second = await tried(2)
    assert first.endswith("may not; 7 more before were not recorded")
    assert second.endswith("may not")
