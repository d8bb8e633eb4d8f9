"""Replacing byte strings in a stream that comes in pieces of any size. Sans-io.

The output does not depend on how the input was cut: what could still become a form is held back, nothing else is, so
an event that ends in anything but the beginning of a form passes at once. Where forms overlap, the first and then the
longest wins. Searching each form alone (`bytes.find` skips ahead) measured five times faster than one expression of
all of them, so the expression runs only where something was found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping


class Forms:
    """What to look for, prepared once: every form (not empty) with what replaces it."""

    def __init__(self, table: Mapping[bytes, bytes]) -> None:
        self._marks = dict(table)
        self._longest_first = sorted(self._marks, key=lambda form: (-len(form), form))
        self._any = re.compile(b"|".join(map(re.escape, self._longest_first)) or b"(?!)", re.DOTALL)
        self._reach = max(map(len, self._marks), default=1) - 1
        self._openings: dict[bytes, list[bytes]] = {}
        for form in self._longest_first:
            self._openings.setdefault(form[:1], []).append(form)
        pairs = sorted({form[:2] for form in self._marks})
        self._pair = re.compile(b"|".join(map(re.escape, pairs)) or b"(?!)", re.DOTALL)
        self.early = min(3, min(map(len, self._marks), default=0) // 8)
        """Bytes of a form that may pass before it is known to be one (`Scrubber.idle`)."""

    def found(self, data: bytes) -> bool:
        """Whether any form stands in `data`."""
        return any(form in data for form in self._longest_first)

    def first(self, data: bytes, start: int) -> tuple[int, int, bytes] | None:
        """(begin, end, mark) of the first form at or after `start`, the longest where several begin there."""
        match = self._any.search(data, start)
        return None if match is None else (match.start(), match.end(), self._marks[match.group()])

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
        return self._any.sub(lambda match: self._marks[match.group()], data) if self.found(data) else data


class Scrubber:
    """One stream."""

    def __init__(self, forms: Forms) -> None:
        self._forms = forms
        self._held = b""
        self._passed = 0
        """How many of the bytes that are held have been given out already."""

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
        passed, at = self._passed, 0
        found = self._forms.found(data)
        while True:
            stop = len(data) if last else self._forms.open_from(data, at)
            match = self._forms.first(data, at) if found else None
            if match is None or match[0] >= stop:
                break
            begin, end, mark = match
            out += (data[at:begin], mark)
            if passed:  # they are the first of `data`, and of the form or of what turned out to be none
                out = [b"".join(out)[passed:]]
                passed = 0
            at = end
        rest = data[at:stop]
        if passed:
            cut = min(passed, len(rest))
            rest, passed = rest[cut:], passed - cut
        self._held, self._passed = data[stop:], passed
        out.append(rest)
        return b"".join(out)
