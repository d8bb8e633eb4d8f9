"""Answers that a cell had before, given again: reading a question and writing its answer costs ten times as much.

Clients ask for the same few names with every connection. An answer depends on the question's bytes and on what may be
known of its name, and that is looked at anew each time. Each cell has its own: how fast an answer comes tells nobody
what another cell has asked. Bounded: what was not asked for longest is forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from remit.node import dns

ANSWERS_MAX = 4096
QUERY_MAX = 320
"""Bytes. A name has at most 255 (RFC 1035 §2.3.4); header, type, class and an OPT record are some 30 more."""


class Memory:
    """Of all cells."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, bytes], dns.Reply] = OrderedDict()

    def answer(self, cell: int, query: bytes, admit: dns.Admit, hidden: Callable[[str], bool]) -> dns.Reply:
        """What `dns.answer` gives."""
        key = (cell, query[2:])
        known = self._known.get(key)
        if known is not None and known.fate is dns.fate(known.name, admit, hidden):
            self._known.move_to_end(key)
            return replace(known, message=query[:2] + known.message[2:])
        reply = dns.answer(query, admit, hidden)
        if reply.fate is not dns.Fate.UNREADABLE and len(query) <= QUERY_MAX:
            self._known[key] = reply
            self._known.move_to_end(key)
            if len(self._known) > ANSWERS_MAX:
                self._known.popitem(last=False)
        return reply
