"""What a cell is told when it asks for a name: always something made up here, never anything asked for elsewhere.

A DNS query is a message to whoever runs the name's servers; data leaves in its labels. So no query of an agent leaves
the node: each canonical name has a virtual address (`core.flow`), whether or not anything may be reached under it, and
a refused name is told *why* by the answer to its request. Guaranteed: an answer depends only on the question and on
how many names the cell has asked for. Other types are empty (HTTPS records would switch on ECH and hide the name).
Rules: RFC 1035, RFC 6761 (localhost, invalid), RFC 7686 (onion), RFC 6891 (EDNS), RFC 8482 (ANY).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from remit.core import flow, names

TTL_S = 30
QUERY_MAX = 4096
PAYLOAD = 1232
"""Answers are far smaller; the number is that of DNS flag day 2020."""
NAMES_PER_CELL = 2048
CELLS_MAX = 4096
_HEADER = 12
_ABSENT = ("arpa", "invalid", "onion")
_CANARY = "use-application-dns.net"
"""Its absence tells browsers to use the system's resolver instead of DNS over HTTPS."""


Admit = Callable[[str], bool]


class Fate(Enum):
    """What becomes of a question."""

    ANSWERED = "answered"
    ABSENT = "absent"
    REFUSED = "refused"
    """The cell's quota of names is spent."""
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """`message` is what to send, empty to send nothing. `name` is canonical, or empty where there was none.

    An absent one with a name is hidden.
    """

    message: bytes
    fate: Fate
    name: str = ""
    kind: str = ""


class Quota:
    """Distinct names that each cell has asked for. Memory is bounded: the cell longest idle is forgotten first."""

    def __init__(self) -> None:
        self._cells: OrderedDict[int, set[str]] = OrderedDict()
        self._meant: dict[int, dict[str, list[str]]] = {}

    def admit(self, cell: int, name: str) -> bool:
        """Whether `cell` may know `name`: one it knows already, or one more within its quota."""
        known = self._cells.setdefault(cell, set())
        self._cells.move_to_end(cell)
        while len(self._cells) > CELLS_MAX:
            self._meant.pop(self._cells.popitem(last=False)[0], None)
        if name in known:
            return True
        if len(known) >= NAMES_PER_CELL:
            return False
        known.add(name)
        meant = self._meant.setdefault(cell, {})
        for address in flow.virtual(name):
            meant.setdefault(address, []).append(name)
        return True

    def askers(self, name: str) -> list[int]:
        """The cells that have asked for `name` and not ended since."""
        return [cell for cell, known in self._cells.items() if name in known]

    def asked(self, cell: int, address: str) -> Sequence[str]:
        """The names with this virtual address that `cell` has asked for, in that order."""
        return self._meant.get(cell, {}).get(address, ())

    def forget(self, cell: int) -> None:
        """The cell has ended; its number may be used again."""
        self._cells.pop(cell, None)
        self._meant.pop(cell, None)


def nothing_hidden(name: str) -> bool:
    """Where no search domain is set."""
    return False


def answer(query: bytes, admit: Admit, hidden: Callable[[str], bool] = nothing_hidden) -> Reply:
    """The reply to one DNS message of a cell. `admit` says whether the cell may know one more canonical name.

    `hidden`: a name that must not exist there, because resolvers make it of others with a search domain. If everything
    existed, the first domain of the list would win (resolv.conf(5)).
    """
    if not _HEADER <= len(query) <= QUERY_MAX or query[2] & 0x80:
        return Reply(message=b"", fate=Fate.UNREADABLE)
    try:
        asked = dns.message.from_wire(query, ignore_trailing=True)
    except Exception:  # dnspython raises more than DNSException for hostile bytes
        return Reply(message=_bare(query, dns.rcode.FORMERR), fate=Fate.UNREADABLE)
    if asked.opcode() != dns.opcode.QUERY:
        return Reply(message=_bare(query, dns.rcode.NOTIMP), fate=Fate.UNREADABLE)
    if len(asked.question) != 1:
        return Reply(message=_bare(query, dns.rcode.FORMERR), fate=Fate.UNREADABLE)
    try:
        return _answered(asked, admit, hidden)
    except dns.exception.DNSException:
        return Reply(message=_bare(query, dns.rcode.SERVFAIL), fate=Fate.UNREADABLE)


def _answered(asked: dns.message.Message, admit: Admit, hidden: Callable[[str], bool]) -> Reply:
    question = asked.question[0]
    asked.use_edns(asked.edns, payload=PAYLOAD, options=[])  # options (cookies, padding, client subnet) are not echoed
    response = dns.message.make_response(asked, recursion_available=True, our_payload=PAYLOAD)
    kind = dns.rdatatype.to_text(question.rdtype)
    if asked.edns > 0:
        response.set_rcode(dns.rcode.BADVERS)
        return Reply(message=response.to_wire(), fate=Fate.UNREADABLE, kind=kind)
    if question.rdclass != dns.rdataclass.IN:
        response.set_rcode(dns.rcode.REFUSED)
        return Reply(message=response.to_wire(), fate=Fate.UNREADABLE, kind=kind)
    name = _canonical(question.name) or ""
    found = fate(name, admit, hidden)
    if found is not Fate.ANSWERED:
        response.set_rcode(dns.rcode.NXDOMAIN if found is Fate.ABSENT else dns.rcode.SERVFAIL)
        return Reply(message=response.to_wire(), fate=found, name=name, kind=kind)
    four, six = ("127.0.0.1", "::1") if is_local(name) else flow.virtual(name)
    if question.rdtype == dns.rdatatype.A:
        response.answer.append(dns.rrset.from_text(question.name, TTL_S, "IN", "A", four))
    elif question.rdtype == dns.rdatatype.AAAA:
        response.answer.append(dns.rrset.from_text(question.name, TTL_S, "IN", "AAAA", six))
    return Reply(message=response.to_wire(), fate=Fate.ANSWERED, name=name, kind=kind)


def fate(name: str, admit: Admit, hidden: Callable[[str], bool]) -> Fate:
    """Of a question that can be read, by its canonical name (empty: it has none)."""
    if not name or hidden(name):
        return Fate.ABSENT
    return Fate.ANSWERED if is_local(name) or admit(name) else Fate.REFUSED


def _canonical(asked: dns.name.Name) -> str | None:
    """The canonical name, or None where there is none or none that exists in a cell."""
    name = names.canonical(asked.to_text(omit_final_dot=True))
    if name is None or names.address_literal(name) is not None or name == _CANARY:
        return None
    return None if name.rpartition(".")[2] in _ABSENT else name


def is_local(name: str) -> bool:
    """Whether `name` is the cell itself (RFC 6761 §6.3)."""
    return name == "localhost" or name.endswith(".localhost")


def _bare(query: bytes, rcode: int) -> bytes:
    """A reply without a question, to a message that could not be read: its id and opcode are all that is kept."""
    flags = 0x8000 | (query[2] & 0x79) << 8 | rcode
    return query[:2] + flags.to_bytes(2, "big") + bytes(8)
