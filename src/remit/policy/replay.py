"""Decisions made again under other rules: what a change means for cases that were written down, and what it would have
meant for the work of the last hours.

A case says all that a decision needs. A record does not hold all that a decision saw: the query, the headers and what
was used of budgets are not in it. So each record is decided twice, under the rules in force and under the changed ones.
Where the rules in force do not come to what was recorded, something that is not in the record mattered (or they have
changed since), and what the changed rules say of it is told as uncertain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from remit.core import doorway
from remit.core.capability import Protocol
from remit.core.delegation import MAX_DEPTH
from remit.core.errors import Invalid, NotFound
from remit.core.reason import Reason
from remit.core.snapshot import Rules, Snapshot
from remit.core.task import State, Task
from remit.policy import trial
from remit.policy.cases import Case

BY_RULE = frozenset(
    {
        Reason.PERMITTED,
        Reason.ROLE_INVALID,
        Reason.NO_CAPABILITY,
        Reason.NOT_DELEGATED,
        Reason.DELEGATE_ONLY,
        Reason.POLICY_DENIED,
        Reason.APPROVAL_REQUIRED,
        Reason.CREDENTIAL_NOT_PINNED,
    }
)
"""What rules alone decide; whatever else was recorded (addresses, budgets, identity) is not decided again."""
_SCHEMES = {Protocol.TLS.value: "tls"}


Known = Callable[[str], Task | None]
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`detail` is told but does not make a difference."""

    reason: str
    capability: str | None
    credential: str | None
    detail: str = ""

    def same(self, other: Verdict) -> bool:
        mine, theirs = (
            (self.reason, self.capability, self.credential),
            (other.reason, other.capability, other.credential),
        )
        return mine == theirs if Reason.PERMITTED in (self.reason, other.reason) else self.reason == other.reason

    def __str__(self) -> str:
        if self.reason != Reason.PERMITTED:
            return f"deny {self.reason}"
        return f"permit {self.capability}" + (f" with {self.credential}" if self.credential else "")


@dataclass(slots=True, kw_only=True)
class Change:
    """One request, as often as it was recorded. `record`: the last of them; `sentence`: of the case that it is."""

    role: str
    method: str
    url: str
    was: Verdict
    now: Verdict
    certain: bool
    count: int = 0
    record: str = ""
    sentence: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "method": self.method,
            "url": self.url,
            "count": self.count,
            "was": str(self.was),
            "now": str(self.now),
            "detail": self.now.detail,
            "certain": self.certain,
            "record": self.record,
            **({"case": self.sentence} if self.sentence else {}),
        }


@dataclass(slots=True, kw_only=True)
class Result:
    """`replayed` records were decided again; `left_out` were not decided by rules, or cannot be read; of these,
    `orphans` are of tasks whose parents nothing tells of any more."""

    changes: list[Change]
    replayed: int = 0
    left_out: int = 0
    orphans: int = 0


class Side:
    """One set of rules, ready to decide."""

    def __init__(self, rules: Rules) -> None:
        self._snapshot: Snapshot = trial.supposed(rules)
        self._asks = trial.Regorus(rules)

    def verdict(self, case: Case) -> Verdict:
        try:
            told = trial.decided(self._snapshot, case, self._asks).as_json()
        except NotFound as error:
            return Verdict(reason=Reason.ROLE_INVALID.value, capability=None, credential=None, detail=error.detail)
        return Verdict(
            reason=told["reason"], capability=told["capability"], credential=told["credential"], detail=told["detail"]
        )


def cases(listed: Iterable[Case], *, before: Rules, after: Rules) -> Result:
    """What `after` decides otherwise than `before`, in order; what a case expects is not looked at.

    Left out: what is no request, or names a budget that one of them lacks.
    """
    old, new = Side(before), Side(after)
    result = Result(changes=[])
    for case in listed:
        try:
            was, now = old.verdict(case), new.verdict(case)
        except Invalid:
            result.left_out += 1
            continue
        result.replayed += 1
        if not now.same(was):
            result.changes.append(
                Change(
                    role=case.role,
                    method=case.method,
                    url=case.url,
                    was=was,
                    now=now,
                    certain=True,
                    count=1,
                    sentence=case.sentence,
                )
            )
    return result


def replay(records: Iterable[Mapping[str, Any]], *, before: Rules, after: Rules, known: Known) -> Result:
    """What `after` decides otherwise than was recorded, the most frequent first. `before`: the rules in force.

    A task that stands below others is decided with all above it, and one that was given a part of its role with that
    part: `known` gives tasks by id, as they were created.
    """
    old, new = Side(before), Side(after)
    found: dict[tuple[str, ...], Change] = {}
    result = Result(changes=[])
    for record in records:
        read = _read(record)
        if read is None:
            result.left_out += 1
            continue
        case, was = read
        kin = _kin(record, known)
        if kin is None:
            result.left_out += 1
            result.orphans += 1
            continue
        case = replace(case, kin=kin)
        try:
            expected, now = old.verdict(case), new.verdict(case)
        except Invalid:
            result.left_out += 1
            continue
        result.replayed += 1
        if now.same(was) or now.same(expected):
            continue  # the change of the rules makes no difference to it
        certain = expected.same(was)
        key = (case.role, case.method, case.url, str(was), str(now), str(certain))
        change = found.setdefault(
            key, Change(role=case.role, method=case.method, url=case.url, was=was, now=now, certain=certain)
        )
        change.count += 1
        change.record = str(record.get("id"))
    result.changes = sorted(found.values(), key=lambda one: (not one.certain, -one.count, one.role, one.url))
    return result


def created(record: Mapping[str, Any]) -> Task | None:
    """The task that a record says was created; None where it says something else."""
    if record.get("kind") != "operator" or record.get("action") != "task.create":
        return None
    return _task(record.get("task"), record)


def existing(view: Mapping[str, Any]) -> Task | None:
    """A task as the API shows it."""
    return _task(view.get("id"), view)


def _task(identity: object, told: Mapping[str, Any]) -> Task | None:
    role, parent, given = told.get("role"), told.get("parent"), told.get("capabilities")
    if not isinstance(identity, str) or not isinstance(role, str) or not isinstance(parent, str | None):
        return None
    part = frozenset({*map(str, given), doorway.CAPABILITY.name}) if isinstance(given, list) else None
    return Task(
        id=identity, role=role, state=State.RUNNING, cell=1, created=_NEVER, parent=parent, capabilities=part
    )  # fmt: skip


def _kin(record: Mapping[str, Any], known: Known) -> tuple[Task, ...] | None:
    """The task of a record and those above it; none for one that stands alone and that nothing is known of. None where
    something stands above it that is not known."""
    one, parent = known(str(record.get("task"))), record.get("parent")
    if one is None:
        return () if parent is None else None
    found = [one]
    while one.parent is not None:
        above = known(one.parent)
        if above is None or len(found) > MAX_DEPTH:
            return None
        found.append(one := above)
    return tuple(found)


def _read(record: Mapping[str, Any]) -> tuple[Case, Verdict] | None:
    """A record of a decision that rules alone made, as a case and its verdict. An observed one is what it would be."""
    reason = record.get("would_deny") or record.get("reason")
    fields = [record.get(name) for name in ("role", "method", "scheme", "host", "port", "time")]
    if record.get("kind") != "decision" or reason not in BY_RULE or None in fields:
        return None
    role, method, scheme, host, port, time = map(str, fields)
    shown = f"[{host}]" if ":" in host else host
    path = str(record.get("path") or "")
    try:
        at = datetime.fromisoformat(time)
    except ValueError:
        return None
    case = Case(
        sentence=str(record.get("id")),
        role=role,
        method=method,
        url=f"{_SCHEMES.get(scheme, scheme)}://{shown}:{port}{path}",
        at=at,
    )
    denied = reason != Reason.PERMITTED
    return case, Verdict(
        reason=str(reason),
        capability=None if denied else record.get("capability"),
        credential=None if denied else record.get("credential"),
    )
