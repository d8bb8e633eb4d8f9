"""One record is one line, and lines form a chain.

A line is a JSON object in ASCII: `{"seq":…,"id":…,"time":…,"kind":…,<fields>,"prev":"<hash of the line before>"}`.
The hash of a line is the SHA-256 of its bytes without the newline; it stands in the next line only, so that a verifier
needs no JSON parser and nothing can be changed, dropped or swapped without the lines after it showing it.
Fields hold text that agents wrote: no control character of it is ever raw, and a line is at most `MAX_LINE` bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from remit.core.errors import Invalid

MAX_LINE: Final = 32 << 10
GENESIS: Final = "0" * 64
"""`prev` of the first line."""
OWN: Final = frozenset({"seq", "id", "time", "kind", "prev", "hash"})
"""Names that a record gives itself; fields of these names are dropped."""
WHOLE: Final = frozenset({"charges", "returned", "accounts", "open", "reserved"})
"""Fields that are never cut: budgets are added up from them, and whoever writes them bounds them."""
CUT: Final = "…[cut]"
"""Stands at the end of a text that was shortened."""

_ROOM = MAX_LINE - 512
_CUTS = ((2048, 64, 5), (256, 64, 4), (48, 32, 2))
"""(characters a text, items a container, depth): tried in order until a line fits; the last always does."""
_ALPHABET = "234567abcdefghijklmnopqrstuvwxyz"
"""Base32 in the order of ASCII, so that ids sort by time."""
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_SHIFTS = range(100, -1, -10)
_ID = re.compile(r"r-[a-z0-9-]{1,62}")
_KIND = re.compile(r"[a-z][a-z_-]{0,31}")
_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), allow_nan=False, default=str).encode


def record_id(now_us: int, noise: int) -> str:
    """`r-` and 22 characters that sort by time: 55 bits of microseconds, 55 bits of `noise`."""
    number = (now_us << 55) | noise
    return "r-" + "".join([_PAIRS[(number >> shift) & 1023] for shift in _SHIFTS])


def stamp(moment: datetime) -> str:
    """RFC 3339 with microseconds. `moment` is aware and UTC."""
    return moment.isoformat(timespec="microseconds")[:26] + "Z"


def body(record: str, time: str, kind: str, fields: Mapping[str, Any]) -> bytes:
    """All of a line but its place in the chain. `Invalid`: `record` or `kind` is not of its shape."""
    if _ID.fullmatch(record) is None or _KIND.fullmatch(kind) is None:
        raise Invalid(f"{record[:80]!a}, {kind[:40]!a} are not an id and a kind of a record")
    if not OWN.isdisjoint(fields):
        fields = {name: value for name, value in fields.items() if name not in OWN}
    inner = _text(fields)
    own = f'"id":"{record}","time":"{time}","kind":"{kind}",'
    return (own + inner + "," if inner else own).encode("ascii")


def line(seq: int, middle: bytes, prev: str) -> bytes:
    """The line, without newline. `middle` comes from `body`."""
    return b'{"seq":%d,%b"prev":"%b"}' % (seq, middle, prev.encode("ascii"))


def digest(text: bytes) -> str:
    """The hash of a line."""
    return hashlib.sha256(text).hexdigest()


def ending(prev: bytes) -> bytes:
    """What a line that continues `prev` (hex) ends with."""
    return b',"prev":"' + prev + b'"}'


def seq_of(text: bytes) -> int | None:
    """The sequence number that a line claims, or None where it is no line of ours."""
    try:
        values = json.loads(text)
        seq = values["seq"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    return seq if type(seq) is int and text.startswith(b'{"seq":%d,' % seq) else None


def _text(fields: Mapping[str, Any]) -> str:
    try:
        text = _encode(fields)
    except (ValueError, TypeError, RecursionError):
        text = ""
    whole = {name: fields[name] for name in WHOLE.intersection(fields)}
    if not text or len(text) > _ROOM:
        for characters, items, depth in _CUTS:
            text = _encode({**_cut(fields, characters, items, depth), **whole})
            if len(text) <= _ROOM:
                break
    if "\x7f" in text:
        text = text.replace("\x7f", "\\u007f")
    return text[1:-1]


def _cut(value: Any, characters: int, items: int, depth: int) -> Any:
    """`value` as JSON values within bounds; what has no JSON form becomes its text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < 1 << 63 else _cut(hex(value), characters, 0, 0)
    if isinstance(value, str):
        return value if len(value) <= characters else value[:characters] + CUT
    if isinstance(value, float) and value - value == 0:
        return value
    if depth > 0 and isinstance(value, Mapping):
        inner = list(value.items())[:items]
        return {_cut(str(name), 64, 0, 0): _cut(item, characters, items, depth - 1) for name, item in inner}
    if depth > 0 and isinstance(value, list | tuple | set | frozenset):
        return [_cut(item, characters, items, depth - 1) for item in list(value)[:items]]
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return CUT
    return _cut(str(value), characters, items, depth)
