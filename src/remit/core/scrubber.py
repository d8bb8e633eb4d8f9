"""Replacing byte strings in a stream that comes in pieces of any size. Sans-io.

The output does not depend on how the input was cut: what could still become a form is held back, nothing else is, so
an event that ends in anything but the beginning of a form passes at once. Where forms overlap, the first and then the
longest wins. The search is the Rust library `aho-corasick`'s, by way of `ahocorasick_rs`: some twenty times faster than
`bytes.find` for each form, and than one expression of all of them by far.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ahocorasick_rs import BytesAhoCorasick, Implementation, MatchKind


class Forms:
    """What to look for, prepared once: every form (not empty) with what replaces it."""

    def __init__(self, table: Mapping[bytes, bytes]) -> None:
        self._forms = sorted(table)
        self._marks = [table[form] for form in self._forms]
        self._search = BytesAhoCorasick(
            self._forms, matchkind=MatchKind.LeftmostLongest, implementation=Implementation.ContiguousNFA
        )
        self._reach = max(map(len, self._forms), default=1) - 1
        self._openings: dict[bytes, list[bytes]] = {}
        for form in self._forms:
            self._openings.setdefault(form[:1], []).append(form)
        pairs = sorted({form[:2] for form in self._forms})
        self._pair = re.compile(b"|".join(map(re.escape, pairs)) or b"(?!)", re.DOTALL)
        self.early = min(3, min(map(len, self._forms), default=0) // 8)
        """Bytes of a form that may pass before it is known to be one (`Scrubber.idle`)."""

    def found(self, data: bytes) -> bool:
        """Whether any form stands in `data`."""
        return bool(self._search.find_matches_as_indexes(data))

    def matches(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """(begin, end, mark) of the forms in `data`, from left to right, none within another."""
        return [(begin, end, self._marks[which]) for which, begin, end in self._search.find_matches_as_indexes(data)]

    def open_from(self, data: bytes, start: int) -> int:
        """Where in `data`, at or after `start`, the first form begins that its end cuts; its length if none does."""
        at, end = max(start, len(data) - self._reach), len(data)
        while (match := self._pair.search(data, at)) is not None:
            at = match.start()
            if self._opens(data[at:]):
                return at
            at += 1
        if start < end and self._opens(data[-1:]):
            return end - 1
        return end

    def _opens(self, tail: bytes) -> bool:
        forms = self._openings.get(tail[:1], ())
        return any(len(form) > len(tail) and form.startswith(tail) for form in forms)

    def replaced(self, data: bytes) -> bytes:
        """The whole of `data`, scrubbed."""
        out: list[bytes] = []
        at = 0
        for begin, end, mark in self.matches(data):
            out += (data[at:begin], mark)
            at = end
        return b"".join((*out, data[at:])) if at else data


class Scrubber:
    """One stream."""

    def __init__(self, forms: Forms) -> None:
        self._forms = forms
        self._held = b""
        self._passed = 0
        """How many of the bytes that are held have been given out already."""
        self.replaced = False
        """Whether a form was found so far."""

    @property
    def holds(self) -> bool:
        """Whether `idle` has something to give."""
        return self._passed < min(self._forms.early, len(self._held))

    def feed(self, data: bytes) -> bytes:
        """What may pass now that `data` has come."""
        return self._through(self._held + data if self._held else data, last=False)

    def finish(self) -> bytes:
        """What is left at the end."""
        return self._through(self._held, last=True)

    def idle(self) -> bytes:
        """What may pass although it could begin a form: at most `Forms.early` bytes, so that a message which happens
        to end like that does not wait for the next. Should the form follow, only those bytes of it have passed."""
        until = min(self._forms.early, len(self._held))
        piece, self._passed = self._held[self._passed : until], max(self._passed, until)
        return piece

    def _through(self, data: bytes, *, last: bool) -> bytes:
        out: list[bytes] = []
        at, stop = 0, self._until(data, 0, last)
        for begin, end, mark in self._forms.matches(data):
            if begin >= stop:
                break
            self.replaced = True
            out += (data[at:begin], mark)
            at, stop = end, self._until(data, end, last)
        out.append(data[at:stop])
        self._held = data[stop:]
        if not self._passed:
            return out[0] if len(out) == 1 else b"".join(out)
        whole = b"".join(out)  # what has passed are the first bytes of `data`, and of the form or of what was none
        cut = min(self._passed, len(whole))
        self._passed = 0 if at else self._passed - cut
        return whole[cut:]

    def _until(self, data: bytes, at: int, last: bool) -> int:
        return len(data) if last else self._forms.open_from(data, at)
