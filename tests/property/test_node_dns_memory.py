"""Remembered answers are the answers that would be given anew, whoever asks what in which order."""

from __future__ import annotations

from functools import partial

import dns.message
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.node import dns as node_dns
from remit.node import dns_memory
from remit.node.dns import Fate, Quota
from remit.node.dns_memory import Memory

NAMES = ["a.test", "A.test", "b.test", "c.test", "x.localhost", "x.onion", "_bad.test", "1.2.3.4"]
ASKED = st.tuples(
    st.integers(1, 2),
    st.sampled_from(NAMES),
    st.sampled_from(["A", "AAAA", "HTTPS", "ANY"]),
    st.integers(0, 0xFFFF),
    st.booleans(),
    st.sets(st.sampled_from(["a.test", "b.test"])),
)


@given(st.lists(ASKED, max_size=40))
def test_what_is_remembered_is_what_would_be_answered(
    asked: list[tuple[int, str, str, int, bool, set[str]]],
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(node_dns, "NAMES_PER_CELL", 2)
        patched.setattr(dns_memory, "ANSWERS_MAX", 5)
        memory, with_memory, without = Memory(), Quota(), Quota()
        for cell, name, kind, number, edns, hidden in asked:
            query = dns.message.make_query(name, kind, use_edns=edns, id=number).to_wire()
            remembered = memory.answer(cell, query, partial(with_memory.admit, cell), hidden.__contains__)
            assert remembered == node_dns.answer(query, partial(without.admit, cell), hidden.__contains__)
            assert len(memory._known) <= 5


def test_what_a_cell_may_know_is_looked_at_with_every_question() -> None:
    memory = Memory()
    query = dns.message.make_query("a.test", "A").to_wire()

    def fate(cell: int, may: bool) -> Fate:
        return memory.answer(cell, query, lambda name: may, lambda name: False).fate

    assert [fate(1, True), fate(1, False), fate(2, False), fate(1, True)] == [
        Fate.ANSWERED,
        Fate.REFUSED,
        Fate.REFUSED,
        Fate.ANSWERED,
    ]


def test_what_cannot_be_read_or_is_long_is_not_remembered() -> None:
    memory = Memory()
    long = dns.message.make_query("a.test", "A", use_edns=0, pad=512).to_wire()
    for query in (b"\0\0", bytes(12), long):
        memory.answer(1, query, lambda name: True, lambda name: False)
    assert not memory._known
