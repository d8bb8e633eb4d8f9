"""One request, decided: the use case behind Envoy's check.

The order is the law: nothing is answered with a permit before its record is durable, and after the record the
snapshot is looked at once more, so that a revocation that arrived meanwhile wins. The rules themselves are the pure
functions of `core.decision`; here they meet the outside through ports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from remit.control import budgets as budgeting
from remit.control.budgets import Budgets
from remit.control.hearing import Answers
from remit.control.hidden import Hidden
from remit.control.knowledge import Knowledge
from remit.control.openings import AT_ONCE, Openings
from remit.control.ports import Entry, Journal, Policies, Resolver, Secrets, Verifier
from remit.control.rationing import Exceeded
from remit.core import approval, decision, delegation, doorway, observe, request
from remit.core.claims import Claims
from remit.core.credential import LATER, Injected, Later
from remit.core.decision import Candidate, Permit
from remit.core.errors import Unavailable
from remit.core.grant import Grant, Question
from remit.core.reason import Reason, Refusal
from remit.core.request import Evidence, Request
from remit.core.secret import Secret
from remit.core.snapshot import Snapshot

ATTEMPTS = 3
"""How often a request is decided anew because what is known changed meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Permitted:
    """Dial `pin` (an address literal) at `pin_port`, with `headers` set and those in `removed` taken off.

    `target`: what to send instead of the agent's request target, if anything. `pool` names who may share the upstream
    connection. `metered`: its bytes are counted while it runs. `hidden` names what was injected and must not come back
    (`control.hidden`); empty: nothing. `task`: not for an upstream but for the control plane, which is told that this
    task asks (`core.doorway`).
    """

    record: str
    headers: tuple[tuple[bytes, bytes], ...]
    pin: str
    pin_port: int
    target: bytes | None
    pool: str
    metered: bool = False
    removed: tuple[bytes, ...] = ()
    hidden: str = ""
    task: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    record: str
    refusal: Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Nothing is permitted: a human must be asked this first (`control.holding`). Not recorded here.

    No question: the second check decides once more, with the body and with time.
    """

    question: Question | None


@dataclass(slots=True)
class _Facts:
    """What is known so far; whatever stands here when the decision falls goes into its record."""

    claims: Claims | None = None
    request: Request | None = None
    candidate: Candidate | None = None
    notes: Mapping[str, str] | None = None
    question: Question | None = None
    """What a human would have to be asked, where nothing they allowed covers it."""
    grant: Grant | None = None
    would_deny: Refusal | None = None
    """What an observing role let pass (`core.observe`)."""
    snapshot: Snapshot | None = None
    """The one the decision was made from."""
    returned: Mapping[str, Any] = field(default_factory=dict)
    """What an earlier attempt had been charged."""


class Decider:
    """Holds no state of its own: what it knows is in `knowledge`, what it writes in `journal`, what it let through in
    `openings`."""

    def __init__(
        self,
        *,
        knowledge: Knowledge,
        verifier: Verifier,
        policies: Policies,
        resolver: Resolver,
        secrets: Secrets,
        journal: Journal,
        openings: Openings,
        budgets: Budgets,
        answers: Answers,
        hidden: Hidden,
    ) -> None:
        self._knowledge = knowledge
        self._verifier = verifier
        self._policies = policies
        self._resolver = resolver
        self._secrets = secrets
        self._journal = journal
        self._openings = openings
        self._budgets = budgets
        self._answers = answers
        self._hidden = hidden

    async def check(self, evidence: Evidence, answers: Answers | None = None) -> Permitted | Denied | Held:
        """Decide one HTTP request. Never raises for anything an agent, a policy or a store can do.

        `answers`: which grants count; by default those that the fast check may use.
        """
        answers = answers or self._answers
        returned: Mapping[str, Any] = {}
        for _ in range(ATTEMPTS):
            facts = _Facts(returned=returned)
            granted = await self._decide(evidence, facts, answers)
            if isinstance(granted, Later) or facts.question is not None:
                if returned:  # no record of this attempt follows that could say so
                    await self._budgets.returned(returned)
                return Held(question=facts.question)
            if isinstance(granted, Refusal):
                return await self._denied(granted, facts, evidence)
            task = granted[0].candidate.task.id
            if self._openings.full(task):
                why = f"task {task} has {AT_ONCE} requests open, which is the most"
                return await self._denied(Refusal(Reason.REQUESTS_EXCEEDED, why, retry_after_s=1), facts, evidence)
            if facts.grant is not None and (untaken := await answers.take(facts.grant)) is not None:
                if untaken.reason is Reason.APPROVAL_REQUIRED:
                    continue  # somebody else took its last use
                return await self._denied(untaken, facts, evidence)
            permit, injected = granted
            record = self._journal.new_id()
            charge = self._budgets.reserve(record, permit.candidate)
            if isinstance(charge, Refusal):
                return await self._denied(charge, facts, evidence)
            fields = {**_permit_fields(permit), **_grant_fields(facts), **budgeting.fields(charge), **returned}
            try:
                await self._journal.append(record, Entry(kind="decision", fields=fields))
            except Unavailable as error:
                if charge is not None:
                    self._budgets.give_back(charge)
                return Denied(record=record, refusal=_unwritten(error))
            if charge is not None:
                await self._budgets.recorded(charge, permit.candidate)
            if self._knowledge.snapshot is facts.snapshot and self._knowledge.refusal() is None:
                self._openings.opened(record, permit, facts.grant.id if facts.grant is not None else None)
                return self._permitted(record, permit, injected, metered=charge is not None and charge.bytes)
            returned = self._budgets.give_back(charge) if charge is not None else {}
            # What became known while the record was written may take the permit back: decide again.
        facts.returned = returned
        return await self._denied(Refusal(Reason.OVERLOADED, "the rules change faster than requests"), facts, evidence)

    async def refuse(self, refusal: Refusal, *, token: bytes = b"", flow: str = "", **facts: object) -> Denied:
        """Record a refusal that was made elsewhere on the boundary (a protocol that is not governed, a bad header)."""
        claims = self._verifier.verify(token) if token else None
        fields: dict[str, object] = {
            "task": claims.task if isinstance(claims, Claims) else None,
            "role": claims.role if isinstance(claims, Claims) else None,
            "decision": "deny",
            "reason": refusal.reason.value,
            "detail": refusal.detail,
            "flow": flow,
            **facts,
        }
        return await self._write_denial(refusal, fields)

    async def _decide(
        self, evidence: Evidence, facts: _Facts, answers: Answers
    ) -> tuple[Permit, Injected] | Later | Refusal:
        refusal = self._knowledge.refusal()
        if refusal is not None:
            return refusal
        claims = self._verifier.verify(evidence.token)
        if isinstance(claims, Refusal):
            return claims
        facts.claims = claims
        asked = request.read(evidence)
        if isinstance(asked, Refusal):
            return asked
        facts.request = asked
        snapshot = self._knowledge.snapshot
        candidate = decision.admit(snapshot, claims, asked)
        if isinstance(candidate, Refusal):
            observed = observe.uncovered(snapshot, claims, asked, candidate)
            if observed is None:
                return candidate
            facts.would_deny, candidate = candidate, observed
        facts.candidate = candidate
        if candidate.role.policies and (usage := self._budgets.usage(candidate)):
            candidate = replace(candidate, usage=usage)
        opinion = await self._policies.judge(candidate)
        facts.notes = opinion.notes
        refusal = decision.judge(candidate, opinion) or self._budgets.refusal(candidate)
        question, elsewhere = None, False
        if refusal is None:
            question = approval.question(candidate, opinion, answers.body)
        if question is not None:
            grants = snapshot.grants.get(candidate.task.id, ())
            facts.grant = answers.covering(grants, question)
            if facts.grant is None:
                elsewhere = answers.undecided(grants, question)
                refusal = Refusal(Reason.APPROVAL_REQUIRED, "; ".join(question.reasons))
        if refusal is not None:
            bare = observe.bare(candidate, opinion, refusal)
            if bare is None or elsewhere or self._budgets.refusal(candidate) is not None:
                facts.question = question
                return refusal
            facts.would_deny, (candidate, opinion) = facts.would_deny or refusal, bare
        try:
            found, own = await self._resolver.addresses(asked.host), self._resolver.own()
        except Unavailable as error:
            return Refusal(Reason.NAME_UNRESOLVED, error.detail)
        facts.snapshot = snapshot
        permit = decision.grant(snapshot, candidate, opinion, found, own)
        if isinstance(permit, Refusal):
            return permit
        injected = await self._injected(permit, answers)
        return (permit, injected) if isinstance(injected, Injected) else injected

    async def _injected(self, permit: Permit, answers: Answers) -> Injected | Later | Refusal:
        credential = permit.credential
        if credential is None:
            return Injected()
        secret = self._secrets.lease(permit)
        if secret is None:
            secret = await self._secrets.obtain(permit, patient=answers.shown is not None)
        if secret is None:
            return _later(permit)
        if not isinstance(secret, Secret):
            return secret
        asked = permit.candidate.request
        injected = credential.injection.inject(secret.reveal(permit), asked, answers.seen(credential))
        if not isinstance(injected, Injected):
            return injected
        competing = credential.competing(asked)
        if competing:
            injected = replace(injected, removed=(*injected.removed, *competing))
        return injected if credential.scrub else replace(injected, secrets=())

    async def _denied(self, refusal: Refusal, facts: _Facts, evidence: Evidence) -> Denied:
        return await self._write_denial(refusal, _denial_fields(refusal, facts, evidence))

    async def _write_denial(self, refusal: Refusal, fields: Mapping[str, object]) -> Denied:
        record = self._journal.new_id()
        try:
            await self._journal.append(record, Entry(kind="decision", fields=fields))
        except Unavailable as error:
            refusal = _unwritten(error)
        return Denied(record=record, refusal=refusal)

    def _permitted(self, record: str, permit: Permit, injected: Injected, *, metered: bool) -> Permitted:
        asked = permit.candidate.request
        return Permitted(
            record=record,
            headers=injected.headers + tuple((k.encode(), v.encode()) for k, v in permit.opinion.headers.items()),
            pin=str(permit.address),
            pin_port=asked.port,
            target=injected.target,
            removed=injected.removed,
            pool=self._openings.pool(permit.candidate.task.id, permit.credential.name if permit.credential else ""),
            metered=metered,
            hidden=self._hidden.reference(injected.secrets) if injected.secrets else "",
            task=permit.candidate.task.id if permit.candidate.capability is doorway.CAPABILITY else "",
        )


def _later(permit: Permit) -> Later | Refusal:
    """A secret that is not there yet: the second check waits for it, unless it would wait for the end of a stream."""
    if permit.candidate.request.headers.get("content-type", "").startswith("application/grpc"):
        name = permit.credential.name if permit.credential else ""
        return Refusal(Reason.CREDENTIAL_UNAVAILABLE, f"credential {name} is still being obtained; ask again")
    return LATER


def _unwritten(error: Unavailable) -> Refusal:
    if isinstance(error, Exceeded):
        return Refusal(Reason.RECORDS_EXCEEDED, error.detail, retry_after_s=1)
    return Refusal(Reason.AUDIT_UNAVAILABLE, error.detail)


def _permit_fields(permit: Permit) -> dict[str, Any]:
    candidate = permit.candidate
    return {
        "task": candidate.task.id,
        "role": candidate.role.name,
        **delegation.chain(candidate.above),
        "decision": "permit",
        "reason": Reason.PERMITTED.value,
        "detail": "",
        "capability": candidate.capability.name,
        "credential": candidate.credential.name if candidate.credential else None,
        **({"unscrubbed": True} if candidate.credential is not None and not candidate.credential.scrub else {}),
        **_asked(candidate.request),
        "address": str(permit.address),
        "jti": candidate.claims.jti,
        "notes": dict(permit.opinion.notes),
    }


def _grant_fields(facts: _Facts) -> dict[str, Any]:
    """On whose word a request was permitted that is not permitted by the rules alone."""
    grant, would = facts.grant, facts.would_deny
    if would is not None:
        return {"would_deny": would.reason.value, "would_deny_detail": would.detail}
    return {} if grant is None else {"grant": grant.id, "approval": grant.approval, "approved_by": grant.author}


def _denial_fields(refusal: Refusal, facts: _Facts, evidence: Evidence) -> dict[str, Any]:
    claims, candidate = facts.claims, facts.candidate
    asked = _asked(facts.request) if facts.request is not None else _as_sent(evidence)
    return {
        "task": claims.task if claims else None,
        "role": claims.role if claims else None,
        **({"parent": claims.parent} if claims and claims.parent else {}),
        **(delegation.chain(candidate.above) if candidate else {}),
        "decision": "deny",
        "reason": refusal.reason.value,
        "detail": refusal.detail,
        "capability": candidate.capability.name if candidate else None,
        "credential": candidate.credential.name if candidate and candidate.credential else None,
        **asked,
        "jti": claims.jti if claims else None,
        "notes": dict(facts.notes or {}),
        **({"budget": dict(refusal.facts)} if refusal.facts else {}),
        **facts.returned,
    }


def _asked(asked: Request) -> dict[str, Any]:
    return {
        "method": asked.method,
        "scheme": asked.protocol.value,
        "host": asked.host,
        "port": asked.port,
        "path": asked.path,
        "flow": asked.flow,
    }


def _as_sent(evidence: Evidence) -> dict[str, Any]:
    """A request that could not be read is recorded as it came, bounded; the query is left out."""
    return {
        "method": evidence.method[:64],
        "scheme": evidence.opaque.protocol.value if evidence.opaque else "https" if evidence.tls else "http",
        "host": evidence.authority[:300],
        "port": None,
        "path": evidence.target.partition("?")[0][:1024],
        "flow": evidence.peer[:64],
        "sni": evidence.sni[:300],
        "destination": evidence.destination[:64],
    }
