"""A grant covers what was shown and nothing else: replay for another path, body, task; after expiry; wider than shown."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pytest

from remit.core import grant as granting
from remit.core.errors import Conflict
from remit.core.grant import Event, Grant, Question, Scope, State

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ASKED = Question(
    task="t-aaaaaaaaaa",
    role="finops",
    method="POST",
    protocol="https",
    host="api.bank.com",
    port=443,
    path="/pay/7",
    target="/pay/7?to=bob",
    websocket=False,
    body="ab" * 32,
    body_bytes=9,
    body_text="ten euros",
    capability="pay",
    credential="bank",
    reasons=("capability pay asks", "policy large: more than 1000"),
    headers=("content-type: text/plain", "x-a: 1"),
)


def grant(scope: Scope, **changes: object) -> Grant:
    base = Grant(
        id="g-aaaaaaaaaa",
        approval="a-aaaaaaaaaa",
        scope=scope,
        question=ASKED,
        author="alice",
        created=NOW,
        expires=NOW + timedelta(hours=1),
        uses=1 if scope is Scope.ONCE else None,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


CHANGES: dict[str, object] = {
    "task": "t-bbbbbbbbbb",
    "role": "devops",
    "method": "DELETE",
    "protocol": "http",
    "host": "evil.com",
    "port": 8443,
    "websocket": True,
    "capability": "other",
    "credential": "other",
    "reasons": ("policy new: something else",),
}


@pytest.mark.parametrize("scope", [Scope.ONCE, Scope.REQUEST, Scope.PREFIX])
def test_it_covers_what_was_shown(scope: Scope) -> None:
    assert grant(scope).covers(ASKED, NOW)


@pytest.mark.parametrize("scope", [Scope.ONCE, Scope.REQUEST, Scope.PREFIX])
@pytest.mark.parametrize("name", CHANGES)
def test_it_covers_nothing_of_which_anything_else_was_not_shown(scope: Scope, name: str) -> None:
    assert not grant(scope).covers(replace(ASKED, **{name: CHANGES[name]}), NOW)


@pytest.mark.parametrize("scope", [Scope.ONCE, Scope.REQUEST])
@pytest.mark.parametrize(
    "change", [{"target": "/pay/7?to=eve"}, {"body": "cd" * 32}, {"body": ""}, {"headers": ("x-a: 2",)}]
)
def test_an_exact_one_covers_no_other_query_headers_or_body(scope: Scope, change: dict[str, str]) -> None:
    assert not grant(scope).covers(replace(ASKED, **change), NOW)


@pytest.mark.parametrize(
    ("shown", "path", "covered"),
    [
        ("/pay/7", "/pay/7", True),
        ("/pay/7", "/pay/7/parts", True),
        ("/pay/7", "/pay/77", False),
        ("/pay/7", "/pay", False),
        ("/pay/7", "/pay/8", False),
        ("/pay/7", "/pay/7x/parts", False),
        ("/pay/", "/pay/8", True),
        ("/", "/", True),
        ("/", "/anything", False),
    ],
)
def test_a_prefix_ends_where_a_segment_ends_and_the_root_is_no_prefix(shown: str, path: str, covered: bool) -> None:
    made = grant(Scope.PREFIX, question=replace(ASKED, path=shown, target=shown))
    assert made.covers(replace(ASKED, path=path, target=path + "?x", body=""), NOW) is covered


def test_fewer_reasons_than_were_shown_are_covered() -> None:
    assert grant(Scope.PREFIX).covers(replace(ASKED, reasons=ASKED.reasons[:1]), NOW)


@pytest.mark.parametrize(
    ("scope", "uses", "expires", "said"),
    [
        (Scope.ONCE, 1, NOW, ", this once"),
        (Scope.REQUEST, 3, None, " with these very headers and body, 3 times, until the task ends"),
        (Scope.REQUEST, 1, NOW, f" with these very headers and body, once, until {NOW:%Y-%m-%d %H:%M:%SZ}"),
        (Scope.PREFIX, None, NOW, f" and below, any query, headers and body, until {NOW:%Y-%m-%d %H:%M:%SZ}"),
    ],
)
def test_it_says_what_it_allows_as_narrow_as_it_was_made(
    scope: Scope, uses: int | None, expires: datetime | None, said: str
) -> None:
    told = grant(scope, uses=uses, expires=expires).allows()
    assert told.startswith(f"{ASKED.method} {ASKED.protocol}://{ASKED.host}:{ASKED.port}/")
    assert told.endswith(said)


def test_it_covers_nothing_after_its_time() -> None:
    assert not grant(Scope.PREFIX).covers(ASKED, NOW + timedelta(hours=1))


@pytest.mark.parametrize("state", [state for state in State if state is not State.ACTIVE])
def test_it_covers_nothing_when_it_is_over(state: State) -> None:
    assert not grant(Scope.PREFIX, state=state).covers(ASKED, NOW)
    with pytest.raises(Conflict):
        granting.use(grant(Scope.PREFIX, state=state))
    for event in Event:
        if (state, event) == (State.SPENT, Event.REVOKE):
            continue  # what is open under its last use can still be taken back
        with pytest.raises(Conflict):
            granting.advance(grant(Scope.PREFIX, state=state), event)


def test_what_must_be_asked_each_time_is_covered_by_no_lasting_grant() -> None:
    each = replace(ASKED, only_once=True)
    assert each.scopes() == (Scope.ONCE,)
    assert grant(Scope.ONCE).covers(each, NOW)
    assert not grant(Scope.REQUEST).covers(each, NOW)
    assert not grant(Scope.PREFIX).covers(each, NOW)


def test_the_last_use_spends_it() -> None:
    twice = grant(Scope.REQUEST, uses=2)
    once = granting.use(twice)
    assert (once.state, once.used) == (State.ACTIVE, 1)
    assert granting.use(once).state is State.SPENT


def test_a_proposal_for_always_allows_this_once() -> None:
    always = {"identity": "g-a", "approval": "a-a", "author": "alice", "now": NOW}
    made = granting.narrowed(ASKED, Scope.ALWAYS, **always)
    assert (made.scope, made.uses, made.expires) == (Scope.ONCE, 1, NOW + granting.LONGEST[Scope.ALWAYS])
    assert made.allows().endswith(", this once")


def test_only_a_lasting_prefix_without_uses_stands_by_itself() -> None:
    assert grant(Scope.PREFIX).standing
    assert not grant(Scope.PREFIX, uses=3).standing
    assert not grant(Scope.REQUEST).standing
    assert not grant(Scope.ONCE).standing


def test_every_field_of_a_question_is_in_its_fingerprint() -> None:
    prints = {ASKED.fingerprint()}
    for field in fields(Question):
        value = getattr(ASKED, field.name)
        other = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value[:-1]
        prints.add(replace(ASKED, **{field.name: other}).fingerprint())
    assert len(prints) == len(fields(Question)) + 1


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"ten euros", "ten euros"),
        ("\u20ac".encode() * 2000, "\u20ac" * (granting.TEXT_BYTES // 3)),  # cut within a character
        (b"\xff\xd8 picture", ""),
        (b"text\0more", ""),
        (b"x" * 5000, "x" * granting.TEXT_BYTES),
    ],
)
def test_a_human_is_shown_how_a_body_begins_where_it_is_text(data: bytes, text: str) -> None:
    assert granting.beginning(data) == text


def test_json_and_back() -> None:
    for scope in Scope:
        made = grant(scope, expires=None if scope is Scope.REQUEST else NOW)
        assert granting.from_json(granting.as_json(made)) == made


@pytest.mark.parametrize("name", ["task", "port", "body", "body_text", "reasons", "only_once", "credential", "headers"])
def test_a_question_of_another_shape_is_refused(name: str) -> None:
    for wrong in (7.5, {}, b"x"):
        with pytest.raises((ValueError, TypeError, KeyError)):
            granting.read_question({**granting.question_json(ASKED), name: wrong})


def test_a_grant_keeps_the_hash_of_a_body_and_not_its_text() -> None:
    made = granting.narrowed(ASKED, Scope.REQUEST, identity="g-1", approval="a-1", author="alice", now=NOW)
    assert (made.question.body, made.question.body_text) == (ASKED.body, "")
    assert made.covers(ASKED, NOW)
    assert not made.covers(replace(ASKED, body="cd" * 32), NOW)
