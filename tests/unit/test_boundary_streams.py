"""HTTP/2 for Envoy's side streams, as transcripts of bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from boundary_h2 import ACK, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, RESET, SETTINGS, frame
from hypothesis import given
from hypothesis import strategies as st

from remit.boundary import streams
from remit.boundary.streams import Broken, Stream, Wire

WINDOW = 8


def message(data: bytes) -> bytes:
    return b"\0" + struct.pack("!I", len(data)) + data


class Peer:
    """A client of a `Wire` whose streams do what `act` does with each message."""

    def __init__(self, act: Callable[[Wire, Stream, bytes], None] | None = None) -> None:
        self.got: dict[int, list[bytes]] = {}
        self._act = act or (lambda wire, stream, data: wire.send(stream, data))
        self.wire = Wire(self._accept)

    def _accept(self, stream: Stream) -> None:
        self.got[stream.id] = []

        def receive(data: bytes) -> None:
            self.got[stream.id].append(data)
            self._act(self.wire, stream, data)

        stream.receive = receive

    def begin(self, *frames: bytes) -> list[tuple[int, int, int, bytes]]:
        self.wire.take()
        return self.say(PREFACE + frame(SETTINGS, 0, 0), *frames)[1:]  # without the acknowledgement

    def say(self, *data: bytes) -> list[tuple[int, int, int, bytes]]:
        self.wire.feed(b"".join(data))
        return parsed(self.wire.take())


def parsed(data: bytes) -> list[tuple[int, int, int, bytes]]:
    found = []
    while data:
        size = int.from_bytes(data[:3], "big")
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
        data = data[9 + size :]
    return found


def bodies(frames: list[tuple[int, int, int, bytes]], stream: int = 1) -> bytes:
    return b"".join(data for kind, _, number, data in frames if kind == DATA and number == stream)


def settings(**values: int) -> bytes:
    names = {"window": 4, "frame": 5}
    return frame(SETTINGS, 0, 0, b"".join(struct.pack("!HI", names[name], value) for name, value in values.items()))


def test_a_call_begins_answers_and_ends() -> None:
    peer = Peer()
    frames = peer.begin(frame(HEADERS, END_HEADERS, 1, b"?"), frame(DATA, 0, 1, message(b"abc")))
    assert [(kind, number) for kind, _, number, _ in frames] == [(HEADERS, 1), (DATA, 1)]
    assert frames[0][3][:1] == b"\x88"
    assert bodies(frames) == message(b"abc")
    ((kind, flags, _, trailers),) = peer.say(frame(DATA, END_STREAM, 1))
    assert (kind, flags) == (HEADERS, END_HEADERS | END_STREAM)
    assert b"grpc-status" in trailers
    assert peer.wire.streams == 0


@given(st.lists(st.binary(max_size=40), max_size=5), st.lists(st.integers(1, 30), min_size=1, max_size=9))
def test_messages_arrive_however_they_are_cut(data: list[bytes], cuts: list[int]) -> None:
    peer = Peer()
    whole = b"".join(map(message, data))
    pieces = [whole[n : n + cuts[0]] for n in range(0, len(whole), cuts[0])]
    raw = (
        PREFACE
        + frame(SETTINGS, 0, 0)
        + frame(HEADERS, END_HEADERS, 1)
        + b"".join(frame(DATA, 0, 1, p) for p in pieces)
    )
    at, turn, out = 0, 0, b""
    while at < len(raw):
        step = cuts[turn % len(cuts)]
        peer.wire.feed(raw[at : at + step])
        out += peer.wire.take()
        at, turn = at + step, turn + 1
    assert peer.got[1] == data
    assert bodies(parsed(out)) == whole


def test_a_padded_frame_is_read_without_its_padding() -> None:
    peer = Peer()
    peer.begin(frame(HEADERS, END_HEADERS, 1), frame(DATA, 8, 1, b"\x03" + message(b"abc") + b"\0\0\0"))
    assert peer.got[1] == [b"abc"]


def test_what_there_is_no_window_for_waits_and_holds_up_the_sender() -> None:
    peer = Peer()
    big = b"x" * (streams.WINDOW_BYTES // 2 + 1)
    frames = peer.begin(settings(window=WINDOW), frame(HEADERS, END_HEADERS, 1), frame(DATA, 0, 1, message(big)))
    assert bodies(frames) == message(big)[:WINDOW]
    assert not [kind for kind, _, _, _ in frames if kind == 8], "credited although its answer waits"
    frames = peer.say(frame(8, 0, 1, struct.pack("!I", 1 << 20)), frame(8, 0, 0, struct.pack("!I", 1 << 20)))
    assert bodies(frames) == message(big)[WINDOW:]
    assert [(kind, number) for kind, _, number, _ in frames if kind == 8] == [(8, 1)]


def test_a_blocked_stream_does_not_hold_up_another() -> None:
    peer = Peer()
    frames = peer.begin(
        settings(window=WINDOW),
        frame(HEADERS, END_HEADERS, 1),
        frame(DATA, 0, 1, message(b"x" * 100)),
        frame(HEADERS, END_HEADERS, 3),
        frame(DATA, 0, 3, message(b"abc")),
    )
    assert bodies(frames, 3) == message(b"abc")


def test_no_frame_is_longer_than_the_peer_takes() -> None:
    peer = Peer()
    frames = peer.begin(settings(window=1 << 20, frame=16384), frame(HEADERS, END_HEADERS, 1),
                        frame(8, 0, 0, struct.pack("!I", 1 << 20)), frame(DATA, 0, 1, message(b"x" * 50_000)))  # fmt: skip
    assert max(len(data) for _, _, _, data in frames) == 16384
    assert bodies(frames) == message(b"x" * 50_000)


def test_the_end_comes_after_what_waits() -> None:
    peer = Peer()
    frames = peer.begin(settings(window=WINDOW), frame(HEADERS, END_HEADERS, 1),
                        frame(DATA, END_STREAM, 1, message(b"0123456789")))  # fmt: skip
    assert frames[-1][0] == DATA
    frames = peer.say(frame(8, 0, 1, struct.pack("!I", 100)))
    assert [kind for kind, _, _, _ in frames] == [DATA, HEADERS]


def test_a_stream_that_was_reset_says_and_hears_nothing_more() -> None:
    def act(wire: Wire, stream: Stream, data: bytes) -> None:
        wire.reset(stream)
        wire.send(stream, b"late")

    peer = Peer(act)
    frames = peer.begin(frame(HEADERS, END_HEADERS, 1), frame(DATA, 0, 1, message(b"a") + message(b"b")))
    assert [(kind, number) for kind, _, number, _ in frames] == [(RESET, 1)]
    assert peer.got[1] == [b"a"]
    assert peer.say(frame(DATA, 0, 1, message(b"c"))) == []


def test_what_comes_after_a_stream_was_finished_is_not_heard_and_what_was_said_before_stands() -> None:
    def act(wire: Wire, stream: Stream, data: bytes) -> None:
        wire.send(stream, b"no")
        wire.finish(stream)

    peer = Peer(act)
    frames = peer.begin(frame(HEADERS, END_HEADERS, 1), frame(DATA, 0, 1, message(b"a") + message(b"b")),
                        frame(DATA, 0, 1, message(b"c")))  # fmt: skip
    assert peer.got[1] == [b"a"]
    assert bodies(frames) == message(b"no")
    assert [kind for kind, _, _, _ in frames] == [HEADERS, DATA, HEADERS]
    assert peer.say(frame(DATA, END_STREAM, 1, message(b"d")), frame(HEADERS, END_HEADERS | END_STREAM, 1)) == []
    assert peer.wire.streams == 0


def test_a_reset_by_the_peer_forgets_the_stream() -> None:
    peer = Peer()
    peer.begin(frame(HEADERS, END_HEADERS, 1), frame(RESET, 0, 1, b"\0\0\0\x08"))
    assert peer.wire.streams == 0


@pytest.mark.parametrize(
    "bad", [b"\x01" + struct.pack("!I", 3) + b"abc", b"\0" + struct.pack("!I", streams.MESSAGE_MAX_BYTES + 1)]
)
def test_a_message_that_is_compressed_or_too_long_ends_its_stream(bad: bytes) -> None:
    peer = Peer()
    frames = peer.begin(frame(HEADERS, END_HEADERS, 1), frame(DATA, 0, 1, bad))
    assert [(kind, number) for kind, _, number, _ in frames] == [(RESET, 1)]


def test_a_ping_is_answered() -> None:
    peer = Peer()
    assert peer.begin(frame(PING, 0, 0, b"12345678")) == [(PING, ACK, 0, b"12345678")]


def test_who_does_not_greet_is_not_heard() -> None:
    peer = Peer()
    with pytest.raises(Broken):
        peer.wire.feed(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
