"""What every store must keep to: the in-memory one and SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from remit.control.ports_control import Acknowledged, AuditKey, Head, Revocation, RevocationKind, SealedSecret, Store
from remit.core.approval import Approval
from remit.core.approval import State as ApprovalState
from remit.core.errors import Conflict, NotFound
from remit.core.grant import Grant, Question, Scope
from remit.core.grant import State as GrantState
from remit.core.principal import Operator, OperatorKind, OperatorRole, OperatorToken
from remit.core.task import State, Task
from remit.store.database import Database
from remit.testing import MemoryStore

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    database = Database(tmp_path / "remit.db")
    yield database
    database.close()


def task(name: str = "aaaaaaaaaa", **changes: object) -> Task:
    base = Task(id=f"t-{name}", role="devops", state=State.PENDING, cell=1, created=NOW, command=("sh", "-c", "x"))
    return replace(base, **changes)  # type: ignore[arg-type]


def document(kind: str, name: str, **spec: object) -> dict[str, object]:
    return {"apiVersion": "remit.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def test_what_a_unit_wrote_the_next_one_reads(store: Store) -> None:
    with store.unit() as unit:
        unit.documents.put(document("Role", "b", x=[1, {"y": None}]), NOW)
        unit.documents.put(document("Role", "a"), NOW)
        unit.documents.put(document("Capability", "c"), NOW)
    with store.unit() as unit:
        assert [(d["kind"], d["metadata"]["name"]) for d in unit.documents.all()] == [
            ("Capability", "c"),
            ("Role", "a"),
            ("Role", "b"),
        ]
        assert unit.documents.get("Role", "b") == document("Role", "b", x=[1, {"y": None}])
        assert unit.documents.get("Role", "c") is None


def test_a_unit_that_raises_leaves_nothing_behind(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.unit() as unit:
        unit.documents.put(document("Role", "a"), NOW)
        unit.tasks.add(task())
        unit.revocations.add(Revocation(kind=RevocationKind.CAPABILITY, name="c", time=NOW, operator="o"))
        unit.secrets.put(SealedSecret(name="s", blob=b"x", updated=NOW))
        unit.heads.add(Head(seq=1, hash="h", received=NOW))
        unit.advance_epoch(NOW)
        1 / 0  # noqa: B018
    with store.unit() as unit:
        assert unit.documents.all() == []
        assert unit.tasks.all() == []
        assert unit.revocations.all() == []
        assert unit.secrets.all() == []
        assert unit.heads.latest() is None
        assert unit.epoch() == 0


def test_a_document_is_replaced_and_removed_by_kind_and_name(store: Store) -> None:
    with store.unit() as unit:
        unit.documents.put(document("Role", "a", v=1), NOW)
        unit.documents.put(document("Role", "a", v=2), NOW)
        unit.documents.put(document("Policy", "a", v=3), NOW)
        assert unit.documents.get("Role", "a") == document("Role", "a", v=2)
        assert unit.documents.remove("Role", "a") is True
        assert unit.documents.remove("Role", "a") is False
        assert [d["kind"] for d in unit.documents.all()] == ["Policy"]


def test_a_task_comes_back_as_it_was(store: Store) -> None:
    whole = task(
        state=State.EXITED,
        ended=NOW + timedelta(seconds=1),
        exit_code=-9,
        parent="t-bbbbbbbbbb",
        operator="root",
        command=("python", "päth", ""),
    )
    with store.unit() as unit:
        unit.tasks.add(whole)
    with store.unit() as unit:
        assert unit.tasks.get(whole.id) == whole


@pytest.mark.parametrize("given", [None, frozenset(), frozenset({"api", "(delegate)"})])
def test_what_a_task_was_given_comes_back(store: Store, given: frozenset[str] | None) -> None:
    with store.unit() as unit:
        unit.tasks.add(task("aaaaaaaaaa", capabilities=given))
    with store.unit() as unit:
        assert unit.tasks.get("t-aaaaaaaaaa").capabilities == given
        assert [one.capabilities for one in unit.current_tasks()] == [given]


def test_a_task_is_found_by_enough_of_its_id(store: Store) -> None:
    with store.unit() as unit:
        unit.tasks.add(task("abcaaaaaaa", cell=1))
        unit.tasks.add(task("abdaaaaaaa", cell=2))
        assert unit.tasks.get("t-abc").id == "t-abcaaaaaaa"
        assert unit.tasks.get("abd").id == "t-abdaaaaaaa"
        with pytest.raises(Conflict, match="several"):
            unit.tasks.get("ab")


@pytest.mark.parametrize("prefix", ["zz", "", "t-", "%", "t-%", "_bc", "t-ab_", "t-abc\\", "'", "\x00", "t-abc" * 20])
def test_a_prefix_that_is_no_id_finds_nothing(store: Store, prefix: str) -> None:
    with store.unit() as unit:
        unit.tasks.add(task("abcaaaaaaa"))
        with pytest.raises(NotFound):
            unit.tasks.get(prefix)


def test_two_tasks_cannot_hold_one_cell_at_once(store: Store) -> None:
    with store.unit() as unit:
        unit.tasks.add(task("aaaaaaaaaa", cell=7, state=State.REVOKED))
    with pytest.raises(Conflict), store.unit() as unit:
        unit.tasks.add(task("bbbbbbbbbb", cell=7))
    with store.unit() as unit:
        unit.tasks.save(task("aaaaaaaaaa", cell=7, state=State.ENDED))
        unit.tasks.add(task("bbbbbbbbbb", cell=7))


def test_saving_a_task_that_is_not_there_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound), store.unit() as unit:
        unit.tasks.save(task())


def test_alive_tasks_are_those_with_authority(store: Store) -> None:
    with store.unit() as unit:
        for n, state in enumerate(State):
            unit.tasks.add(
                task("aaaaaaaaa" + "abcdefg"[n], cell=n + 1, state=state, created=NOW + timedelta(seconds=n))
            )
        assert [t.state for t in unit.tasks.all(alive_only=True)] == [State.PENDING, State.RUNNING]
        assert [t.state for t in unit.tasks.all()] == list(State)


def test_current_tasks_are_those_with_a_cell_and_those_that_just_ended(store: Store) -> None:
    with store.unit() as unit:
        unit.tasks.add(task("aaaaaaaaaa", cell=1, state=State.REVOKED))
        unit.tasks.add(task("bbbbbbbbbb", cell=2, state=State.EXITED, ended=NOW))
        unit.tasks.add(task("cccccccccc", cell=3, state=State.FAILED, ended=NOW - timedelta(microseconds=1)))
        assert [t.id for t in unit.current_tasks()] == ["t-aaaaaaaaaa"]
        assert [t.id for t in unit.current_tasks(ended_since=NOW)] == ["t-aaaaaaaaaa", "t-bbbbbbbbbb"]


def test_a_revocation_is_kept_once_with_its_first_author(store: Store) -> None:
    first = Revocation(kind=RevocationKind.CAPABILITY, name="c", time=NOW, operator="ann")
    with store.unit() as unit:
        assert unit.revocations.add(first) is True
        assert unit.revocations.add(replace(first, operator="bob")) is False
        assert unit.revocations.add(replace(first, kind=RevocationKind.CREDENTIAL)) is True
        assert unit.revocations.remove(RevocationKind.CREDENTIAL, "c") is True
        assert unit.revocations.remove(RevocationKind.CREDENTIAL, "c") is False
        assert unit.revocations.all() == [first]


def test_a_sealed_secret_is_replaced(store: Store) -> None:
    with store.unit() as unit:
        unit.secrets.put(SealedSecret(name="s", blob=b"\x00\xff", updated=NOW))
        unit.secrets.put(SealedSecret(name="s", blob=b"\x01", updated=NOW))
        assert unit.secrets.all() == [SealedSecret(name="s", blob=b"\x01", updated=NOW)]
        assert unit.secrets.remove("s") is True
        assert unit.secrets.remove("s") is False


def test_the_latest_head_is_the_highest_and_of_those_the_first(store: Store) -> None:
    with store.unit() as unit:
        for seq, digest in ((5, "e"), (9, "first"), (9, "second"), (9, "first"), (7, "g")):
            unit.heads.add(Head(seq=seq, hash=digest, received=NOW, fields={"seq": seq, "hash": digest}))
    with store.unit() as unit:
        latest = unit.heads.latest()
        assert latest is not None
        assert latest.hash == "first"
        assert [(h.seq, h.hash) for h in unit.heads.all()] == [(5, "e"), (7, "g"), (9, "first"), (9, "second")]


def test_the_epoch_grows_even_when_the_clock_steps_back(store: Store) -> None:
    with store.unit() as unit:
        first = unit.advance_epoch(NOW)
        second = unit.advance_epoch(NOW - timedelta(days=1))
        third = unit.advance_epoch(NOW + timedelta(days=1))
    assert first == int(NOW.timestamp() * 1000)
    assert first < second < third
    with store.unit() as unit:
        assert unit.epoch() == third


def test_a_cell_number_is_not_given_twice_in_a_row(store: Store) -> None:
    with store.unit() as unit:
        first = unit.next_cell()
        unit.tasks.add(task("aaaaaaaaaa", cell=first, state=State.ENDED))
        second = unit.next_cell()
        unit.tasks.add(task("bbbbbbbbbb", cell=second + 1))
        assert first != second
        assert unit.next_cell() == second + 2


def operator(name: str = "alice", **changes: object) -> Operator:
    base = Operator(name=name, kind=OperatorKind.HUMAN, role=OperatorRole.APPROVER, created=NOW)
    return replace(base, **changes)  # type: ignore[arg-type]


def operator_token(name: str = "alice", number: int = 1) -> OperatorToken:
    later = NOW + timedelta(seconds=number)
    return OperatorToken(id=f"ot-{name}{number}", operator=name, digest=f"{name}{number}", created=later, expires=later)


def test_operators_are_found_by_name_and_by_uid(store: Store) -> None:
    with store.unit() as unit:
        unit.operators.add(operator("bob", uid=7, kind=OperatorKind.SERVICE))
        unit.operators.add(operator())
    with store.unit() as unit:
        assert [one.name for one in unit.operators.all()] == ["alice", "bob"]
        assert unit.operators.get("bob") == operator("bob", uid=7, kind=OperatorKind.SERVICE)
        assert unit.operators.by_uid(7) == unit.operators.get("bob")
        assert unit.operators.get("carol") is None
        assert unit.operators.by_uid(8) is None


@pytest.mark.parametrize("second", [operator(), operator("bob", uid=7)])
def test_an_operators_name_and_uid_are_its_own(store: Store, second: Operator) -> None:
    with store.unit() as unit:
        unit.operators.add(operator(uid=7))
    with pytest.raises(Conflict), store.unit() as unit:
        unit.operators.add(second)


def test_tokens_of_operators_go_with_them(store: Store) -> None:
    with store.unit() as unit:
        unit.operators.add(operator())
        unit.operators.add(operator("bob"))
        for token in (operator_token(number=2), operator_token(), operator_token("bob")):
            unit.operators.add_token(token)
    with store.unit() as unit:
        assert unit.operators.tokens("alice") == [operator_token(), operator_token(number=2)]
        assert unit.operators.token("alice2") == operator_token(number=2)
        assert unit.operators.token("carol1") is None
        assert unit.operators.remove("alice")
        assert not unit.operators.remove("alice")
        assert unit.operators.token("alice2") is None
        assert unit.operators.remove_tokens("bob") == 1
        assert unit.operators.remove_tokens("bob") == 0
        assert unit.operators.get("bob") == operator("bob")


def test_pruning_forgets_what_ended_and_nothing_that_runs(store: Store) -> None:
    day = timedelta(days=1)
    rows = {
        "oldaaaaaaa": (State.EXITED, NOW - 40 * day),
        "keptaaaaaa": (State.EXITED, NOW - 40 * day),
        "namedaaaaa": (State.FAILED, NOW),
        "freshaaaaa": (State.STOPPED, NOW),
        "runningaaa": (State.RUNNING, None),
    }
    with store.unit() as unit:
        for number, (name, (state, ended)) in enumerate(rows.items(), 1):
            unit.tasks.add(task(name, cell=number, state=state, ended=ended))
    with store.unit() as unit:
        named = ["t-namedaaaaa", "t-runningaaa", "t-unknownaaa"]
        others = [f"t-{number:010}" for number in range(300_000)]
        kept = ["t-keptaaaaaa", *others]
        assert unit.tasks.prune([*named, *others], ended_before=NOW - 30 * day, kept=kept) == 2
    with store.unit() as unit:
        assert {one.id for one in unit.tasks.all()} == {"t-keptaaaaaa", "t-freshaaaaa", "t-runningaaa"}


QUESTION = Question(
    task="t-aaaaaaaaaa", role="devops", method="GET", protocol="https", host="a.com", port=443, path="/x", target="/x?y",
    websocket=False, body="", body_bytes=0, capability="c", credential=None, reasons=("capability c asks",),
)  # fmt: skip


def approval(name: str = "aaaaaaaaaa", *, seconds: int = 0, **changes: object) -> Approval:
    made = NOW + timedelta(seconds=seconds)
    base = Approval(
        id=f"a-{name}", question=QUESTION, state=ApprovalState.PENDING, created=made, expires=made + timedelta(hours=1)
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def grant(name: str = "aaaaaaaaaa", **changes: object) -> Grant:
    base = Grant(
        id=f"g-{name}", approval=f"a-{name}", scope=Scope.REQUEST, question=QUESTION, author="alice", created=NOW,
        expires=None, uses=None,
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def test_approvals_are_found_by_prefix_question_state_and_time(store: Store) -> None:
    other = replace(QUESTION, task="t-bbbbbbbbbb")
    with store.unit() as unit:
        unit.approvals.add(approval(seconds=2))
        unit.approvals.add(approval("aabbbbbbbb", seconds=1, question=other))
        unit.approvals.add(approval("cccccccccc", state=ApprovalState.DENIED, author="bob", note="no", answered=NOW))
    with store.unit() as unit:
        assert unit.approvals.get("a-aaa") == unit.approvals.get("aaaaaaaaaa") == approval(seconds=2)
        with pytest.raises(Conflict):
            unit.approvals.get("aa")
        for wrong in ("zz", "", "a-", "%", "_"):
            with pytest.raises(NotFound):
                unit.approvals.get(wrong)
        assert [one.id for one in unit.approvals.pending()] == ["a-aabbbbbbbb", "a-aaaaaaaaaa"]
        assert [one.id for one in unit.approvals.pending("t-bbbbbbbbbb")] == ["a-aabbbbbbbb"]
        assert unit.approvals.latest(QUESTION.fingerprint()) == approval(seconds=2)
        assert unit.approvals.latest("0") is None
        assert [one.id for one in unit.approvals.recent(NOW + timedelta(seconds=1))] == ["a-aabbbbbbbb", "a-aaaaaaaaaa"]
        unit.approvals.save(approval(seconds=2, state=ApprovalState.EXPIRED))
    with store.unit() as unit:
        assert unit.approvals.get("aaa").state is ApprovalState.EXPIRED


def test_grants_that_are_over_are_not_among_the_active(store: Store) -> None:
    with store.unit() as unit:
        unit.grants.add(grant("bbbbbbbbbb", created=NOW + timedelta(seconds=1)))
        unit.grants.add(grant(uses=3, expires=NOW))
    with store.unit() as unit:
        assert [one.id for one in unit.grants.active()] == ["g-aaaaaaaaaa", "g-bbbbbbbbbb"]
        assert unit.grants.get("g-aaaaaaaaaa") == unit.grants.of_approval("a-aaaaaaaaaa") == grant(uses=3, expires=NOW)
        assert unit.grants.of_approval("a-none") is None
        with pytest.raises(NotFound):
            unit.grants.get("g-none")
        unit.grants.save(grant(state=GrantState.SPENT, used=3, uses=3))
    with store.unit() as unit:
        assert [one.id for one in unit.grants.active()] == ["g-bbbbbbbbbb"]
        assert unit.grants.get("g-aaaaaaaaaa").used == 3


def test_saving_an_approval_or_a_grant_that_is_not_there_is_not_found(store: Store) -> None:
    with store.unit() as unit:
        with pytest.raises(NotFound, match="no approval a-zzzzzzzzzz"):
            unit.approvals.save(approval("zzzzzzzzzz"))
        with pytest.raises(NotFound, match="no grant g-zzzzzzzzzz"):
            unit.grants.save(grant("zzzzzzzzzz"))
        assert (unit.approvals.pending(), unit.grants.active()) == ([], [])


def test_the_latest_acknowledgement_is_kept(store: Store) -> None:
    first = Acknowledged(last=7, digest="a" * 64, sha256="b" * 64, operator="ann", record="r-1")
    with store.unit() as unit:
        assert unit.acknowledgements.get() is None
        unit.acknowledgements.put(first)
    with store.unit() as unit:
        assert unit.acknowledgements.get() == first
        unit.acknowledgements.put(replace(first, last=9))
    with pytest.raises(RuntimeError), store.unit() as unit:
        unit.acknowledgements.put(replace(first, last=11))
        raise RuntimeError
    with store.unit() as unit:
        assert unit.acknowledgements.get() == replace(first, last=9)


def test_audit_keys_are_added_and_replaced(store: Store) -> None:
    for key, trusted in (("a", True), ("b", False), ("b", True)):
        with store.unit() as unit:
            unit.audit_keys.put(AuditKey(key=key, since=NOW, trusted=trusted))
    with store.unit() as unit:
        assert [(one.key, one.since, one.trusted) for one in unit.audit_keys.all()] == [
            ("a", NOW, True),
            ("b", NOW, True),
        ]
