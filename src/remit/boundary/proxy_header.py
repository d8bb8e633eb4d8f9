"""The PROXY protocol v2 header, read: who connects, to where, with which token. Sans-io, hostile input.

Source: HAProxy's proxy-protocol.txt §2.2 (binary header). Only what our forwarder and Envoy write is taken: version 2,
command PROXY, TCP over IPv4 or IPv6, exactly one token. Anything else is `Invalid`; nothing is guessed.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from remit.core.claims import MAX_TOKEN_BYTES
from remit.core.errors import Invalid

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
TOKEN_TLV = 0xE0
BLOCK_MAX = 2048
"""Addresses and TLVs; the forwarder writes under 450 bytes, Envoy may add a few TLVs of its own."""

_FIXED = 16
_ADDRESSES = {0x11: 12, 0x21: 36}
"""Family and transport (TCP over IPv4, TCP over IPv6) → bytes of the address block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """`flow` and `destination` are "address:port" (IPv6 in brackets), as Envoy writes them."""

    flow: str
    destination: str
    token: bytes


def parse(data: bytes | bytearray) -> tuple[Header, int] | None:
    """(header, its length) from the start of `data`; None while more bytes are needed. Raises `Invalid`."""
    prefix = bytes(data[: len(SIGNATURE)])
    if prefix != SIGNATURE[: len(prefix)]:
        raise Invalid("not a PROXY v2 header")
    if len(data) < _FIXED:
        return None
    if data[12] != 0x21:
        raise Invalid("not version 2, command PROXY")
    size = int.from_bytes(data[14:16], "big")
    addresses = _ADDRESSES.get(data[13])
    if addresses is None or not addresses <= size <= BLOCK_MAX:
        raise Invalid("not TCP over IPv4 or IPv6, or of a wrong size")
    if len(data) < _FIXED + size:
        return None
    block = bytes(data[_FIXED : _FIXED + size])
    half = (addresses - 4) // 2
    return (
        Header(
            flow=_shown(block[:half], block[2 * half : 2 * half + 2]),
            destination=_shown(block[half : 2 * half], block[2 * half + 2 : addresses]),
            token=_token(block[addresses:]),
        ),
        _FIXED + size,
    )


def _token(tlvs: bytes) -> bytes:
    """The one token among `tlvs`; none is empty. Two are `Invalid`: which one would count is not ours to choose."""
    token: bytes | None = None
    at = 0
    while at < len(tlvs):
        if at + 3 > len(tlvs):
            raise Invalid("a TLV is cut")
        kind, size = tlvs[at], int.from_bytes(tlvs[at + 1 : at + 3], "big")
        at += 3
        if at + size > len(tlvs):
            raise Invalid("a TLV is longer than the header")
        if kind == TOKEN_TLV:
            if token is not None:
                raise Invalid("two tokens")
            if size > MAX_TOKEN_BYTES:
                raise Invalid("the token is too long")
            token = tlvs[at : at + size]
        at += size
    return token or b""


def _shown(address: bytes, port: bytes) -> str:
    parsed = ipaddress.ip_address(address)
    number = int.from_bytes(port, "big")
    return f"{parsed}:{number}" if parsed.version == 4 else f"[{parsed}]:{number}"
