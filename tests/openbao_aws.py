"""What OpenBao's API answers where an AWS engine is mounted: the real server's wheel has none.

Shapes as of HashiCorp Vault's and OpenBao's documentation of `aws/creds/:name` (an IAM user, or STS with a token), over
a Unix socket. Every lease is counted, and belongs to the token that asked for it.
"""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from pathlib import Path
from typing import Any


class Aws:
    """`live`: lease ids by token. `made`: how many there were. Started on construction; `lease_s` is their life."""

    def __init__(self, socket: Path, *, lease_s: int = 3600) -> None:
        self.live: dict[str, list[str]] = {}
        self.made = 0
        self.lease_s = lease_s
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self._answer()

            def _answer(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
                status, said = outer.answer(self.path, body, self.headers.get("x-vault-token", ""))
                data = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def address_string(self) -> str:
                return "unix"

            def log_message(self, *_: object) -> None:
                pass

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True

        self._server = Server(str(socket), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, path: str, body: dict[str, Any], token: str) -> tuple[int, dict[str, Any]]:
        if path == "/v1/auth/approle/login":
            token = f"s.{len(self.live)}"
            self.live[token] = []
            return 200, {"auth": {"client_token": token, "lease_duration": 3600, "renewable": True}}
        if token not in self.live:
            return 403, {"errors": ["permission denied"]}
        if path in ("/v1/aws/creds/deploy", "/v1/aws/creds/user"):
            self.made += 1
            kind = path.rpartition("/")[2]
            lease = f"aws/creds/{kind}/{self.made}"
            self.live[token].append(lease)
            data = {
                "access_key": f"ASIA{self.made:016d}" if kind == "deploy" else f"AKIA{self.made:016d}",
                "secret_key": f"{self.made:040d}",
                "security_token": f"sts-session-{self.made:030d}" if kind == "deploy" else None,
                "arn": f"arn:aws:sts::123456789012:assumed-role/{kind}/x",
            }
            renewable = kind == "user"
            return 200, {"lease_id": lease, "lease_duration": self.lease_s, "renewable": renewable, "data": data}
        if path == "/v1/auth/token/revoke-self":
            del self.live[token]
            return 204, {}
        if path == "/v1/sys/leases/revoke":
            self.live[token].remove(body["lease_id"])
            return 204, {}
        return 404, {"errors": []}

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
