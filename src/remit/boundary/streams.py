"""HTTP/2 as far as gRPC needs it, for one client that is trusted: Envoy, on a Unix socket. Sans-io.

A gRPC library costs some 300 µs a stream and 100 µs a message, which is more than all else that a small answer costs.
Here nobody asks which method is called or with which headers, so nothing is decoded but frames (RFC 9113) and the
messages in them (gRPC over HTTP/2): a stream begins, messages come and go, it ends. Backpressure is HTTP/2's own: what
a stream sends is credited only while what is to be sent to it does not wait.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW_BYTES = 256 << 10
"""What a stream may send before it is credited."""
MESSAGE_MAX_BYTES = 16 << 20
FRAME_MAX_BYTES = (1 << 24) - 1
WHOLE_WINDOW = (1 << 31) - 1
"""The connection's window: never what limits, or one slow reader would hold up all."""

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_CONTINUATION, _PUSH = 9, 5
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 1, 1, 4, 8
_HEAD = struct.Struct("!BHBBI")
_U32 = struct.Struct("!I")
_SETTING = struct.Struct("!HI")
_MAX_STREAMS, _INITIAL_WINDOW, _MAX_FRAME = 3, 4, 5
_ANSWERED = b"\x88\x0f\x10\x10application/grpc"
""":status 200 (static table); content-type, not indexed (RFC 7541 §6.2.2, name 31 of the static table)."""
_OK = b"\x00\x0bgrpc-status\x010"
_INTERNAL_ERROR = 2


class Broken(Exception):
    """The peer is not who it should be; the connection must end."""


@dataclass(slots=True)
class Stream:
    """One call. `receive` is called with each message and answers with `Wire.send`."""

    id: int
    credit: int
    """Bytes that may be sent on it."""
    receive: Callable[[bytes], None] = lambda message: None
    began: bool = False
    ended: bool = False
    partial: bytearray = field(default_factory=bytearray)
    waiting: list[bytes] = field(default_factory=list)
    """What was not sent yet."""
    owed: int = 0
    """Bytes received that were not credited, because something waits."""


Accept = Callable[[Stream], None]


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


class Wire:
    """The server's side of one connection. `accept` is told of each new stream and sets its `receive`.

    `feed` what came; then write what `take` gives. `feed` raises `Broken`.
    """

    def __init__(self, accept: Accept) -> None:
        self._accept = accept
        self._greeted = False
        self._buffer = b""
        self._streams: dict[int, Stream] = {}
        self._initial = 65535
        self._frame = 16384
        self._credit = 65535
        settings = _SETTING.pack(_MAX_STREAMS, 1 << 20) + _SETTING.pack(_INITIAL_WINDOW, WINDOW_BYTES)
        self._out: list[bytes | memoryview] = [
            frame(_SETTINGS, 0, 0, settings + _SETTING.pack(_MAX_FRAME, FRAME_MAX_BYTES)),
            frame(_WINDOW, 0, 0, _U32.pack(WHOLE_WINDOW - 65535)),
        ]
        self._uncredited = 0
        self._newest = 0
        self._unsent: dict[int, Stream] = {}
        """Streams to which something is to be sent that was not framed yet."""

    @property
    def streams(self) -> int:
        return len(self._streams)

    def take(self) -> bytes:
        """What is to be written now."""
        if self._unsent:
            unsent, self._unsent = self._unsent, {}
            for stream in unsent.values():
                self._flush(stream)
        out, self._out = b"".join(self._out), []
        return out

    def feed(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        at = 0
        if not self._greeted:
            if len(data) < len(PREFACE):
                self._buffer = data
                return
            if not data.startswith(PREFACE):
                raise Broken("no HTTP/2 preface")
            self._greeted, at = True, len(PREFACE)
        end = len(data)
        while end - at >= 9:
            high, low, kind, flags, number = _HEAD.unpack_from(data, at)
            size = high << 16 | low
            if end - at < 9 + size:
                break
            self._frame_came(kind, flags, number & 0x7FFFFFFF, data[at + 9 : at + 9 + size])
            at += 9 + size
        self._buffer = data[at:]

    def send(self, stream: Stream, message: bytes) -> None:
        """Send one message with the next `take`, or as soon as there is credit."""
        if stream.id in self._streams:
            stream.waiting += (b"\0" + _U32.pack(len(message)), message)
            self._unsent[stream.id] = stream

    def finish(self, stream: Stream) -> None:
        """Nothing more will be sent: end the call well, without waiting for the other end to (one write less)."""
        self._ended(stream)

    def reset(self, stream: Stream) -> None:
        """End the call as failed: Envoy then refuses or cuts the answer."""
        if self._streams.pop(stream.id, None) is not None:
            self._out.append(frame(_RESET, 0, stream.id, _U32.pack(_INTERNAL_ERROR)))

    def _frame_came(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == _DATA:
            self._data(flags, number, payload)
        elif kind == _HEADERS:
            self._headers(flags, number)
        elif kind == _WINDOW:
            self._window(number, _U32.unpack(payload)[0])
        elif kind == _RESET:
            self._streams.pop(number, None)
        elif kind == _SETTINGS:
            if not flags & _ACK:
                self._settings(payload)
        elif kind == _PING:
            if not flags & _ACK:
                self._out.append(frame(_PING, _ACK, 0, payload))
        elif kind == _PUSH:
            raise Broken("a client pushes")

    def _headers(self, flags: int, number: int) -> None:
        if number > self._newest:
            self._newest = number
            self._streams[number] = Stream(id=number, credit=self._initial)
            self._accept(self._streams[number])
        if flags & _END_STREAM and (stream := self._streams.get(number)) is not None:
            self._ended(stream)

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        self._uncredited += len(payload)
        if self._uncredited > WHOLE_WINDOW // 2:
            self._out.append(frame(_WINDOW, 0, 0, _U32.pack(self._uncredited)))
            self._uncredited = 0
        stream = self._streams.get(number)
        if stream is None:
            return
        stream.owed += len(payload)
        if flags & _PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        if stream.partial:
            stream.partial += payload
            payload = bytes(stream.partial)
        at, end = 0, len(payload)
        while end - at >= 5 and not stream.ended and number in self._streams:
            size = _U32.unpack_from(payload, at + 1)[0]
            if payload[at] or size > MESSAGE_MAX_BYTES:
                self.reset(stream)
                return
            if end - at < 5 + size:
                break
            stream.receive(payload[at + 5 : at + 5 + size])
            at += 5 + size
        stream.partial = bytearray(payload[at:])
        self._credited(stream)
        if flags & _END_STREAM:
            self._ended(stream)

    def _credited(self, stream: Stream) -> None:
        if not stream.waiting and stream.owed > WINDOW_BYTES // 2 and stream.id in self._streams:
            self._out.append(frame(_WINDOW, 0, stream.id, _U32.pack(stream.owed)))
            stream.owed = 0

    def _ended(self, stream: Stream) -> None:
        stream.ended = True
        self._unsent[stream.id] = stream

    def _flush(self, stream: Stream) -> None:
        if stream.id not in self._streams:
            return
        if stream.waiting:
            if not stream.began:
                stream.began = True
                self._out.append(frame(_HEADERS, _END_HEADERS, stream.id, _ANSWERED))
            self._framed(stream, b"".join(stream.waiting))
        self._credited(stream)
        if stream.ended and not stream.waiting:
            del self._streams[stream.id]
            head = b"" if stream.began else _ANSWERED
            self._out.append(frame(_HEADERS, _END_HEADERS | _END_STREAM, stream.id, head + _OK))

    def _framed(self, stream: Stream, data: bytes) -> None:
        """Send of `data` what there is credit for; the rest waits."""
        most = max(0, min(stream.credit, self._credit, len(data)))
        view = memoryview(data)
        for at in range(0, most, self._frame):
            piece = view[at : min(at + self._frame, most)]
            size = len(piece)
            self._out += (_HEAD.pack(size >> 16, size & 0xFFFF, _DATA, 0, stream.id), piece)
        stream.credit -= most
        self._credit -= most
        stream.waiting = [data[most:]] if most < len(data) else []

    def _window(self, number: int, more: int) -> None:
        if number == 0:
            self._credit += more
            for blocked in [one for one in self._streams.values() if one.waiting]:
                self._flush(blocked)
            return
        stream = self._streams.get(number)
        if stream is not None:
            stream.credit += more
            self._flush(stream)

    def _settings(self, payload: bytes) -> None:
        for at in range(0, len(payload) - 5, 6):
            name, value = _SETTING.unpack_from(payload, at)
            if name == _INITIAL_WINDOW:
                for stream in self._streams.values():
                    stream.credit += value - self._initial
                self._initial = value
            elif name == _MAX_FRAME:
                self._frame = value
        self._out.append(frame(_SETTINGS, _ACK, 0, b""))
