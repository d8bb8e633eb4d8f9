"""Which records have which value, as bits: blocks of records that stand together in the log, and sets of them. Pure.

A block is `BLOCK` sequence numbers. For every value that occurs in it, it has the set of its records; a question with
any number of filters is the intersection of such sets, block by block, so that its price is bounded by the number of
blocks (600 at 10 million records) however the values lie among one another.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

BLOCK = 1 << 14
EVERY = (1 << BLOCK) - 1
_SPARSE = 256
"""Fewer are listed (two bytes each); more are a bit each."""
_BYTES = BLOCK // 8

Term = tuple[str, str]
"""(name of a field, its value)"""
Kinship = tuple[str, str]
"""(a task, a task that stands below it)"""


def packed(positions: Sequence[int]) -> bytes:
    """A set of positions in a block, for the disk."""
    if len(positions) < _SPARSE:
        return array("H", positions).tobytes()
    return _bits(positions).to_bytes(_BYTES, "little")


def unpacked(stored: bytes) -> int:
    """What `packed` made, as bits of a number: bit n is position n."""
    return int.from_bytes(stored, "little") if len(stored) == _BYTES else _bits(array("H", stored))


def merged(stored: Iterable[bytes]) -> bytes:
    """Sets as `packed` makes them, as one."""
    bits = 0
    for one in stored:
        bits |= unpacked(one)
    return bits.to_bytes(_BYTES, "little")


def upwards(bits: int) -> Iterator[int]:
    """Positions in ascending order."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def downwards(bits: int) -> Iterator[int]:
    while bits:
        highest = bits.bit_length() - 1
        yield highest
        bits ^= 1 << highest


def _bits(positions: Sequence[int]) -> int:
    made = bytearray(_BYTES)
    for at in positions:
        made[at >> 3] |= 1 << (at & 7)
    return int.from_bytes(made, "little")


@dataclass(slots=True, kw_only=True)
class Block:
    """Block `number`, being filled. By position: where a line begins (`segment << 40 | offset`, 0 for none), and its
    time in microseconds since 1970. `completions`: sequence numbers by the id of what they complete; `kinship`: who
    stands below whom, as its records say.
    """

    number: int
    places: array[int] = field(default_factory=lambda: array("Q", bytes(8 * BLOCK)))
    times: array[int] = field(default_factory=lambda: array("q", bytes(8 * BLOCK)))
    terms: dict[Term, list[int]] = field(default_factory=dict)
    completions: dict[str, int] = field(default_factory=dict)
    kinship: set[Kinship] = field(default_factory=set)
    records: int = 0
    since: int = 1 << 62
    until: int = -1
    first_id: str = "~"
    last_id: str = ""

    def add(self, seq: int, place: int, time: int, identity: str) -> int:
        """Take one in, above all others so far; its position."""
        at = seq % BLOCK
        self.places[at], self.times[at] = place, time
        self.records += 1
        self.since, self.until = min(self.since, time), max(self.until, time)
        self.first_id, self.last_id = min(self.first_id, identity), max(self.last_id, identity)
        return at

    def having(self, name: str, values: Collection[str]) -> int:
        """The bits of records that have one of these values."""
        return _bits([at for value in values for at in self.terms.get((name, value), ())])


def within(times: Sequence[int], bits: int, since: int | None, until: int | None) -> int:
    """Those of `bits` whose time is at or after `since` and before `until` (microseconds)."""
    return _bits(
        [at for at in upwards(bits) if (since is None or times[at] >= since) and (until is None or times[at] < until)]
    )
