"""Replacing byte strings in a stream that comes in pieces of any size. Sans-io.

The output does not depend on how the input was cut. What is held back does not depend on the secret either, or whoever
chooses the text could ask, letter by letter, whether it begins one: the last bytes are, one less than the longest form
has, up to a control character that no form has, so that a line or an event passes when it ends. Only a pause tells
(`Scrubber.idle`), and only a few times. Where forms overlap, the first and then the longest wins. The search is the
Rust library `aho-corasick`'s, by way of `ahocorasick_rs`: some twenty times faster than `bytes.find` for each form, and
than one expression of all of them by far.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ahocorasick_rs import BytesAhoCorasick, Implementation, MatchKind

GUESSES = 2
"""How often a pause may show that what came before it begins a form. Nobody needs more who does not guess."""


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
        free = {*range(0x20), 0x7F}.difference(*self._forms)
        self._border = re.compile(b".*[%b]" % re.escape(bytes(sorted(free))) if free else b"(?!)", re.DOTALL)
        self.guesses = GUESSES
        """How often a pause may still tell, over all streams."""

    def found(self, data: bytes) -> bool:
        """Whether any form stands in `data`."""
        return bool(self._search.find_matches_as_indexes(data))

    def matches(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """(begin, end, mark) of the forms in `data`, from left to right, none within another."""
        return [(begin, end, self._marks[which]) for which, begin, end in self._search.find_matches_as_indexes(data)]

    def unsure_from(self, data: bytes, start: int) -> int:
        """Where in `data`, at or after `start`, the first form could begin that its end cuts, whatever stands there."""
        at = max(start, len(data) - self._reach)
        border = self._border.match(data, at)
        return border.end() if border is not None else at

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
        self._paused = False
        """Whether nothing has come since the last pause."""
        self.replaced = False
        """Whether a form was found so far."""

    @property
    def holds(self) -> bool:
        """Whether `idle` has something to give."""
        return bool(self._held) and not self._paused and self._forms.guesses > 0

    def feed(self, data: bytes) -> bytes:
        """What may pass now that `data` has come."""
        self._paused = False
        return self._through(self._held + data if self._held else data, self._forms.unsure_from)

    def finish(self) -> bytes:
        """What is left at the end."""
        return self._through(self._held, _all)

    def idle(self) -> bytes:
        """What may pass in a pause, so that a message which ends in text does not wait for the next: all but what
        begins a form, and of that at most `Forms.early` bytes. Should the form follow, only those bytes have passed."""
        if not self.holds:
            return b""
        self._paused = True
        passed = self._through(self._held, self._forms.open_from)
        if len(self._held) > self._forms.early:
            self._forms.guesses -= 1
        until = min(self._forms.early, len(self._held))
        piece, self._passed = self._held[self._passed : until], max(self._passed, until)
        return passed + piece

    def _through(self, data: bytes, until: Callable[[bytes, int], int]) -> bytes:
        out: list[bytes] = []
        at, stop = 0, until(data, 0)
        for begin, end, mark in self._forms.matches(data):
            if begin >= stop:
                break
            self.replaced = True
            out += (data[at:begin], mark)
            at, stop = end, max(end, until(data, end))
        out.append(data[at:stop])
        self._held = data[stop:]
        if not self._passed:
            return out[0] if len(out) == 1 else b"".join(out)
        whole = b"".join(out)  # what has passed are the first bytes of `data`, and of the form or of what was none
        cut = min(self._passed, len(whole))
        self._passed = 0 if at else self._passed - cut
        return whole[cut:]


def _all(data: bytes, start: int) -> int:
    return len(data)
