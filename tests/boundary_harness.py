"""A real Envoy with the boundary's own servers, upstreams that report what they see, and a cell's end of the wire.

`Boundary` starts all of it once for a test module. The decision is a script: `boundary.script` decides, and
`boundary.seen` holds the evidence of every check. `Boundary.connect` writes PROXY v2 by hand, as a forwarder would.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ipaddress
import itertools
import json
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from boundary_upstreams import Echo, TestAuthority

from remit.boundary import ca, envoy, http_chain
from remit.boundary.check_server import serve_check
from remit.boundary.hold_server import serve_hold
from remit.boundary.leaf_ration import Ration, nobody
from remit.boundary.refuse import serve_refuse
from remit.boundary.resources import Layout
from remit.boundary.scrub_server import serve_scrub
from remit.boundary.sds import Desk
from remit.boundary.sds_server import serve_sds
from remit.boundary.tunnel_check import serve_tunnel
from remit.control.decide import Denied, Held, Permitted
from remit.control.hidden import Hidden
from remit.core import flow
from remit.core.grant import Body, Question
from remit.core.reason import Reason, Refusal
from remit.core.request import Evidence, read

SECRET = b"Bearer real-secret"
PLACEHOLDER = b"ph_000000"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
PATIENCE_S = 5
"""How long a check may take here: the servers share a processor, and an interpreter, with the test."""
Answer = Permitted | Denied | Held
Script = Callable[[Evidence], Answer | Awaitable[Answer]]


def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> object:
    """Wait for `condition` to be true; its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"never happened: {what}")


def proxy_header(
    destination: tuple[str, int],
    *,
    token: bytes | None = b"token-of-cell-1",
    source: tuple[str, int] = ("100.64.0.1", 4000),
    command: int = 1,
    more: bytes = b"",
) -> bytes:
    """PROXY v2 (STREAM). `more` is put after the token's TLV as it is."""
    addresses = [ipaddress.ip_address(source[0]), ipaddress.ip_address(destination[0])]
    six = addresses[1].version == 6
    body = addresses[0].packed + addresses[1].packed + struct.pack("!HH", source[1], destination[1])
    if token is not None:
        body += struct.pack("!BH", 0xE0, len(token)) + token
    body += more
    return SIGNATURE + bytes([0x20 | command, 0x21 if six else 0x11]) + struct.pack("!H", len(body)) + body


class Boundary:
    """Use as a context manager. `hosts` of the upstream: api.test, other.test, 127.0.0.1."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="rb-", dir="/tmp"))
        self.seen: list[Evidence] = []
        self.refused: list[tuple[Refusal, dict[str, object]]] = []
        self.script: Script = self.permit
        self.meant = {address: (name,) for name in ("db.test", "api.test") for address in flow.virtual(name)}
        """What a cell means by a virtual address."""
        self.hidden = Hidden(answer_max_s=60, monotonic=time.monotonic)
        self.held: list[tuple[Evidence, Body]] = []
        self.hold_script: Script = self.permit
        self.upstream, self.plain, self.wrong, self.strange = Echo(), Echo(), Echo(), Echo()
        self.authority = TestAuthority(self.directory)
        self._records = itertools.count(1)
        self._ports = itertools.count(2000)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._servers: dict[str, asyncio.Task[None]] = {}
        self.opened: list[asyncio.Server] = []
        self.layout = Layout(
            proxy_socket=str(self.directory / "p.sock"),
            check_socket=str(self.directory / "c.sock"),
            hold_socket=str(self.directory / "h.sock"),
            sds_socket=str(self.directory / "s.sock"),
            tunnel_socket=str(self.directory / "t.sock"),
            tcp_socket=str(self.directory / "tcp.sock"),
            tls_socket=str(self.directory / "tls.sock"),
            refuse_socket=str(self.directory / "r.sock"),
            scrub_socket=str(self.directory / "x.sock"),
            delegate_socket=str(self.directory / "l.sock"),
            admin_socket=str(self.directory / "a.sock"),
            spool=str(self.directory / "spool"),
            upstream_ca_file=str(self.directory / "upstreams.pem"),
        )

    # -- the decision ------------------------------------------------------------------------------------------------

    def permit(self, evidence: Evidence, **changes: object) -> Permitted | Denied:
        """Dial the upstream with a credential; `changes` replace fields. What is carried unread needs `carry`."""
        if evidence.opaque is not None:
            return self.deny(evidence)
        return self._permitted(evidence, changes)

    def carry(self, **changes: object) -> Script:
        """Permit connections that are carried unread."""
        return lambda evidence: self._permitted(evidence, {"headers": (), "target": b"/", **changes})

    def _permitted(self, evidence: Evidence, changes: dict[str, object]) -> Permitted:
        fields: dict[str, object] = {
            "record": f"r-{next(self._records)}",
            "headers": ((b"authorization", SECRET),),
            "pin": "127.0.0.1",
            "pin_port": (self.upstream if evidence.tls else self.plain).port,
            "target": evidence.target.encode(),
            "pool": "task-1",
        }
        return Permitted(**{**fields, **changes})

    def permit_with(self, **changes: object) -> Script:
        return lambda evidence: self.permit(evidence, **changes)

    def scrubbed(self, *secrets: bytes, **changes: object) -> Script:
        """Permit with the credential, and keep it (or `secrets`) from the answer: `PLACEHOLDER` stands for it."""
        reference = self.hidden.reference(tuple((one, PLACEHOLDER) for one in secrets or (SECRET.split()[-1],)))
        return self.permit_with(hidden=reference, **changes)

    def deny(self, evidence: Evidence) -> Denied:
        return Denied(record=f"r-{next(self._records)}", refusal=Refusal(Reason.NO_CAPABILITY, "nothing covers it"))

    def hold(self, evidence: Evidence) -> Held:
        """Send the request to the second check."""
        asked = Question(
            task="t-aaaaaaaaaa",
            role="devops",
            method=evidence.method,
            protocol="https",
            host="api.test",
            port=443,
            path=evidence.target,
            target=evidence.target,
            websocket=False,
            body="",
            body_bytes=0,
            capability="api",
            credential=None,
            reasons=("capability api asks",),
        )
        return Held(question=asked)

    def governed(self, evidence: Evidence) -> Permitted | Denied:
        """Permit what `core.request.read` can read as one request; deny the rest with its reason."""
        found = read(evidence)
        return Denied(record="r-governed", refusal=found) if isinstance(found, Refusal) else self.permit(evidence)

    async def _decide(self, evidence: Evidence) -> Permitted | Denied | Held:
        self.seen.append(evidence)
        answer = self.script(evidence)
        return answer if isinstance(answer, Permitted | Denied | Held) else await answer

    async def _hold(self, evidence: Evidence, body: Body) -> Permitted | Denied:
        self.held.append((evidence, body))
        answer = self.hold_script(evidence)
        return answer if isinstance(answer, Permitted | Denied) else await answer

    async def _refuse(self, refusal: Refusal, *, token: bytes = b"", flow: str = "", **facts: object) -> Denied:
        self.refused.append((refusal, {"token": token, "flow": flow, **facts}))
        return Denied(record=f"r-{next(self._records)}", refusal=refusal)

    # -- life --------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Boundary:
        self._thread.start()
        ca.ensure(self.directory / "root", self.directory / "node", datetime.now(UTC))
        envoy.write_upstream_cas(Path(self.layout.upstream_ca_file), [self.authority.file])
        stranger = TestAuthority(self.directory, "Stranger CA")
        self.run(self.upstream.start(self.authority.server_context("api.test", "other.test", "127.0.0.1")))
        self.run(self.plain.start(None))
        self.run(self.wrong.start(self.authority.server_context("wrong.test")))
        self.run(self.strange.start(stranger.server_context("api.test")))
        self.serve_check()
        self.serve_hold()
        self.serve_sds()
        self.serve_refuse()
        self.serve_scrub()
        self.serve_tunnel()
        for path in (
            self.layout.check_socket,
            self.layout.tunnel_socket,
            self.layout.hold_socket,
            self.layout.sds_socket,
            self.layout.refuse_socket,
            self.layout.scrub_socket,
        ):
            until(Path(path).exists, path)
        bootstrap = self.directory / "envoy.json"
        envoy.write_bootstrap(bootstrap, self.layout)
        hasty, patient = (f'"timeout": "{time}"' for time in (http_chain.CHECK_TIMEOUT, f"{PATIENCE_S}s"))
        written = bootstrap.read_text()
        assert hasty in written
        bootstrap.write_text(written.replace(hasty, patient))
        self.log = (self.directory / "envoy.log").open("wb")
        self.process = subprocess.Popen(
            list(envoy.argv(bootstrap, concurrency=1)), stdout=self.log, stderr=self.log, umask=0o077
        )
        until(self._listening, "Envoy listens: " + (self.directory / "envoy.log").read_text()[-2000:])
        return self

    def _listening(self) -> bool:
        assert self.process.poll() is None, (self.directory / "envoy.log").read_text()[-3000:]
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(self.layout.proxy_socket)
            return True
        return False

    def __exit__(self, *_: object) -> None:
        assert self.process.poll() is None, f"Envoy died: {(self.directory / 'envoy.log').read_text()[-3000:]}"
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.log.close()
        for name in list(self._servers):
            self.stop(name)
        self.run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    async def _end(self) -> None:
        """Nothing that listens or waits outlives the loop."""
        for server in (*self.opened, *(echo.server for echo in self.echoes)):
            if server is not None:
                server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        for _ in range(3):
            await asyncio.sleep(0)  # transports close in a later turn of the loop

    def run(self, awaitable: Awaitable) -> object:
        """Run in the servers' loop, wait for the result."""
        return asyncio.run_coroutine_threadsafe(awaitable, self._loop).result(10)

    def start(self, name: str, server: Awaitable) -> None:
        async def begin() -> None:
            self._servers[name] = asyncio.ensure_future(server)

        self.run(begin())

    def serve_check(self, pending_max: int = 1024) -> None:
        """(Re)start the check; back when it listens."""
        self.start("check", serve_check(Path(self.layout.check_socket), self._decide, self._refuse, pending_max))
        until(Path(self.layout.check_socket).exists, "the check listens")

    def serve_hold(self, pending_max: int = 1024) -> None:
        """(Re)start the second check; back when it listens."""
        self.start("hold", serve_hold(Path(self.layout.hold_socket), self._hold, self._refuse, pending_max))
        until(Path(self.layout.hold_socket).exists, "the second check listens")

    def serve_refuse(self) -> None:
        """(Re)start the server for opaque connections; back when it listens."""
        self.start("refuse", serve_refuse(Path(self.layout.refuse_socket)))
        until(Path(self.layout.refuse_socket).exists, "refuse listens")

    def serve_scrub(self) -> None:
        """(Re)start the scrubber; back when it listens."""
        self.start("scrub", serve_scrub(Path(self.layout.scrub_socket), self.hidden.answer))
        until(Path(self.layout.scrub_socket).exists, "the scrubber listens")

    def serve_tunnel(self) -> None:
        """(Re)start the check of opaque connections; back when it listens."""
        path = Path(self.layout.tunnel_socket)
        names = lambda cell, address, port: self.meant.get(address, ())  # noqa: E731
        self.start("tunnel", serve_tunnel(path, self._decide, self._refuse, names, 1024))
        until(path.exists, "the check of tunnels listens")

    def serve_sds(self) -> None:
        """(Re)start SDS; back when it listens."""
        desk = Desk(ca.load(self.directory / "node"), Ration(nobody, unasked=10_000))
        self.start("sds", serve_sds(Path(self.layout.sds_socket), desk, lambda: datetime.now(UTC)))
        until(Path(self.layout.sds_socket).exists, "SDS listens")

    def fresh(self) -> Boundary:
        """Forget what other tests did."""
        self.script = self.hold_script = self.permit
        self.held.clear()
        for echo in self.echoes:
            echo.heads.clear()
            echo.go_on.clear()
            echo.say = None
        self.seen.clear()
        self.refused.clear()
        return self

    @property
    def echoes(self) -> tuple[Echo, ...]:
        return self.upstream, self.plain, self.wrong, self.strange

    @property
    def dialled(self) -> int:
        """Requests and connections that any upstream has ever seen; compare before and after."""
        return sum(len(echo.heads) + echo.connections for echo in self.echoes)

    def stop(self, name: str) -> None:
        async def end() -> None:
            task = self._servers.pop(name)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self.run(end())

    # -- a cell's end ------------------------------------------------------------------------------------------------

    def door(self, name: str) -> str:
        """The socket of a door: first, tcp or tls."""
        return {"first": self.layout.proxy_socket, "tcp": self.layout.tcp_socket, "tls": self.layout.tls_socket}[name]

    def port(self) -> int:
        return next(self._ports)

    def raw(self, header: bytes, door: str | None = None) -> socket.socket:
        """A connection on which only `header` was sent. `door`: another socket of Envoy's than the first."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(10)
        sock.connect(door or self.layout.proxy_socket)
        sock.sendall(header)
        return sock

    def connect(
        self, host: str = "api.test", port: int = 443, *, tls: bool = True, sni: str | None = None, **header: object
    ) -> socket.socket:
        """A connection of cell 1 to `host`, with the virtual address as destination and the CA verified."""
        door = header.pop("door", None)
        destination = header.pop("destination", None) or (flow.virtual(host)[0], port)
        header.setdefault("source", ("100.64.0.1", self.port()))
        sock = self.raw(proxy_header(destination, **header), door)
        if not tls:
            return sock
        context = ssl.create_default_context(cafile=self.ca_file)
        context.set_alpn_protocols(["http/1.1"])
        try:
            return context.wrap_socket(sock, server_hostname=sni or host)
        finally:
            sock.close()  # detached by now, unless the handshake failed

    def ask(self, target: str = "/", host: str = "api.test", **options: object) -> Answer:
        """One request on a connection of its own."""
        names = ("method", "headers", "body", "authority")
        request = {key: options.pop(key) for key in names if key in options}
        with self.connect(host, **options) as sock:
            return exchange(sock, target, str(request.pop("authority", host)), **request)

    def relay(self, host: str, port: int = 443) -> int:
        """A port on 127.0.0.1 that leads to the boundary as flows of cell 1 to `host`, for clients of others."""

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.write_eof()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inner_reader, inner_writer = await asyncio.open_unix_connection(self.layout.proxy_socket)
            inner_writer.write(proxy_header((flow.virtual(host)[0], port), source=("100.64.0.1", self.port())))
            try:
                await asyncio.gather(carry(reader, inner_writer), carry(inner_reader, writer), return_exceptions=True)
            finally:
                inner_writer.transport.abort()
                writer.transport.abort()

        server = self.run(asyncio.start_server(accept, "127.0.0.1", 0))
        self.opened.append(server)
        return server.sockets[0].getsockname()[1]

    @property
    def ca_file(self) -> str:
        """What a cell trusts."""
        return str(self.directory / "root" / ca.ROOT_CERTIFICATE)

    def lines(self) -> list[dict]:
        """What Envoy has written to the spool so far; half a line is still being written."""
        path = Path(self.layout.spool)
        return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []

    def line(self, **wanted: object) -> dict:
        """The line of the spool with these values, once it is there."""

        def look() -> dict | None:
            return next((x for x in self.lines() if all(x.get(k) == v for k, v in wanted.items())), None)

        return until(look, f"a spool line with {wanted}; there are {self.lines()[-5:]}")


class Answer:
    """A response: status, headers (lower-case; a list of pairs), body; `json` where it is JSON."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = [(k.lower(), v) for k, v in response.getheaders()]
        self.body = response.read()

    @property
    def json(self) -> dict:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)

    @property
    def upstream_headers(self) -> dict[str, str]:
        """The headers that the upstream saw; the test fails where one came twice."""
        pairs = self.json["headers"]
        assert len({k for k, _ in pairs}) == len(pairs), pairs
        return dict(pairs)


def exchange(
    sock: socket.socket,
    target: str,
    authority: str,
    *,
    method: str = "GET",
    headers: tuple[tuple[str, str], ...] = (),
    body: bytes = b"",
) -> Answer:
    """Write one request by hand, read its response."""
    lines = [f"{method} {target} HTTP/1.1", f"host: {authority}", *(f"{k}: {v}" for k, v in headers)]
    if body:
        lines.append(f"content-length: {len(body)}")
    return send(sock, "\r\n".join([*lines, "", ""]).encode("latin-1") + body, method)


def send(sock: socket.socket, data: bytes, method: str = "GET") -> Answer:
    """Write bytes, read a response."""
    sock.sendall(data)
    with contextlib.closing(http.client.HTTPResponse(sock, method=method)) as response:
        response.begin()
        return Answer(response)
