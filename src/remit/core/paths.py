"""The path of a request, read once, the way the upstream will read it.

Proxies and servers disagree on what a path means: `%2f`, `..`, `//`, `;`, `\\`. Where they could disagree a rule on
paths means nothing, so such paths are refused unless the capability opts in by name (CVE-2019-9901, CVE-2021-29492,
CVE-2026-26205). Nothing is rewritten: the upstream sees the bytes that the agent sent.
"""

from __future__ import annotations

import re
from enum import StrEnum
from urllib.parse import unquote_to_bytes

MAX_TARGET = 8192
MAX_DECODED = 4
"""How often a path is decoded in search of dot segments: chains of servers that each decode once do exist."""
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_UNRESERVED_ESCAPE = re.compile(r"%(4[1-9a-f]|5[0-9a]|6[1-9a-f]|7[0-9a]|3[0-9]|2d|2e|5f|7e)", re.IGNORECASE)
_PLAIN = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~!$&'()*+,=:@-]+)*/?")
"""Paths in which nothing can be found by `ambiguities`; nearly all are, so they are recognised first."""
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Ambiguity(StrEnum):
    """What makes readers disagree on a path. A capability can opt in to each of `OPTIONAL`."""

    ENCODED_SLASH = "encodedSlash"
    EMPTY_SEGMENT = "emptySegment"
    PARAMETERS = "parameters"
    ENCODED_PERCENT = "encodedPercent"
    DOT_SEGMENT = "dotSegment"
    BACKSLASH = "backslash"
    MALFORMED = "malformed"


OPTIONAL = frozenset(
    {Ambiguity.ENCODED_SLASH, Ambiguity.EMPTY_SEGMENT, Ambiguity.PARAMETERS, Ambiguity.ENCODED_PERCENT}
)


_NONE: frozenset[Ambiguity] = frozenset()


def split_target(target: str) -> tuple[str, str] | None:
    """(path, query without `?`) of an origin-form request target (RFC 9112 §3.2.1), or None where it is not one."""
    if len(target) > MAX_TARGET or not target.startswith("/") or "#" in target or not _VISIBLE.fullmatch(target):
        return None
    path, _, query = target.partition("?")
    return path, query


def ambiguities(path: str) -> frozenset[Ambiguity]:
    """Every way in which `path` could be read differently by another server."""
    if path and _PLAIN.fullmatch(path):
        return _NONE
    found: set[Ambiguity] = set()
    if _BAD_ESCAPE.search(path) or not path.startswith("/"):
        found.add(Ambiguity.MALFORMED)
    lower = path.lower()
    decoded = unquote_to_bytes(lower)
    if any(byte < 0x20 or byte == 0x7F for byte in decoded) or not _is_utf8(decoded):
        found.add(Ambiguity.MALFORMED)
    if "%2f" in lower:
        found.add(Ambiguity.ENCODED_SLASH)
    if "%25" in lower:
        found.add(Ambiguity.ENCODED_PERCENT)
    if "\\" in lower or "%5c" in lower:
        found.add(Ambiguity.BACKSLASH)
    if ";" in lower or "%3b" in lower:
        found.add(Ambiguity.PARAMETERS)
    if "//" in lower:
        found.add(Ambiguity.EMPTY_SEGMENT)
    for _ in range(MAX_DECODED):
        for segment in re.split(rb"[/\\]", decoded):
            if segment.split(b";", 1)[0].rstrip(b" ") in (b".", b".."):
                found.add(Ambiguity.DOT_SEGMENT)
        if b"\\" in decoded:
            found.add(Ambiguity.BACKSLASH)
        if b"%" not in decoded:
            break
        decoded = unquote_to_bytes(decoded)
    return frozenset(found)


def _is_utf8(decoded: bytes) -> bool:
    """RFC 3986 §2.5. Overlong forms (`%c0%ae` for a dot) are no UTF-8, and some servers read them nevertheless."""
    try:
        decoded.decode()
    except UnicodeDecodeError:
        return False
    return True


def normal(path: str) -> str:
    """`path` for matching: escapes of unreserved characters decoded (RFC 3986 §6.2.2.2), other escapes upper-cased."""
    if "%" not in path:
        return path
    decoded = _UNRESERVED_ESCAPE.sub(lambda m: chr(int(m.group(1), 16)), path)
    return re.sub(r"%[0-9a-f]{2}", lambda m: m.group(0).upper(), decoded, flags=re.IGNORECASE)


def compiled(pattern: str) -> re.Pattern[str]:
    """A path pattern as an expression: `*` is any part of one segment, a last `/**` any rest.

    `/repos/**` covers `/repos` and all below it; `**` elsewhere than as the last segment is `ValueError`.
    Agents choose the paths, so a match takes linear time: a star takes the first place where what follows it fits and
    never tries another (atomic groups), which is enough for all but the last star of a segment.
    """
    if not pattern.startswith("/"):
        raise ValueError("a path pattern starts with /")
    body, rest = (pattern[:-3], True) if pattern.endswith("/**") else (pattern, False)
    if "**" in body:
        raise ValueError("** stands only as the last segment")
    expression = "/".join(_segment(segment) for segment in body.split("/"))
    if rest:
        expression += r"(?:/.*)?"
    return re.compile(expression)


def _segment(pattern: str) -> str:
    first, *others = (re.escape(part) for part in pattern.split("*"))
    if not others:
        return first
    found = "".join(f"(?>[^/]*?{part})" for part in others[:-1] if part)
    return f"{first}{found}(?>[^/]*{others[-1]}(?![^/]))"


def within(narrow: str, wide: str) -> bool:
    """Whether pattern `wide` covers every path that `narrow` covers; False where segments alone do not show it."""
    below, above = narrow.removesuffix("/**"), wide.removesuffix("/**")
    inner, outer = below.split("/"), above.split("/")
    if wide == above and (narrow != below or len(inner) != len(outer)):
        return False
    return len(inner) >= len(outer) and all(_segment_within(*pair) for pair in zip(inner, outer, strict=False))


def _segment_within(narrow: str, wide: str) -> bool:
    if narrow == wide or wide == "*":
        return True
    return "*" not in narrow and re.fullmatch(_segment(wide), narrow) is not None
