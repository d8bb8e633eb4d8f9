"""What may pass of the answer to a request that carried a secret: its head, body and trailers, without it. Sans-io.

Where an answer says how long it is, or is framed within (gRPC, Connect, WebSocket), what stands for a secret is as long
as the secret: cut, or filled with `*`. Elsewhere it is the placeholder itself. A body that could tell a secret unfound
is refused, since it was not asked for: an encoded one (`Accept-Encoding: identity`, RFC 9110 §12.5.3), a part of one,
one in a charset that writes ASCII otherwise. A head without a body may say anything of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from remit.core.reason import Reason, Refusal
from remit.core.scrubber import Forms, Scrubber

Lines = list[tuple[bytes, bytes]]
"""Names (lower case) and values, in order, repeated where they were."""
REFUSED = "remit_"
"""What the ending of a request begins with whose answer was refused here; the reason follows."""
UNANSWERED = "upstream_reset_before_response_started"
BROKEN_OFF = "upstream_reset_after_response_started"
"""What the ending begins with where an upstream did not answer (nobody listens, its certificate does not fit, it hung
up), and where its answer stopped in the middle: Envoy's own words (`%RESPONSE_CODE_DETAILS%`)."""
PLAIN = frozenset({b"", b"identity"})
_ENCODINGS = (b"content-encoding", b"grpc-encoding", b"connect-content-encoding", b"sec-websocket-extensions")
"""The last one stands for the compression of messages (RFC 7692), the only extension that there is."""
_SWITCHED = b"101"
_DIFFERENCE = b"226"
"""RFC 3229 §10.4.1: what is told is what changed."""
_BYTE_RANGE = re.compile(rb"bytes\b(?!\s*\*)", re.IGNORECASE)
"""A secret told in pieces is never found. Ranges of other units are pages of lists (RFC 9110 §14.4)."""
_BYTE_RANGES = (b"multipart/byteranges", b"multipart/x-byteranges")
_FRAMED = (b"application/grpc", b"application/connect+")
_CHARSET = re.compile(rb"charset\*?\s*=\s*[\"']?([^\"';,\s]*)", re.IGNORECASE)
_ASCII_INSIDE = re.compile(
    rb"(?:utf-?8|us-ascii|ascii|iso-?8859-\d+|iso_8859-\d+|latin-?\d+|l\d|windows-(?:125\d|874|31j)|cp125\d|koi8-[ru]"
    rb"|macintosh|gb2312|gbk|gb18030|big5(?:-hkscs)?|euc-(?:jp|kr|tw)|shift[_-]jis|sjis|ks_c_5601-1987|tis-620|binary)?",
    re.IGNORECASE,
)
"""Charsets in which ASCII characters stand as ASCII writes them; in others (UTF-16, UTF-7, EBCDIC) nothing is found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What to do to a head or to trailers: `values` replace all of that name, `removed` go."""

    values: tuple[tuple[bytes, tuple[bytes, ...]], ...] = ()
    removed: tuple[bytes, ...] = ()
    length: bytes | None = None
    """The body's length, if it was said: it stays true."""


class Answer:
    """One answer. `plain` replaces with placeholders, `level` with what is as long as what it replaces."""

    def __init__(self, plain: Forms, level: Forms) -> None:
        self._plain = plain
        self._level = level
        self._body = Scrubber(plain)
        self._seen = False

    @property
    def found(self) -> bool:
        """Whether a secret stood in what has come so far."""
        return self._seen or self._body.replaced

    def head(self, lines: Lines, *, end: bool) -> Changes | Refusal:
        """`end`: there is no body."""
        known = dict(lines)
        if not end and (why := self._unsearchable(lines)) is not None:
            return Refusal(Reason.ANSWER_ENCODED, f"the answer is {why}, although that was not asked for")
        length = known.get(b"content-length")
        framed = known.get(b":status") == _SWITCHED or known.get(b"content-type", b"").lower().startswith(_FRAMED)
        if length is not None or framed:
            self._body = Scrubber(self._level)
        return self._changes(lines, length)

    def body(self, data: bytes, *, end: bool) -> bytes:
        out = self._body.feed(data)
        return out + self._body.finish() if end else out

    @property
    def holds(self) -> bool:
        """Whether a pause would let something pass (`idle`)."""
        return self._body.holds

    def idle(self) -> bytes:
        return self._body.idle()

    def trailers(self, lines: Lines) -> tuple[bytes, Changes]:
        """The rest of the body, and what to do to the trailers."""
        return self._body.finish(), self._changes(lines, None)

    def _changes(self, lines: Lines, length: bytes | None) -> Changes:
        if not self._plain.found(b"\n".join(part for line in lines for part in line)):
            return Changes(length=length)
        names = {name for name, value in lines if self._plain.found(value)}
        removed = tuple(name for name in dict.fromkeys(name for name, _ in lines) if self._plain.found(name))
        self._seen = self._seen or bool(names or removed)
        return Changes(
            values=tuple((name, self._values(name, lines)) for name in sorted(names.difference(removed))),
            removed=removed,
            length=length,
        )

    def _values(self, name: bytes, lines: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, ...]:
        return tuple(self._plain.replaced(value) for key, value in lines if key == name)

    def _unsearchable(self, lines: Lines) -> str | None:
        """Why the body could tell a secret that is not found in it, or None."""
        for name, value in lines:
            if name == b":status" and value == _DIFFERENCE:
                return "a difference to another"
            if name == b"content-range" and _BYTE_RANGE.match(value.strip()):
                return "a part of another"
            if name in _ENCODINGS and value.strip().lower() not in PLAIN:
                return f"encoded ({self._shown(value)})"
            if name == b"content-type":
                if value.strip().lower().startswith(_BYTE_RANGES):
                    return "made of parts of another"
                for charset in _CHARSET.findall(value):
                    if not _ASCII_INSIDE.fullmatch(charset):
                        return f"written in {self._shown(charset)}"
        return None

    def _shown(self, text: bytes) -> str:
        return ascii(self._plain.replaced(text)[:40])[2:-1]
