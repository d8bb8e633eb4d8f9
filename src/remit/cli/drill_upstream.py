"""The leak drill's upstream: it says again what it was sent, in every way in which an answer or an error can."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import quote

from remit.core.drill import ADDRESS, HOST, LEAF
from remit.core.errors import Unavailable
from remit.settings import Settings

PROMISED_BYTES = 1 << 20


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """`seen`: what was injected, by the path that it was sent to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((ADDRESS, 0), _Handler)
        self.seen: dict[str, str] = {}

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, *_: object) -> None:
        """Nothing is written: the boundary may hang up."""


@contextlib.contextmanager
def serving(settings: Settings) -> Iterator[Server]:
    """Until the end. `Unavailable` where its certificate cannot be read: that takes whoever ran `remit up`."""
    leaf = settings.root_ca_dir / LEAF
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(leaf)
    except OSError as error:
        raise Unavailable(
            f"the drill's certificate {leaf} cannot be used: {error.strerror}",
            hint="run it as whoever ran remit up",
        ) from error
    server = Server()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        value = self.headers.get("authorization", "")
        self.server.seen[self.path] = value
        self.close_connection = True
        _ANSWERS.get(self.path, _echo)(self, value, value.removeprefix("Bearer "))

    def answer(self, status: int, body: str = "", **headers: str) -> None:
        self.send_response(status)
        for name, said in headers.items():
            self.send_header(name.replace("_", "-"), said)
        self.send_header("content-length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def raw(self, text: str) -> None:
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Nothing is written."""


def _echo(to: _Handler, value: str, secret: str) -> None:
    raw = secret.encode()
    forms = (value, base64.b64encode(raw).decode(), raw.hex(), quote(raw, safe=""), json.dumps({"key": value}))
    to.answer(200, "\n".join(forms), content_type="text/plain", x_echo=value, set_cookie=f"key={secret}")


def _moved(to: _Handler, value: str, secret: str) -> None:
    to.answer(302, location=f"https://{HOST}/?key={quote(secret, safe='')}")


def _refused(to: _Handler, value: str, secret: str) -> None:
    error = {"error": "invalid_token", "error_description": f"{value} is not known"}
    to.answer(401, json.dumps(error), www_authenticate=f'Bearer realm="{secret}"', content_type="application/json")


def _encoded(to: _Handler, value: str, secret: str) -> None:
    to.answer(200, value, content_encoding=secret)


def _cut(to: _Handler, value: str, secret: str) -> None:
    to.raw(f"HTTP/1.1 200 OK\r\ncontent-length: {PROMISED_BYTES}\r\n\r\n{value}")


def _garbled(to: _Handler, value: str, secret: str) -> None:
    to.raw(f"HTTP/1.1 {secret}\r\n\r\n{value}")


def _silent(to: _Handler, value: str, secret: str) -> None:
    pass


_ANSWERS: Mapping[str, Callable[[_Handler, str, str], None]] = {
    "/echo": _echo,
    "/moved": _moved,
    "/refused": _refused,
    "/encoded": _encoded,
    "/cut": _cut,
    "/garbled": _garbled,
    "/silent": _silent,
}
ERRORS = tuple(path for path in _ANSWERS if path != "/echo")
"""Paths whose answers are no success, or none at all."""
