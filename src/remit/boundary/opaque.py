"""An opaque TCP connection, far enough to refuse it in words its client understands (`farewells`). Sans-io.

PostgreSQL's start-up has a place for an error that is reached after its client was told that neither TLS nor GSSAPI is
to be had. Other protocols are recognised where their first bytes tell, or, where clients wait for the server, by port.
Sources: PostgreSQL 17, "Message Formats" (SSLRequest, GSSENCRequest, CancelRequest, StartupMessage); git,
gitprotocol-pack (git-proto-request: its length in four hexadecimal digits, then the command).
"""

from __future__ import annotations

from dataclasses import dataclass

SSL_REQUEST = 80877103
GSSENC_REQUEST = 80877104
CANCEL_REQUEST = 80877102
STARTUP_MAX = 10_000
"""PostgreSQL's own MAX_STARTUP_PACKET_LENGTH."""
NO = b"N"
SERVER_FIRST_PORTS = (21, 25, 110, 143, 465, 587, 993, 995, 3306, 5900)
"""FTP, mail (465, 993 and 995 within TLS), MySQL, VNC: their clients wait for the server."""
GIT_PORT = 9418
NOT_INSPECTED_PORTS = (*SERVER_FIRST_PORTS, GIT_PORT)
"""Where Envoy does not look for HTTP or TLS. git's request begins like a line of HTTP, whose end would never come."""
POSTGRESQL_PORTS = frozenset({5432, 6432})
_PROTOCOL_3 = 3
_GIT_LENGTH = 4
_ASKS_MAX = 2
"""A client asks for GSSAPI, then for TLS, then starts."""

_FIRST_BYTES = (
    (b"SSH-", "ssh"),
    (b"\x16\x03", "tls"),
    (b"\x10", "mqtt"),
    (b"AMQP", "amqp"),
    (b"*", "redis"),
    (b"GET ", "http"),
    (b"PRI ", "http/2"),
)
_BY_PORT = {
    21: "ftp",
    22: "ssh",
    25: "smtp",
    110: "pop3",
    143: "imap",
    587: "smtp",
    3306: "mysql",
    6379: "redis",
    GIT_PORT: "git",
    9092: "kafka",
    27017: "mongodb",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """`postgresql`: an answer in its own words can be given."""

    protocol: str
    postgresql: bool = False


class Opening:
    """Feed what the client sends first; `to_send` collects what must be answered for it to go on."""

    __slots__ = ("_asked", "_buffer", "_port", "to_send")

    def __init__(self, port: int) -> None:
        self._port = port
        self._buffer = bytearray()
        self._asked = 0
        self.to_send = bytearray()

    def feed(self, data: bytes) -> Recognised | None:
        """What this is, or None while more must be read."""
        self._buffer += data
        while len(self._buffer) >= 8:
            size, code = int.from_bytes(self._buffer[:4], "big"), int.from_bytes(self._buffer[4:8], "big")
            if not 8 <= size <= STARTUP_MAX:
                break
            if size == 8 and code in (SSL_REQUEST, GSSENC_REQUEST) and self._asked < _ASKS_MAX:
                self._asked += 1
                self.to_send += NO
                del self._buffer[:8]
                continue
            if size == 16 and code == CANCEL_REQUEST:
                return Recognised(protocol="postgresql")
            if code >> 16 == _PROTOCOL_3:
                return Recognised(protocol="postgresql", postgresql=True) if len(self._buffer) >= size else None
            break
        if self._asked:
            return None if len(self._buffer) < 8 else Recognised(protocol="postgresql")
        if len(self._buffer) < 8 and self._port in POSTGRESQL_PORTS:
            return None
        return Recognised(protocol=self._guess()) if self._buffer else None

    def given_up(self) -> Recognised:
        """The client says nothing more (it waits for the server, or has gone)."""
        if self._asked:
            return Recognised(protocol="postgresql")
        return Recognised(protocol=self._guess())

    def _guess(self) -> str:
        for first, name in _FIRST_BYTES:
            if self._buffer.startswith(first):
                return name
        if self._buffer[_GIT_LENGTH:].startswith(b"git-"):
            return "git"
        return "postgresql" if self._port in POSTGRESQL_PORTS else _BY_PORT.get(self._port, "tcp")
