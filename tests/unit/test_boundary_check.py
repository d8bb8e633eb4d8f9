import dataclasses
import json
from dataclasses import replace

import pytest

from remit.boundary import check
from remit.boundary.check import Rejected
from remit.boundary.replies import SPOKEN
from remit.control.decide import Denied, Permitted
from remit.core.reason import MEANING, Reason, Refusal
from remit.core.request import Evidence

FIELDS = {
    "peer": b"100.64.0.1:4000",
    "direct_peer": b"100.64.0.1:4000",
    "dst": b"198.18.1.2:443",
    "tls": b"TLSv1.3",
    "sni": b"api.test",
    "token": b"aa.bb.cc",
}


def identity(length: bytes = b"v=-", **said: bytes) -> dict[bytes, bytes]:
    """The two headers that Envoy adds; `said` replaces fields of the connection."""
    return {b"x-remit-connection": b"v=" + b" ".join({**FIELDS, **said}.values()), b"x-remit-length": length}


SAID = identity()
PERMITTED = Permitted(
    record="r-1",
    headers=((b"authorization", b"Bearer s"), (b"x-note", b"caf\xe9")),
    pin="2001:db8::1",
    pin_port=8443,
    target=b"/x?y=1",
    pool="abc",
)


def parse(*more: tuple[bytes, bytes], method: bytes = b"GET", **said: bytes) -> Evidence | Rejected:
    return check.parse(method, b"/x?y=1", [(b"host", b"api.test"), *identity(**said).items(), *more])


def evidence(*more: tuple[bytes, bytes], **said: bytes) -> Evidence:
    found = parse(*more, **said)
    assert isinstance(found, Evidence), found
    return found


def rejected(*more: tuple[bytes, bytes], **said: bytes) -> Rejected:
    found = parse(*more, **said)
    assert isinstance(found, Rejected), found
    return found


def test_what_envoy_says_becomes_evidence() -> None:
    assert evidence((b"accept", b"a"), (b"content-length", b"0"), length=b"v=12") == Evidence(
        token=b"aa.bb.cc",
        peer="100.64.0.1:4000",
        direct_peer="100.64.0.1:4000",
        destination="198.18.1.2:443",
        sni="api.test",
        tls=True,
        method="GET",
        authority="api.test",
        target="/x?y=1",
        headers={"accept": "a", "content-length": "12"},
    )


@pytest.mark.parametrize("absent", [b"", b"-"])
def test_what_is_absent_is_empty_and_plain_http_is_no_tls(absent: bytes) -> None:
    found = evidence(token=absent, sni=absent, tls=absent)
    assert (found.token, found.sni, found.tls) == (b"", "", False)


def test_repeated_headers_are_shown_joined() -> None:
    assert evidence((b"accept", b"a"), (b"accept", b"b")).headers["accept"] == "a,b"


WHOLE = SAID[b"x-remit-connection"]


@pytest.mark.parametrize(
    "value", [b"", b"v=", WHOLE[2:], WHOLE.rpartition(b" ")[0], WHOLE + b"," + WHOLE, b"x," + WHOLE]
)
def test_an_identity_that_is_not_as_envoy_writes_it_is_malformed(value: bytes) -> None:
    said = {b"host": b"api.test", **SAID, b"x-remit-connection": value}
    found = check.parse(b"GET", b"/", said.items())
    assert isinstance(found, Rejected) and found.refusal.reason is Reason.MALFORMED
    assert (found.token, found.flow) in ((b"", ""), (b"api.test", "100.64.0.1:4000"))


@pytest.mark.parametrize("value", [b"", b"12", b"v=1,v=2", b"x,v=1"])
def test_a_length_that_is_not_as_envoy_writes_it_is_malformed(value: bytes) -> None:
    assert rejected(length=value).refusal.reason is Reason.MALFORMED


def test_a_name_in_the_handshake_can_take_no_other_place() -> None:
    found = evidence(sni=b"api.test 100.64.0.9:1 - x")
    assert (found.peer, found.token) == ("100.64.0.1:4000", b"aa.bb.cc")
    assert found.sni == "api.test 100.64.0.9:1 - x"


def test_a_second_identity_header_is_malformed() -> None:
    found = rejected((b"x-remit-connection", identity(token=b"forged")[b"x-remit-connection"]))
    assert found.refusal.reason is Reason.MALFORMED and found.token != b"forged"


def test_a_missing_identity_header_is_malformed() -> None:
    found = check.parse(b"GET", b"/", [(b"host", b"api.test")])
    assert isinstance(found, Rejected) and found.refusal.reason is Reason.MALFORMED


@pytest.mark.parametrize(
    "header",
    [
        (b"transfer-encoding", b"chunked"),
        (b"x-envoy-auth-partial-body", b"true"),
        (b"te", b"gzip"),
        (b"upgrade", b"h2c"),
        (b"upgrade", b"websocket, h2c"),
        *((name, b"DELETE") for name in check.OVERRIDES),
    ],
)
def test_a_head_that_reads_differently_elsewhere_is_refused(header: tuple[bytes, bytes]) -> None:
    assert rejected(header).refusal.reason is Reason.HEADER_INVALID


@pytest.mark.parametrize("header", [(b"te", b"trailers"), (b"upgrade", b"WebSocket"), (b"connection", b"upgrade")])
def test_ordinary_hop_by_hop_headers_pass(header: tuple[bytes, bytes]) -> None:
    evidence(header)


@pytest.mark.parametrize("hosts", [[], [b""], [b"api.test", b"evil.test"], [b"api.test,evil.test"]])
def test_a_request_has_one_host(hosts: list[bytes]) -> None:
    found = check.parse(b"GET", b"/", [*SAID.items(), *((b"host", host) for host in hosts)])
    assert isinstance(found, Rejected)


def test_what_is_kept_of_a_refused_request_is_bounded_and_has_no_query() -> None:
    lines = [(b"host", b"h" * 5000), *SAID.items(), (b"te", b"gzip")]
    found = check.parse(b"M" * 500, b"/" + b"p" * 9000 + b"?secret", lines)
    assert isinstance(found, Rejected)
    assert max(len(str(value)) for value in found.facts.values()) <= 1024 and "secret" not in str(found.facts)


def test_a_permit_tells_envoy_where_to_and_what_to_set() -> None:
    head, _, body = check.render(PERMITTED).partition(b"\r\n\r\n")
    assert body == b""
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 200 OK",
        b"x-remit-record: r-1",
        b"x-remit-pin: [2001:db8::1]",
        b"x-remit-pin-port: 8443",
        b"x-remit-pool: abc",
        b"x-remit-path: /x?y=1",
        b"authorization: Bearer s",
        b"x-note: caf\xe9",
        b"content-length: 0",
    ]


@pytest.mark.parametrize(
    ("header", "target"),
    [
        ((b"authorization", b"a\r\nx-remit-pin: 6.6.6.6"), b"/"),
        ((b"authorization", b"a\nb"), b"/"),
        ((b"authorization", b"a\0b"), b"/"),
        ((b"a: b\r\nc", b"d"), b"/"),
        ((b"Authorization", b"d"), b"/"),
        ((b"", b"d"), b"/"),
        ((b"x-remit-pin", b"6.6.6.6"), b"/"),
        ((b"x-envoy-original-dst-host", b"6.6.6.6:1"), b"/"),
        ((b"content-length", b"5"), b"/"),
        ((b"host", b"evil.test"), b"/"),
        ((b":path", b"/admin"), b"/"),
        ((b"accept", b"a"), b"/a b"),
        ((b"accept", b"a"), b"/a\r\nx-remit-pin: 6.6.6.6"),
        ((b"accept", b"a"), b"a"),
        ((b"accept", b"a"), b""),
    ],
)
def test_a_permit_that_cannot_be_written_safely_becomes_a_denial(header: tuple[bytes, bytes], target: bytes) -> None:
    said = check.render(
        Permitted(record="r-1", headers=(header,), pin="192.0.2.1", pin_port=1, target=target, pool="p")
    )
    assert said.startswith(b"HTTP/1.1 403 ") and b"\nx-remit-pin" not in said and b"6.6.6.6" not in said


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.PERMITTED])
def test_a_denial_is_a_problem_and_sets_nothing(reason: Reason) -> None:
    head, _, body = check.render(Denied(record="r-2", refusal=Refusal(reason, "be\r\ncause"))).partition(b"\r\n\r\n")
    status = MEANING[reason].status
    assert int(head.split()[1]) == SPOKEN.get(status, status)
    assert 400 <= int(head.split()[1]) < 500, "Envoy takes a 5xx for a failure, and drops the answer"
    names = {line.partition(b":")[0] for line in head.split(b"\r\n")[1:]}
    assert names - {b"retry-after"} == {b"content-type", b"content-length", b"x-remit-record"}
    problem = json.loads(body)
    assert body.endswith(b"}\n")
    assert set(problem) == {"type", "title", "status", "detail", "reason", "record", "next"}
    assert (problem["reason"], problem["record"], problem["detail"]) == (reason.value, "r-2", "be\r\ncause")


def test_only_what_is_counted_is_marked() -> None:
    assert b"x-remit-metered" not in check.render(PERMITTED)
    assert b"\r\nx-remit-metered: yes\r\n" in check.render(dataclasses.replace(PERMITTED, metered=True))


def test_a_permit_with_something_hidden_asks_for_an_answer_that_can_be_read() -> None:
    head, _, body = check.render(replace(PERMITTED, hidden="abc123")).partition(b"\r\n\r\n")
    assert body == b""
    lines = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert lines[b"x-remit-scrub"] == b"r-1 abc123"
    assert lines[b"accept-encoding"] == b"identity"
    assert {b"range", b"if-range"} <= set(lines[b"x-envoy-auth-headers-to-remove"].split(b","))
    assert b"x-remit-scrub" not in check.render(PERMITTED)
