"""Whatever a child's capability permits, its parent's permits: sound for any two, whatever they say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from remit.core import names, paths
from remit.core.capability import Capability, Index, Protocol
from remit.core.delegation import beyond, narrower
from remit.core.snapshot import Role

LABELS = st.sampled_from(["a", "b", "ab"])
HOSTS = st.lists(LABELS, min_size=2, max_size=4).map(".".join)
PATTERNS = st.tuples(st.booleans(), HOSTS).map(lambda pair: ("*." if pair[0] else "") + pair[1])
PATHS = st.lists(st.sampled_from(["", "a", "b", "ab", "aab"]), min_size=1, max_size=3).map(lambda s: "/" + "/".join(s))
GLOBS = st.tuples(
    st.lists(st.sampled_from(["a", "*", "a*", "*b", "a*b", "ab"]), min_size=0, max_size=3), st.booleans()
).map(lambda pair: "".join(f"/{part}" for part in pair[0]) + ("/**" if pair[1] or not pair[0] else ""))
METHODS = st.frozensets(st.sampled_from(["GET", "POST", "PUT"]), max_size=2)


@st.composite
def capabilities(draw: st.DrawFn) -> Capability:
    globs = tuple(draw(st.lists(GLOBS, min_size=1, max_size=2)))
    return Capability(
        name="x",
        protocol=draw(st.sampled_from([Protocol.HTTPS, Protocol.HTTP, Protocol.TCP])),
        hosts=tuple(draw(st.lists(PATTERNS, min_size=1, max_size=2))),
        ports=draw(st.frozensets(st.sampled_from([1, 2]), min_size=1)),
        methods=draw(METHODS),
        paths=globs,
        websocket=draw(st.booleans()),
        credentials=draw(st.sampled_from([(), ("c",)])),
        matchers=tuple(paths.compiled(one) for one in globs),
    )


@given(capabilities(), capabilities(), HOSTS, PATHS, st.sampled_from(["GET", "POST", "PUT"]), st.booleans())
def test_what_a_child_permits_its_parent_permits(
    parent: Capability, child: Capability, host: str, path: str, method: str, websocket: bool
) -> None:
    if narrower(parent, child) is not None:
        return
    wide, narrow = Index([parent]), Index([child])
    for port in (1, 2):
        for index in (narrow, wide):
            found = index.match(
                protocol=child.protocol, host=host, port=port, method=method, path=path, websocket=websocket
            ).capability
            if index is narrow and found is None:
                break
            assert found is not None


@given(PATTERNS, PATTERNS, HOSTS)
def test_hosts_within(narrow: str, wide: str, host: str) -> None:
    if names.within(narrow, wide) and names.covers(narrow, host):
        assert names.covers(wide, host)


@given(GLOBS, GLOBS, PATHS)
def test_paths_within(narrow: str, wide: str, path: str) -> None:
    if paths.within(narrow, wide) and paths.compiled(narrow).fullmatch(path):
        assert paths.compiled(wide).fullmatch(path)


@given(capabilities())
def test_each_is_within_itself(one: Capability) -> None:
    assert narrower(one, one) is None


NAMES = ("a", "b", "c")
SOME = st.one_of(st.none(), st.frozensets(st.sampled_from(NAMES)))


@st.composite
def roles(draw: st.DrawFn) -> Role:
    held = tuple(replace(draw(capabilities()), name=name) for name in NAMES[: draw(st.integers(1, 3))])
    return Role(name="r", capabilities=held, index=Index(held), delegates=frozenset({"r"}))


@given(roles(), roles(), SOME, SOME, HOSTS, PATHS, st.sampled_from(["GET", "POST"]), st.booleans())
def test_what_a_child_was_given_lies_within_what_its_parent_was_given(
    parent: Role, child: Role, held: frozenset[str] | None, given_: frozenset[str] | None,
    host: str, path: str, method: str, websocket: bool,
) -> None:  # fmt: skip
    if beyond(parent, child, held=held, given=given_) is not None:
        return
    for protocol in (Protocol.HTTPS, Protocol.HTTP, Protocol.TCP):
        for port in (1, 2):
            asked: dict[str, Any] = {"protocol": protocol, "host": host, "port": port, "method": method, "path": path}
            found = child.index.match(**asked, websocket=websocket, only=given_).capability
            if found is None:
                continue
            assert given_ is None or found.name in given_
            wide = parent.index.match(**asked, websocket=websocket, only=held).capability
            assert wide is not None
            assert held is None or wide.name in held
