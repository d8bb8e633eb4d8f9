"""Operators: added, listed, removed, given tokens; and who it is that shows a token or connects as a user.

There is always an administrator without any of this: root, and the user that the control plane runs as. So nobody can
lock everybody out, and an empty store grants nothing to anybody else.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from remit.control.ports import Clock
from remit.control.ports_control import Store
from remit.control.recording import Recorder
from remit.core.errors import Conflict, Invalid, NotFound
from remit.core.principal import (
    OPERATOR_NAME,
    TOKEN_PREFIX,
    Operator,
    OperatorKind,
    OperatorRole,
    OperatorToken,
    Principal,
)

MAX_TOKENS = 32
MAX_TTL = timedelta(days=366)
RESERVED = frozenset({"token", "remit", "root"})
"""Names under which built-in principals act."""
REFUSALS_A_MINUTE = 30
"""Of one operator, each with a record: whoever may change nothing must not fill the audit log. The rest are counted."""
MINUTE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """`token` is shown once and kept nowhere."""

    token: str
    kept: OperatorToken
    record: str


class Operating:
    def __init__(self, *, store: Store, recorder: Recorder, clock: Clock) -> None:
        self._store = store
        self._recorder = recorder
        self._clock = clock
        self._refused: dict[str, tuple[float, int]] = {}
        """By operator: since when, and how many refusals."""

    def all(self) -> Sequence[Operator]:
        with self._store.unit() as unit:
            return unit.operators.all()

    async def add(
        self, name: str, *, kind: OperatorKind, role: OperatorRole, uid: int | None, author: str
    ) -> tuple[Operator, str]:
        """(the operator, id of the record). `Conflict`: the name or the uid is taken, or names someone built in."""
        if not OPERATOR_NAME.fullmatch(name):
            raise Invalid("an operator's name is 1 to 63 of a-z, 0-9, `.`, `_`, `@`, `-`", hint="remit operator list")
        if name in RESERVED or name.startswith("t-"):
            raise Conflict(f"the name {name} belongs to a built-in principal", hint="choose another name")
        operator = Operator(name=name, kind=kind, role=role, uid=uid, created=self._clock.now())
        with self._store.unit() as unit:
            _free(unit.operators.get(name), unit.operators.by_uid(uid) if uid is not None else None)
        known = f", known as uid {uid}" if uid is not None else ""
        record = await self._recorder.before(
            "operator.add", author, f"{kind} {name} added as {role}{known}", subject=name, subject_role=role.value
        )
        with self._store.unit() as unit:
            unit.operators.add(operator)
        return operator, record

    async def remove(self, name: str, *, author: str) -> str:
        """The record's id. What its tokens may do ends at once."""
        with self._store.unit() as unit:
            tokens = len(unit.operators.tokens(name))
            if not unit.operators.remove(name):
                raise _unknown(name)
        return await self._recorder.after(
            "operator.remove", author, f"operator {name} removed, with {tokens} tokens", subject=name
        )

    async def issue(self, name: str, *, ttl: timedelta, author: str) -> Issued:
        """A new token for an operator. `ttl`: at most a year."""
        if not timedelta(minutes=1) <= ttl <= MAX_TTL:
            raise Invalid("a token lives for a minute at least and a year at most", hint="--ttl 90d")
        with self._store.unit() as unit:
            if unit.operators.get(name) is None:
                raise _unknown(name)
            if len(unit.operators.tokens(name)) >= MAX_TOKENS:
                raise Conflict(f"{name} has {MAX_TOKENS} tokens", hint=f"remit operator token {name} --revoke")
        text, now = TOKEN_PREFIX + secrets.token_urlsafe(32), self._clock.now()
        identity = "ot-" + base64.b32encode(secrets.token_bytes(5)).decode().lower()
        kept = OperatorToken(id=identity, operator=name, digest=digest(text), created=now, expires=now + ttl)
        detail = f"token {identity} issued to {name} until {kept.expires.isoformat(timespec='seconds')}"
        record = await self._recorder.before("operator.token", author, detail, subject=name, token_id=identity)
        with self._store.unit() as unit:
            if unit.operators.get(name) is None:
                raise _unknown(name)  # removed while this was being recorded
            unit.operators.add_token(kept)
        return Issued(token=text, kept=kept, record=record)

    async def revoke_tokens(self, name: str, *, author: str) -> tuple[int, str]:
        """(how many tokens ended, id of the record)."""
        with self._store.unit() as unit:
            if unit.operators.get(name) is None:
                raise _unknown(name)
            ended = unit.operators.remove_tokens(name)
        record = await self._recorder.after(
            "operator.token.revoke", author, f"{ended} tokens of {name} revoked", subject=name
        )
        return ended, record

    def by_token(self, text: str) -> Principal | None:
        """Who shows this token, or None. Looked up by digest, so its comparison tells nothing of the token."""
        if not text.startswith(TOKEN_PREFIX) or len(text) > 128:
            return None
        with self._store.unit() as unit:
            kept = unit.operators.token(digest(text))
            operator = unit.operators.get(kept.operator) if kept is not None else None
        if kept is None or operator is None or kept.expires <= self._clock.now():
            return None
        return Principal(name=operator.name, role=operator.role, proof=f"token:{kept.id}")

    def by_uid(self, uid: int) -> Principal | None:
        """The operator that is this user of the machine, or None."""
        with self._store.unit() as unit:
            operator = unit.operators.by_uid(uid)
        return Principal(name=operator.name, role=operator.role, proof=f"uid:{uid}") if operator is not None else None

    async def refused(self, principal: Principal, what: str) -> None:
        """Record that `principal` tried what its role does not allow."""
        now = self._clock.elapsed()
        since, count = self._refused.get(principal.name, (now, 0))
        left_out = 0
        if now - since >= MINUTE_S:
            since, count, left_out = now, 0, max(0, count - REFUSALS_A_MINUTE)
        self._refused[principal.name] = (since, count + 1)
        if count >= REFUSALS_A_MINUTE:
            return
        before = f"; {left_out} more before were not recorded" if left_out else ""
        detail = f"{what} refused: {principal.role} may not{before}"
        await self._recorder.after("refused", principal.name, detail, subject=what)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _free(named: Operator | None, same_user: Operator | None) -> None:
    if named is not None:
        raise Conflict(f"there is an operator {named.name} already", hint="remit operator list")
    if same_user is not None:
        raise Conflict(f"uid {same_user.uid} is operator {same_user.name}", hint="remit operator list")


def _unknown(name: str) -> NotFound:
    return NotFound(f"there is no operator {ascii(name[:63])[1:-1]}", hint="remit operator list")
