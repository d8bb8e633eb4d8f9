"""The check's wire, without I/O: what Envoy says of a request to evidence, and a decision to Envoy's answer.

Envoy describes a request by sending it again: method, target, Host and every header are the agent's, the two identity
headers are Envoy's (each begins with `v=`; what is absent reads `-` or nothing). Repeated headers arrive joined with a
comma, so an identity header with a comma is a forgery, whatever let it through. `render` writes header names and values
that came from secrets and policies: what would split or frame the message is refused, never repaired (RFC 9110 §5.5).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from remit.boundary import header_names, replies, scrub_filter
from remit.control.decide import Denied, Held, Permitted
from remit.core import names
from remit.core.reason import Reason, Refusal
from remit.core.request import Evidence

CONNECTION = b"x-remit-connection"
"""Who asks, by connection: peer, direct peer, destination, TLS version, SNI, token, in this order, with spaces between.

Envoy or the forwarder writes all of them but the SNI, which may hold spaces of its own: it stands between the others.
"""
LENGTH = b"x-remit-length"
IDENTITY = (CONNECTION, LENGTH)
REMOVED = b"x-envoy-auth-headers-to-remove"
"""Envoy takes these off the agent's request, and this header off the answer."""
OVERRIDES = frozenset(
    {
        b"x-http-method",
        b"x-http-method-override",
        b"x-method-override",
        b"x-original-url",
        b"x-rewrite-url",
    }
)
"""Frameworks take the method or the path from these instead of the request line (CVE-2018-14773)."""

_ONCE = frozenset({b"host", b"content-length", b"transfer-encoding", b"te", b"upgrade", *IDENTITY})
_ENVOYS = (b"x-envoy-", b"x-forwarded-")
"""Added by Envoy's own client; the agent's are taken off before."""
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_TARGET = re.compile(rb"/[\x21-\x7e\x80-\xff]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A request that must not be acted on, only recorded: as far as they could be read, who sent it and what."""

    refusal: Refusal
    token: bytes
    flow: str
    facts: dict[str, object]


def parse(method: bytes, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Evidence | Rejected:
    """Evidence of one request. Header names are lower-case, as Envoy sends them."""
    found: dict[bytes, bytes] = {}
    why: str | None = None
    for name, value in headers:
        if name not in found:
            found[name] = value
        elif name in _ONCE:
            why = f"header {_shown(name)} came twice"
        else:
            found[name] += b"," + value
    reason = Reason.MALFORMED
    whole, length = found.pop(CONNECTION, b""), found.pop(LENGTH, b"")
    connection = _connection(whole)
    if connection is None or length[:2] != b"v=" or b"," in length:
        why = why or f"identity header {_shown(LENGTH if connection else CONNECTION)} is missing or forged"
        connection = connection or _NOBODY
    if why is None:
        reason, why = Reason.HEADER_INVALID, _ambiguous(found)
    authority = found.pop(b"host", b"").decode("latin-1")
    found.pop(b"content-length", None)  # the check's own: the agent's is x-remit-length
    visible = {
        name.decode("latin-1"): value.decode("latin-1") for name, value in found.items() if not name.startswith(_ENVOYS)
    }
    if length not in (b"v=-", b"v=", b""):
        visible["content-length"] = length[2:].decode("latin-1")
    evidence = Evidence(
        token=connection.token,
        peer=connection.peer,
        direct_peer=connection.direct_peer,
        destination=connection.destination,
        sni=connection.sni,
        tls=connection.tls,
        method=method.decode("latin-1"),
        authority=authority,
        target=target.decode("latin-1"),
        headers=visible,
    )
    return evidence if why is None else _rejected(evidence, Refusal(reason, why))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Connection:
    """What every request of one connection has in common."""

    peer: str = ""
    direct_peer: str = ""
    destination: str = ""
    tls: bool = False
    sni: str = ""
    token: bytes = b""


_NOBODY = _Connection()


@lru_cache(maxsize=8192)
def _connection(whole: bytes) -> _Connection | None:
    """What identity header `CONNECTION` says, or None where Envoy cannot have written it."""
    fields = whole[2:].split(b" ", 4)
    if whole[:2] != b"v=" or b"," in whole or len(fields) != 5:
        return None
    sni, space, token = fields.pop().rpartition(b" ")
    if not space:
        return None
    said = [b"" if field == b"-" else field for field in (*fields, sni, token)]
    named = [field.decode("latin-1") for field in said]
    return _Connection(
        peer=named[0],
        # A Unix socket is a path, and only the forwarder can reach it: there PROXY alone names the flow.
        direct_peer=named[0] if named[1].startswith("/") else named[1],
        destination=named[2],
        tls=bool(named[3]),
        sni=named[4],
        token=said[5],
    )


def _rejected(evidence: Evidence, refusal: Refusal) -> Rejected:
    facts: dict[str, object] = {
        "method": evidence.method[:64],
        "scheme": "https" if evidence.tls else "http",
        "host": evidence.authority[:300],
        "path": evidence.target.partition("?")[0][:1024],
    }
    return Rejected(refusal=refusal, token=evidence.token, flow=evidence.peer[:64], facts=facts)


def _ambiguous(found: dict[bytes, bytes]) -> str | None:
    """Why a header could mean one thing here and another at the upstream, or None."""
    host = found.get(b"host", b"")
    if not host or b"," in host:
        return "the request names no host, or several"
    if b"transfer-encoding" in found:
        return "the request describes its own framing"
    if found.get(b"x-envoy-auth-partial-body", b"false") != b"false":  # Envoy says so itself; an agent cannot
        return "the request was shown in part only"
    if found.get(b"te", b"trailers").lower() != b"trailers":
        return "header te offers more than trailers"
    if found.get(b"upgrade", b"websocket").lower() != b"websocket":
        return "only an upgrade to websocket is governed"
    overriding = OVERRIDES.intersection(found)
    if overriding:
        return f"header {_shown(min(overriding))} replaces what the request line says"
    return None


def _shown(text: bytes, limit: int = 120) -> str:
    return ascii(text[:limit].decode("latin-1"))[1:-1]


_SEARCHED = b"%b: %%b %%b\r\naccept-encoding: identity\r\n" % scrub_filter.PERMIT.encode()
_UNSEARCHABLE = (
    *(b"range", b"request-range", b"x-ms-range", b"if-range"),  # Apache and Azure know ranges under names of their own
    *(b"a-im", b"accept-charset", b"grpc-accept-encoding", b"connect-accept-encoding", b"sec-websocket-extensions"),
)
"""What asks for pieces of an answer (RFC 9110 §14.2, RFC 3229), or for one that is written so that it cannot be
searched for what was injected."""
_METERED = f"{replies.METERED}: {replies.METERED_VALUE}\r\n".encode()
_PERMIT = (
    b"HTTP/1.1 200 OK\r\nx-remit-record: %b\r\nx-remit-pin: %b\r\nx-remit-pin-port: %d\r\n"
    b"x-remit-pool: %b\r\n%bcontent-length: 0\r\n\r\n"
)


HOLD = b"HTTP/1.1 200 OK\r\nx-remit-hold: hold\r\ncontent-length: 0\r\n\r\n"
"""Names no address, so nothing can be dialled by it: it sends the request to the second check (`hold_server`)."""


def render(answer: Permitted | Denied | Held) -> bytes:
    """The answer to Envoy. A permit that cannot be written as headers becomes a denial under the same record."""
    if isinstance(answer, Denied):
        return problem(answer.record, answer.refusal)
    if isinstance(answer, Held):
        return HOLD
    pin = _dialable(answer.pin)
    if pin is None:
        return problem(answer.record, Refusal(Reason.ADDRESS_REFUSED, "the host has no address that can be dialled"))
    lines = [_METERED] if answer.metered else []
    removed = answer.removed
    if answer.hidden:
        lines.append(_SEARCHED % (answer.record.encode(), answer.hidden.encode()))
        removed += _UNSEARCHABLE
    if answer.task:
        lines.append(f"{header_names.TASK}: {answer.task}\r\n".encode())
    if answer.target is not None:
        if not _TARGET.fullmatch(answer.target):
            why = "the path cannot be sent as it would have to be"
            return problem(answer.record, Refusal(Reason.PATH_AMBIGUOUS, why))
        lines.append(b"%b: %b\r\n" % (header_names.TARGET.encode(), answer.target))
    if removed:
        if not all(map(_settable, removed)):
            why = "a header that would have to be taken off cannot be"
            return problem(answer.record, Refusal(Reason.POLICY_FAILED, why))
        lines.append(b"%b: %b\r\n" % (REMOVED, b",".join(removed)))
    for name, value in answer.headers:
        if not _settable(name) or not _VALUE.fullmatch(value):
            return problem(
                answer.record, Refusal(Reason.POLICY_FAILED, f"header {_shown(name)} cannot be set in this request")
            )
        lines.append(b"%b: %b\r\n" % (name, value))
    return _PERMIT % (
        answer.record.encode(),
        pin,
        answer.pin_port,
        answer.pool.encode(),
        b"".join(lines),
    )


@lru_cache(maxsize=16384)
def _dialable(pin: str) -> bytes | None:
    """An address literal as Envoy wants it (IPv6 in brackets); a name would be looked up once more, by Envoy."""
    address = names.address_literal(pin)
    if address is None:
        return None
    return f"[{address}]".encode() if address.version == 6 else str(address).encode()


@lru_cache(maxsize=4096)
def _settable(name: bytes) -> bool:
    return _NAME.fullmatch(name) is not None and header_names.settable(name.decode())


def problem(record: str, refusal: Refusal) -> bytes:
    """A denial as an RFC 9457 problem. Carries no header of the request."""
    meaning = refusal.meaning
    body = refusal.problem(record)
    wait_s = 1 if meaning.status == 503 else refusal.retry_after_s
    retry = b"retry-after: %d\r\n" % wait_s if wait_s is not None else b""
    head = (
        b"HTTP/1.1 %d Denied\r\ncontent-type: application/problem+json\r\nx-remit-record: %b\r\n"
        b"%bcontent-length: %d\r\n\r\n"
    )
    return head % (replies.SPOKEN.get(meaning.status, meaning.status), record.encode(), retry, len(body)) + body
