"""The index finds what a loop over all capabilities would find."""

from hypothesis import given, settings
from hypothesis import strategies as st

from remit.core import names, paths
from remit.core.capability import UNREAD, Capability, Index, Match, Protocol

LABEL = st.sampled_from(["a", "b", "com", "x1"])
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join)
HOST = st.one_of(NAME, st.sampled_from(["10.0.0.1", "10.0.0.2", "::1", "2001:db8::1"]))
PATTERN = HOST | st.lists(LABEL, min_size=2, max_size=3).map(lambda labels: "*." + ".".join(labels))
PATHS = st.sampled_from(["/**", "/a", "/a/**", "/a/*", "/*/b", "/a*b"])


@st.composite
def capabilities(draw: st.DrawFn) -> list[Capability]:
    made = []
    for number in range(draw(st.integers(0, 8))):
        patterns = tuple(draw(st.lists(PATHS, min_size=1, max_size=2)))
        made.append(
            Capability(
                name=f"c{number}",
                protocol=draw(st.sampled_from(Protocol)),
                hosts=tuple(draw(st.lists(PATTERN, min_size=1, max_size=3, unique=True))),
                ports=frozenset(draw(st.sets(st.sampled_from([80, 443, 8443]), min_size=1))),
                methods=frozenset(draw(st.sets(st.sampled_from(["GET", "POST"])))),
                paths=patterns,
                ambiguous=frozenset(draw(st.sets(st.sampled_from(sorted(paths.OPTIONAL))))),
                websocket=draw(st.booleans()),
                invalid=draw(st.sampled_from([None, None, None, "broken"])),
                matchers=tuple(paths.compiled(pattern) for pattern in patterns),
            )
        )
    return made


def specificity(capability: Capability, host: str) -> int:
    """Labels of the most specific pattern of `capability` that covers `host`; an exact one is above every wildcard."""
    covering = [pattern for pattern in capability.hosts if names.covers(pattern, host)]
    return max((1000 if p == host else len(p.split(".")) for p in covering), default=0)


def naive(made: list[Capability], **asked: object) -> Capability | None:
    host, path = str(asked["host"]), str(asked["path"])
    ordered = sorted(made, key=lambda c: -specificity(c, host))  # stable: else as the role lists them
    for capability in ordered:
        if (
            capability.invalid is None
            and any(names.covers(pattern, host) for pattern in capability.hosts)
            and capability.protocol is asked["protocol"]
            and asked["port"] in capability.ports
            and (asked["protocol"] in UNREAD or _covers_request(capability, path, asked))
        ):
            return capability
    return None


def _covers_request(capability: Capability, path: str, asked: dict[str, object]) -> bool:
    return (
        (not capability.methods or asked["method"] in capability.methods)
        and (capability.websocket or not asked["websocket"])
        and paths.ambiguities(path) <= capability.ambiguous
        and any(paths.compiled(pattern).fullmatch(path) for pattern in capability.paths)
    )


@st.composite
def asked_of(draw: st.DrawFn, made: list[Capability]) -> dict[str, object]:
    """Mostly near to one of `made`: what is drawn apart from all of them is hardly ever covered by two."""
    near = draw(st.sampled_from(made)) if made and draw(st.integers(0, 4)) else None
    pattern = draw(st.sampled_from(near.hosts)) if near is not None else draw(HOST)
    return {
        "protocol": near.protocol if near is not None else draw(st.sampled_from(Protocol)),
        "host": f"{draw(LABEL)}{pattern[1:]}" if pattern.startswith("*") else pattern,
        "port": draw(st.sampled_from(sorted(near.ports) if near is not None else [80, 443, 8443, 1])),
        "method": draw(st.sampled_from(["GET", "POST", "PUT"])),
        "path": draw(st.sampled_from(["/", "/a", "/a/b", "/a/x/b", "/axb", "/a//b", "/a%2Fb", "/a;b", "/a%25b"])),
        "websocket": draw(st.booleans()),
    }


@settings(max_examples=200)
@given(capabilities(), st.data())
def test_the_index_finds_what_a_loop_finds(made: list[Capability], data: st.DataObject) -> None:
    asked = data.draw(asked_of(made))
    found: Match = Index(made).match(**asked)  # type: ignore[arg-type]
    assert found.capability == naive(made, **asked)
    if found.capability is None:
        covering = {c.name for c in made if any(names.covers(p, str(asked["host"])) for p in c.hosts)}
        assert {near.partition(":")[0] for near in found.near} == covering, "every near miss says what was missing"


@settings(max_examples=60)
@given(capabilities(), HOST)
def test_by_host_is_every_capability_that_covers_it_most_specific_first(made: list[Capability], host: str) -> None:
    found = Index(made).by_host(host)
    assert {c.name for c in found} == {c.name for c in made if any(names.covers(p, host) for p in c.hosts)}
    first = list(dict.fromkeys(c.name for c in found))
    ranks = [specificity(next(c for c in made if c.name == name), host) for name in first]
    assert ranks == sorted(ranks, reverse=True)


def test_what_was_missing_is_told_in_bounded_words() -> None:
    many = tuple(f"/{'x' * 900}{n}" for n in range(256))
    capability = Capability(name="c", hosts=("a.com",), paths=many, matchers=tuple(map(paths.compiled, many)))
    match = Index([capability]).match(
        protocol=Protocol.HTTPS, host="a.com", port=443, method="GET", path="/", websocket=False
    )
    assert len(match.near[0]) < 2000
