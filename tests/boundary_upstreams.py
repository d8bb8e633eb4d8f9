"""Servers that stand for the outside in tests of the boundary: they say what reached them, byte for byte."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class TestAuthority:
    """A CA of its own, written independently of the one under test."""

    __test__ = False

    def __init__(self, directory: Path, name: str = "Upstream CA") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate = self._sign(subject, subject, self._key, [x509.BasicConstraints(True, None)])
        self.file = directory / f"{name.replace(' ', '-')}.pem"
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def _sign(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, extensions: Iterable
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self._key, hashes.SHA256())

    def pair(self, *hosts: str) -> tuple[Path, Path]:
        """Files of a certificate for `hosts` and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.IPAddress(ip_address(h)) if h[0].isdigit() or ":" in h else x509.DNSName(h) for h in hosts]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "upstream")])
        certificate = self._sign(
            subject,
            self._certificate.subject,
            key,
            [x509.SubjectAlternativeName(names), x509.BasicConstraints(False, None)],
        )
        files = self._directory / f"{hosts[0]}.pem", self._directory / f"{hosts[0]}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files

    def server_context(self, *hosts: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.pair(*hosts))
        context.set_alpn_protocols(["http/1.1"])
        return context


@dataclass
class Echo:
    """An HTTP/1.1 server, written by hand so that nothing is tidied away. `heads` are the raw heads that came."""

    heads: list[bytes] = field(default_factory=list)
    trailers: list[bytes] = field(default_factory=list)
    """Lines after the last chunk of a body."""
    connections: int = 0
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    """Lets `/sse` send its second event."""
    say: Callable[[bytes, asyncio.StreamWriter], Awaitable[None]] | None = None
    """Answers instead, with whatever bytes: it is given the head of the request."""
    switched: bytes = b""
    """What came after the answer to `/switch`, which is 101 whether or not it was asked for."""
    port: int = 0
    server: asyncio.Server | None = None

    async def start(self, context: ssl.SSLContext | None) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        try:
            while True:
                await self._one(reader, writer, number)
        except (EOFError, OSError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = [(k.lower(), v.strip()) for k, _, v in (line.partition(":") for line in lines[1:])]
        method, target, _ = lines[0].split(" ")
        body = await self._body(reader, dict(headers))
        if self.say is not None:
            await self.say(head, writer)
            return
        if target == "/switch":
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\nSWITCHED")
            while data := await reader.read(4096):
                self.switched += data
            return
        if target == "/sse":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            writer.write(b"b\r\ndata: one\n\n\r\n")
            await self.go_on.wait()
            writer.write(b"b\r\ndata: two\n\n\r\n0\r\n\r\n")
            return
        answer = json.dumps(
            {
                "method": method,
                "target": target,
                "headers": headers,
                "body": body.decode("latin-1"),
                "connection": number,
            }
        ).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nserver: upstream/1\r\nx-envoy-secret: 1\r\nx-remit-forged: 1\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"
            % len(answer)
            + (b"" if method == "HEAD" else answer)
        )
        await writer.drain()

    async def _body(self, reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await reader.readline(), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            while (line := await reader.readline()) != b"\r\n":
                self.trailers.append(line)
            return body
        return await reader.readexactly(int(headers.get("content-length", 0)))
