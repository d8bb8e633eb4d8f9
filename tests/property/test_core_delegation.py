"""Whatever a child's capability permits, its parent's permits: sound for any two, whatever they say.

Two that are drawn apart hardly ever lie within one another, so a child is drawn as its parent with a few things changed,
and what is asked is drawn from what the child has.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from remit.core import delegation, names, paths
from remit.core.capability import Approval, Capability, Index, Protocol
from remit.core.delegation import beyond, narrower
from remit.core.paths import Ambiguity
from remit.core.reason import Refusal
from remit.core.snapshot import Revoked, Role, Rules, Snapshot
from remit.core.task import ALIVE, State, Task

LABELS = st.sampled_from(["a", "b", "ab"])
HOSTS = st.lists(LABELS, min_size=2, max_size=4).map(".".join)
PATTERNS = st.tuples(st.booleans(), HOSTS).map(lambda pair: ("*." if pair[0] else "") + pair[1])
PATHS = st.lists(st.sampled_from(["", "a", "b", "ab", "aab"]), min_size=1, max_size=3).map(lambda s: "/" + "/".join(s))
GLOBS = st.tuples(
    st.lists(st.sampled_from(["a", "*", "a*", "*b", "a*b", "ab"]), min_size=0, max_size=3), st.booleans()
).map(lambda pair: "".join(f"/{part}" for part in pair[0]) + ("/**" if pair[1] or not pair[0] else ""))
METHODS = st.frozensets(st.sampled_from(["GET", "POST", "PUT"]), max_size=2)
NETWORKS = st.sampled_from(["10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9", "10.127.0.0/16", "fd00::/8"]).map(ip_network)
ADDRESSES = [ip_address(one) for one in ("10.0.0.1", "10.127.255.255", "10.128.0.0", "10.255.255.255", "fd00::1")]
STRICT = [Approval.NEVER, Approval.ASK, Approval.ALWAYS_ASK]
PATH = ("paths", "matchers")
CHANGES: list[tuple[str, ...]] = [
    ("protocol",), ("hosts",), ("ports",), ("methods",), PATH, ("websocket",), ("credentials",), ("ambiguous",),
    ("approval",), ("addresses",), ("invalid",),
]  # fmt: skip


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
        ambiguous=draw(st.sampled_from([frozenset[Ambiguity](), frozenset({Ambiguity.EMPTY_SEGMENT})])),
        approval=draw(st.sampled_from(STRICT)),
        addresses=tuple(draw(st.lists(NETWORKS, max_size=2))),
        invalid=draw(st.sampled_from([None, None, None, "is broken"])),
        matchers=tuple(paths.compiled(one) for one in globs),
    )


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Capability, Capability]:
    """A parent, and a child that differs from it in a few dimensions."""
    parent, other = draw(capabilities()), draw(capabilities())
    changed = [name for each in draw(st.lists(st.sampled_from(CHANGES), max_size=2)) for name in each]
    return parent, replace(parent, **{name: getattr(other, name) for name in changed})


@st.composite
def within_a_host(draw: st.DrawFn, capability: Capability) -> str:
    pattern = draw(st.sampled_from(capability.hosts))
    return pattern if not pattern.startswith("*.") else f"{draw(LABELS)}{pattern[1:]}"


@st.composite
def within_a_path(draw: st.DrawFn, capability: Capability) -> str:
    pattern = draw(st.sampled_from(capability.paths))
    body = pattern.removesuffix("/**")
    for _ in range(body.count("*")):
        body = body.replace("*", draw(st.sampled_from(["", "a", "b", "ab"])), 1)
    return (body + draw(st.sampled_from(["", "/a", "/b/ab", "//a"])) if body != pattern else body) or "/"


@given(pairs(), st.data())
def test_what_a_child_permits_its_parent_permits(pair: tuple[Capability, Capability], data: st.DataObject) -> None:
    parent, child = pair
    if narrower(parent, child) is not None:
        return
    assert child.credentials == parent.credentials
    assert STRICT.index(child.approval) >= STRICT.index(parent.approval)
    for address in ADDRESSES:
        if any(address in network for network in child.addresses):
            assert any(address in network for network in parent.addresses)
    host, path = data.draw(within_a_host(child) | HOSTS), data.draw(within_a_path(child) | PATHS)
    method, websocket = data.draw(st.sampled_from(["GET", "POST", "PUT"])), data.draw(st.booleans())
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
    assert (narrower(one, one) is None) is (one.invalid is None)


IDS = [f"t-{letter * 10}" for letter in "abcdefghijkl"]
STATES = st.sampled_from([State.RUNNING, State.RUNNING, State.RUNNING, State.PENDING, State.REVOKED, State.EXITED])


@st.composite
def chains(draw: st.DrawFn) -> Snapshot:
    """Tasks each of which stands below the one before it, mostly."""
    roles = {
        name: Role(
            name=name,
            delegates=frozenset(draw(st.sampled_from([{"r", "s"}, {"r", "s"}, {"r"}]))),
            max_depth=draw(st.sampled_from([1, 2, 3, delegation.MAX_DEPTH, delegation.MAX_DEPTH + 4])),
            invalid=draw(st.sampled_from([None, None, None, None, "is broken"])),
        )
        for name in ("r", "s")
    }
    created, tasks = datetime(2026, 1, 1, tzinfo=UTC), dict[str, Task]()
    for number, one in enumerate(IDS):
        parent = draw(st.sampled_from([IDS[number - 1]] * 5 + IDS)) if number else None
        role = draw(st.sampled_from(["r", "r", "s"]))
        tasks[one] = Task(id=one, role=role, state=draw(STATES), cell=number + 1, created=created, parent=parent)
    revoked = Revoked(roles=draw(st.sampled_from([frozenset[str](), frozenset[str](), frozenset({"s"})])))
    return Snapshot(version="1", rules=Rules(roles=roles), tasks=tasks, revoked=revoked)


@given(chains(), st.sampled_from(IDS))
def test_whoever_has_authority_has_it_from_everybody_above(snapshot: Snapshot, name: str) -> None:
    task = snapshot.tasks[name]
    found = delegation.lineage(snapshot, task, snapshot.rules.roles[task.role])
    if isinstance(found, Refusal):
        return
    assert len(found) <= delegation.MAX_DEPTH
    below = task
    for depth, one in enumerate(found, start=1):
        assert one.task.id == below.parent
        assert one.task.state in ALIVE
        assert one.role is snapshot.rules.roles[one.task.role]
        assert one.role.invalid is None
        assert one.role.name not in snapshot.revoked.roles
        assert below.role in one.role.delegates
        assert depth <= one.role.max_depth, "it delegates no deeper than its role may"
        below = one.task
    assert below.parent is None, "nobody above is left out"


NAMES = ("a", "b", "c")
SOME = st.one_of(st.none(), st.frozensets(st.sampled_from(NAMES)))


@st.composite
def roles(draw: st.DrawFn) -> Role:
    held = tuple(replace(draw(capabilities()), name=name) for name in NAMES[: draw(st.integers(1, 3))])
    return Role(name="r", capabilities=held, index=Index(held), delegates=frozenset({"r"}))


@given(roles(), roles(), st.booleans(), SOME, SOME, st.sampled_from(["GET", "POST"]), st.booleans(), st.data())
def test_what_a_child_was_given_lies_within_what_its_parent_was_given(
    parent: Role, other: Role, same: bool, held: frozenset[str] | None, given_: frozenset[str] | None,
    method: str, websocket: bool, data: st.DataObject,
) -> None:  # fmt: skip
    child = parent if same else other
    if beyond(parent, child, held=held, given=given_) is not None:
        return
    one = data.draw(st.sampled_from(child.capabilities))
    host, path = data.draw(within_a_host(one) | HOSTS), data.draw(within_a_path(one) | PATHS)
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
