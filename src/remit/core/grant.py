"""Grants: what a human allowed one task, bound to what they were shown, and the question that was shown to them.

A grant covers a later request only where everything that was shown still holds: method, protocol, host, port, path,
capability, credential, and every reason for asking. What a human did not see is not granted.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from remit.core.errors import Conflict, Invalid


class Scope(StrEnum):
    """What an answer may allow, narrowest first."""

    ONCE = "once"
    REQUEST = "request"
    """This exact request, headers and body included, for as long as the task lives."""
    PREFIX = "prefix"
    """This method and host, at this path and below it, whatever the query, the headers and the body; for a time."""
    ALWAYS = "always"
    """Once; and a change of the manifests is proposed, not made."""


LONGEST: Mapping[Scope, timedelta | None] = {
    Scope.ONCE: timedelta(minutes=15),
    Scope.REQUEST: None,
    Scope.PREFIX: timedelta(hours=1),
    Scope.ALWAYS: timedelta(minutes=15),
}
"""How long a grant of a scope lasts at most; None: until the task ends."""
LIFE_MAX = timedelta(days=366)
"""No task lives so long; what is said to last longer is a mistake."""
MAX_USES = 10_000


TEXT_BYTES = 4096
"""How much of a body a human is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """Of a request that waits. `digest`: SHA-256 in hex, "" where there is no body; `size` in bytes."""

    digest: str = ""
    size: int = 0
    text: str = ""
    """Its first `TEXT_BYTES` bytes, "" where they are no UTF-8 text."""


NO_BODY = Body()


def beginning(data: bytes) -> str:
    """`Body.text` of a body that begins with `data`."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(data[:TEXT_BYTES])  # may end within a character
    except UnicodeDecodeError:
        return ""
    return "" if "\0" in text else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request that needs a human, with everything that they are shown. `body`: SHA-256 (hex), "" where none;
    `body_text`: how it begins (`Body.text`).

    `target` is path and query as they were sent. `reasons`: why a human is asked, a sentence each. `only_once`: no
    scope but `once` may be offered.
    """

    task: str
    role: str
    method: str
    protocol: str
    host: str
    port: int
    path: str
    target: str
    websocket: bool
    body: str
    body_bytes: int
    capability: str
    credential: str | None
    reasons: tuple[str, ...]
    only_once: bool = False
    headers: tuple[str, ...] = ()
    """`name: value` of each header that was sent and that may change what is asked (`core.telling`)."""
    body_text: str = ""

    def fingerprint(self) -> str:
        """Names this very question: identical ones share one approval."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def scopes(self) -> tuple[Scope, ...]:
        """What may be answered, narrowest first."""
        if self.only_once:
            return (Scope.ONCE,)
        return (Scope.ONCE, Scope.REQUEST, Scope.PREFIX, Scope.ALWAYS)

    def offer(self, scope: Scope) -> str:
        """What `scope` would allow, in words. The path is the agent's text: whoever shows it escapes it."""
        match scope:
            case Scope.ONCE:
                return f"{self.within(scope)}, this once"
            case Scope.REQUEST:
                return f"{self.within(scope)}, until the task ends"
            case Scope.PREFIX:
                return f"{self.within(scope)}, for an hour"
            case Scope.ALWAYS:
                return f"{self.within(scope)}, this once; a capability for it is proposed"

    def within(self, scope: Scope) -> str:
        """Which requests `scope` has, in words."""
        here = f"{self.method} {self.protocol}://{self.host}:{self.port}"
        match scope:
            case Scope.REQUEST:
                return f"{here}{self.target} with these very headers and body"
            case Scope.PREFIX:
                return f"{here}{self.path} and below, any query, headers and body"
            case _:
                return f"{here}{self.target}"


class State(StrEnum):
    ACTIVE = "active"
    SPENT = "spent"
    EXPIRED = "expired"
    REVOKED = "revoked"
    ENDED = "ended"


class Event(StrEnum):
    SPEND = "spend"
    """Its last use was taken."""
    EXPIRE = "expire"
    REVOKE = "revoke"
    END = "end"
    """Its task has ended."""


TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.ACTIVE: {
        Event.SPEND: State.SPENT,
        Event.EXPIRE: State.EXPIRED,
        Event.REVOKE: State.REVOKED,
        Event.END: State.ENDED,
    },
    State.SPENT: {Event.REVOKE: State.REVOKED},  # its last use may still be open
    State.EXPIRED: {},
    State.REVOKED: {},
    State.ENDED: {},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """`uses`: how often it may be used, None without limit; `used`: how often it was. `author` answered."""

    id: str
    approval: str
    scope: Scope
    question: Question
    author: str
    created: datetime
    expires: datetime | None
    uses: int | None
    used: int = 0
    state: State = State.ACTIVE

    @property
    def task(self) -> str:
        return self.question.task

    def allows(self) -> str:
        """In words, as narrow as it was made: which requests, how often, until when."""
        if self.scope is Scope.ONCE:
            return self.question.offer(self.scope)
        often = f", {self.uses} times" if self.uses is not None and self.uses > 1 else ", once" if self.uses else ""
        until = f"{self.expires:%Y-%m-%d %H:%M:%SZ}" if self.expires is not None else "the task ends"
        return f"{self.question.within(self.scope)}{often}, until {until}"

    @property
    def standing(self) -> bool:
        """Whether a request can be let through under it without asking anybody whether it still has a use left, and
        without knowing the request's body."""
        return self.scope is Scope.PREFIX and self.uses is None

    def in_force(self, now: datetime) -> bool:
        return self.state is State.ACTIVE and (self.expires is None or self.expires > now)

    def covers(self, asked: Question, now: datetime) -> bool:
        """Whether it allows `asked`. Uses are not looked at: only the control plane can take one."""
        shown = self.question
        if not self.in_force(now):
            return False
        if (asked.task, asked.role, asked.capability, asked.credential) != (
            shown.task,
            shown.role,
            shown.capability,
            shown.credential,
        ):
            return False
        if (asked.method, asked.protocol, asked.host, asked.port, asked.websocket) != (
            shown.method,
            shown.protocol,
            shown.host,
            shown.port,
            shown.websocket,
        ):
            return False
        if not set(asked.reasons) <= set(shown.reasons) or (asked.only_once and self.scope is not Scope.ONCE):
            return False
        if self.scope is Scope.PREFIX:
            return asked.path == shown.path or (shown.path != "/" and asked.path.startswith(_below(shown.path)))
        return (asked.target, asked.headers, asked.body) == (shown.target, shown.headers, shown.body)


def _below(path: str) -> str:
    return path.rstrip("/") + "/"


def narrowed(
    question: Question,
    scope: Scope,
    *,
    identity: str,
    approval: str,
    author: str,
    now: datetime,
    for_s: float | None = None,
    uses: int | None = None,
) -> Grant:
    """What `author` allows by answering `question` in `scope`; `for_s` and `uses` can only make it narrower.

    `Invalid`: the scope was not offered, or does not last that long or have so many uses.
    """
    if scope not in question.scopes():
        offered = ", ".join(question.scopes())
        raise Invalid(f"approval {approval} can be answered with: {offered}", hint="remit approvals show ID")
    longest = LONGEST[scope]
    if for_s is not None and not 0 < for_s <= (longest or LIFE_MAX).total_seconds():
        most = f"{longest.total_seconds():g} s" if longest is not None else "the task's life"
        raise Invalid(f"scope {scope} lasts for {most} at most", hint="--for 30m")
    if uses is not None and not 1 <= uses <= MAX_USES:
        raise Invalid(f"uses: 1 to {MAX_USES}", hint="--uses 3")
    single = scope in (Scope.ONCE, Scope.ALWAYS)
    if single and uses not in (None, 1):
        raise Invalid(f"scope {scope} has one use", hint="--scope request --uses 3")
    lasting = timedelta(seconds=for_s) if for_s is not None else longest
    return Grant(
        id=identity,
        approval=approval,
        scope=Scope.ONCE if single else scope,
        question=replace(question, body_text=""),  # its hash is what binds
        author=author,
        created=now,
        expires=now + lasting if lasting is not None else None,
        uses=1 if single else uses,
    )


def advance(grant: Grant, event: Event) -> Grant:
    """`grant` after `event`. `Conflict` where its state does not know the event."""
    target = TRANSITIONS[grant.state].get(event)
    if target is None:
        raise Conflict(f"grant {grant.id} is {grant.state}: it cannot {event}", hint="remit approvals grants")
    return replace(grant, state=target)


def use(grant: Grant) -> Grant:
    """`grant` with one use taken. `Conflict` where it is over, or none is left."""
    if grant.state is not State.ACTIVE:
        raise Conflict(f"grant {grant.id} is {grant.state}", hint="remit approvals grants")
    taken = replace(grant, used=grant.used + 1)
    return advance(taken, Event.SPEND) if taken.uses is not None and taken.used >= taken.uses else taken


def question_json(question: Question) -> dict[str, Any]:
    return {**asdict(question), "reasons": list(question.reasons), "headers": list(question.headers)}


def read_question(item: Mapping[str, Any]) -> Question:
    """What `question_json` made. `ValueError`, `TypeError`, `KeyError` for anything of another shape."""
    texts = ("task", "role", "method", "protocol", "host", "path", "target", "body", "capability")
    if not all(isinstance(item[name], str) for name in texts) or not isinstance(item["credential"], str | None):
        raise ValueError("a question whose texts are none")
    if not all(type(item[name]) is int for name in ("port", "body_bytes")):
        raise ValueError("a question whose numbers are none")
    if not all(isinstance(item[name], bool) for name in ("websocket", "only_once")):
        raise ValueError("a question whose flags are none")
    lists = {"reasons": item["reasons"], "headers": item.get("headers", [])}  # former releases bound no headers
    if not all(isinstance(each, list) and all(isinstance(one, str) for one in each) for each in lists.values()):
        raise ValueError("a question without its reasons or headers")
    text = item.get("body_text", "")
    if not isinstance(text, str):
        raise ValueError("a question whose body's text is none")
    return Question(**{**item, **{name: tuple(each) for name, each in lists.items()}})


def as_json(grant: Grant) -> dict[str, Any]:
    """The JSON form, in which a grant is stored and sent."""
    return {
        "id": grant.id,
        "approval": grant.approval,
        "scope": grant.scope.value,
        "question": question_json(grant.question),
        "author": grant.author,
        "created": grant.created.isoformat(),
        "expires": grant.expires.isoformat() if grant.expires is not None else None,
        "uses": grant.uses,
        "used": grant.used,
        "state": grant.state.value,
    }


def from_json(item: Mapping[str, Any]) -> Grant:
    """What `as_json` made. `ValueError`, `TypeError`, `KeyError` for anything of another shape."""
    created = datetime.fromisoformat(item["created"])
    expires = datetime.fromisoformat(item["expires"]) if item["expires"] is not None else None
    uses, used = item["uses"], item["used"]
    if created.tzinfo is None or (expires is not None and expires.tzinfo is None):
        raise ValueError("a time without its zone")
    if type(used) is not int or not (uses is None or type(uses) is int):
        raise ValueError("uses that are no number")
    return Grant(
        id=str(item["id"]),
        approval=str(item["approval"]),
        scope=Scope(item["scope"]),
        question=read_question(item["question"]),
        author=str(item["author"]),
        created=created,
        expires=expires,
        uses=uses,
        used=used,
        state=State(item["state"]),
    )
