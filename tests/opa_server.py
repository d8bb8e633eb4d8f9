"""OPA's REST API as far as a node uses it, in front of the real engine (Go, in this process): no server binary is at hand.

Loads bundles as OPA does (`.manifest`, roots, revision), answers `POST /v1/data/…` with provenance, and can be told to
misbehave: `spoil(path)` returns what to do with a request instead of answering it.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from opa_bindings import OpaEngine, OpaError, OpaUndefinedError

Spoil = Callable[[BaseHTTPRequestHandler], bool]


class Opa:
    """One server. `connections` and `asked` count what came."""

    def __init__(self) -> None:
        self.engine = OpaEngine()
        self.revision = ""
        self.spoil: Spoil | None = None
        self.connections = 0
        self.asked = 0
        self.url = ""

    def load(self, archive: bytes) -> None:
        """Take a bundle in, in place of the one before. What a bundle may not be is an `AssertionError`."""
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(archive))) as tar:
            files = {member.name: tar.extractfile(member).read().decode() for member in tar.getmembers()}  # type: ignore[union-attr]
        manifest = json.loads(files.pop(".manifest"))
        assert manifest["roots"] == ["remit"]
        assert manifest["rego_version"] == 1
        engine = OpaEngine()
        for path, text in files.items():
            assert path.endswith(".rego")
            engine.add_policy(path, text)
        engine.eval_query("x = 1", {})  # compiles everything
        self.engine, self.revision = engine, manifest["revision"]

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        provenance = {"version": "1.20.0", "bundles": {"remit": {"revision": self.revision}}}
        try:
            found = self.engine.eval_document(path.replace("/", "."), body.get("input"))
        except OpaUndefinedError:
            return 200, {"provenance": provenance}
        except OpaError as error:
            problem = {"code": "internal_error", "message": "error(s) occurred while evaluating query"}
            return 500, {**problem, "errors": [{"code": error.code, "message": str(error)}]}
        return 200, {"result": found, "provenance": provenance}


@contextmanager
def served() -> Iterator[Opa]:
    opa = Opa()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            opa.connections += 1

        def do_POST(self) -> None:
            url = urlsplit(self.path)
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            assert url.path.startswith("/v1/data/")
            assert parse_qs(url.query) == {"strict-builtin-errors": ["true"], "provenance": ["true"]}
            opa.asked += 1
            if opa.spoil is not None and opa.spoil(self):
                return
            status, answer = opa.answer(url.path.removeprefix("/v1/data/"), body)
            self.reply(status, json.dumps(answer).encode())

        def reply(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    opa.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield opa
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
