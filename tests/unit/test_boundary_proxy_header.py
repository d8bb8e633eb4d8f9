import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remit.boundary import proxy_header
from remit.boundary.proxy_header import SIGNATURE, Header
from remit.core.errors import Invalid


def tlv(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2, "big") + value


def header(source: str, destination: str, tlvs: bytes = b"", *, command: int = 0x21, port: int = 40000) -> bytes:
    addresses = [ipaddress.ip_address(source), ipaddress.ip_address(destination)]
    family = 0x11 if addresses[0].version == 4 else 0x21
    block = addresses[0].packed + addresses[1].packed + port.to_bytes(2, "big") + (5432).to_bytes(2, "big") + tlvs
    return SIGNATURE + bytes([command, family]) + len(block).to_bytes(2, "big") + block


TOKEN = tlv(0xE0, b"the-token")


def test_a_header_over_ipv4_is_read_to_its_end() -> None:
    data = header("100.64.0.7", "198.18.1.2", TOKEN)
    expected = Header(flow="100.64.0.7:40000", destination="198.18.1.2:5432", token=b"the-token")
    assert proxy_header.parse(data + b"rest") == (expected, len(data))


def test_a_header_over_ipv6_is_written_in_brackets() -> None:
    parsed = proxy_header.parse(header("fd00:201:2::7", "fd00:201:1::9", TOKEN))
    assert parsed is not None
    assert (parsed[0].flow, parsed[0].destination) == ("[fd00:201:2::7]:40000", "[fd00:201:1::9]:5432")


def test_other_tlvs_are_passed_over_and_no_token_is_an_empty_one() -> None:
    parsed = proxy_header.parse(header("100.64.0.7", "198.18.1.2", tlv(0x04, b"\0" * 7) + tlv(0x01, b"h2")))
    assert parsed is not None and parsed[0].token == b""


@settings(deadline=None)
@given(cut=st.integers(0, 200))
def test_every_part_of_a_header_asks_for_more(cut: int) -> None:
    data = header("100.64.0.7", "198.18.1.2", TOKEN)
    if cut < len(data):
        assert proxy_header.parse(data[:cut]) is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n", id="version 1"),
        pytest.param(header("100.64.0.7", "198.18.1.2", command=0x20), id="LOCAL"),
        pytest.param(header("100.64.0.7", "198.18.1.2", command=0x11), id="version 1 in the binary header"),
        pytest.param(header("100.64.0.7", "198.18.1.2", TOKEN + TOKEN), id="two tokens"),
        pytest.param(header("100.64.0.7", "198.18.1.2", TOKEN[:-1]), id="a TLV longer than the header"),
        pytest.param(header("100.64.0.7", "198.18.1.2", b"\xe0\0"), id="half a TLV"),
        pytest.param(header("100.64.0.7", "198.18.1.2", tlv(0xE0, b"x" * 401)), id="a long token"),
        pytest.param(SIGNATURE + b"\x21\x31" + (216).to_bytes(2, "big") + b"\0" * 216, id="a Unix address"),
        pytest.param(SIGNATURE + b"\x21\x12" + (12).to_bytes(2, "big") + b"\0" * 12, id="UDP"),
        pytest.param(SIGNATURE + b"\x21\x11" + (11).to_bytes(2, "big") + b"\0" * 11, id="too short"),
        pytest.param(SIGNATURE + b"\x21\x11\xff\xff", id="64 KiB announced"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no header at all"),
    ],
)
def test_anything_else_is_invalid(data: bytes) -> None:
    with pytest.raises(Invalid):
        proxy_header.parse(data)


@settings(deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_do_anything_but_parse_wait_or_be_invalid(data: bytes, signed: bool) -> None:
    try:
        proxy_header.parse(SIGNATURE + data if signed else data)
    except Invalid:
        pass
