"""Ways of packing an answer that are agreed on outside `Content-Encoding`: the agent must not be able to ask for one."""

from __future__ import annotations

import asyncio
import zlib

import pytest
from boundary_harness import PLACEHOLDER, SECRET, Boundary, exchange

HIDDEN = SECRET.split()[-1]
LEVEL = PLACEHOLDER.ljust(len(HIDDEN), b"*")
UPGRADE = (
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
)
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n%b\r\n"


def says(boundary: Boundary, raw: bytes) -> None:
    """What the upstream says to whatever comes next, which carries the credential."""

    async def say(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    boundary.upstream.say, boundary.script = say, boundary.scrubbed()


def whole(body: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join((b"HTTP/1.1 200 OK", *lines, b"content-length: %d" % len(body), b"", body))


def frame(payload: bytes, first: int = 0x81) -> bytes:
    """A frame of a server's (RFC 6455 §5.2), below 126 bytes."""
    return bytes((first, len(payload))) + payload


def deflated(text: bytes) -> bytes:
    """As RFC 7692 §7.2.1 has it."""
    packer = zlib.compressobj(wbits=-15)
    return (packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
        ("connect-accept-encoding", "gzip"),
    ],
)
@pytest.mark.parametrize("upgrade", [(), UPGRADE])
def test_nobody_can_ask_for_a_packed_answer(
    boundary: Boundary, name: str, value: str, upgrade: tuple[tuple[str, str], ...]
) -> None:
    boundary.script = boundary.scrubbed()
    with boundary.connect() as sock:
        exchange(sock, "/", "api.test", headers=(*upgrade, (name, value)))
    assert name not in boundary.upstream.heads[-1].decode().lower()


def test_a_websocket_that_is_compressed_nevertheless_is_refused(boundary: Boundary) -> None:
    packed = frame(deflated(b"you said " + HIDDEN), 0xC1)
    raw = SWITCHED % b"sec-websocket-extensions: permessage-deflate\r\n" + packed
    says(boundary, raw)
    with boundary.connect() as sock:
        got = exchange(sock, "/", "api.test", headers=UPGRADE)
        assert (got.status, got.json["reason"]) == (502, "answer_encoded")
        assert packed not in got.body


def test_a_message_of_a_websocket_tells_nothing_and_keeps_its_frame(boundary: Boundary) -> None:
    message = frame(b"a " + HIDDEN + b" z")
    says(boundary, SWITCHED % b"" + message + frame(b"next"))
    with boundary.connect() as sock:
        lines = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE)
        sock.sendall(f"GET / HTTP/1.1\r\nhost: api.test\r\n{lines}\r\n".encode())
        got = b""
        while not got.endswith(frame(b"next")) and (data := sock.recv(4096)):
            got += data
    head, _, rest = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert rest == frame(b"a " + LEVEL + b" z") + frame(b"next")


def test_a_streamed_connect_answer_that_is_packed_is_refused(boundary: Boundary) -> None:
    lines = (b"content-type: application/connect+json", b"connect-content-encoding: gzip")
    says(boundary, whole(zlib.compress(HIDDEN), *lines))
    got = boundary.ask()
    assert (got.status, got.json["reason"]) == (502, "answer_encoded")


@pytest.mark.parametrize("alphabet", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_a_text_that_says_its_alphabet_itself_is_searched(boundary: Boundary, alphabet: str) -> None:
    """JSON, XML and HTML need no charset: their first bytes say it."""
    text = f'{{"you": "{HIDDEN.decode()}"}}'.encode(alphabet)
    says(boundary, whole(text, b"content-type: application/json"))
    got = boundary.ask()
    assert HIDDEN not in got.body.replace(b"\0", b"")
    assert len(got.body) == len(text)
