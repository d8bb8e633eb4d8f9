"""HTTP/2, gRPC and WebSockets through a real Envoy, in each combination of protocols on its two sides."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

import boundary_h2
import grpc
import pytest
import websockets.sync.client
from boundary_h2 import ACK, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, frame
from boundary_harness import SECRET, Boundary, until
from websockets.asyncio.server import serve


def context(boundary: Boundary, *protocols: str) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=boundary.ca_file)
    made.set_alpn_protocols(list(protocols))
    return made


def curl(boundary: Boundary, *arguments: str, port: int = 443, scheme: str = "https") -> subprocess.CompletedProcess:
    relay = boundary.relay("api.test", port)
    command = ["curl", "-sS", "--max-time", "8", "--cacert", boundary.ca_file, "--noproxy", "*"]
    connect = ["--connect-to", f"api.test:{port}:127.0.0.1:{relay}"]
    return subprocess.run(
        [*command, *connect, *arguments, f"{scheme}://api.test/a?b=c"],
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )


def test_an_http2_client_reaches_an_http1_upstream(boundary: Boundary) -> None:
    found = curl(boundary, "--http2", "-w", "\n%{http_version} %{http_code}", "-d", "hello")
    body, _, status = found.stdout.rpartition("\n")
    assert status == "2 200", found
    seen = json.loads(body)
    assert (seen["method"], seen["target"], seen["body"]) == ("POST", "/a?b=c", "hello")
    assert dict(seen["headers"])["authorization"] == SECRET.decode()
    assert not any(name.startswith(("x-remit", "x-envoy", "x-forwarded")) for name, _ in seen["headers"])
    assert (boundary.seen[0].authority, boundary.seen[0].target) == ("api.test", "/a?b=c")


def test_http2_without_tls_is_governed_like_the_rest(boundary: Boundary) -> None:
    boundary.script = boundary.deny
    found = curl(boundary, "--http2-prior-knowledge", "-w", "\n%{http_version} %{http_code}", port=80, scheme="http")
    assert found.stdout.endswith("2 403"), found
    assert boundary.seen[0].tls is False


def test_every_stream_of_a_connection_is_checked_for_itself(boundary: Boundary) -> None:
    boundary.script = boundary.governed
    sock = boundary.connect(tls=False)
    with context(boundary, "h2").wrap_socket(sock, server_hostname="api.test") as tls:
        hosts = (b"api.test", b"other.test", b"api.test")
        found = boundary_h2.talk(tls, [boundary_h2.request(b"/%d" % n, host) for n, host in enumerate(hosts)])
    assert json.loads(found.bodies[1])["target"] == "/0"
    assert json.loads(found.bodies[3])["reason"] == "name_mismatch"
    assert json.loads(found.bodies[5])["target"] == "/2"


def test_a_method_of_nobody_and_a_query_of_raw_bytes_are_decided_with_a_reason(boundary: Boundary) -> None:
    """Envoy passes both on over HTTP/2, and what asks the decision service of them is no request to its parser."""
    boundary.script = boundary.governed
    for arguments, seen in (
        (["-X", "FROB"], ("FROB", "/a?b=c")),
        (["-G", "-d", "q=\u00fc"], ("GET", "/a?b=c&q=\u00c3\u00bc")),
    ):
        found = curl(boundary, "--http2", "-w", "\n%{http_code}", *arguments)
        assert not found.stdout.endswith("503"), found
        assert (boundary.seen[-1].method, boundary.seen[-1].target) == seen
    assert json.loads(found.stdout.rpartition("\n")[0])["reason"] == "path_ambiguous"
    assert "percent-encode" in found.stdout


def test_a_credential_goes_only_to_the_stream_it_was_given_for(boundary: Boundary) -> None:
    boundary.script = lambda evidence: boundary.permit(
        evidence, headers=((b"authorization", b"for " + evidence.target.encode()),), pool=evidence.target
    )
    sock = boundary.connect(tls=False)
    with context(boundary, "h2").wrap_socket(sock, server_hostname="api.test") as tls:
        found = boundary_h2.talk(tls, [boundary_h2.request(b"/%d" % n) for n in range(20)])
    for body in found.bodies.values():
        seen = json.loads(body)
        assert dict(seen["headers"])["authorization"] == f"for {seen['target']}"
    assert len(found.bodies) == 20


@dataclass
class Grpc:
    """A gRPC server: HTTP/2 only. `metadata` is what the last call brought."""

    port: int
    metadata: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def grpc_upstream(boundary: Boundary) -> Iterator[Grpc]:
    found = Grpc(0)

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
            found.metadata = dict(details.invocation_metadata)
            if details.method == "/t.T/Unary":
                return grpc.unary_unary_rpc_method_handler(self.unary)
            if details.method == "/t.T/Stream":
                return grpc.stream_stream_rpc_method_handler(self.stream)
            return None

        def unary(self, request: bytes, context: grpc.ServicerContext) -> bytes:
            if request == b"fail":
                context.abort(grpc.StatusCode.DATA_LOSS, "on purpose")
            context.set_trailing_metadata((("x-trailer", "kept"), ("x-remit-forged", "1")))
            return b"<" + request + b">"

        def stream(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            for request in requests:
                yield b"<" + request + b">"

    certificate, key = boundary.authority.pair("api.test")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, [Handler()])
        credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
        found.port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        boundary.script = boundary.permit_with(pin_port=found.port, pool="grpc")
        yield found
        server.stop(0).wait(5)


@pytest.fixture
def channel(boundary: Boundary) -> Iterator[grpc.Channel]:
    with open(boundary.ca_file, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    options = (
        ("grpc.ssl_target_name_override", "api.test"),
        ("grpc.default_authority", "api.test"),
        ("grpc.enable_http_proxy", 0),
    )
    with grpc.secure_channel(f"127.0.0.1:{boundary.relay('api.test')}", credentials, options) as made:
        yield made


def test_grpc_calls_pass_with_their_trailers_and_the_credential(
    boundary: Boundary, grpc_upstream: Grpc, channel
) -> None:
    response, call = channel.unary_unary("/t.T/Unary").with_call(b"hello", timeout=8)
    assert response == b"<hello>"
    assert dict(call.trailing_metadata()) == {"x-trailer": "kept"}
    assert grpc_upstream.metadata["authorization"] == SECRET.decode()
    assert (boundary.seen[0].method, boundary.seen[0].target) == ("POST", "/t.T/Unary")
    assert boundary.seen[0].headers["content-type"] == "application/grpc"


def test_grpc_errors_of_the_upstream_pass(grpc_upstream: Grpc, channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/t.T/Unary")(b"fail", timeout=8)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.DATA_LOSS, "on purpose")


def test_grpc_streams_pass_message_by_message(grpc_upstream: Grpc, channel) -> None:
    responses = channel.stream_stream("/t.T/Stream")(iter([b"0", b"1", b"2"]), timeout=8)
    assert list(responses) == [b"<0>", b"<1>", b"<2>"]


def test_a_denied_grpc_call_is_permission_denied_and_says_why(boundary: Boundary, grpc_upstream: Grpc, channel) -> None:
    boundary.script = boundary.deny
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/t.T/Unary")(b"hello", timeout=8)
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert json.loads(caught.value.details())["reason"] == "no_capability"
    assert grpc_upstream.metadata == {}


def test_an_http1_client_reaches_an_http2_upstream(boundary: Boundary, grpc_upstream: Grpc) -> None:
    headers = (("content-type", "application/grpc"), ("te", "trailers"))
    answer = boundary.ask("/t.T/Unary", method="POST", headers=headers, body=b"\x00\x00\x00\x00\x02hi")
    assert (answer.status, answer.body) == (200, b"\x00\x00\x00\x00\x04<hi>")
    assert boundary.seen[0].headers["te"] == "trailers"


def test_websockets_pass_both_ways_over_http1_even_if_the_upstream_would_speak_http2(boundary: Boundary) -> None:
    seen: list[str | None] = []

    async def echo(connection) -> None:
        seen.append(connection.request.headers.get("authorization"))
        async for message in connection:
            await connection.send(message)

    async def start() -> int:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(*boundary.authority.pair("api.test"))
        made.set_alpn_protocols(["h2", "http/1.1"])
        server = await serve(echo, "127.0.0.1", 0, ssl=made)
        boundary.opened.append(server.server)
        return next(iter(server.sockets)).getsockname()[1]

    boundary.script = boundary.permit_with(pin_port=boundary.run(start()), pool="websocket", record="r-websocket")
    sock = boundary.connect(tls=False)
    with websockets.sync.client.connect(
        "wss://api.test/ws", sock=sock, ssl=context(boundary, "http/1.1"), server_hostname="api.test", proxy=None
    ) as client:
        client.send("hello")
        assert client.recv(8) == "hello"
        client.send(b"\x00\xff" * 100_000)
        assert client.recv(8) == b"\x00\xff" * 100_000
    assert boundary.seen[0].headers["upgrade"] == "websocket"
    assert seen == [SECRET.decode()]
    assert boundary.line(record="r-websocket")["status"] == 101


def test_a_connection_that_a_gateway_forgot_is_left_within_seconds(boundary: Boundary) -> None:
    """Its upstream answers once and then nothing more, as behind a gateway that dropped what was idle: without a ping
    every request would find that connection, and hang on it."""
    connections = 0

    async def forgotten(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0))
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readexactly(len(PREFACE))
            kind = SETTINGS
            while kind != HEADERS:
                head = await reader.readexactly(9)
                kind = head[3]
                await reader.readexactly(int.from_bytes(head[:3], "big"))
            writer.write(frame(HEADERS, END_HEADERS | END_STREAM, int.from_bytes(head[5:9], "big"), b"\x88"))
            while await reader.read(4096):
                pass
        writer.close()

    def answered() -> bool:
        with contextlib.suppress(OSError):
            return boundary.ask().status == 200
        return False

    trusted = boundary.authority.server_context("api.test")
    trusted.set_alpn_protocols(["h2"])
    server = boundary.run(asyncio.start_server(forgotten, "127.0.0.1", 0, ssl=trusted))
    boundary.opened.append(server)
    boundary.script = boundary.permit_with(pin_port=server.sockets[0].getsockname()[1])
    assert answered() and connections == 1
    until(lambda: answered() and connections == 2, "a connection that lives is used", 60)
