import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remit.boundary import opaque
from remit.boundary.opaque import GSSENC_REQUEST, SSL_REQUEST, Opening, Recognised


def packet(code: int, body: bytes = b"") -> bytes:
    return (8 + len(body)).to_bytes(4, "big") + code.to_bytes(4, "big") + body


STARTUP = packet(196608, b"user\0agent\0database\0main\0\0")
POSTGRESQL = Recognised(protocol="postgresql", postgresql=True)


def test_a_client_is_told_no_until_it_starts() -> None:
    opening = Opening(5432)
    assert opening.feed(packet(GSSENC_REQUEST)) is None
    assert (bytes(opening.to_send), opening.to_send.clear()) == (b"N", None)
    assert opening.feed(packet(SSL_REQUEST)) is None
    assert bytes(opening.to_send) == b"N"
    assert opening.feed(STARTUP) == POSTGRESQL


def test_a_startup_is_recognised_on_any_port_and_byte_by_byte() -> None:
    opening = Opening(15432)
    *first, last = (opening.feed(STARTUP[:8]), *(opening.feed(bytes([byte])) for byte in STARTUP[8:]))
    assert set(first) == {None} and last == POSTGRESQL


def test_everything_at_once_is_read_as_well() -> None:
    opening = Opening(5432)
    assert opening.feed(packet(SSL_REQUEST) + STARTUP) == POSTGRESQL
    assert bytes(opening.to_send) == b"N"


def test_a_cancel_request_gets_no_answer() -> None:
    assert Opening(5432).feed(packet(opaque.CANCEL_REQUEST, b"\0" * 8)) == Recognised(protocol="postgresql")


def test_asking_for_tls_without_end_is_not_answered_without_end() -> None:
    opening = Opening(5432)
    assert opening.feed(packet(SSL_REQUEST) * 100) is not None
    assert len(opening.to_send) == 2


@pytest.mark.parametrize(
    ("port", "first", "protocol"),
    [
        (22, b"SSH-2.0-OpenSSH_9.2\r\n", "ssh"),
        (6379, b"*1\r\n$4\r\nPING\r\n", "redis"),
        (5672, b"AMQP\x00\x00\x09\x01", "amqp"),
        (9999, b"hello", "tcp"),
        (27017, b"\x3a\0\0\0\1\0\0\0\0\0\0\0", "mongodb"),
        (5432, b"\xff" * 8, "postgresql"),
        (19418, b"002egit-upload-pack /a.git\0host=code.test\0", "git"),
    ],
)
def test_other_protocols_are_named_for_the_record(port: int, first: bytes, protocol: str) -> None:
    assert Opening(port).feed(first) == Recognised(protocol=protocol)


def test_a_client_that_waits_for_the_server_is_named_by_its_port() -> None:
    assert Opening(3306).given_up() == Recognised(protocol="mysql")


@settings(deadline=None)
@given(st.integers(0, 65535), st.lists(st.binary(max_size=64), max_size=20))
def test_no_bytes_make_it_fail_or_say_much(port: int, pieces: list[bytes]) -> None:
    opening = Opening(port)
    for piece in pieces:
        if opening.feed(piece) is not None:
            break
    assert len(opening.to_send) <= 2
