"""Real upstreams for whole-system tests, all on loopback with one CA: HTTPS (echo, SSE, git), gRPC, WebSocket.

Each writes down what reached it, so that a test can say what did not.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import ssl
import subprocess
import threading
import time
from concurrent import futures
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import websockets.sync.server
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAMES = ("api.up.example", "other.up.example", "git.up.example", "grpc.up.example", "ws.up.example", "evil.up.example")


def certificates(directory: Path, names: tuple[str, ...] = NAMES) -> tuple[Path, Path, Path]:
    """(CA, certificate, key) files for `names`."""
    now = datetime.now(UTC)

    def build(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey, *extensions: Any) -> x509.CertificateBuilder:
        def name(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer))
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    ca = build("upstreams", "upstreams", ca_key, (x509.BasicConstraints(True, 0), True), (usage, True))
    alternative = x509.SubjectAlternativeName([x509.DNSName(one) for one in names])
    leaf = build(names[0], "upstreams", key, (alternative, False)).sign(ca_key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    files = directory / "up-ca.pem", directory / "up.pem", directory / "up.key"
    files[0].write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    files[1].write_bytes(leaf.public_bytes(pem))
    files[2].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return files


class Upstreams:
    """Started on construction. `seen` holds one dict a request: host, method, path, headers, body."""

    def __init__(self, directory: Path) -> None:
        self.ca, self.certificate, self.key = certificates(directory)
        self.seen: list[dict[str, Any]] = []
        self.left: list[str] = []
        """Paths of answers whose reader went away, once that is noticed."""
        self.released = threading.Event()
        """Set: `/v1/held…` is answered."""
        self.repositories = directory / "repositories"
        self._git()
        self.https_port = self._https()
        self.http_port = self._http()
        self.grpc_port = self._grpc()
        self.ws_port = self._websocket()

    def reached(self, path: str) -> list[dict[str, Any]]:
        return [one for one in self.seen if one["path"].partition("?")[0] == path]

    def _git(self) -> None:
        bare, work = self.repositories / "tool.git", self.repositories / "work"
        git = ["git", "-c", "user.name=t", "-c", "user.email=t@t.example", "-c", "init.defaultBranch=main"]
        subprocess.run([*git, "init", "-q", "--bare", str(bare)], check=True)
        subprocess.run([*git, "-C", str(bare), "config", "http.receivepack", "true"], check=True)
        subprocess.run([*git, "init", "-q", str(work)], check=True)
        (work / "README").write_text("tool\n")
        for command in (["add", "."], ["commit", "-qm", "one"], ["push", "-q", str(bare), "HEAD:main"]):
            subprocess.run([*git, "-C", str(work), *command], check=True)

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def _https(self) -> int:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        server.socket = self._context().wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return int(server.server_address[1])

    def _http(self) -> int:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return int(server.server_address[1])

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        upstreams = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                body = self._body()
                headers = {name.lower(): value for name, value in self.headers.items()}
                seen = {"host": headers.get("host"), "method": self.command, "path": self.path, "headers": headers}
                upstreams.seen.append({**seen, "body": body.decode("latin-1")})
                path = self.path.partition("?")[0]
                if path.startswith(("/stream", "/v1/stream")):
                    self._stream()
                elif path.startswith("/v1/held"):
                    self._held(json.dumps(seen).encode(), begun="begun" in path)
                elif path.startswith("/v1/silent"):
                    self._silent(begun="begun" in path)
                elif path.startswith("/tool.git/"):
                    self._git(body)
                else:
                    self._answer(200, json.dumps(seen).encode(), "application/json")

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = _any

            def _body(self) -> bytes:
                if self.headers.get("transfer-encoding", "").lower() == "chunked":
                    body = b""
                    while size := int(self.rfile.readline().split(b";")[0], 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                    return body
                return self.rfile.read(int(self.headers.get("content-length", "0")))

            def _answer(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def _stream(self) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("connection", "close")
                self.end_headers()
                try:
                    for number in range(1, 3000):
                        self.wfile.write(f"data: {number}\n\n".encode())
                        time.sleep(0.02)
                except OSError:
                    upstreams.left.append(self.path)

            def _held(self, body: bytes, *, begun: bool) -> None:
                """Answer when `upstreams.released` is set; with `begun`, one byte of it at once."""
                first = 1 if begun else 0
                with contextlib.suppress(OSError):
                    if begun:
                        self.send_response(200)
                        self.send_header("content-length", str(len(body)))
                        self.end_headers()
                        self.wfile.write(body[:first])
                    upstreams.released.wait(60)
                    if begun:
                        self.wfile.write(body[first:])
                    else:
                        self._answer(200, body, "application/json")

            def _silent(self, *, begun: bool) -> None:
                """Say nothing, or nothing more, until the other end has gone."""
                if begun:
                    self.send_response(200)
                    self.send_header("transfer-encoding", "chunked")
                    self.end_headers()
                    self.wfile.write(b"1\r\nx\r\n")
                with contextlib.suppress(OSError):
                    self.connection.recv(1)
                upstreams.left.append(self.path)
                self.close_connection = True

            def _git(self, body: bytes) -> None:
                path, _, query = self.path.partition("?")
                environment = {
                    "PATH": os.environ["PATH"],
                    "GIT_PROJECT_ROOT": str(upstreams.repositories),
                    "GIT_HTTP_EXPORT_ALL": "1",
                    "PATH_INFO": path,
                    "QUERY_STRING": query,
                    "REQUEST_METHOD": self.command,
                    "CONTENT_TYPE": self.headers.get("content-type", ""),
                    "CONTENT_LENGTH": str(len(body)),
                    "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
                    "REMOTE_USER": "agent",
                }
                done = subprocess.run(["git", "http-backend"], input=body, capture_output=True, env=environment)
                head, _, rest = done.stdout.partition(b"\r\n\r\n")
                fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
                self._answer(int(fields.pop("Status", "200")[:3]), rest, fields.get("Content-Type", "text/plain"))

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _grpc(self) -> int:
        def echo(request: bytes, context: grpc.ServicerContext) -> bytes:
            metadata = dict(context.invocation_metadata())
            self.seen.append(
                {"host": "", "method": "GRPC", "path": "/test.Echo/Unary", "headers": metadata, "body": ""}
            )
            context.set_trailing_metadata((("x-trailer", "there"),))
            return request

        def stream(request: bytes, context: grpc.ServicerContext) -> Any:
            for _ in range(3):
                yield request

        def forever(request: bytes, context: grpc.ServicerContext) -> Any:
            while context.is_active():
                yield request
                time.sleep(0.02)

        handlers = {
            "Unary": grpc.unary_unary_rpc_method_handler(echo),
            "Stream": grpc.unary_stream_rpc_method_handler(stream),
            "Forever": grpc.unary_stream_rpc_method_handler(forever),
        }
        server = grpc.server(futures.ThreadPoolExecutor(4))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
        credentials = grpc.ssl_server_credentials([(self.key.read_bytes(), self.certificate.read_bytes())])
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        self._grpc_server = server
        return int(port)

    def _websocket(self) -> int:
        def echo(connection: Any) -> None:
            self.seen.append({"host": "", "method": "WS", "path": connection.request.path, "headers": {}, "body": ""})
            for message in connection:
                connection.send(message)

        server = websockets.sync.server.serve(echo, "127.0.0.1", 0, ssl=self._context())
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return int(server.socket.getsockname()[1])
