"""An upstream says the credential again, in every place an answer has, and cut wherever it can be cut."""

from __future__ import annotations

import asyncio
import base64
import gzip
import http.client
import json
import socket
import ssl
import urllib.parse
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from boundary_h2 import request as h2_request
from boundary_h2 import talk
from boundary_harness import PLACEHOLDER, SECRET, Answer, Boundary, send, until

HIDDEN = SECRET.split()[-1]
LEVEL = PLACEHOLDER.ljust(len(HIDDEN), b"*")
Say = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


def said(raw: bytes) -> Say:
    async def say(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    return say


def whole(body: bytes, *lines: bytes, status: bytes = b"200 OK") -> bytes:
    return b"\r\n".join((b"HTTP/1.1 " + status, *lines, b"content-length: %d" % len(body), b"", body))


def chunked(*pieces: bytes, trailers: bytes = b"", lines: bytes = b"") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\n" + lines + b"transfer-encoding: chunked\r\n\r\n" + body + b"0\r\n" + trailers + b"\r\n"


def answered(boundary: Boundary, say: Say, **options: object) -> Answer:
    boundary.upstream.say = say
    if boundary.script == boundary.permit:
        boundary.script = boundary.scrubbed()
    answer = boundary.ask(**options)
    everything = answer.body + json.dumps(answer.headers).encode()
    assert HIDDEN not in everything
    return answer


def raw_exchange(sock: socket.socket, *lines: str) -> bytes:
    """Everything that comes until the other end closes."""
    sock.sendall("\r\n".join(("GET / HTTP/1.1", "host: api.test", "connection: close", *lines, "", "")).encode())
    got = b""
    while data := sock.recv(65536):
        got += data
    return got


SPELLED = {
    "as it is": HIDDEN,
    "in hexadecimal": HIDDEN.hex().encode(),
    "in upper-case hexadecimal": HIDDEN.hex().upper().encode(),
    "percent-encoded": "".join(f"%{byte:02X}" for byte in HIDDEN).encode(),
    "percent-encoded where it must be": urllib.parse.quote(HIDDEN, safe="").encode(),
    "in base64": base64.b64encode(HIDDEN),
    "in base64, one byte later": base64.b64encode(b"x" + HIDDEN),
    "in base64, two bytes later": base64.b64encode(b"xx" + HIDDEN),
    "in base64 for URLs, amid others": base64.urlsafe_b64encode(b"{" + HIDDEN + b"}"),
    "in JSON, character by character": "".join(f"\\u{byte:04x}" for byte in HIDDEN).encode(),
}


@pytest.mark.parametrize("sentence", SPELLED)
def test_a_body_tells_it_in_no_spelling_and_at_no_cut(boundary: Boundary, sentence: str) -> None:
    spelled = SPELLED[sentence]
    for cut in range(len(spelled) + 1):
        got = answered(
            boundary,
            said(
                chunked(b"<" + spelled[:cut], spelled[cut:] + b">")
                if 0 < cut < len(spelled)
                else chunked(b"<" + spelled + b">")
            ),
        )
        assert got.status == 200
        assert got.body.startswith(b"<") and got.body.endswith(b">")
        assert spelled[2:-4] not in got.body
        if spelled is HIDDEN:
            assert got.body == b"<" + PLACEHOLDER + b">"


def test_an_answer_that_says_its_length_keeps_it(boundary: Boundary) -> None:
    got = answered(boundary, said(whole(b"a " + HIDDEN + b" z")))
    assert got.body == b"a " + LEVEL + b" z"
    assert got.header("content-length") == str(len(got.body))


def test_an_answer_without_the_secret_is_what_it_was(boundary: Boundary) -> None:
    body = bytes(range(256)) * 300
    for raw in (
        whole(body, b"x-a: 1", b'etag: "e"'),
        chunked(body[:1000], body[1000:], lines=b'x-a: 1\r\netag: "e"\r\n'),
    ):
        got = answered(boundary, said(raw))
        assert (got.status, got.body, got.header("etag"), got.header("x-a")) == (200, body, '"e"', "1")


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("status", [b"200 OK", b"204 No Content", b"304 Not Modified"])
def test_a_head_without_a_body_is_scrubbed_and_keeps_its_length(boundary: Boundary, method: str, status: bytes) -> None:
    if method == "GET" and status.startswith(b"200"):
        return
    length = b"" if status.startswith(b"204") else b"content-length: 4711\r\n"
    raw = b"HTTP/1.1 " + status + b"\r\nx-key: " + HIDDEN + b"\r\ncontent-encoding: gzip\r\n" + length + b"\r\n"
    got = answered(boundary, said(raw), method=method)
    assert got.status == int(status[:3])
    assert got.header("x-key") == PLACEHOLDER.decode()
    assert got.header("content-length") == ("4711" if length else None)


LINES = {
    "a header": (b"x-debug: " + SECRET, ("x-debug", f"Bearer {PLACEHOLDER.decode()}")),
    "a cookie among others": (
        b"set-cookie: a=1\r\nset-cookie: s=" + HIDDEN + b"; HttpOnly\r\nset-cookie: z=2",
        ("set-cookie", f"s={PLACEHOLDER.decode()}; HttpOnly"),
    ),
    "a redirect": (
        b"location: https://evil.test/?k=" + HIDDEN.hex().encode(),
        ("location", f"https://evil.test/?k={PLACEHOLDER.hex()}"),
    ),
    "a challenge": (
        b'www-authenticate: Bearer error="bad token ' + HIDDEN + b'"',
        ("www-authenticate", f'Bearer error="bad token {PLACEHOLDER.decode()}"'),
    ),
    "a link": (b"link: </?t=" + HIDDEN + b">; rel=next", ("link", f"</?t={PLACEHOLDER.decode()}>; rel=next")),
    "a header of Envoy's": (b"x-envoy-debug: " + HIDDEN, None),
    "a header of ours": (b"x-remit-debug: " + HIDDEN, None),
    "a header that requests have": (b"host: " + HIDDEN, ("host", PLACEHOLDER.decode())),
    "the name of a header": (b"x-" + HIDDEN + b": 1", None),
    "a content type": (b"content-type: text/" + HIDDEN, ("content-type", f"text/{PLACEHOLDER.decode()}")),
    "a header of 50 KB": (
        b"x-big: " + b"a" * 50_000 + HIDDEN,
        ("x-big", "a" * 50_000 + PLACEHOLDER.decode()),
    ),
}


@pytest.mark.parametrize("sentence", LINES)
@pytest.mark.parametrize("status", [b"200 OK", b"302 Found", b"401 Unauthorized", b"500 Broken"])
def test_no_line_of_a_head_tells_it(boundary: Boundary, sentence: str, status: bytes) -> None:
    raw, expected = LINES[sentence]
    got = answered(boundary, said(whole(b"x", raw, status=status)))
    assert got.status == int(status[:3])
    assert got.body == b"x"
    if expected is None:
        assert {name for name, _ in got.headers} == {"content-length", "date"}
    else:
        assert expected in got.headers
    if sentence.startswith("a cookie"):
        assert [value for name, value in got.headers if name == "set-cookie"] == [
            "a=1", expected[1], "z=2",
        ]  # fmt: skip


def test_trailers_and_the_end_of_the_body_before_them_tell_nothing(boundary: Boundary) -> None:
    trailers = b"x-last: " + SECRET + b"\r\nx-last: 2\r\nx-other: 3\r\n"
    raw = chunked(b"a " + HIDDEN, b" b " + HIDDEN[:5], trailers=trailers, lines=b"trailer: x-last\r\n")
    boundary.upstream.say, boundary.script = said(raw), boundary.scrubbed()
    with boundary.connect() as sock:
        got = raw_exchange(sock, "te: trailers")
    assert HIDDEN not in got
    assert b"x-last: Bearer " + PLACEHOLDER in got
    assert b"x-last: 2" in got and b"x-other: 3" in got
    body = got.partition(b"\r\n\r\n")[2]
    joined = b"".join(body.split(b"\r\n")[1::2])
    assert joined.startswith(b"a " + PLACEHOLDER + b" b " + HIDDEN[:5])


@pytest.mark.parametrize("status", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
def test_an_interim_answer_tells_nothing(boundary: Boundary, status: bytes) -> None:
    early = b"HTTP/1.1 " + status + b"\r\nlink: </?k=" + HIDDEN + b">\r\nx-key: " + HIDDEN + b"\r\n\r\n"
    boundary.upstream.say, boundary.script = said(early + whole(b"done")), boundary.scrubbed()
    with boundary.connect() as sock:
        got = raw_exchange(sock)
    assert HIDDEN not in got
    assert got.endswith(b"done")


@pytest.mark.parametrize(
    "lines",
    [
        [b"content-encoding: gzip"],
        [b"Content-Encoding: GZIP "],
        [b"content-encoding: identity", b"content-encoding: gzip"],
        [b"content-encoding: identity, gzip"],
        [b"content-encoding: unheard-of"],
        [b"content-type: application/grpc", b"grpc-encoding: gzip"],
        [b"content-encoding: " + HIDDEN],
        [b"content-encoding: " + b"x" * 30 + HIDDEN],
        [b"content-type: text/plain; charset=" + HIDDEN],
    ],
)
def test_an_answer_that_is_encoded_nevertheless_is_refused(boundary: Boundary, lines: list[bytes]) -> None:
    packed = gzip.compress(HIDDEN)
    got = answered(boundary, said(whole(packed, *lines)))
    assert (got.status, got.json["reason"]) == (502, "answer_encoded")
    assert got.json["record"].startswith("r-")
    assert packed not in got.body
    assert boundary.line(record=got.json["record"])["details"] == "remit_answer_encoded"


def test_identity_is_asked_for_and_ranges_are_not(boundary: Boundary) -> None:
    boundary.script = boundary.scrubbed()
    headers = (
        ("range", "bytes=0-3"),
        ("if-range", '"e"'),
        ("accept-encoding", "gzip, br"),
        ("accept-encoding", "zstd"),
        ("grpc-accept-encoding", "gzip"),
        ("request-range", "bytes=0-3"),
        ("x-ms-range", "bytes=0-3"),
        ("a-im", "vcdiff"),
        ("accept-charset", "utf-16"),
    )
    seen = boundary.ask(headers=headers).json["headers"]
    assert [value for name, value in seen if name == "accept-encoding"] == ["identity"]
    assert not {name for name, _ in headers} & {name for name, _ in seen} - {"accept-encoding"}


@pytest.mark.parametrize(
    ("status", "lines"),
    [
        (b"206 Partial Content", [b"content-range: bytes 0-3/99"]),
        (b"206 Partial Content", [b"Content-Range: BYTES 0-3/*"]),
        (b"200 OK", [b"content-range: bytes 0-3/99"]),
        (b"206 Partial Content", [b"content-type: multipart/byteranges; boundary=x"]),
        (b"206 Partial Content", [b"content-type: multipart/x-byteranges; boundary=x"]),
        (b"226 IM Used", [b"im: vcdiff"]),
    ],
)
def test_a_part_of_an_answer_is_refused(boundary: Boundary, status: bytes, lines: list[bytes]) -> None:
    """An upstream that knows other ways of asking for pieces; the agent would put them together."""
    got = answered(boundary, said(whole(HIDDEN[:4], *lines, status=status)))
    assert (got.status, got.json["reason"]) == (502, "answer_encoded")


@pytest.mark.parametrize("status", [b"200 OK", b"206 Partial Content"])
def test_a_page_of_a_list_is_no_part_of_an_answer(boundary: Boundary, status: bytes) -> None:
    got = answered(boundary, said(whole(b"[1]", b"content-range: items 0-0/9", status=status)))
    assert (got.status, got.body) == (int(status[:3]), b"[1]")


CHARSETS = ("utf-16", "UTF-16LE", "utf-32", "utf-7", "ibm037", "cp1047", "x-user-defined", "iso-2022-jp", "hz-gb-2312")


@pytest.mark.parametrize("charset", CHARSETS)
@pytest.mark.parametrize(
    "said_as", ["text/plain; charset={}", 'text/plain;CHARSET="{}"', "text/plain; a=b; charset = {}"]
)
def test_an_answer_in_an_alphabet_without_ascii_is_refused(boundary: Boundary, charset: str, said_as: str) -> None:
    """`Accept: text/plain;charset=utf-16` is enough to get one from servers that convert texts."""
    raw = whole(HIDDEN.decode().encode("utf-16"), b"content-type: " + said_as.format(charset).encode())
    got = answered(boundary, said(raw))
    assert (got.status, got.json["reason"]) == (502, "answer_encoded")


@pytest.mark.parametrize("charset", ["utf-8", "UTF8", '"utf-8"', "ISO-8859-15", "windows-1252", "Shift_JIS", "gb18030"])
def test_an_answer_in_an_alphabet_with_ascii_passes(boundary: Boundary, charset: str) -> None:
    got = answered(boundary, said(whole(b"x", b"content-type: text/plain; charset=" + charset.encode())))
    assert (got.status, got.body) == (200, b"x")


def test_where_nothing_was_injected_a_request_keeps_its_ranges_and_its_encodings(boundary: Boundary) -> None:
    boundary.script = boundary.permit_with(headers=())
    headers = (("range", "bytes=0-3"), ("accept-encoding", "gzip"))
    assert (
        boundary.ask(headers=headers).upstream_headers | dict(headers) == boundary.ask(headers=headers).upstream_headers
    )
    boundary.upstream.say = said(whole(gzip.compress(b"x"), b"content-encoding: gzip"))
    got = boundary.ask()
    assert (got.status, got.header("content-encoding")) == (200, "gzip")


@pytest.mark.parametrize("scrubbed", [True, False])
def test_an_upstream_cannot_say_a_length_in_our_name(boundary: Boundary, scrubbed: bool) -> None:
    if scrubbed:
        boundary.script = boundary.scrubbed()
    boundary.upstream.say = said(whole(b"0123456789", b"x-remit-length: 3"))
    got = boundary.ask()
    assert (got.body, got.header("content-length"), got.header("x-remit-length")) == (b"0123456789", "10", None)
    boundary.upstream.say = said(chunked(b"0123456789", lines=b"x-remit-length: 3\r\n"))
    got = boundary.ask()
    assert (got.body, got.header("content-length"), got.header("x-remit-length")) == (b"0123456789", None, None)


def test_a_grpc_answer_keeps_its_frames(boundary: Boundary) -> None:
    message = b"\x0a" + bytes([len(HIDDEN)]) + HIDDEN
    frame = b"\0" + len(message).to_bytes(4, "big") + message
    raw = chunked(
        frame[:9], frame[9:], frame, lines=b"content-type: application/grpc+proto\r\n", trailers=b"grpc-status: 0\r\n"
    )
    got = answered(boundary, said(raw), headers=(("te", "trailers"),))
    assert got.body == frame.replace(HIDDEN, LEVEL) * 2


def test_an_event_does_not_wait_for_the_next_even_if_it_ends_as_a_secret_begins(boundary: Boundary) -> None:
    go_on = asyncio.Event()

    async def say(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for event in (b"data: one\n\n", b"data: " + HIDDEN[:1], HIDDEN[1:] + b"\n\n"):
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await writer.drain()
            go_on.clear()
            await go_on.wait()
        writer.write(b"0\r\n\r\n")

    boundary.upstream.say, boundary.script = say, boundary.scrubbed()
    with boundary.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: api.test\r\n\r\n")
        response = http.client.HTTPResponse(sock)
        response.begin()
        assert response.readline() + response.readline() == b"data: one\n\n"
        boundary.run(_set(go_on))
        assert response.read(7) == b"data: " + HIDDEN[:1]
        boundary.run(_set(go_on))
        rest = response.readline()
        assert HIDDEN not in HIDDEN[:1] + rest
        boundary.run(_set(go_on))
        response.close()


async def _set(event: asyncio.Event) -> None:
    event.set()


def test_streams_of_one_connection_are_scrubbed_each_with_its_own(boundary: Boundary) -> None:
    other = b"another-secret-77"

    async def say(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(HIDDEN + b" " + other))

    boundary.upstream.say = say
    scripts = {
        "/both": boundary.scrubbed(HIDDEN, other),
        "/one": boundary.scrubbed(other),
        "/none": boundary.permit,
    }
    boundary.script = lambda seen: scripts[seen.target](seen)
    context = ssl.create_default_context(cafile=boundary.ca_file)
    context.set_alpn_protocols(["h2"])
    with boundary.connect(tls=False) as raw, context.wrap_socket(raw, server_hostname="api.test") as sock:
        found = talk(sock, [h2_request(path.encode()) for path in ("/both", "/one", "/none")] * 3)
    for number, body in found.bodies.items():
        both, one = ((number - 1) // 2) % 3 == 0, ((number - 1) // 2) % 3 == 1
        assert (HIDDEN in body, other in body) == (not both, not both and not one), (number, body)
    assert len(found.bodies) == 9


def test_an_upstream_that_breaks_off_is_not_completed(boundary: Boundary) -> None:
    go_on = asyncio.Event()

    async def say(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n20\r\nabc " + HIDDEN[:6])
        await go_on.wait()
        writer.transport.abort()

    boundary.upstream.say, boundary.script = say, boundary.scrubbed()
    with boundary.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: api.test\r\n\r\n")
        response = http.client.HTTPResponse(sock)
        response.begin()
        assert response.read(4) == b"abc "
        boundary.run(_set(go_on))
        with pytest.raises((http.client.HTTPException, OSError)):
            raise AssertionError(response.read())


def test_an_answer_whose_secret_is_no_longer_known_is_refused(boundary: Boundary) -> None:
    boundary.script = boundary.permit_with(hidden="0" * 32)
    got = answered(boundary, said(whole(HIDDEN, b"x-key: " + HIDDEN)))
    assert (got.status, got.json["reason"]) == (502, "answer_unreadable")


def test_without_the_scrubber_nothing_passes_and_what_needs_none_goes_on(boundary: Boundary) -> None:
    boundary.upstream.say = said(whole(HIDDEN))
    boundary.stop("scrub")
    try:
        got = answered(boundary, said(whole(HIDDEN)))
        assert (got.status, got.json["reason"]) == (502, "refused_by_boundary")
        boundary.script = boundary.permit_with(headers=())
        assert boundary.ask().status == 200
    finally:
        boundary.serve_scrub()
    boundary.script = boundary.scrubbed()
    until(lambda: boundary.ask().body == LEVEL, "answers are scrubbed again")


def test_an_answer_is_cut_when_the_scrubber_ends_in_the_middle(boundary: Boundary) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def say(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n")
        begun.set()
        await go_on.wait()
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN))

    boundary.upstream.say, boundary.script = say, boundary.scrubbed()
    with boundary.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: api.test\r\n\r\n")
        response = http.client.HTTPResponse(sock)
        response.begin()
        assert response.read(4) == b"abcd"
        boundary.stop("scrub")
        try:
            boundary.run(_set(go_on))
            with pytest.raises((http.client.HTTPException, OSError)):
                raise AssertionError(response.read())
        finally:
            boundary.serve_scrub()


def test_an_upstream_cannot_fill_memory_behind_a_reader_that_does_not_read(boundary: Boundary) -> None:
    """It is held up: what it gets rid of is what buffers and windows hold, whatever it would like to send."""
    sent, stuck = 0, asyncio.Event()
    piece = b"%x\r\n%b\r\n" % (1 << 16, b"x" * (1 << 16))

    async def say(head: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(4096):
            writer.write(piece)
            try:
                await asyncio.wait_for(writer.drain(), 1)
            except TimeoutError:
                break
            sent += len(piece)
        stuck.set()

    boundary.upstream.say, boundary.script = say, boundary.scrubbed()
    with boundary.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: api.test\r\n\r\n")
        assert sock.recv(12) == b"HTTP/1.1 200"
        until(stuck.is_set, "the upstream is held up", 30)
        assert sent < 32 << 20
        boundary.upstream.say = None
        boundary.script = boundary.scrubbed()
        assert boundary.ask().status == 200


def test_the_answer_to_a_request_that_was_held_is_searched_too(boundary: Boundary) -> None:
    boundary.script, boundary.hold_script = boundary.hold, boundary.scrubbed()
    got = answered(boundary, said(whole(HIDDEN)))
    assert (got.status, got.body) == (200, LEVEL)


def test_that_an_answer_told_it_is_noted_and_that_another_did_not(boundary: Boundary) -> None:
    for body, noted in ((HIDDEN, "yes"), (b"nothing", None)):
        for raw in (whole(body), chunked(b"x", body), whole(b"", b"x-key: " + body)):
            record = f"r-noted-{len(boundary.lines())}"
            boundary.script = boundary.scrubbed(record=record)
            answered(boundary, said(raw))
            line = boundary.line(record=record)
            assert line["repeated"] == noted, raw


def test_denials_and_what_envoy_says_itself_are_left_as_they_are(boundary: Boundary) -> None:
    boundary.script = boundary.deny
    got = boundary.ask()
    assert (got.status, got.json["reason"]) == (403, "no_capability")
    boundary.script = boundary.scrubbed(pin_port=1)
    got = boundary.ask()
    assert (got.status, got.json["reason"]) == (503, "upstream_failed")
    assert got.header("content-length") == str(len(got.body))


def test_no_secret_of_an_answer_stands_in_what_envoy_writes(boundary: Boundary) -> None:
    answered(boundary, said(whole(HIDDEN, b"x-key: " + HIDDEN)))
    boundary.line(status=200)
    for path in (Path(boundary.layout.spool), boundary.directory / "envoy.log"):
        assert HIDDEN not in path.read_bytes(), path


def test_a_connection_stays_usable_after_an_answer_was_refused(boundary: Boundary) -> None:
    boundary.script = boundary.scrubbed()
    with boundary.connect() as sock:
        boundary.upstream.say = said(whole(b"\x1f\x8b", b"content-encoding: gzip"))
        first = send(sock, b"GET / HTTP/1.1\r\nhost: api.test\r\n\r\n")
        assert first.json["reason"] == "answer_encoded"
        boundary.upstream.say = None
        assert send(sock, b"GET / HTTP/1.1\r\nhost: api.test\r\n\r\n").status == 200
