"""A path that passes as unambiguous is one that other servers, in their various ways, read as the same path."""

import posixpath
import re
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from remit.core import paths
from remit.core.paths import Ambiguity

SEGMENT = st.text("abAZ09-._~!$&'()*+,=:@", min_size=1, max_size=5)
PIECE = st.one_of(
    SEGMENT,
    st.sampled_from(
        ["/", "//", ".", "..", "%2e", "%2E%2e", "%2f", "%5c", "\\", ";", "..;", "%3b", "%25", "%252e", "%252f", "%00", "%0a", "%7f",
         "%c0%ae", "%c0%af", "%e2%80%ae", "%ff", "%u002e", "%", "%2", "%20", "..%20", "%61", "%7E", "?", "#", "%23", "%3f"]
    ),
)  # fmt: skip
PATH = (
    st.lists(PIECE, max_size=8)
    .map(lambda pieces: "/" + "".join(pieces))
    .filter(lambda p: "?" not in p and "#" not in p)
)


def _segments(path: str) -> list[str]:
    return path.split("/")[1:]


def nginx(path: str) -> str:
    """Decodes once, merges slashes, resolves dots."""
    decoded = unquote(path, errors="surrogateescape")
    return posixpath.normpath(re.sub("/+", "/", decoded)) + ("/" if decoded.endswith("/") and decoded != "/" else "")


def tomcat(path: str) -> str:
    """Drops `;params` of each segment before decoding, takes a backslash for a slash, then resolves dots."""
    plain = "/".join(segment.partition(";")[0] for segment in path.split("/"))
    return nginx(plain.replace("\\", "/").replace("%5c", "/").replace("%5C", "/"))


def iis(path: str) -> str:
    """Decodes, takes backslashes for slashes, ignores spaces after dots."""
    decoded = unquote(path, errors="surrogateescape").replace("\\", "/")
    return nginx(re.sub(r"(?<=/)(\.{1,2}) +(?=/|$)", r"\1", decoded))


def twice(path: str) -> str:
    """A proxy and a server that each decode once."""
    return nginx(unquote(path, errors="surrogateescape"))


def browser(path: str) -> str:
    """WHATWG URL: resolves dots, also encoded ones; a backslash is a slash; decodes nothing else."""
    out: list[str] = []
    for segment in path.replace("\\", "/").split("/")[1:]:
        plain = re.sub("%2e", ".", segment, flags=re.IGNORECASE)
        if plain == "..":
            out = out[:-1]
        elif plain != ".":
            out.append(segment)
    return "/" + "/".join(out)


def literal(path: str) -> str:
    return path


READERS: list[Callable[[str], str]] = [nginx, tomcat, iis, twice, browser, literal]


@settings(max_examples=600)
@given(PATH)
@example("/a/..;/b")
@example("/a/%2e%2e/b")
@example("/a/%c0%ae%c0%ae/b")
@example("/a/..%20/b")
def test_servers_agree_on_a_path_without_ambiguities(path: str) -> None:
    assume(not paths.ambiguities(path))
    meant = unquote(path)
    for reader in READERS:
        assert unquote(reader(path)) == meant, reader.__name__


@settings(max_examples=400)
@given(PATH)
@example("/a/%252e%252e/b")
@example("/a/%252e%252e%252fb")
@example("/a/%25%32%65%252e/b")
@example("/a/%252e%252e;/b")
@example("/a/%255c..%255cb")
def test_even_with_every_opt_in_no_server_climbs_out(path: str) -> None:
    assume(not paths.ambiguities(path) - paths.OPTIONAL)
    for reader in READERS:
        assert ".." not in re.split(r"[/\\]", unquote(reader(path), errors="surrogateescape")), reader.__name__
    depth = [
        segment
        for segment in re.split(r"/+", unquote(unquote(path, errors="surrogateescape"), errors="surrogateescape"))
    ]
    assert not {".", ".."} & {segment.partition(";")[0] for segment in depth}


@given(PATH)
def test_what_is_found_does_not_depend_on_case_or_on_reading_it_twice(path: str) -> None:
    found = paths.ambiguities(path)
    upper = re.sub(r"%[0-9a-fA-F]{2}", lambda m: m.group().upper(), path)
    assert paths.ambiguities(upper) == found
    if Ambiguity.MALFORMED not in found:
        assert paths.normal(paths.normal(path)) == paths.normal(path)
        assert unquote_to_bytes(paths.normal(path)) == unquote_to_bytes(path)
        assert paths.ambiguities(paths.normal(path)) == found


@given(st.text(max_size=30) | PATH | st.sampled_from(["*", "//evil.com/x", "http://a/b", "/a?b#c", "/a?b?c", "?x"]))
def test_a_target_is_split_as_url_parsers_split_it(target: str) -> None:
    split = paths.split_target(target)
    if split is None:
        return
    path, query = split
    assert f"{path}?{query}" == target or path == target
    parts = urlsplit("https://a.com" + target)
    assert (parts.path, parts.query, parts.fragment) == (path, query, "")


# A pattern against a slow and obvious reading of it.
PATTERN_SEGMENT = st.lists(st.sampled_from(["a", "b", "ab", "*", ".", "+", "("]), min_size=1, max_size=5).map("".join)
PATTERN = st.tuples(st.lists(PATTERN_SEGMENT.filter(lambda s: "**" not in s), min_size=1, max_size=3), st.booleans())
SUBJECT = st.lists(st.text("ab.+(", max_size=5), min_size=1, max_size=4).map(lambda s: "/" + "/".join(s))


def obvious(segments: list[str], rest: bool, path: str) -> bool:
    found = _segments(path)
    if len(found) < len(segments) or (len(found) > len(segments) and not rest):
        return False
    return all(fnmatchcase(text, pattern) for pattern, text in zip(segments, found, strict=False))


@settings(max_examples=800)
@given(PATTERN, SUBJECT)
@example((["*ab*ab"], False), "/abab")
@example((["a*b*", "*"], True), "/aab/x/y")
@example((["*a"], False), "/aa")
def test_a_pattern_means_what_globs_mean(pattern: tuple[list[str], bool], path: str) -> None:
    segments, rest = pattern
    text = "/" + "/".join(segments) + ("/**" if rest else "")
    assert bool(paths.compiled(text).fullmatch(path)) is obvious(segments, rest, path)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/" + "*a" * 12 + "*b", "/" + "a" * 8000),
        ("/" + "*a" * 12 + "*b/**", "/" + "a" * 8000),
        ("/" + "a*" * 30 + "b", "/" + "a" * 8000),
        ("/*/*/*/*/*/*/*/*/*/x", "/a" * 4000),
        ("/*a/*a/*a/*a/*a/*a/b", "/" + "/".join(["a" * 1000] * 7)),
        ("/*aa/*aa/*aa/**", "/" + "/".join(["a" * 2000] * 2 + ["b" * 2000])),
    ],
)
def test_no_path_that_an_agent_writes_makes_a_pattern_slow(pattern: str, path: str) -> None:
    compiled = paths.compiled(pattern)
    began = time.perf_counter()
    compiled.fullmatch(path)
    assert time.perf_counter() - began < 0.1


@pytest.mark.parametrize("pattern", ["", "a", "*", "/**a", "/a**", "/**/a", "/a/**/**", "/***", "/a/***"])
def test_a_pattern_with_stars_that_read_two_ways_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"\*\*|start"):
        paths.compiled(pattern)
