"""Host names as an agent may write them, and as we compare them.

The same host can be spelled in many ways (case, trailing dot, `0x7f.1`, `[::1]`, IDN). Names are compared only in one
canonical form; whatever has no such form is refused, never repaired (attacks: one leaf per spelling, rebinding, NUL).
Sources: RFC 1035 §2.3.4 (lengths), RFC 1123 §2.1 (letters, digits, hyphens), RFC 5890 (A-labels), WHATWG URL §3.5.
"""

from __future__ import annotations

import ipaddress
import re

MAX_NAME = 253
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMERIC_TAIL = re.compile(r"(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)$")
_PORT = re.compile(r"[1-9][0-9]{0,4}")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def canonical(text: str) -> str | None:
    """`text` as a canonical DNS name or address literal, or None where it is neither.

    Only lower-case ASCII names come back as they are; upper case is folded, one trailing dot removed. A name whose last
    label is a number (`127.1`, `0x7f000001`) is an address to some clients and a name to others: refused.
    IPv6 literals may be bracketed and come back without brackets.
    """
    if not text or len(text) > MAX_NAME + 2 or not text.isascii():
        return None
    name = text.lower()
    literal = address_literal(name) or address_literal(name.removesuffix("."), bracketed=False)
    if literal is not None:
        return str(literal)
    name = name.removesuffix(".")
    if len(name) > MAX_NAME or not _NAME.fullmatch(name) or _NUMERIC_TAIL.search(name):
        return None
    return name


def address_literal(text: str, *, bracketed: bool = True) -> Address | None:
    """The address that `text` spells in its one canonical way (dotted quad; RFC 5952), else None.

    Brackets are for IPv6 alone (RFC 3986 §3.2.2), and only where `bracketed`.
    """
    brackets = bracketed and text.startswith("[") and text.endswith("]")
    bare = text[1:-1] if brackets else text
    if "%" in bare or (":" not in bare and not bare[-1:].isdigit()):
        return None
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return None
    return address if str(address) == bare and (not brackets or address.version == 6) else None


def split_authority(authority: str, default_port: int) -> tuple[str, int] | None:
    """(canonical host, port) of an RFC 3986 §3.2 authority without user info, or None where it is not exactly that."""
    if authority.startswith("["):
        host, bracket, rest = authority.partition("]")
        if not bracket:
            return None
        host += "]"
        if rest and not rest.startswith(":"):
            return None
        port_text = rest[1:] if rest else ""
        explicit = bool(rest)
    else:
        host, colon, port_text = authority.partition(":")
        explicit = bool(colon)
    name = canonical(host)
    if name is None:
        return None
    if not explicit:
        return name, default_port
    if not _PORT.fullmatch(port_text) or int(port_text) > 65535:
        return None
    return name, int(port_text)


def covers(pattern: str, name: str) -> bool:
    """Whether a host pattern covers a canonical name: equal, or `*.rest` for one or more labels before `rest`."""
    if pattern == name:
        return True
    return pattern.startswith("*.") and name.endswith(pattern[1:]) and len(name) > len(pattern) - 1


def within(narrow: str, wide: str) -> bool:
    """Whether every name that host pattern `narrow` covers is covered by host pattern `wide`."""
    if not narrow.startswith("*."):
        return covers(wide, narrow)
    return narrow == wide or (wide.startswith("*.") and narrow[1:].endswith(wide[1:]))
