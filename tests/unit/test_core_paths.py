import pytest

from remit.core import paths
from remit.core.paths import Ambiguity


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/b", set()),
        ("/a%20b", set()),
        ("/a//b", {Ambiguity.EMPTY_SEGMENT}),
        ("/a/./b", {Ambiguity.DOT_SEGMENT}),
        ("/a/../b", {Ambiguity.DOT_SEGMENT}),
        ("/a/%2e%2e/b", {Ambiguity.DOT_SEGMENT}),
        ("/a/%2E./b", {Ambiguity.DOT_SEGMENT}),
        ("/a/..;/b", {Ambiguity.DOT_SEGMENT, Ambiguity.PARAMETERS}),
        ("/a/..%2fb", {Ambiguity.DOT_SEGMENT, Ambiguity.ENCODED_SLASH}),
        ("/a/..%5cb", {Ambiguity.DOT_SEGMENT, Ambiguity.BACKSLASH}),
        ("/a\\b", {Ambiguity.BACKSLASH}),
        ("/a;x=1", {Ambiguity.PARAMETERS}),
        ("/@scope%2fname", {Ambiguity.ENCODED_SLASH}),
        ("/a%252fb", {Ambiguity.ENCODED_PERCENT}),
        ("/a%0ab", {Ambiguity.MALFORMED}),
        ("/a%00b", {Ambiguity.MALFORMED}),
        ("/a%zz", {Ambiguity.MALFORMED}),
        ("/a%2", {Ambiguity.MALFORMED}),
    ],
)
def test_every_second_reading_of_a_path_is_found(path: str, expected: set[Ambiguity]) -> None:
    assert paths.ambiguities(path) == expected


@pytest.mark.parametrize("target", ["*", "http://a.com/", "a", "", "/a#b", "/a b", "/a\x7f", "/é", "/" + "a" * 8192])
def test_only_origin_form_is_a_target(target: str) -> None:
    assert paths.split_target(target) is None


def test_unreserved_escapes_are_read_as_what_they_stand_for() -> None:
    assert paths.normal("/%61%2d%7E/%2f%c3%a9") == "/a-~/%2F%C3%A9"


@pytest.mark.parametrize(
    ("pattern", "path", "covered"),
    [
        ("/**", "/", True),
        ("/**", "/a/b", True),
        ("/repos/**", "/repos", True),
        ("/repos/**", "/repos/a/b", True),
        ("/repos/**", "/reposx", False),
        ("/repos/*/issues", "/repos/a/issues", True),
        ("/repos/*/issues", "/repos/a/b/issues", False),
        ("/v*/x", "/v1/x", True),
        ("/a.b", "/aXb", False),
        ("/a", "/a\n", False),
    ],
)
def test_a_pattern_covers_whole_segments(pattern: str, path: str, covered: bool) -> None:
    assert bool(paths.compiled(pattern).fullmatch(path)) is covered


@pytest.mark.parametrize("pattern", ["a", "/a/**/b", "/**/**"])
def test_a_pattern_that_reads_two_ways_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"\*\*|start"):
        paths.compiled(pattern)
