"""What a capability covers, one dimension after the other, and what is said to be missing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from remit.core import paths
from remit.core.capability import Capability, Index, Protocol
from remit.core.paths import Ambiguity

BASE = Capability(
    name="c", hosts=("a.com",), methods=frozenset({"GET"}), paths=("/v1/**",), matchers=(paths.compiled("/v1/**"),)
)
ASKED: dict[str, Any] = {
    "protocol": Protocol.HTTPS, "host": "a.com", "port": 443, "method": "GET", "path": "/v1/x", "websocket": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "opted", "missing"),
    [
        ({}, {}, None),
        ({"protocol": Protocol.HTTP}, {"protocol": Protocol.HTTP}, "is for https, the request is http"),
        ({"port": 8443}, {"ports": frozenset({443, 8443})}, "is for port 443, the request is for 8443"),
        ({"method": "POST"}, {"methods": frozenset()}, "allows GET, not POST"),
        ({"websocket": True}, {"websocket": True}, "does not allow WebSocket (spec.websocket: true would)"),
        ({"path": "/v1//x"}, {"ambiguous": frozenset({Ambiguity.EMPTY_SEGMENT})}, "does not opt in to emptySegment in paths"),
        ({"path": "/v1/a%2Fb"}, {"ambiguous": frozenset({Ambiguity.ENCODED_SLASH})}, "does not opt in to encodedSlash in paths"),
        ({"path": "/v2/x"}, {"matchers": (paths.compiled("/**"),)}, "allows paths /v1/**"),
        ({}, {"invalid": None}, None),
    ],
)  # fmt: skip
def test_what_is_missing_is_told_and_enough(asked: dict[str, Any], opted: dict[str, Any], missing: str | None) -> None:
    found = Index([BASE]).match(**ASKED | asked)
    assert found.near == (() if missing is None else (f"c: {missing}",))
    assert (found.capability is None) is (missing is not None)
    assert (
        Index([replace(BASE, matchers=opted.pop("matchers", BASE.matchers), **opted)]).match(**ASKED | asked).capability
    )


def test_one_that_is_broken_covers_nothing_and_another_may() -> None:
    broken = replace(BASE, name="b", invalid="has no hosts", matchers=BASE.matchers)
    found = Index([broken]).match(**ASKED)
    assert (found.capability, found.near) == (None, ("b: is invalid: has no hosts",))
    assert Index([broken, BASE]).match(**ASKED).capability is BASE


def test_the_most_specific_host_comes_first() -> None:
    wide, narrow, exact = (
        replace(BASE, name=name, hosts=(host,), matchers=BASE.matchers)
        for name, host in (("wide", "*.com"), ("narrow", "*.a.com"), ("exact", "x.a.com"))
    )
    index = Index([wide, narrow, exact])
    assert [one.name for one in index.by_host("x.a.com")] == ["exact", "narrow", "wide"]
    assert index.match(**ASKED | {"host": "x.a.com"}).capability is exact
    assert index.match(**ASKED | {"host": "y.a.com"}).capability is narrow
