"""PROXY protocol v2, the one header that a flow begins with (HAProxy, "The PROXY protocol", §2.2).

The boundary knows a connection only by this header: who (token), as which flow (synthetic source), to where (original
destination). It is written by the forwarder, which no agent can reach past. Pure; nothing is read here.
"""

from __future__ import annotations

import ipaddress

from remit.core.claims import MAX_TOKEN_BYTES

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
TOKEN_TLV = 0xE0
"""First of the types left to applications (§2.2.8)."""
_VERSION_2_PROXY = 0x21
_TCP4, _TCP6 = 0x11, 0x21


def encode(*, source: tuple[str, int], destination: tuple[str, int], token: bytes) -> bytes:
    """The header. Both addresses are of one family, in their canonical text.

    Raises `ValueError` for mixed families, a port out of range, or a token that is empty, too long or not printable.
    """
    if not 0 < len(token) <= MAX_TOKEN_BYTES or not all(0x21 <= byte <= 0x7E for byte in token):
        raise ValueError("the token is not 1 to 400 printable bytes")
    here, there = ipaddress.ip_address(source[0]), ipaddress.ip_address(destination[0])
    if here.version != there.version:
        raise ValueError(f"{here} and {there} are of different families")
    block = here.packed + there.packed + source[1].to_bytes(2, "big") + destination[1].to_bytes(2, "big")
    block += bytes((TOKEN_TLV,)) + len(token).to_bytes(2, "big") + token
    family = _TCP4 if here.version == 4 else _TCP6
    return SIGNATURE + bytes((_VERSION_2_PROXY, family)) + len(block).to_bytes(2, "big") + block
