"""The servers that Envoy speaks with, on real Unix sockets, without Envoy."""

import asyncio
import contextlib
import json
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvloop
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.secret.v3 import sds_pb2_grpc

from remit.boundary import ca, check_wire, tunnel_check
from remit.boundary.check_server import serve_check
from remit.boundary.leaf_ration import Ration, nobody
from remit.boundary.refuse import serve_refuse
from remit.boundary.replies import SPOKEN
from remit.boundary.sds import Desk
from remit.boundary.sds_server import serve_sds
from remit.control.decide import Denied, Permitted
from remit.core import flow
from remit.core.reason import Reason, Refusal
from remit.core.request import Evidence

PERMITTED = Permitted(record="r-1", headers=(), pin="192.0.2.1", pin_port=443, target=b"/", pool="p")
IDENTITY = "x-remit-connection: v=- - - - - -\r\nx-remit-length: v=-\r\n"


@contextlib.asynccontextmanager
async def serving(path: Path, server: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(server)
    try:
        async with asyncio.timeout(60):
            while not (path.exists() and stat.S_IMODE(path.stat().st_mode) == 0o660):
                await asyncio.sleep(0.005)
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0)


class Refusals:
    """Stands for `Decider.refuse`: keeps what was refused."""

    def __init__(self) -> None:
        self.seen: list[tuple[Refusal, bytes, str, dict[str, object]]] = []

    async def __call__(self, refusal: Refusal, *, token: bytes = b"", flow: str = "", **facts: object) -> Denied:
        self.seen.append((refusal, token, flow, facts))
        return Denied(record="r-9", refusal=refusal)


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    async with asyncio.timeout(60):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return int(head.split()[1]), await reader.readexactly(length)


def asked(path: str = "/", extra: str = "", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: api.test\r\n{IDENTITY}{extra}\r\n".encode()


async def test_requests_of_one_connection_are_answered_in_turn(tmp_path: Path) -> None:
    path, targets = tmp_path / "c", list[str]()

    async def decide(evidence: Evidence) -> Permitted | Denied:
        targets.append(evidence.target)
        return PERMITTED

    async with serving(path, serve_check(path, decide, Refusals(), 10)):
        reader, writer = await asyncio.open_unix_connection(str(path))
        for target in ("/a", "/b?c"):
            writer.write(asked(target)[:20])
            await writer.drain()
            writer.write(asked(target)[20:])
            assert await answer(reader) == (200, b"")
        writer.close()
    assert targets == ["/a", "/b?c"]
    assert not path.exists()


async def test_a_decision_whose_wait_was_cancelled_is_a_denial_and_takes_no_place(tmp_path: Path) -> None:
    path, waits = tmp_path / "c", list[asyncio.Future[Permitted]]()

    async def decide(evidence: Evidence) -> Permitted | Denied:
        waits.append(asyncio.get_running_loop().create_future())
        return await waits[-1]

    async with serving(path, serve_check(path, decide, Refusals(), 1)):
        reader, writer = await asyncio.open_unix_connection(str(path))
        for _ in range(3):
            writer.write(asked())
            async with asyncio.timeout(60):
                while not (waits and not waits[-1].done()):
                    await asyncio.sleep(0.005)
            waits[-1].cancel()
            status, body = await answer(reader)
            assert (status, json.loads(body)["reason"]) == (473, Reason.NOT_READY.value)
        writer.close()


async def test_a_permit_that_nobody_is_there_to_hear_is_told_as_over(tmp_path: Path) -> None:
    path, unheard = tmp_path / "c", asyncio.Queue[str]()
    begun, decided = asyncio.Event(), asyncio.Event()

    async def decide(evidence: Evidence) -> Permitted | Denied:
        begun.set()
        if evidence.target == "/waits":
            await decided.wait()
        return PERMITTED

    async with serving(path, serve_check(path, decide, Refusals(), 10, unheard=unheard.put)), asyncio.timeout(60):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(asked())
        assert await answer(reader) == (200, b"")
        assert unheard.empty()
        begun.clear()
        writer.write(asked("/waits"))
        await begun.wait()
        writer.close()
        await writer.wait_closed()
        reader, other = await asyncio.open_unix_connection(str(path))
        other.write(asked())
        assert await answer(reader) == (200, b"")  # by now the end of the first connection is known
        decided.set()
        assert await unheard.get() == "r-1"
        other.close()
    assert unheard.empty()


async def test_it_is_told_which_process_asks(tmp_path: Path) -> None:
    path, met = tmp_path / "c", list[int]()

    async def decide(_: Evidence) -> Permitted | Denied:
        assert met == [os.getpid()], "before the first decision"
        return PERMITTED

    async with serving(path, serve_check(path, decide, Refusals(), 10, met=met.append)):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(asked())
        assert await answer(reader) == (200, b"")
        writer.close()


async def test_a_request_for_a_websocket_leaves_the_connection_usable(tmp_path: Path) -> None:
    path, upgrades = tmp_path / "c", list[str | None]()

    async def decide(evidence: Evidence) -> Permitted | Denied:
        upgrades.append(evidence.headers.get("upgrade"))
        return PERMITTED

    async with serving(path, serve_check(path, decide, Refusals(), 10)):
        reader, writer = await asyncio.open_unix_connection(str(path))
        for extra in ("connection: upgrade\r\nupgrade: websocket\r\n", ""):
            writer.write(asked(extra=extra))
            assert await answer(reader) == (200, b"")
        writer.close()
    assert upgrades == ["websocket", None]


async def test_a_dishonest_request_is_refused_and_recorded_without_being_decided(tmp_path: Path) -> None:
    path, refusals = tmp_path / "c", Refusals()

    async def decide(evidence: Evidence) -> Permitted | Denied:
        raise AssertionError("decided")

    async with serving(path, serve_check(path, decide, refusals, 10)):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(asked("/a?secret", "x-remit-connection: v=1.2.3.4:5\r\n"))
        status, body = await answer(reader)
        writer.close()
    assert (status, json.loads(body)["reason"], json.loads(body)["record"]) == (400, "malformed", "r-9")
    assert refusals.seen[0][3]["path"] == "/a"


async def test_a_fault_of_ours_is_a_denial(tmp_path: Path) -> None:
    path = tmp_path / "c"

    async def decide(evidence: Evidence) -> Permitted | Denied:
        raise RuntimeError("a fault")

    async with serving(path, serve_check(path, decide, Refusals(), 10)):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(asked())
        status, body = await answer(reader)
        writer.close()
    assert status == SPOKEN[503] and json.loads(body)["reason"] == "not_ready"


async def test_more_than_may_wait_are_refused_at_once(tmp_path: Path) -> None:
    path, gate = tmp_path / "c", asyncio.Event()

    async def decide(evidence: Evidence) -> Permitted | Denied:
        await gate.wait()
        return PERMITTED

    async with serving(path, serve_check(path, decide, Refusals(), 2)):
        held = [await asyncio.open_unix_connection(str(path)) for _ in range(3)]
        for _, writer in held:
            writer.write(asked())
        answers = [asyncio.ensure_future(answer(reader)) for reader, _ in held]
        done, _ = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED, timeout=5)
        status, body = done.pop().result()
        assert (status, json.loads(body)["reason"]) == (SPOKEN[503], "overloaded")
        gate.set()
        assert sorted(status for status, _ in await asyncio.gather(*answers)) == [200, 200, SPOKEN[503]]
        for _, writer in held:
            writer.close()


async def test_a_cell_that_fills_what_may_wait_leaves_every_other_cell_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remit.boundary.check_server.SHARE", 2)
    path, gate = tmp_path / "c", asyncio.Event()

    async def decide(evidence: Evidence) -> Permitted | Denied:
        await gate.wait()
        return PERMITTED

    async with serving(path, serve_check(path, decide, Refusals(), 6)), asyncio.timeout(60):
        held: dict[int, list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = {1: [], 2: [], 3: []}
        for cell, count in ((1, 9), (2, 3), (3, 2)):
            for number in range(count):
                four, six = flow.source(cell)
                peer = f"v={four if number % 2 else f'[{six}]'}:4000 - - - - -".encode()
                reader, writer = await asyncio.open_unix_connection(str(path))
                writer.write(asked().replace(b"v=- - - - - -", peer))
                held[cell].append((reader, writer))
                await asyncio.sleep(0)
        answers = {cell: [asyncio.ensure_future(answer(one)) for one, _ in of] for cell, of in held.items()}
        refused = asyncio.gather(*answers[1][6:], answers[2][2])
        assert {status for status, _ in await refused} == {SPOKEN[503]}
        gate.set()
        for cell, permitted in ((1, 6), (2, 2), (3, 2)):
            got = [status for status, _ in await asyncio.gather(*answers[cell])]
            assert got.count(200) == permitted, cell
        for of in held.values():
            for _, writer in of:
                writer.close()


@pytest.mark.parametrize(
    ("method", "path"), [("FROB", "/"), ("GET", "/a?q=\u00fc"), ("FROB", "/a?q=\u00fc"), ("VERSION-CONTROL", "/\u00fc")]
)
async def test_what_the_parser_does_not_take_is_decided_all_the_same(tmp_path: Path, method: str, path: str) -> None:
    socket, seen = tmp_path / "c", list[Evidence]()

    async def decide(evidence: Evidence) -> Permitted | Denied:
        seen.append(evidence)
        return PERMITTED

    async with serving(socket, serve_check(socket, decide, Refusals(), 10)):
        reader, writer = await asyncio.open_unix_connection(str(socket))
        for extra in ("x-a: b\r\n", "content-length: 0\r\n"):
            writer.write(asked(path, extra, method))
            assert (await answer(reader))[0] == 200
        writer.write(asked("/after"))
        assert (await answer(reader))[0] == 200, "the connection goes on"
        writer.close()
    assert [(one.method, one.target.encode("latin-1").decode()) for one in seen[:2]] == [(method, path)] * 2
    assert seen[0].headers["x-a"] == "b" and seen[0].authority == "api.test"


@pytest.mark.parametrize(
    "data",
    [
        asked("/", "x: a\x01b\r\n", "FROB"),
        asked("/", "x y: a\r\n", "FROB"),
        asked("/", " folded\r\n", "FROB"),
        asked("/", "content-length: 2\r\n", "FROB"),
        asked("/", "content-length: 0\r\ncontent-length: 0\r\n", "FROB"),
        asked("/", "transfer-encoding: chunked\r\n", "FROB"),
        asked("/", "", "FROB") + b"more",
        asked("/", "", "FROB") + asked("/"),
        asked("http://api.test/", "", "FROB"),
        asked("/a b", "", "FROB"),
        asked("/", "", "FROB").replace(b"HTTP/1.1", b"HTTP/1.0"),
        asked("/", "", "FROB").replace(b"\r\n", b"\n"),
    ],
)
def test_what_is_not_exactly_one_request_is_not_read_plainly(data: bytes) -> None:
    assert check_wire.plainly(data) is None


@pytest.mark.parametrize("data", [b"\0\1\2\3\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a: " + b"x" * (200 << 10)])
async def test_what_is_no_request_ends_the_connection(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "c"

    async def decide(evidence: Evidence) -> Permitted | Denied:
        raise AssertionError("decided")

    async with serving(path, serve_check(path, decide, Refusals(), 2)):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(data)
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        writer.transport.abort()


def posted(rest: bytes, port: int = 5432, **more: str) -> bytes:
    """A refused connection as Envoy hands it on."""
    denied = Denied(record="r-9", refusal=Refusal(Reason.NO_CAPABILITY, "nothing covers it"))
    refused = tunnel_check.render(denied).split(b"x-remit-refused: ")[1].split(b"\r\n")[0].decode()
    headers = {"host": "tunnel", "transfer-encoding": "chunked", "x-remit-to": f"198.18.1.2:{port}"}
    lines = "".join(f"{k}: {v}\r\n" for k, v in (headers | {"x-remit-refused": refused} | more).items())
    body = b"%x\r\n%b\r\n" % (len(rest), rest) if rest else b""
    return f"POST /remit/tcp HTTP/1.1\r\n{lines}\r\n".encode() + body


async def spoken(reader: asyncio.StreamReader) -> bytes:
    """The body of the answer, to its end."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    said = b""
    while size := int(await reader.readline(), 16):
        said += (await reader.readexactly(size + 2))[:-2]
    return said


def packet(code: int, body: bytes = b"") -> bytes:
    return (8 + len(body)).to_bytes(4, "big") + code.to_bytes(4, "big") + body


async def test_a_postgresql_client_reads_why_it_was_refused(tmp_path: Path) -> None:
    path = tmp_path / "r"
    async with serving(path, serve_refuse(path)):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(posted(packet(80877103)))
        async with asyncio.timeout(60):
            assert (await reader.readuntil(b"1\r\nN\r\n")).startswith(b"HTTP/1.1 200 ")
            start = packet(196608, b"user\0agent\0\0")
            writer.write(b"%x\r\n%b\r\n" % (len(start), start))
            said = await reader.read()
        writer.close()
    assert b"C0A000\0" in said and b"record r-9" in said and b"no_capability" in said


async def test_a_redis_client_reads_why_it_was_refused(tmp_path: Path) -> None:
    path = tmp_path / "r"
    async with serving(path, serve_refuse(path)):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(posted(b"*1\r\n$4\r\nPING\r\n", 6379))
        async with asyncio.timeout(60):
            said = await spoken(reader)
        writer.close()
    assert said.startswith(b"-ERR remit: No capability") and said.endswith(b"\r\n") and said.count(b"\r") == 1


@pytest.mark.parametrize(
    ("data", "port", "first"),
    [
        (b"SSH-2.0-x\r\n", 22, b"SSH-2.0-remit\r\n"),
        (b"", 25, b"554 "),
        (b"EHLO me\r\n", 25, b"554 "),
        (b"", 21, b"530 "),
        (b"", 110, b"-ERR "),
        (b"", 143, b"* BYE "),
        (b"", 3306, b""),
        (b"002egit-upload-pack /a.git\0host=code.test\0", 9418, b"0"),
    ],
)
async def test_clients_of_other_protocols_read_why_they_were_refused(
    tmp_path: Path, data: bytes, port: int, first: bytes
) -> None:
    path = tmp_path / "r"
    async with serving(path, serve_refuse(path)):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(posted(data, port))
        async with asyncio.timeout(60):
            said = await spoken(reader)
        writer.close()
    assert said.startswith(first) and b"No capability" in said and b"record r-9" in said


@pytest.mark.parametrize(("data", "port"), [(b"\x10\x20mqtt", 1883), (b"", 7777)])
async def test_other_connections_are_closed_in_time(tmp_path: Path, data: bytes, port: int) -> None:
    path = tmp_path / "r"
    async with serving(path, serve_refuse(path)):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(posted(data, port))
        async with asyncio.timeout(60):
            assert await spoken(reader) == b""
        writer.close()


async def test_the_cell_that_has_most_refused_connections_makes_room_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remit.boundary.refuse.CONNECTIONS_MAX", 8)
    path, half = tmp_path / "r", packet(80877103)

    async def opened(cell: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(posted(half, **{"x-remit-flow": f"{flow.source(cell)[0]}:4000"}))
        await reader.readuntil(b"1\r\nN\r\n")  # it waits for the rest of the start-up
        return reader, writer

    async with serving(path, serve_refuse(path)), asyncio.timeout(60):
        quiet = [await opened(1), await opened(2)]
        flood = [await opened(3) for _ in range(30)]
        quiet.append(await opened(4))
        for reader, _ in flood[:-5]:
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b"", "the oldest of the cell that has most"
        start = packet(196608, b"user\0agent\0\0")
        for reader, writer in [*quiet, *flood[-5:]]:
            writer.write(b"%x\r\n%b\r\n" % (len(start), start))
            assert b"record r-9" in await reader.read()
        for _, writer in [*quiet, *flood]:
            writer.close()


@pytest.mark.parametrize(
    "data",
    [b"\0\1\2\r\n\r\n", posted(b"x", **{"x-remit-refused": "nonsense"}), posted(b"x", **{"x-remit-refused": "e30="})],
)
async def test_without_a_refusal_a_connection_is_closed_unread(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "r"
    async with serving(path, serve_refuse(path)):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(data)
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        writer.close()


Ask = Callable[[str], Awaitable[Any]]


@pytest.fixture
async def ask(tmp_path: Path) -> AsyncIterator[Ask]:
    """Asks a running service for one name on a stream of its own, which stays open."""
    now = datetime.now(UTC)
    ca.ensure(tmp_path / "root", tmp_path / "node", now)
    path = tmp_path / "s"
    server = serve_sds(path, Desk(ca.load(tmp_path / "node"), Ration(nobody, unasked=2)), lambda: now)
    async with serving(path, server), grpc.aio.insecure_channel(f"unix:{path}") as channel:
        stub = sds_pb2_grpc.SecretDiscoveryServiceStub(channel)

        async def asked(name: str) -> Any:
            call = stub.DeltaSecrets()
            await call.write(discovery_pb2.DeltaDiscoveryRequest(resource_names_subscribe=[name]))
            async with asyncio.timeout(60):
                return await call.read()

        yield asked


async def test_a_leaf_comes_with_its_key_over_grpc(ask: Ask) -> None:
    response = await ask("api.test")
    secret = secret_pb2.Secret()
    assert response.resources[0].resource.Unpack(secret)
    assert secret.name == response.resources[0].name == "api.test"
    assert secret.tls_certificate.certificate_chain.inline_bytes.count(b"BEGIN CERTIFICATE") == 2
    assert secret.tls_certificate.private_key.inline_bytes.startswith(b"-----BEGIN PRIVATE KEY")


async def test_a_name_that_is_not_canonical_or_one_too_many_is_removed_over_grpc(ask: Ask) -> None:
    assert list((await ask("API.test")).removed_resources) == ["API.test"]
    assert [len((await ask(name)).resources) for name in ("a.test", "b.test")] == [1, 1]
    assert list((await ask("c.test")).removed_resources) == ["c.test"]
    assert len((await ask("a.test")).resources) == 1


SERVERS_ON_UVLOOP = (
    test_requests_of_one_connection_are_answered_in_turn,
    test_a_request_for_a_websocket_leaves_the_connection_usable,
    test_a_postgresql_client_reads_why_it_was_refused,
)


@pytest.mark.parametrize("test", SERVERS_ON_UVLOOP)
def test_all_of_it_works_on_uvloop_whose_transports_are_not_asyncios(
    test: Callable[[Path], Coroutine[Any, Any, None]], tmp_path: Path
) -> None:
    uvloop.run(test(tmp_path))
