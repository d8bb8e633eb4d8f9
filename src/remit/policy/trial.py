"""Cases held against rules: each is decided by the functions that decide real requests, and what came is compared.

Every secret is supposed to be stored, every name to resolve to an address that is dialled, and each task to be new
unless the case names it;
what was used of a budget is what the case says. The policies are asked through `Asks`, so that one table can be held
against several engines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from remit.core.decision import Candidate, Opinion
from remit.core.errors import Invalid, NotFound
from remit.core.snapshot import Rules, Snapshot
from remit.policy import explain, rego
from remit.policy.cases import Case
from remit.policy.explain import Explanation
from remit.policy.given import given

Asks = Callable[[tuple[str, ...], str, int], Opinion]
"""(policies, input as JSON text, nanoseconds since 1970) → what they say."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`wrong`: how what came differs from what was expected; empty where it does not."""

    case: Case
    told: Mapping[str, Any]
    wrong: str

    def as_json(self) -> dict[str, Any]:
        case = self.case
        return {
            "sentence": case.sentence,
            "ok": not self.wrong,
            "wrong": self.wrong,
            "role": case.role,
            "method": case.method,
            "url": case.url,
            "at": case.at.isoformat(),
            "file": case.source,
            "line": case.line,
            **{name: self.told.get(name) for name in ("decision", "reason", "detail", "capability", "credential")},
        }


class Regorus:
    """`Asks` with the engine of the product, in this very process: a policy that loops is not cut off here."""

    def __init__(self, rules: Rules) -> None:
        self._now_ns = 0
        self._bundle = rego.Bundle(rules.policies.values(), now_ns=lambda: self._now_ns)

    def __call__(self, names: tuple[str, ...], document: str, now_ns: int) -> Opinion:
        self._now_ns = now_ns
        return self._bundle.evaluate(names, document)


def run(rules: Rules, cases: Iterable[Case], asks: Asks) -> Iterator[Outcome]:
    """One outcome a case, in order. Never raises for anything that a case says."""
    snapshot = supposed(rules)
    for case in cases:
        try:
            told = decided(snapshot, case, asks).as_json()
        except (Invalid, NotFound) as error:
            yield Outcome(case=case, told={}, wrong=error.detail)
            continue
        yield Outcome(case=case, told=told, wrong=_difference(case, told))


def supposed(rules: Rules) -> Snapshot:
    """A snapshot in which every secret that `rules` name is stored."""
    sealed = {one.secret: b"" for one in rules.credentials.values()}
    return Snapshot(version="hypothetical", rules=rules, sealed=sealed)


def decided(snapshot: Snapshot, case: Case, asks: Asks) -> Explanation:
    """What comes of one case. `NotFound`: there is no such role; `Invalid`: no such request, or no such budget."""
    running = case.kin[0] if case.kin else None
    if running is not None:
        snapshot = replace(snapshot, tasks={task.id: task for task in case.kin})
    begun = explain.begin(snapshot, case.role, case.method, case.url, case.headers, running)
    if isinstance(begun, Explanation):
        if case.used:
            raise Invalid(f"no budget applies: {begun.refusal.detail if begun.refusal else ''}")
        return begun
    begun = _used(explain.with_usage(begun, None), case.used)
    names = begun.role.policies
    now_ns = (case.at - _EPOCH) // timedelta(microseconds=1) * 1000
    opinion = asks(names, json.dumps(given(begun)), now_ns) if names else Opinion()
    return explain.conclude(snapshot, begun, opinion)


def _used(candidate: Candidate, used: Mapping[str, int]) -> Candidate:
    known = {str(one["budget"]) for one in candidate.usage}
    strange = sorted(used.keys() - known)
    if strange:
        raise Invalid(f"no budget {strange[0]!a} applies; there are: {', '.join(sorted(known)) or 'none'}")
    return replace(candidate, usage=tuple(_charged(one, used.get(str(one["budget"]), 0)) for one in candidate.usage))


def _charged(one: Mapping[str, Any], used: int) -> Mapping[str, Any]:
    return {**one, "used": used, "left": max(0, int(one["limit"]) - used)}


def _difference(case: Case, told: Mapping[str, Any]) -> str:
    came = f"{told['decision']} {told['reason']}" + (f" ({told['detail']})" if told["detail"] else "")
    if case.deny is not None:
        if told["reason"] != case.deny.value:
            through = f" through {told['capability']}" if told["decision"] == "permit" else ""
            return f"expected deny {case.deny}, found {came}{through}"
        if case.detail is not None and case.detail not in str(told["detail"]):
            return f"expected a detail with {case.detail!a}, found {told['detail']!a}"
        return ""
    if told["decision"] != "permit":
        return f"expected permit {case.permit}, found {came}"
    if told["capability"] != case.permit:
        return f"expected capability {case.permit}, found {told['capability']}"
    if case.credential is not None and told["credential"] != case.credential:
        return f"expected credential {case.credential}, found {told['credential'] or 'none'}"
    return ""
