"""What refused clients are told, byte by byte as their protocols have it."""

import pytest

from remit.boundary import farewells
from remit.boundary.opaque import Recognised
from remit.control.decide import Denied
from remit.core.reason import Reason, Refusal

DENIED = Denied(record="r-1", refusal=Refusal(Reason.NO_CAPABILITY, "not\r\nthis\x1b[2J h\u00f6st"))


def test_an_error_ends_the_session_with_its_sqlstate() -> None:
    message = farewells.postgresql_error("no", "because\0 of this", "do that")
    assert message[0:1] == b"E" and int.from_bytes(message[1:5], "big") == len(message) - 1
    assert message[5:] == b"SFATAL\0VFATAL\0C0A000\0Mno\0Dbecause of this\0Hdo that\0\0"


def said(protocol: str, denied: Denied = DENIED) -> bytes:
    return farewells.explained(Recognised(protocol=protocol), denied)


@pytest.mark.parametrize(
    ("protocol", "begins"),
    [("smtp", b"554 5.7.1 "), ("ftp", b"530 "), ("pop3", b"-ERR "), ("imap", b"* BYE "), ("redis", b"-ERR ")],
)
def test_line_protocols_are_told_one_printable_line(protocol: str, begins: bytes) -> None:
    text = said(protocol)
    assert text.startswith(begins + b"remit: ") and text.endswith(b"\r\n")
    assert text[:-2].decode("ascii").isprintable()
    assert b"no_capability" in text and b"r-1" in text and b"h?st" in text
    long = said(protocol, Denied(record="r-1", refusal=Refusal(Reason.NO_CAPABILITY, "x" * 5000)))
    assert len(long) < 512


@pytest.mark.parametrize("size", range(1, 20))
def test_an_ssh_client_is_told_in_one_whole_packet(size: int) -> None:
    greeting, _, packet = farewells.ssh_disconnect(b"x" * size).partition(b"\r\n")
    assert greeting == b"SSH-2.0-remit"
    length, padding = int.from_bytes(packet[:4], "big"), packet[4]
    assert len(packet) == length + 4 and len(packet) % 8 == 0 and padding >= 4
    payload = packet[5 : len(packet) - padding]
    assert payload == b"\x01" + b"\0\0\0\x01" + size.to_bytes(4, "big") + b"x" * size + b"\0\0\0\0"


def test_a_tls_client_is_told_by_an_alert() -> None:
    assert said("tls") == b"\x15\x03\x03\0\2" + bytes([2, 49]), "fatal, access_denied"


def test_mysql_is_told_in_a_packet_of_its_length() -> None:
    mysql = said("mysql")
    assert int.from_bytes(mysql[:3], "little") == len(mysql) - 4
    assert mysql[3:7] == b"\0\xff" + (1130).to_bytes(2, "little")


def test_git_is_told_in_a_line_of_its_length() -> None:
    text = said("git")
    assert int(text[:4], 16) == len(text)
    assert text[4:].startswith(b"ERR remit: ") and b"no_capability" in text


@pytest.mark.parametrize("protocol", ["tcp", "http/2", "kafka", "postgresql"])
def test_a_protocol_without_a_place_for_words_is_told_nothing(protocol: str) -> None:
    assert said(protocol) == b""
