"""One record is one line, and lines form a chain.

A line is a JSON object that begins with `seq`, `id`, `time`, `kind` and ends with `prev`, the SHA-256 of the line
before it (without its newline); the hash of a record is that of its own line. So nothing can be changed, dropped or
swapped without every later line showing it, and a verifier needs no JSON parser. Agent-supplied text is escaped to ASCII.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

MAX_LINE = 32 << 10
MAX_TEXT = 2048
GENESIS = "0" * 64
PREV_BYTES = len(b'"prev":""}') + 64
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode


def record_id(now_ms: int, noise: int) -> str:
    """`r-` and 20 characters that sort by time: 48 bits of milliseconds, 52 bits of `noise`."""
    number = ((now_ms & 0xFFFFFFFFFFFF) << 52) | (noise & 0xFFFFFFFFFFFFF)
    return "r-" + "".join(_ALPHABET[(number >> shift) & 31] for shift in range(95, -1, -5))


def stamp(moment: datetime) -> str:
    """RFC 3339 with microseconds, in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def body(fields: Mapping[str, Any]) -> bytes:
    """The fields as the middle of a line: `"a":1,"b":"…",`. Over-long texts are cut and marked."""
    text = _encode(fields)
    if len(text) > MAX_TEXT:
        text = _encode(_cut(fields))
        if len(text) > MAX_LINE - 512:
            text = _encode({"truncated": True, **{k: fields[k] for k in ("decision", "reason", "task") if k in fields}})
    return text[1:-1].encode() + b"," if len(text) > 2 else b""


def line(seq: int, record: str, time: str, kind: str, middle: bytes, prev: str) -> bytes:
    """The line, without newline. `middle` comes from `body`; `record`, `time` and `kind` are our own plain ASCII."""
    head = f'{{"seq":{seq},"id":"{record}","time":"{time}","kind":"{kind}",'
    return b"".join((head.encode(), middle, b'"prev":"', prev.encode(), b'"}'))


def digest(text: bytes) -> str:
    """The hash of a line."""
    return hashlib.sha256(text).hexdigest()


def seq_of(text: bytes) -> int:
    """The sequence number a line claims. `ValueError` where it is no line of ours."""
    if not text.startswith(b'{"seq":'):
        raise ValueError("not a record")
    return int(text[7 : text.index(b",", 7, 32)])


def prev_of(text: bytes) -> str:
    """The hash that a line names as its predecessor's. `ValueError` where it names none."""
    tail = text[-PREV_BYTES:]
    if not (tail.startswith(b'"prev":"') and tail.endswith(b'"}')):
        raise ValueError("not a record")
    return tail[8:-2].decode("ascii")


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + "…[cut]"
    if isinstance(value, Mapping):
        return {str(key)[:128]: _cut(item) for key, item in list(value.items())[:64]}
    if isinstance(value, list | tuple):
        return [_cut(item) for item in value[:64]]
    return value
