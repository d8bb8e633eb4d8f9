"""The demo's upstream: an HTTPS service that writes down what it saw, so that the demo can show it.

`upstream.py CERT KEY ADDRESS PORT SEEN REPOSITORY`: serves tickets, an endless event stream, and one git repository
(dumb protocol); every request becomes one JSON line in SEEN.
"""

import http.server
import json
import mimetypes
import ssl
import sys
import threading
import time
from pathlib import Path

certificate, key, address, port, seen_file, repository = sys.argv[1:]
lock = threading.Lock()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._seen()
        path = self.path.partition("?")[0]
        if path == "/stream":
            self._stream()
        elif path.startswith("/team/tool.git/"):
            self._file(Path(repository) / path.removeprefix("/team/tool.git/"))
        else:
            self._answer(200, b'{"ticket": 7, "title": "the build is red"}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", "0")))
        self._seen()
        self._answer(201, b'{"ticket": 8}')

    def _seen(self) -> None:
        line = {"host": self.headers.get("host"), "path": self.path, "authorization": self.headers.get("authorization")}
        with lock, open(seen_file, "a") as out:
            out.write(json.dumps(line) + "\n")

    def _answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, path: Path) -> None:
        if ".." in path.parts or not path.is_file():
            self._answer(404, b"")
            return
        self._answer(200, path.read_bytes(), mimetypes.guess_type(path.name)[0] or "application/octet-stream")

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        try:
            for number in range(1, 1200):
                self.wfile.write(f"data: {number}\n\n".encode())
                self.wfile.flush()
                time.sleep(0.05)
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        pass


server = http.server.ThreadingHTTPServer((address, int(port)), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print("ready", flush=True)
server.serve_forever()
