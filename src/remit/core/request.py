"""A request: first as the boundary reports it (`Evidence`), then as rules may read it (`Request`).

Everything in `Evidence` but the addresses was chosen by the agent. `read` makes sure that the connection, the TLS
handshake and the HTTP request speak of one and the same host and port, in one spelling; the rest of Remit sees only
the result (attacks: SNI ≠ Host, absolute form ≠ Host, port confusion, a second stream of a coalesced connection).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from remit.core import flow, names, paths
from remit.core.capability import DEFAULT_PORT, Protocol
from remit.core.reason import Reason, Refusal

_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
MAX_METHOD = 32
_PROXY_PORT = str(flow.PROXY_PORT)
FORBIDDEN_METHODS = frozenset({"CONNECT", "TRACE", "TRACK"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Opaque:
    """A connection that is carried unread. `names`: of those that a virtual address may stand for, the ones that a
    capability of the task covers; where there is none, one that the cell asked for."""

    protocol: Protocol
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the boundary says of one request.

    `peer` is "address:port" of the flow; `destination` the original destination, likewise (IPv6 in brackets).
    `headers`: lower-case names, one entry a name (Envoy joins repeated ones with a comma); identity headers are gone.
    """

    token: bytes
    peer: str
    direct_peer: str
    destination: str
    sni: str
    tls: bool
    method: str
    authority: str
    target: str
    headers: Mapping[str, str]
    opaque: Opaque | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request in canonical form. `target` is what the agent sent; `path` is it for matching, without its query."""

    method: str
    protocol: Protocol
    host: str
    port: int
    path: str
    query: str
    target: str
    websocket: bool
    flow: str
    cell: int
    headers: Mapping[str, str]
    authority: str = ""
    """`Host` as the agent wrote it, and as the upstream gets it."""


def read(evidence: Evidence) -> Request | Refusal:
    """The request that `evidence` reports, or why it cannot be read as exactly one request."""
    cell = flow.cell_at(evidence.peer)
    if cell is None or evidence.peer != evidence.direct_peer:
        return Refusal(Reason.FLOW_UNKNOWN, f"the connection comes from {_shown(evidence.peer)}, which is no cell")
    if evidence.opaque is not None:
        return _connection(evidence, evidence.opaque, cell)
    protocol = Protocol.HTTPS if evidence.tls else Protocol.HTTP
    named = names.split_authority(evidence.authority, DEFAULT_PORT[protocol])
    if named is None:
        return Refusal(Reason.NAME_INVALID, f"{_shown(evidence.authority)} is not a host name in canonical form")
    host, port = named
    if evidence.authority.partition(":")[0].endswith("."):
        # Upstreams are asked for the name as written, and their certificates have no final dot.
        return Refusal(Reason.NAME_INVALID, f"{_shown(evidence.authority)} ends in a dot; leave it out")
    refusal = _disagreement(evidence, host, port)
    if refusal is not None:
        return refusal
    method = evidence.method
    if not method or len(method) > MAX_METHOD or not _TOKEN.issuperset(method) or method.upper() in FORBIDDEN_METHODS:
        return Refusal(Reason.METHOD_INVALID, f"method {_shown(method)} is never forwarded")
    split = paths.split_target(evidence.target)
    if split is None:
        return Refusal(Reason.PATH_AMBIGUOUS, _unsplit(evidence.target))
    path, query = split
    fatal = paths.ambiguities(path) - paths.OPTIONAL
    if fatal:
        return Refusal(
            Reason.PATH_AMBIGUOUS, f"the path has {', '.join(sorted(fatal))}: servers disagree on what it means"
        )
    return Request(
        method=method,
        protocol=protocol,
        host=host,
        port=port,
        path=paths.normal(path),
        query=query,
        target=evidence.target,
        websocket=evidence.headers.get("upgrade", "").lower() == "websocket",
        flow=evidence.peer,
        cell=cell,
        headers=evidence.headers,
        authority=evidence.authority,
    )


def _unsplit(target: str) -> str:
    """Why `target` is none that is forwarded."""
    if len(target) > paths.MAX_TARGET:
        return f"path and query have {len(target)} bytes, {paths.MAX_TARGET} at most are forwarded"
    if not target.isascii():
        return f"{_shown(target)} has bytes beyond ASCII: percent-encode them"
    return f"{_shown(target)} is not a path in origin form (RFC 9112 §3.2.1)"


def _connection(evidence: Evidence, opaque: Opaque, cell: int) -> Request | Refusal:
    """A connection whose bytes nobody reads: its name is that of the handshake, or the one its address stands for."""
    to, _, port = evidence.destination.rpartition(":")
    to = to.strip("[]")
    address = names.address_literal(to)
    if address is None or not port.isdigit():
        return Refusal(Reason.DESTINATION_MISMATCH, f"the connection went to {_shown(evidence.destination)}")
    if opaque.protocol is Protocol.TLS:
        host = names.canonical(evidence.sni)
        if host is None or host != evidence.sni or names.address_literal(host) is not None:
            return Refusal(
                Reason.NAME_INVALID,
                f"the TLS handshake named {_shown(evidence.sni or 'no host')}, which is no host name in canonical form",
            )
        if to not in flow.virtual(host):
            return Refusal(
                Reason.DESTINATION_MISMATCH,
                f"the connection went to {_shown(to)}, not to the address that DNS in the cell gives for {host}",
            )
    elif not flow.is_virtual(address):
        host = to
    elif len(opaque.names) == 1 and to in flow.virtual(opaque.names[0]):
        host = opaque.names[0]
    else:
        meant = "several names" if len(opaque.names) > 1 else "no name that this cell has asked for"
        return Refusal(Reason.DESTINATION_MISMATCH, f"{_shown(to)} is the address of {meant}")
    return Request(
        method="CONNECT",
        protocol=opaque.protocol,
        host=host,
        port=int(port),
        path="",
        query="",
        target="/",
        websocket=False,
        flow=evidence.peer,
        cell=cell,
        headers={},
    )


def _disagreement(evidence: Evidence, host: str, port: int) -> Refusal | None:
    literal = names.address_literal(host)
    if evidence.tls:
        if literal is not None and not evidence.sni:
            pass  # RFC 6066 §3: a literal address has no SNI
        elif evidence.sni != host:
            return Refusal(
                Reason.NAME_MISMATCH,
                f"the TLS handshake named {_shown(evidence.sni or 'no host')}, the request names {_shown(host)}",
            )
    to, _, to_port = evidence.destination.rpartition(":")
    to = to.strip("[]")
    if not evidence.tls and to_port == _PROXY_PORT and flow.is_proxy(to, flow.PROXY_PORT):
        return None  # a request to a proxy: it alone says where it leads (RFC 9112 §3.2.2)
    if to_port != str(port):
        return Refusal(
            Reason.NAME_MISMATCH, f"the connection went to port {_shown(to_port)}, the request names port {port}"
        )
    expected = (host,) if literal is not None else flow.virtual(host)
    if to not in expected:
        return Refusal(
            Reason.DESTINATION_MISMATCH,
            f"the connection went to {_shown(to)}, not to the address that DNS in the cell gives for {_shown(host)}",
        )
    return None


def _shown(text: str) -> str:
    """Agent-supplied text made safe to show: printable ASCII, at most 120 characters."""
    short = text if len(text) <= 120 else text[:117] + "..."
    return ascii(short)[1:-1]
