"""The secret discovery service on a Unix socket: `sds` on the wire. Envoy speaks only gRPC here.

Every name has a stream of its own (Envoy's on-demand selector opens one for each), so a stream that waits must cost
little: it sleeps until its next request, and one sweep looks after renewals and evictions of all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.secret.v3 import sds_pb2_grpc

from remit.boundary.ca import Leaf
from remit.boundary.sds import Answer, Desk, Stream

SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a type name
SWEEP_S = 5.0
SUBSCRIBE_MAX = 64
"""Names in one request; Envoy sends one."""

Now = Callable[[], datetime]


async def serve_sds(path: Path, desk: Desk, now: Now) -> None:
    """Answer Envoy on Unix socket `path` (mode 0660: its directory says who connects) until cancelled."""
    path.unlink(missing_ok=True)
    servicer = _Servicer(desk, now)
    server = grpc.aio.server(
        options=[
            ("grpc.max_concurrent_streams", 1 << 20),
            ("grpc.max_receive_message_length", 1 << 16),
            ("grpc.so_reuseport", 0),
        ]
    )
    sds_pb2_grpc.add_SecretDiscoveryServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    path.chmod(0o660)
    try:
        await servicer.sweep()
    finally:
        await server.stop(grace=None)
        path.unlink(missing_ok=True)


class _Servicer(sds_pb2_grpc.SecretDiscoveryServiceServicer):  # type: ignore[misc]
    def __init__(self, desk: Desk, now: Now) -> None:
        self._desk = desk
        self._now = now
        self._open: dict[Stream, asyncio.Queue[Answer | None]] = {}

    async def sweep(self) -> None:
        """Hand every open stream what is due on it, again and again."""
        while True:
            await asyncio.sleep(SWEEP_S)
            for stream, queue in list(self._open.items()):
                answer = stream.due(self._now())
                if answer is not None:
                    queue.put_nowait(answer)

    async def DeltaSecrets(self, requests: AsyncIterator[object], context: object) -> AsyncIterator[object]:
        stream = Stream(self._desk)
        queue: asyncio.Queue[Answer | None] = asyncio.Queue()
        self._open[stream] = queue
        reader = asyncio.ensure_future(self._read(requests, stream, queue))
        nonce = 0
        try:
            while (answer := await queue.get()) is not None:
                nonce += 1
                yield _response(answer, str(nonce))
        finally:
            reader.cancel()
            del self._open[stream]
            stream.close()
            with contextlib.suppress(asyncio.CancelledError):
                await reader

    async def _read(self, requests: AsyncIterator[object], stream: Stream, queue: asyncio.Queue[Answer | None]) -> None:
        try:
            async for request in requests:
                subscribe = list(request.resource_names_subscribe)[:SUBSCRIBE_MAX]  # type: ignore[attr-defined]
                unsubscribe = list(request.resource_names_unsubscribe)  # type: ignore[attr-defined]
                held = frozenset(request.initial_resource_versions)  # type: ignore[attr-defined]
                answer = stream.receive(subscribe, unsubscribe, self._now(), held)
                if answer is not None:
                    queue.put_nowait(answer)
        finally:
            queue.put_nowait(None)


def _response(answer: Answer, nonce: str) -> object:
    return discovery_pb2.DeltaDiscoveryResponse(
        type_url=SECRET,
        nonce=nonce,
        resources=[_resource(leaf) for leaf in answer.leaves],
        removed_resources=answer.removed,
    )


def _resource(leaf: Leaf) -> object:
    resource = discovery_pb2.Resource(name=leaf.name, version=f"{leaf.serial:x}")
    resource.resource.Pack(
        secret_pb2.Secret(
            name=leaf.name,
            tls_certificate=common_pb2.TlsCertificate(
                certificate_chain=base_pb2.DataSource(inline_bytes=leaf.chain),
                private_key=base_pb2.DataSource(inline_bytes=leaf.key),
            ),
        )
    )
    return resource
