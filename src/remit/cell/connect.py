"""The head of a CONNECT request, if that is what a connection begins with (RFC 9110 §9.3.6, RFC 9112 §3.2.3).

Some clients speak to a proxy and to nothing else. What they ask of it, a connection to a name and a port, is what any
other client does by itself, so it is taken off the front and the connection goes on as if it had been made directly.
Only heads that can be read in one way count: strict line ends, one authority with its port, a Host that agrees, no
body. Everything else is `OTHER` and goes to the boundary as it came, which refuses it and writes that down. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from remit.core import flow, names

MAX_HEAD = 8192
"""Bytes of a whole head; Proxy-Authorization with a ticket takes a few thousand."""
MAX_FIELDS = 64
_METHOD = b"CONNECT "
_LINE = re.compile(rb"CONNECT ([!-~]{3,300}) HTTP/1\.[01]")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~]*)")
_BODY = frozenset({b"content-length", b"transfer-encoding", b"upgrade", b"expect", b"trailer"})
"""What announces that more belongs to this request."""


class Verdict(Enum):
    """What a connection begins with, where it is not (yet) a CONNECT that can be taken."""

    MORE = "more"
    """As far as it came, it may become one."""
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """`host` is a canonical name or address literal; `rest` came behind the head and belongs to the connection."""

    host: str
    port: int
    rest: bytes


def read(received: bytes) -> Asked | Verdict:
    """What the first bytes of a connection are, all of them as far as they came."""
    if not received.startswith(_METHOD):
        return Verdict.MORE if _METHOD.startswith(received) else Verdict.OTHER
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return Verdict.MORE if len(received) < MAX_HEAD else Verdict.OTHER
    if end + 4 > MAX_HEAD:
        return Verdict.OTHER
    line, *fields = received[:end].split(b"\r\n")
    found = _LINE.fullmatch(line)
    target = _target(found[1].decode("ascii")) if found else None
    if target is None or len(fields) > MAX_FIELDS or not _agree(fields, target):
        return Verdict.OTHER
    return Asked(host=target[0], port=target[1], rest=received[end + 4 :])


def _target(text: str) -> tuple[str, int] | None:
    """Host and port; the port must be written (RFC 9112 §3.2.3)."""
    named = names.split_authority(text, 0)
    if named is None or named[1] == 0:
        return None
    literal = names.address_literal(named[0])
    # Systems dial a mapped address as IPv4: two spellings of one destination.
    return None if literal is not None and literal.version == 6 and literal.ipv4_mapped is not None else named


def _agree(fields: list[bytes], target: tuple[str, int]) -> bool:
    """Whether the fields are well formed, announce no body, and name no other host than the target.

    Some clients name the proxy in Host; others leave the port out.
    """
    hosts = 0
    for field in fields:
        found = _FIELD.fullmatch(field)
        if found is None or found[1].lower() in _BODY:
            return False
        if found[1].lower() == b"host":
            hosts += 1
            said = names.split_authority(found[2].decode("ascii").rstrip(), target[1])
            if hosts > 1 or said not in (target, (flow.PROXY_NAME, flow.PROXY_PORT)):
                return False
    return True
