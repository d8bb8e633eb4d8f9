"""What may pass of the answer to a request that carried a secret: its head, body and trailers, without it. Sans-io.

Where an answer says how long it is, or is framed within (gRPC), what stands for a secret is as long as the secret: cut,
or filled with `*`. Elsewhere it is the placeholder itself. An encoded body cannot be read, so it is refused: it was not
asked for (`Accept-Encoding: identity`, RFC 9110 §12.5.3). A head without a body may name any encoding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from remit.core.reason import Reason, Refusal
from remit.core.scrubber import Forms, Scrubber

Lines = list[tuple[bytes, bytes]]
"""Names (lower case) and values, in order, repeated where they were."""
PLAIN = frozenset({b"", b"identity"})
_ENCODINGS = (b"content-encoding", b"grpc-encoding")


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
        if not end:
            for name in _ENCODINGS:
                if any(value.strip().lower() not in PLAIN for key, value in lines if key == name):
                    said = ascii(known[name][:40])[2:-1]
                    why = f"the answer is encoded ({said}), although that was not asked for"
                    return Refusal(Reason.ANSWER_ENCODED, why)
        length = known.get(b"content-length")
        if length is not None or known.get(b"content-type", b"").lower().startswith(b"application/grpc"):
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
