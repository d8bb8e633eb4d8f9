"""Explanations for people: what would be decided (`explain`), and what was, in plain English (`why`).

A denial that nobody understands is worked around, so a record is told as a story: who asked for what, how it was
decided and at which step, what happened afterwards, and what to do next. Texts that an agent chose are quoted here
as they are; whoever shows them neutralises them for its own medium.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from remit.control.ports import Clock
from remit.control.ports_audit import Audit, AuditFilter
from remit.control.ports_control import CurrentPolicies, Node
from remit.control.publish import Publisher
from remit.core import answers, ledger_log, observe
from remit.core.errors import NotFound, Unavailable
from remit.core.names import Address
from remit.core.reason import MEANING, STEPS, Reason
from remit.policy import explain as explaining
from remit.policy import snapshot as snapshots

COMPLETION_FIELDS = ("completed", "status", "bytes_out", "bytes_in", "duration_ms")


class Explaining:
    def __init__(
        self, *, publisher: Publisher, audit: Audit, policies: CurrentPolicies, node: Node, clock: Clock
    ) -> None:
        self._publisher = publisher
        self._audit = audit
        self._policies = policies
        self._node = node
        self._clock = clock

    async def explain(
        self, role: str, method: str, url: str, headers: Mapping[str, str], task: str | None = None
    ) -> Mapping[str, Any]:
        """The decision on a request that nobody sent, with every step. `Invalid` for a URL, `NotFound` for a role.

        `task`: the whole id of one that sends it, as it runs now, with its grants; then `role` does not matter.
        """
        snapshot = snapshots.load(self._publisher.current(), None)
        running = snapshot.tasks.get(task) if task is not None else None
        if task is not None and running is None:
            raise NotFound(f"task {task} ended a while ago", hint="remit explain --role ROLE METHOD URL")
        role = running.role if running is not None else role
        begun = explaining.begin(snapshot, role, method, url, headers, running)
        observes = observe.observes(running, snapshot.rules.roles[role])
        mode = {"mode": "observe" if observes else "enforce"}
        if isinstance(begun, explaining.Explanation):
            return {**begun.as_json(), **mode}
        try:
            used: Sequence[Mapping[str, Any]] | None = await self._node.usage(explaining.accounts(begun))
        except Unavailable:
            used = None
        begun = explaining.with_usage(begun, used)
        self._policies.update(snapshot)
        opinion = await self._policies.judge(begun)
        found, own = await self._addresses(begun.request.host)
        now = self._clock.now()
        told = explaining.conclude(
            snapshot, begun, opinion, usage_known=used is not None, found=found, own=own, now=now
        )
        return {**told.as_json(), **mode}

    async def _addresses(self, host: str) -> tuple[tuple[Address, ...], frozenset[Address] | None]:
        """What would be dialled, as far as that is known without a look-up, and what is the node's own."""
        try:
            known = await self._node.addresses(host)
        except Unavailable:
            return (), None
        return known.fixed, known.own

    async def why(self, prefix: str) -> Mapping[str, Any]:
        """{"record", "completion", "explanation"}: the record whose id starts with `prefix`, and its story."""
        record = await self._audit.get(prefix)
        ended = record.get("completed") is not None
        completion = {name: record.get(name) for name in COMPLETION_FIELDS} if ended else None
        return {"record": record, "completion": completion, "explanation": await self._story(record, completion)}

    async def _story(self, record: Mapping[str, Any], completion: Mapping[str, Any] | None) -> Sequence[str]:
        told = _of_no_request(record)
        if told is not None:
            return [told]
        lines = [_asked(record)]
        try:
            reason = Reason(str(record.get("reason")))
        except ValueError:
            return [*lines, f"The record gives no reason that this version knows ({record.get('reason')})."]
        lines.append(_decided(record, reason))
        if reason is Reason.TASK_REVOKED:
            lines += await self._revoked_by(record)
        if reason is Reason.PERMITTED:
            lines.append(_ended(record, completion))
        elif MEANING[reason].next:
            lines.append(f"Next: {MEANING[reason].next}")
        return lines

    async def _revoked_by(self, record: Mapping[str, Any]) -> Sequence[str]:
        task = record.get("task")
        if not task:
            return []
        page = await self._audit.query(AuditFilter(task=str(task), kind="operator", limit=100))
        return [
            f"{entry.get('operator') or 'Someone'} revoked it at {entry.get('time')} (record {entry.get('id')})."
            for entry in page.records
            if entry.get("action") == "revoke"
        ][-1:]


def _of_no_request(record: Mapping[str, Any]) -> str | None:
    """The story of a record that is no decision on a request or a name."""
    at = record.get("time")
    match record.get("kind"):
        case "operator" | "approval":
            who = f"{record['operator']} did this" if record.get("operator") else "This happened"
            return f"{who} at {at}: {record.get('detail')}."
        case "budget":
            what = "A warning" if record.get("event") == "warning" else "A correction"
            return f"{what}, at {at}: {record.get('detail')}."
        case "completion":
            of = record.get("record")
            how = _ended(record, {name: record.get(name) for name in COMPLETION_FIELDS})
            return f"This is the end of the request of record {of}, at {at}. {how} The whole story: remit why {of}"
        case ledger_log.RESERVATION:
            held = ", ".join(f"{amount} of {name}" for name, amount in (record.get("reserved") or {}).items())
            after = "There was no room for more, so it was cut." if record.get("cut") else "It went on."
            return (
                f"The request of record {record.get('record')} was moving all the bytes that were set aside for it, so "
                f"at {at} more were: now {held}. {after}"
            )
        case ledger_log.CHECKPOINT:
            part = f"part {record.get('part')} of {record.get('parts')}"
            return (
                f"What was used of all budgets when this file of the log was begun, at {at} ({part}), so that a start "
                "need not add up the whole log. Nothing was asked for or decided."
            )
        case "segment":
            return f"File {record.get('segment')} of the log begins here, at {at}; its hash ties it to the one before."
        case _:
            return None


def _asked(record: Mapping[str, Any]) -> str:
    who = f"Task {record['task']}" if record.get("task") else "A connection without a valid identity"
    under = f" (role {record['role']}{_below(record)})" if record.get("role") else ""
    host, port = record.get("host") or "an unnamed host", record.get("port")
    if record.get("kind") == "dns":
        return f"{who}{under} looked up {host} at {record.get('time')}."
    usual = {"https": 443, "http": 80}.get(str(record.get("scheme")))
    where = f"{record.get('scheme') or 'tcp'}://{host}{f':{port}' if port and port != usual else ''}"
    what = f"{record.get('method') or 'a connection to'} {where}{record.get('path') or ''}"
    return f"{who}{under} asked for {what} at {record.get('time')}."


def _below(record: Mapping[str, Any]) -> str:
    """Whose part the task is, up to the one that an operator started."""
    chain = record.get("chain") or [one for one in (record.get("parent"),) if one]
    return "".join(f", below {one}" for one in reversed(chain))


def _decided(record: Mapping[str, Any], reason: Reason) -> str:
    meaning = MEANING[reason]
    if reason is Reason.PERMITTED:
        credential = (
            f", with credential {record['credential']} injected"
            if record.get("credential")
            else ", without a credential"
        )
        if record.get("would_deny"):
            why = f"{record['would_deny']} ({record.get('would_deny_detail')})"
            return f"It was let pass, without a credential, because its role observes; else it had been refused: {why}."
        human = f", as {record['approved_by']} allowed (grant {record.get('grant')})" if record.get("grant") else ""
        return f"It was permitted by capability {record.get('capability')}{credential}{human}."
    if record.get("decision") == "hold":
        return f"It waited for a human, under approval {record.get('approval')}: {record.get('detail')}."
    place = f"{meaning.step}, step {STEPS.index(meaning.step) + 1} of {len(STEPS)}"
    rule = f" Capability {record['capability']} covered it." if record.get("capability") else ""
    detail = f": {record['detail']}" if record.get("detail") else ""
    title = meaning.title[0].lower() + meaning.title[1:]
    return f"It was refused at {place}, with reason {reason.value} ({title}){detail}.{rule}"


def _ended(record: Mapping[str, Any], completion: Mapping[str, Any] | None) -> str:
    if completion is None:
        return "No completion is recorded: the request is still open, or Envoy died before it could say how it ended."
    ending = str(record.get("ending"))
    if ending.startswith(answers.REFUSED):
        return f"The upstream's answer was refused, with reason {ending.removeprefix(answers.REFUSED)}."
    moved = f"{completion['bytes_out']} bytes went out, {completion['bytes_in']} came in"
    if ending.startswith(answers.UNANSWERED):
        why = _inner(ending, answers.UNANSWERED)
        told = f"; the agent was told so with {completion['status']}" if completion["status"] is not None else ""
        return f"The upstream did not answer ({why}){told}."
    if ending.startswith(answers.BROKEN_OFF):
        why = _inner(ending, answers.BROKEN_OFF)
        if completion["status"] is None:
            return f"The connection broke off after {completion['duration_ms']} ms ({why}); {moved}."
        return f"The upstream answered {completion['status']}, and its answer broke off ({why}); {moved}."
    if completion["status"] is None:  # carried unread: nothing in it was an answer
        return f"The connection ended after {completion['duration_ms']} ms; {moved}."
    told = " It said the credential again; the agent saw the placeholder." if record.get("repeated") else ""
    return f"The upstream answered {completion['status']} after {completion['duration_ms']} ms; {moved}.{told}"


def _inner(ending: str, begins: str) -> str:
    """`…{connection_termination}` without its braces; Envoy writes `_` for spaces."""
    return ending.removeprefix(begins).strip("{}").replace("_", " ") or "Envoy gave no reason"
