import re

from hypothesis import given, settings
from hypothesis import strategies as st

from remit.boundary import check, header_names
from remit.control.decide import Permitted
from remit.core.request import Evidence

NAMES = st.from_regex(rb"[!#$%&'*+\-.^_`|~0-9a-z]{1,24}", fullmatch=True)
TRICKY = st.sampled_from(b"x-remit-pin x-remit- x-envoy-x x-forwarded-for host hosts content-length server te".split())
PERMIT = b"x-remit-record x-remit-pin x-remit-pin-port x-remit-path x-remit-pool content-length".split()
LINES = st.lists(st.tuples(NAMES | TRICKY | st.sampled_from(check.IDENTITY), st.binary(max_size=40)), max_size=20)


@settings(deadline=None)
@given(st.binary(max_size=20), st.binary(max_size=60), LINES)
def test_no_request_makes_parsing_fail_and_no_identity_comes_from_a_header_that_is_not_whole(
    method: bytes, target: bytes, lines: list[tuple[bytes, bytes]]
) -> None:
    found = check.parse(method, target, lines)
    if isinstance(found, Evidence):
        for name in check.IDENTITY:
            values = [value for key, value in lines if key == name]
            assert len(values) == 1 and values[0].startswith(b"v=") and b"," not in values[0]


@settings(deadline=None)
@given(NAMES | TRICKY | st.binary(max_size=12), st.binary(max_size=40), st.binary(max_size=40))
def test_no_permit_says_more_to_envoy_than_it_should(name: bytes, value: bytes, target: bytes) -> None:
    permit = Permitted(
        record="r-1", headers=((name, value),), pin="192.0.2.1", pin_port=443, target=b"/" + target, pool="p"
    )
    head, end, _ = check.render(permit).partition(b"\r\n\r\n")
    assert end
    if head.startswith(b"HTTP/1.1 200 "):
        lines = [line.partition(b":")[0] for line in head.split(b"\r\n")[1:]]
        assert sorted(lines) == sorted([*PERMIT, name])
        assert b"\n" not in head.replace(b"\r\n", b"")


@settings(deadline=None)
@given(st.from_regex(r"[:!#$%&'*+\-.^_`|~0-9a-z]{1,30}", fullmatch=True) | TRICKY.map(bytes.decode))
def test_the_expression_for_envoy_covers_exactly_the_names_that_may_not_be_set(name: str) -> None:
    forbidden = (
        name.startswith((":", "x-remit-", "x-envoy-", "x-forwarded-"))
        or name in header_names.FRAMING
        or name == "forwarded"
    )
    assert header_names.settable(name) is not forbidden
    ours = name.startswith("x-remit-pa") or name in ("x-remit-", "x-remit-p")  # the target's, and what is close to it
    assert (re.fullmatch(header_names.disallowed(), name) is not None) is (forbidden and not ours)


def test_the_target_is_the_only_header_of_ours_that_the_answer_sets() -> None:
    said = ("record", "pin", "pin-port", "pool", "connection", "length")
    assert all(re.fullmatch(header_names.disallowed(), f"x-remit-{name}") for name in said)
    assert not re.fullmatch(header_names.disallowed(), header_names.TARGET)


def test_the_expression_uses_nothing_that_re2_lacks() -> None:
    assert not re.search(r"\(\?[=!<P]|\\[1-9]", header_names.disallowed())
