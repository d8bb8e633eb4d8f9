"""An attacker's hands: runs inside a cell, takes one Python program a line (JSON), says what became of it.

Only the standard library, by hand: no client tidies up what is sent. A program leaves its outcome in `result`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import sys
import traceback
from typing import Any

TIMEOUT_S = 15.0


def address(host: str, family: int = socket.AF_INET) -> str:
    return str(socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)[0][4][0])


def unverifying() -> ssl.SSLContext:
    """For a client that talks to whoever answers, so it need not read the system's CAs (20 ms)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def connect(
    host: str,
    port: int,
    *,
    to: str | None = None,
    tls: bool = True,
    sni: str | None = "",
    alpn: str = "http/1.1",
    family: int = socket.AF_INET,
    pieces: int = 0,
) -> socket.socket:
    """A connection to `to` (or where DNS says `host` is). `sni`: empty is `host`, None is no SNI."""
    there = to or address(host, family)
    sock = socket.create_connection((there, port), TIMEOUT_S)
    sock.settimeout(TIMEOUT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not tls:
        return sock
    context = unverifying()
    context.set_alpn_protocols([alpn])
    if not pieces:
        return context.wrap_socket(sock, server_hostname=host if sni == "" else sni)
    with socket.socket(socket.AF_INET) as _:
        return _in_pieces(sock, context, host if sni == "" else sni, pieces)


def _in_pieces(sock: socket.socket, context: ssl.SSLContext, sni: str | None, size: int) -> Any:
    """A TLS connection whose ClientHello was cut into records of `size` bytes, each a segment of its own."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=sni)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()[5:]
    for start in range(0, len(hello), size):
        piece = hello[start : start + size]
        sock.sendall(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece)
    return _Bio(sock, tls, incoming, outgoing)


class _Bio:
    """As much of a socket as `send` needs."""

    def __init__(self, sock: socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO):
        self._sock, self._tls, self._in, self._out = sock, tls, incoming, outgoing
        self._retry(self._tls.do_handshake)

    def _retry(self, step: Any) -> Any:
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                done = None
            if out := self._out.read():
                self._sock.sendall(out)
            if done is not None or (step == self._tls.do_handshake and self._tls.version() and self._tls.cipher()):
                return done
            data = self._sock.recv(65536)
            if not data:
                raise ConnectionResetError("closed in TLS")
            self._in.write(data)

    def sendall(self, data: bytes) -> None:
        self._retry(lambda: self._tls.write(data))

    def makefile(self, *_: Any, **__: Any) -> Any:
        import io

        bio = self

        class Raw(io.RawIOBase):
            def readable(self) -> bool:
                return True

            def readinto(self, buffer: Any) -> int:
                data = bio._retry(lambda: bio._tls.read(len(buffer)))
                buffer[: len(data)] = data
                return len(data)

        return io.BufferedReader(Raw())

    def close(self) -> None:
        self._sock.close()


def send(sock: Any, data: bytes, method: str = "GET") -> dict[str, Any]:
    """Write `data`, read one response; where there is none, `status` is 0."""
    try:
        sock.sendall(data)
        response = http.client.HTTPResponse(sock, method=method)
        response.begin()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        return {"status": 0, "error": repr(error), "headers": {}, "body": ""}
    headers = {name.lower(): value for name, value in response.getheaders()}
    return {"status": response.status, "headers": headers, "body": body.decode("latin-1")}


def ask(host: str, port: int, data: bytes, **options: Any) -> dict[str, Any]:
    """`send` on a connection of its own."""
    try:
        sock = connect(host, port, **options)
    except OSError as error:
        return {"status": 0, "error": repr(error), "headers": {}, "body": ""}
    with contextlib.closing(sock):
        return send(sock, data, data.split(b" ", 1)[0].decode("latin-1"))


def everything(sock: socket.socket, data: bytes = b"") -> str:
    """Write `data`, read until the other end closes."""
    found = b""
    with contextlib.suppress(OSError):
        sock.sendall(data)
        while more := sock.recv(65536):
            found += more
    return found.decode("latin-1")


def datagram(data: bytes, to: str, port: int = 53, timeout: float = 5.0) -> str:
    """One UDP exchange; what went wrong comes back as its name."""
    with socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        try:
            sock.connect((to, port))
            sock.send(data)
            return sock.recv(65536).hex()
        except OSError as error:
            return type(error).__name__


def main() -> None:
    print(json.dumps({"result": "ready"}), flush=True)
    for line in sys.stdin:
        given = json.loads(line)
        space: dict[str, Any] = {**globals(), **{k: v.encode("latin-1") for k, v in given["bytes"].items()}}
        space.update(given["values"])
        try:
            exec(given["source"], space)
            said = {"result": space.get("result")}
        except BaseException:
            said = {"error": traceback.format_exc()}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
