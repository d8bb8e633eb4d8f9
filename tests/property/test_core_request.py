"""A request is read only where connection, handshake and message speak of one host and port in one spelling."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from remit.core import flow, names, paths, request
from remit.core.capability import Protocol
from remit.core.reason import Reason, Refusal
from remit.core.request import Evidence, Request

HOST = st.sampled_from(["a.com", "b.com", "api.a.com", "xn--bcher-kva.example", "10.0.0.1", "2001:db8::1"])
SOURCE = flow.source(7)[0]


def evidence(host: str = "a.com", port: int = 443, *, tls: bool = True, **changes: object) -> Evidence:
    """What an honest client in cell 7 makes the boundary report."""
    literal = names.address_literal(host)
    to = host if literal is not None else flow.virtual(host)[0]
    shown = f"[{host}]" if ":" in host else host
    honest = Evidence(
        token=b"", peer=f"{SOURCE}:1024", direct_peer=f"{SOURCE}:1024", destination=f"[{to}]:{port}" if ":" in to else f"{to}:{port}",
        sni="" if literal is not None or not tls else host, tls=tls, method="GET",
        authority=shown if port == (443 if tls else 80) else f"{shown}:{port}", target="/x?y=1", headers={},
    )  # fmt: skip
    return replace(honest, **changes)  # type: ignore[arg-type]


def refused(given: Evidence) -> Reason:
    found = request.read(given)
    assert isinstance(found, Refusal), found
    assert found.detail.isprintable()
    assert len(found.detail) < 500
    return found.reason


@given(HOST, st.sampled_from([443, 80, 8443]), st.booleans())
def test_an_honest_request_is_read_as_it_is(host: str, port: int, tls: bool) -> None:
    found = request.read(evidence(host, port, tls=tls))
    assert isinstance(found, Request)
    assert (found.host, found.port, found.protocol) == (host, port, Protocol.HTTPS if tls else Protocol.HTTP)
    assert (found.method, found.path, found.query, found.target, found.cell) == ("GET", "/x", "y=1", "/x?y=1", 7)


@given(HOST, st.integers(1, 65535), st.booleans())
def test_ipv6_destinations_and_sources_are_the_same_host(host: str, port: int, tls: bool) -> None:
    if names.address_literal(host) is None:
        six = f"[{flow.virtual(host)[1]}]:{port}"
        peer = f"[{flow.source(7)[1]}]:1024"
        found = request.read(evidence(host, port, tls=tls, destination=six, peer=peer, direct_peer=peer))
        assert isinstance(found, Request)
        assert found.cell == 7


@given(HOST, HOST)
def test_a_handshake_for_another_host_is_a_mismatch(host: str, other: str) -> None:
    assume(host != other)
    assert refused(evidence(host, sni=other)) is Reason.NAME_MISMATCH


@given(HOST, HOST)
def test_a_host_header_for_another_host_is_a_mismatch(host: str, other: str) -> None:
    assume(host != other)
    shown = f"[{other}]" if ":" in other else other
    assert refused(evidence(host, authority=shown)) in (Reason.NAME_MISMATCH, Reason.DESTINATION_MISMATCH)
    assert refused(evidence(host, 80, tls=False, authority=shown)) is Reason.DESTINATION_MISMATCH


@given(HOST, st.integers(1, 65535), st.integers(1, 65535), st.booleans())
def test_another_port_is_a_mismatch(host: str, port: int, other: int, tls: bool) -> None:
    assume(port != other)
    shown = f"[{host}]" if ":" in host else host
    assert refused(evidence(host, port, tls=tls, authority=f"{shown}:{other}")) is Reason.NAME_MISMATCH


@given(st.ip_addresses().map(str), st.booleans())
def test_an_address_of_the_agents_own_choice_is_a_mismatch(address: str, tls: bool) -> None:
    assume(address not in flow.virtual("a.com"))
    to = f"[{address}]" if ":" in address else address
    assert refused(evidence(tls=tls, port=443, destination=f"{to}:443")) is Reason.DESTINATION_MISMATCH


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peer": "10.0.0.1:1024", "direct_peer": "10.0.0.1:1024"}, Reason.FLOW_UNKNOWN),
        ({"direct_peer": f"{flow.source(8)[0]}:1024"}, Reason.FLOW_UNKNOWN),
        ({"peer": f"{SOURCE}:1025"}, Reason.FLOW_UNKNOWN),
        ({"peer": "", "direct_peer": ""}, Reason.FLOW_UNKNOWN),
        ({"peer": "-", "direct_peer": "-"}, Reason.FLOW_UNKNOWN),
        ({"peer": SOURCE, "direct_peer": SOURCE}, Reason.FLOW_UNKNOWN),
        ({"sni": ""}, Reason.NAME_MISMATCH),
        ({"sni": "A.com"}, Reason.NAME_MISMATCH),
        ({"sni": "a.com."}, Reason.NAME_MISMATCH),
        ({"authority": ""}, Reason.NAME_INVALID),
        ({"authority": "a.com,b.com"}, Reason.NAME_INVALID),
        ({"authority": "a.com,a.com"}, Reason.NAME_INVALID),
        ({"authority": "user@a.com"}, Reason.NAME_INVALID),
        ({"authority": "a.com:"}, Reason.NAME_INVALID),
        ({"authority": "a.com\x00.evil.com"}, Reason.NAME_INVALID),
        ({"authority": "a.com:443:443"}, Reason.NAME_INVALID),
        ({"authority": "\x1b[2J" * 200}, Reason.NAME_INVALID),
        ({"destination": ""}, Reason.NAME_MISMATCH),
        ({"destination": "-"}, Reason.NAME_MISMATCH),
        ({"destination": "127.0.0.1:443"}, Reason.DESTINATION_MISMATCH),
        ({"target": "https://a.com/x"}, Reason.PATH_AMBIGUOUS),
        ({"target": "*"}, Reason.PATH_AMBIGUOUS),
        ({"target": "x"}, Reason.PATH_AMBIGUOUS),
        ({"target": "/a#b"}, Reason.PATH_AMBIGUOUS),
        ({"target": "/a/../b"}, Reason.PATH_AMBIGUOUS),
        ({"target": "/a\\b"}, Reason.PATH_AMBIGUOUS),
        ({"target": "/" + "x" * 8192}, Reason.PATH_AMBIGUOUS),
        *[({"method": method}, Reason.METHOD_INVALID)
          for method in ("", "CONNECT", "TRACE", "TRACK", "trace", "Connect", "GET POST", "GET\r\nX: y", "G" * 33, "GÉT", "GET,GET")],
    ],
)  # fmt: skip
def test_what_is_not_one_request_is_refused_with_its_reason(changes: dict[str, object], reason: Reason) -> None:
    assert refused(evidence(**changes)) is reason  # type: ignore[arg-type]


@given(
    st.builds(
        Evidence,
        token=st.binary(max_size=8), peer=st.text(max_size=20) | st.just(f"{SOURCE}:1"), direct_peer=st.text(max_size=20) | st.just(f"{SOURCE}:1"),
        destination=st.text(max_size=20) | st.just(f"{flow.virtual('a.com')[0]}:443"), sni=st.text(max_size=10) | st.just("a.com"), tls=st.booleans(),
        method=st.text(max_size=10) | st.just("GET"), authority=st.text(max_size=20) | st.just("a.com"), target=st.text(max_size=20) | st.just("/x"),
        headers=st.dictionaries(st.text(max_size=5) | st.just("upgrade"), st.text(max_size=5), max_size=2),
    )
)  # fmt: skip
def test_nothing_that_can_be_reported_raises(given_: Evidence) -> None:
    found = request.read(given_)
    if isinstance(found, Request):
        assert names.canonical(found.host) == found.host
        assert paths.ambiguities(found.path) <= paths.OPTIONAL
        assert 0 < found.port < 65536


@pytest.mark.parametrize(
    ("value", "websocket"), [("websocket", True), ("WebSocket", True), ("", False), ("h2c", False)]
)
def test_a_websocket_is_known_by_its_upgrade(value: str, websocket: bool) -> None:
    found = request.read(evidence(headers={"upgrade": value}))
    assert isinstance(found, Request)
    assert found.websocket is websocket


@given(st.integers(1, flow.MAX_CELL))
def test_a_cell_is_known_by_both_of_its_sources_and_by_no_other(cell: int) -> None:
    assert [flow.cell_of(address) for address in flow.source(cell)] == [cell, cell]


@given(st.ip_addresses().map(str) | st.text(max_size=20))
def test_only_a_source_is_a_cell(text: str) -> None:
    cell = flow.cell_of(text)
    assert cell is None or text in flow.source(cell)


@pytest.mark.parametrize("cell", [0, -1, flow.MAX_CELL + 1])
def test_a_cell_out_of_range_has_no_source(cell: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        flow.source(cell)
