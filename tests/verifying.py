"""Services that verify who is asking, as the real ones do, behind names of their own on one TLS port of loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import ssl
import subprocess
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import aws_verifier
import jwt
from boundary_upstreams import TestAuthority
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

NAMES = (
    "s3",
    "dynamodb",
    "sts",
    "openai",
    "anthropic",
    "auth",
    "crm",
    "github",
    "git",
    "npm",
    "registry",
    "keys",
    "maven",
    "maps",
    "panel",
)
HOSTS = tuple(f"{name}.sdk.example" for name in NAMES)


@dataclass
class Asked:
    """A request as it arrived. `headers`: lower-case names, repeated ones joined."""

    host: str
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return {
            name: values[0] for name, values in parse_qs(urlsplit(self.target).query, keep_blank_values=True).items()
        }


Said = tuple[int, bytes, dict[str, str]]


@dataclass
class Services:
    directory: Path
    real: dict[str, str] = field(
        default_factory=lambda: {name: f"real-{name}-{secrets.token_hex(12)}" for name in NAMES}
    )
    """What only the services and the operator know."""
    asked: list[Asked] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What was refused, with the reason."""
    objects: dict[str, bytes] = field(default_factory=dict)
    items: dict[str, Any] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    """Access tokens that were given out and are good."""
    given: int = 0
    refresh: str = field(default_factory=lambda: f"refresh-{secrets.token_hex(12)}")
    """The only refresh token that is good now."""
    refreshes: list[str] = field(default_factory=list)
    refresh_dead: bool = False
    together: threading.Barrier | None = None
    """Where so many requests meet before any is answered."""

    def __post_init__(self) -> None:
        self.authority = TestAuthority(self.directory, "SDK CA")
        self.aws = (
            "AKIA" + "REALREALREAL0000",
            f"real-aws-{secrets.token_hex(20)}",
            f"real-session-{secrets.token_hex(20)}",
        )
        key = rsa.generate_private_key(65537, 2048)
        self.pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        self._public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._repository()

    def start(self) -> None:
        services = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                headers: dict[str, str] = {}
                for name, text in self.headers.items():
                    key = name.lower()
                    headers[key] = f"{headers[key]},{text}" if key in headers else text
                body = self.rfile.read(int(headers.get("content-length", "0")))
                if "chunked" in headers.get("transfer-encoding", ""):
                    while size := int(self.rfile.readline().split(b";")[0], 16):
                        body += self.rfile.read(size + 2)[:-2]
                    self.rfile.readline()
                asked = Asked(headers["host"], self.command, self.path, headers, body)
                services.asked.append(asked)
                status, content, more = services.answer(asked)
                self.send_response(status)
                for name, text in {"content-type": "application/json", **more}.items():
                    self.send_header(name, text)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128  # 50 clients come at once

        self._server = Server(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.authority.pair(*HOSTS))
        # The handshake is the handler's: in the loop that accepts, one client would hold up all others.
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, asked: Asked) -> Said:
        name = asked.host.partition(".")[0]
        status, content, more = getattr(self, f"_{name}")(asked)
        if status in (401, 403):
            self.wrong.append(f"{asked.method} {asked.host}{asked.target}: {content.decode(errors='replace')[:2000]}")
        return status, content, more

    def _aws(self, asked: Asked) -> str | None:
        key, secret, session = self.aws
        return aws_verifier.wrong(asked.method, asked.target, asked.headers, asked.body, {key: (secret, session)})

    def _s3(self, asked: Asked) -> Said:
        xml = {"content-type": "application/xml"}
        why = self._aws(asked)
        if why is not None:
            return (
                403,
                f"<Error><Code>SignatureDoesNotMatch</Code><Message>{escape(why)}</Message></Error>".encode(),
                xml,
            )
        key = unquote(asked.path.removeprefix("/bucket")).removeprefix("/")
        if asked.method == "PUT":
            self.objects[key] = _unchunked(asked)
            return 200, b"", {"etag": '"e"'}
        if not key:
            keys = "".join(
                f"<Contents><Key>{escape(k)}</Key><Size>{len(v)}</Size></Contents>" for k, v in self.objects.items()
            )
            return (
                200,
                f"<ListBucketResult><KeyCount>{len(self.objects)}</KeyCount>{keys}</ListBucketResult>".encode(),
                xml,
            )
        if key not in self.objects:
            return 404, b"<Error><Code>NoSuchKey</Code></Error>", xml
        return 200, self.objects[key], {"etag": '"e"', "content-type": "application/octet-stream"}

    def _dynamodb(self, asked: Asked) -> Said:
        why = self._aws(asked)
        if why is not None:
            return 400, json.dumps({"__type": "InvalidSignatureException", "message": why}).encode(), {}
        said, action = json.loads(asked.body), asked.headers["x-amz-target"].rpartition(".")[2]
        if action == "PutItem":
            self.items[said["Item"]["id"]["S"]] = said["Item"]
            return 200, b"{}", {}
        return 200, json.dumps({"Item": self.items[said["Key"]["id"]["S"]]}).encode(), {}

    def _sts(self, asked: Asked) -> Said:
        why = self._aws(asked)
        if why is not None:
            return 403, f"<ErrorResponse><Error><Message>{escape(why)}</Message></Error></ErrorResponse>".encode(), {}
        return 200, (
            b"<GetCallerIdentityResponse><GetCallerIdentityResult><Account>123456789012</Account>"
            b"</GetCallerIdentityResult></GetCallerIdentityResponse>"
        ), {"content-type": "text/xml"}  # fmt: skip

    def _openai(self, asked: Asked) -> Said:
        if asked.headers.get("authorization") != f"Bearer {self.real['openai']}":
            return 401, b'{"error": {"message": "Incorrect API key provided"}}', {}
        message = {"role": "assistant", "content": "hello from openai"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return (
            200,
            json.dumps(
                {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
            ).encode(),
            {},
        )

    def _anthropic(self, asked: Asked) -> Said:
        if asked.headers.get("x-api-key") != self.real["anthropic"] or "authorization" in asked.headers:
            return 401, b'{"type": "error", "error": {"type": "authentication_error", "message": "no"}}', {}
        said = {
            "id": "m", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
            "content": [{"type": "text", "text": "hello from anthropic"}], "usage": {"input_tokens": 1, "output_tokens": 1},
        }  # fmt: skip
        return 200, json.dumps(said).encode(), {}

    def _token(self, **more: Any) -> Said:
        self.given += 1
        token = f"given-{self.given}-{secrets.token_hex(12)}"
        self.tokens.add(token)
        return 200, json.dumps({"access_token": token, "token": token, "expires_in": 600, **more}).encode(), {}

    def _auth(self, asked: Asked) -> Said:
        """Token endpoints: an OAuth client's, a service account's, a registry's."""
        form = {name: values[0] for name, values in parse_qs(asked.body.decode()).items()}
        if asked.path == "/registry":
            time.sleep(1.2)  # slower than a check may be
            good = asked.headers.get("authorization") == "Basic " + _basic("puller", self.real["registry"])
            return self._token() if good else (401, b"{}", {})
        if "assertion" in form:
            claims = jwt.decode(form["assertion"], self._public, ["RS256"], audience=f"https://{asked.host}/token")
            return self._token() if claims["iss"] == "robot@sdk.example" else (401, b"{}", {})
        if form.get("grant_type") == "refresh_token":
            return self._refreshed(form["refresh_token"])
        if asked.headers.get("authorization") != "Basic " + _basic("remit", self.real["auth"]):
            return 401, b'{"error": "invalid_client"}', {}
        return self._token()

    def _refreshed(self, token: str) -> Said:
        """Each is good for one use, and the use of an old one ends all that came of it (RFC 9700 §4.14.2)."""
        if self.refresh_dead or token != self.refresh:
            self.refresh_dead = True
            return 400, b'{"error": "invalid_grant"}', {}
        self.refresh = f"refresh-{secrets.token_hex(12)}"
        self.refreshes.append(self.refresh)
        return self._token(refresh_token=self.refresh)

    def _crm(self, asked: Asked) -> Said:
        if self.together is not None:
            self.together.wait(20)
        token = asked.headers.get("authorization", "").removeprefix("Bearer ")
        if asked.path.endswith("/echo"):
            return 200, json.dumps({"you sent": asked.headers, "token": token}).encode(), {"x-echo": token}
        return (200, b'{"contacts": ["a"]}', {}) if token in self.tokens else (401, b"{}", {})

    def _registry(self, asked: Asked) -> Said:
        """The distribution protocol's reading half (OCI Distribution Specification)."""
        token = asked.headers.get("authorization", "").removeprefix("Bearer ")
        realm = f'Bearer realm="https://auth.sdk.example:{self.port}/registry",service="registry.sdk.example"'
        if token not in self.tokens:
            return 401, b"{}", {"www-authenticate": realm}
        layer, config = b"a layer", b'{"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}}'
        blobs = {"sha256:" + hashlib.sha256(blob).hexdigest(): blob for blob in (layer, config)}
        what, _, digest = asked.path.removeprefix("/v2/team/image/").partition("/")
        if what == "blobs":
            return (
                (200, blobs[digest], {"content-type": "application/octet-stream"})
                if digest in blobs
                else (404, b"", {})
            )
        media = "application/vnd.oci.image."
        parts = [{"digest": name, "size": len(blob)} for name, blob in blobs.items()]
        manifest = {
            "schemaVersion": 2, "mediaType": media + "manifest.v1+json",
            "config": {"mediaType": media + "config.v1+json", **parts[1]},
            "layers": [{"mediaType": media + "layer.v1.tar", **parts[0]}],
        }  # fmt: skip
        body = json.dumps(manifest).encode() if what == "manifests" else b"{}"
        return 200, body, {"content-type": media + "manifest.v1+json"}

    def _maps(self, asked: Asked) -> Said:
        keys = parse_qs(urlsplit(asked.target).query).get("key")
        return (200, b'{"place": "x"}', {}) if keys == [self.real["maps"]] else (401, b"{}", {})

    def _panel(self, asked: Asked) -> Said:
        good = asked.headers.get("cookie") == f"theme=dark; session={self.real['panel']}"
        return (200, b'{"panel": 1}', {}) if good else (401, asked.headers.get("cookie", "").encode(), {})

    def _github(self, asked: Asked) -> Said:
        token = asked.headers.get("authorization", "").removeprefix("Bearer ")
        if asked.path == "/api/v3/app/installations/7/access_tokens":
            claims = jwt.decode(token, self._public, ["RS256"])
            _, content, more = self._token(expires_at="2100-01-01T00:00:00Z")
            return (201, content, more) if claims["iss"] == "Iv1.app" else (401, b"{}", {})
        return (200, b'{"full_name": "o/r"}', {}) if token in self.tokens else (401, b"{}", {})

    def _git(self, asked: Asked) -> Said:
        """The dumb protocol, for whoever has one of two passwords."""
        readers = {"Basic " + _basic("x-access-token", self.real[name]) for name in ("git", "keys")}
        if asked.headers.get("authorization") not in readers:
            return 401, b"who?", {"www-authenticate": 'Basic realm="git"', "content-type": "text/plain"}
        file = (self.directory / "tool.git" / asked.path.removeprefix("/tool.git/")).resolve()
        if not file.is_file():
            return 404, b"", {}
        return 200, file.read_bytes(), {"content-type": "text/plain"}

    def _maven(self, asked: Asked) -> Said:
        xml = {"content-type": "application/xml"}
        if asked.headers.get("authorization") != "Basic " + _basic("reader", self.real["maven"]):
            return 401, b"", {"www-authenticate": 'Basic realm="maven"', **xml}
        pom = (
            b"<project><modelVersion>4.0.0</modelVersion><groupId>g</groupId><artifactId>parent</artifactId>"
            b"<version>1</version><packaging>pom</packaging></project>"
        )
        return (200, pom, xml) if asked.path.endswith(".pom") else (404, b"", xml)

    def _npm(self, asked: Asked) -> Said:
        if asked.headers.get("authorization") != f"Bearer {self.real['npm']}":
            return 401, b'{"error": "unauthorized"}', {}
        version = {
            "name": "tool",
            "version": "1.2.3",
            "dist": {"tarball": "https://npm.sdk.example/t.tgz", "shasum": "0"},
        }
        return (
            200,
            json.dumps({"name": "tool", "dist-tags": {"latest": "1.2.3"}, "versions": {"1.2.3": version}}).encode(),
            {},
        )

    def _keys(self, asked: Asked) -> Said:
        wanted = {"x-api-key": self.real["keys"], "x-app-id": "App " + self.real["crm"], "cookie": None}
        good = all(asked.headers.get(name) == text for name, text in wanted.items())
        return (200, b'{"both": true}', {}) if good else (401, b"{}", {})

    def _repository(self) -> None:
        work, bare = self.directory / "work", self.directory / "tool.git"
        script = (
            f"git init -q -b main {work} && cd {work} && echo one > file && git add file && "
            f"git -c user.name=a -c user.email=a@b commit -q -m one && git clone -q --bare . {bare} && "
            f"cd {bare} && git update-server-info"
        )
        subprocess.run(["sh", "-c", script], check=True, capture_output=True)


def _basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def _unchunked(asked: Asked) -> bytes:
    """The body of an upload with its checksum in a trailer (aws-chunked)."""
    if "aws-chunked" not in asked.headers.get("content-encoding", ""):
        return asked.body
    body, rest = b"", asked.body
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        if not length:
            return body
        body, rest = body + rest[:length], rest[length + 2 :]
