"""What stands outside for attacks by whole cells: an upstream that gives away what it was sent, and a DNS server.

Both write down everything that reaches them, so that a test can say that nothing did.
"""

from __future__ import annotations

import base64
import gzip
import http.server
import ipaddress
import socket
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dns.message
import dns.rdatatype
import dns.rrset
from boundary_upstreams import TestAuthority

NAMES = ("api.up.example", "other.up.example", "evil.up.example", "quiet.up.example", "*.wild.up.example")


class Hostile:
    """An HTTPS upstream. `/echo/<how>` gives the caller's credential back; `/to?<url>` redirects; others say "ok"."""

    def __init__(self, directory: Path) -> None:
        self.seen: list[dict[str, Any]] = []
        self.connections = 0
        authority = TestAuthority(directory, "Hostile CA")
        self.ca = authority.file
        context = authority.server_context(*NAMES)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = int(server.server_address[1])
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        hostile = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                hostile.connections += 1

            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0"))).decode("latin-1")
                headers = [(name.lower(), value) for name, value in self.headers.items()]
                hostile.seen.append({"method": self.command, "path": self.path, "headers": headers, "body": body})
                path, _, query = self.path.partition("?")
                if path == "/to":
                    self._say(302, b"", ("location", urllib.parse.unquote(query)))
                elif path.startswith("/echo/"):
                    self._echo(path.removeprefix("/echo/"), self.headers.get("authorization", ""))
                else:
                    self._say(200, b"ok")

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = _any

            def _echo(self, how: str, secret: str) -> None:
                raw = secret.encode()
                match how:
                    case "header":
                        self._say(200, b"", ("x-debug", secret))
                    case "cookie":
                        self._say(200, b"", ("set-cookie", f"s={secret.split()[-1]}"))
                    case "redirect":
                        self._say(302, b"", ("location", f"https://evil.up.example/?{urllib.parse.quote(secret)}"))
                    case "base64":
                        self._say(200, base64.b64encode(raw))
                    case "base64url inside":
                        self._say(200, b"." + base64.urlsafe_b64encode(b"xx" + raw))
                    case "hex":
                        self._say(200, raw.hex().encode())
                    case "percent":
                        self._say(200, "".join(f"%{byte:02x}" for byte in raw).encode())
                    case "gzip":
                        self._say(200, gzip.compress(raw), ("content-encoding", "gzip"))
                    case "error":
                        self._say(500, b"<pre>failed: " + raw)
                    case "reason":
                        self.send_response(200, secret)
                        self.send_header("content-length", "0")
                        self.end_headers()
                    case "chunks" | "trailer":
                        self._chunks(raw, how == "trailer")
                    case "range":
                        first, _, last = self.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
                        self._say(206, raw[int(first) : int(last or 999) + 1], ("content-range", f"bytes {first}-/99"))
                    case _:
                        self._say(200, raw)

            def _chunks(self, raw: bytes, trailer: bool) -> None:
                self.send_response(200)
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for piece in () if trailer else (raw[n : n + 1] for n in range(len(raw))):
                    self.wfile.write(b"1\r\n" + piece + b"\r\n")
                    self.wfile.flush()
                self.wfile.write(b"0\r\n" + (b"x-last: " + raw + b"\r\n" if trailer else b"") + b"\r\n")

            def _say(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
                self.send_response(status)
                for name, value in (*headers, ("content-length", str(len(body)))):
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


class Names:
    """A DNS server on loopback: `table` maps names to addresses; a function is asked each time. `asked` counts."""

    def __init__(self, table: dict[str, tuple[str, ...] | Callable[[], tuple[str, ...]]]) -> None:
        self.table = table
        self.asked: Counter[str] = Counter()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.where = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            data, peer = self._socket.recvfrom(4096)
            query = dns.message.from_wire(data)
            question = query.question[0]
            name = question.name.to_text(omit_final_dot=True).lower()
            self.asked[name] += 1
            found = self.table.get(name, ())
            addresses = found() if callable(found) else found
            response = dns.message.make_response(query)
            version = 4 if question.rdtype == dns.rdatatype.A else 6
            listed = [text for text in addresses if ipaddress.ip_address(text).version == version]
            if listed:
                response.answer.append(dns.rrset.from_text(question.name, 1, "IN", question.rdtype, *listed))
            self._socket.sendto(response.to_wire(), peer)
