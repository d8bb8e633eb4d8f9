import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remit.core import flow
from remit.core.reason import Reason
from remit.node import dns as node_dns
from remit.node import dns_ledger, dns_server, dns_turns
from remit.node.dns import Fate, Quota, Reply
from remit.node.dns_ledger import Ledger, Refused


def always(name: str) -> bool:
    return True


def ask(name: str, kind: str = "A", **options: object) -> tuple[Reply, dns.message.Message]:
    query = dns.message.make_query(name, kind, **options)  # type: ignore[arg-type]
    reply = node_dns.answer(query.to_wire(), always)
    response = dns.message.from_wire(reply.message)
    assert query.is_response(response)
    return reply, response


def addresses(response: dns.message.Message) -> list[str]:
    return [record.address for rrset in response.answer for record in rrset]


@pytest.mark.parametrize("name", ["api.test", "API.Test", "db", "x.local", "a-b.c1.example", "intranet.corp"])
def test_every_valid_name_has_its_virtual_addresses(name: str) -> None:
    four, six = flow.virtual(name.lower())
    assert addresses(ask(name, "A")[1]) == [four]
    reply, response = ask(name, "AAAA")
    assert addresses(response) == [six]
    assert (reply.fate, reply.name, response.answer[0].ttl) == (Fate.ANSWERED, name.lower(), node_dns.TTL_S)


def test_the_question_comes_back_in_its_own_spelling() -> None:
    _, response = ask("ApI.tEsT")
    assert response.question[0].name.to_text() == "ApI.tEsT." == response.answer[0].name.to_text()


@pytest.mark.parametrize("kind", ["HTTPS", "SVCB", "TXT", "MX", "ANY", "NS", "SOA", "CNAME", "SRV", "CAA", "NULL"])
def test_other_types_are_empty_so_that_nothing_is_learnt_and_no_ech_is_enabled(kind: str) -> None:
    reply, response = ask("api.test", kind)
    assert (response.rcode(), response.answer, response.additional) == (dns.rcode.NOERROR, [], [])
    assert (reply.fate, reply.kind) == (Fate.ANSWERED, kind)


@pytest.mark.parametrize(
    "name",
    ["7.1.18.198.in-addr.arpa", "1.0.ip6.arpa", "x.invalid", "x.onion", "under_score.test", "-a.test", "127.1",
     "1.2.3.4", "0x7f.1", r"a\000b.test", r"a\.b.test", r"\195\188.test", ".", "use-application-dns.net"],
)  # fmt: skip
def test_names_that_are_none_do_not_exist(name: str) -> None:
    reply, response = ask(name)
    assert (reply.fate, response.rcode(), response.answer) == (Fate.ABSENT, dns.rcode.NXDOMAIN, [])


@pytest.mark.parametrize("name", ["localhost", "a.localhost"])
def test_localhost_is_the_cell_itself(name: str) -> None:
    assert (addresses(ask(name)[1]), addresses(ask(name, "AAAA")[1])) == (["127.0.0.1"], ["::1"])


def test_edns_is_answered_without_echoing_what_it_carried() -> None:
    option = dns.edns.GenericOption(65001, b"data on its way out")
    reply, response = ask("api.test", use_edns=0, payload=4096, options=[option])
    assert response.edns == 0 and not response.options and b"way out" not in reply.message


def test_a_quota_refuses_one_name_too_many_but_no_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_dns, "NAMES_PER_CELL", 2)
    quota = Quota()
    assert [quota.admit(1, name) for name in ("a", "b", "c", "a", "b")] == [True, True, False, True, True]
    assert quota.admit(2, "c")
    quota.forget(1)
    assert quota.admit(1, "c")


def test_over_quota_is_a_server_failure_and_says_so() -> None:
    reply = node_dns.answer(dns.message.make_query("a.test", "A").to_wire(), lambda name: False)
    assert (reply.fate, reply.name) == (Fate.REFUSED, "a.test")
    assert dns.message.from_wire(reply.message).rcode() == dns.rcode.SERVFAIL


def test_a_name_under_a_search_domain_exists_only_where_it_is_covered() -> None:
    """Or the first domain would win for every short name; it costs nothing of the quota."""
    query = dns.message.make_query("db.corp.example", "A").to_wire()
    reply = node_dns.answer(query, lambda name: False, lambda name: name.endswith(".corp.example"))
    assert (reply.fate, reply.name) == (Fate.ABSENT, "db.corp.example")
    assert dns.message.from_wire(reply.message).rcode() == dns.rcode.NXDOMAIN
    assert node_dns.answer(query, always, lambda name: False).fate is Fate.ANSWERED


@pytest.mark.parametrize("name", ["xn--pi-xka.test", "xn--80ak6aa92e.com"])
def test_a_name_in_another_script_is_a_name_of_its_own(name: str) -> None:
    """IDN: only A-labels are names (RFC 5890); one that looks like an allowed name shares nothing with it."""
    assert addresses(ask(name)[1]) == [flow.virtual(name)[0]]
    assert flow.virtual(name)[0] not in (flow.virtual("api.test")[0], flow.virtual("apple.com")[0])


def test_an_answer_is_stable_and_names_no_other_name() -> None:
    """Neither CNAME nor authority nor additional records, whoever asks and however often."""
    first, again = ask("api.test")[1], ask("api.test")[1]
    assert addresses(first) == addresses(again)
    assert [rrset.rdtype.name for rrset in first.answer] == ["A"]
    assert (first.authority, first.additional) == ([], [])


def test_unreadable_messages_get_an_error_or_nothing() -> None:
    query = dns.message.make_query("a.test", "A")
    wire = query.to_wire()
    assert node_dns.answer(wire[:11], always).message == b""
    assert node_dns.answer(b"\0" * 5000, always).message == b""
    assert node_dns.answer(dns.message.make_response(query).to_wire(), always).message == b"", "a response is no query"
    assert node_dns.answer(wire[:-1], always).message[3] & 15 == dns.rcode.FORMERR
    two = wire[:4] + b"\0\2" + wire[6:] + wire[12:]
    assert node_dns.answer(two, always).message[3] & 15 == dns.rcode.FORMERR
    query.set_opcode(dns.opcode.NOTIFY)
    assert node_dns.answer(query.to_wire(), always).message[3] & 15 == dns.rcode.NOTIMP
    chaos = dns.message.make_query("version.bind", "TXT", rdclass=dns.rdataclass.CH).to_wire()
    assert node_dns.answer(chaos, always).message[3] & 15 == dns.rcode.REFUSED


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_do_anything_but_get_a_bounded_reply(data: bytes) -> None:
    for query in (data, b"\0\1\1\0\0\1\0\0\0\0\0\0" + data):
        reply = node_dns.answer(query, always)
        assert len(reply.message) <= node_dns.PAYLOAD
        assert reply.message == b"" or (reply.message[:2] == query[:2] and reply.message[2] & 0x80)


def test_a_refused_name_is_written_down_at_once_and_then_once_a_minute_with_its_count() -> None:
    ledger = Ledger()
    for _ in range(3):
        ledger.note(1, "a.test", "A", Reason.NO_CAPABILITY, 0.0)
    assert ledger.due(0.0) == [Refused(cell=1, name="a.test", kind="A", reason=Reason.NO_CAPABILITY, count=3)]
    ledger.note(1, "a.test", "AAAA", Reason.NO_CAPABILITY, 1.0)
    assert ledger.due(59.0) == []
    assert [(refused.kind, refused.count) for refused in ledger.due(60.0)] == [("AAAA", 1)]
    assert ledger.due(120.0) == []
    ledger.note(1, "a.test", "A", Reason.NO_CAPABILITY, 121.0)
    assert len(ledger.due(121.0)) == 1, "forgotten after a quiet minute"


def test_names_without_end_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_ledger, "PER_CELL_MAX", 2)
    ledger = Ledger()
    for number in range(100):
        ledger.note(1, f"n{number}.test", "A", Reason.NO_CAPABILITY, 0.0)
    ledger.note(2, "a.test", "A", Reason.NO_CAPABILITY, 0.0)
    assert [(refused.cell, refused.name, refused.count) for refused in ledger.due(0.0)] == [
        (1, "n0.test", 1), (1, "n1.test", 1), (1, dns_ledger.OTHER, 98), (2, "a.test", 1),
    ]  # fmt: skip


def test_cells_that_ask_without_end_leave_every_other_cell_the_names_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dns_ledger, "KEYS_MAX", 100)
    monkeypatch.setattr(dns_ledger, "SHARE", 3)
    ledger = Ledger()
    for cell in (1, 2):
        for number in range(200):
            ledger.note(cell, f"n{number}.test", "A", Reason.NO_CAPABILITY, 0.0)
    for number in range(5):
        ledger.note(3, f"own{number}.test", "A", Reason.NO_CAPABILITY, 0.0)
    mine = {one.name: one.count for one in ledger.due(0.0) if one.cell == 3}
    assert mine == {"own0.test": 1, "own1.test": 1, "own2.test": 1, dns_ledger.OTHER: 2}


class Service:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.recorded: asyncio.Queue[Refused] = asyncio.Queue()

    async def record(self, refused: Refused) -> None:
        self.recorded.put_nowait(refused)

    @contextlib.asynccontextmanager
    async def serving(self, quota: Quota) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        def knows(cell: int, name: str) -> bool:
            return name == "known.test"

        def door(cell: int, address: str, port: int) -> bytes:
            return f"{cell} {address} {port}".encode()

        task = asyncio.ensure_future(dns_server.serve_dns(self.path, knows, self.record, quota=quota, door=door))
        async with asyncio.timeout(60):
            while not self.path.exists():
                await asyncio.sleep(0.005)
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        try:
            yield reader, writer
        finally:
            writer.close()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.sleep(0)


def framed(cell: int, number: int, message: bytes) -> bytes:
    return (8 + len(message)).to_bytes(4, "big") + cell.to_bytes(4, "big") + number.to_bytes(4, "big") + message


async def received(reader: asyncio.StreamReader) -> tuple[int, int, bytes]:
    async with asyncio.timeout(60):
        frame = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
    return int.from_bytes(frame[:4], "big"), int.from_bytes(frame[4:8], "big"), frame[8:]


def test_the_cell_that_is_idle_longest_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_dns, "CELLS_MAX", 2)
    quota = Quota()
    for cell in (1, 2, 1, 3):
        assert quota.admit(cell, "a.test")
    assert quota.askers("a.test") == [1, 3]
    assert quota.asked(2, flow.virtual("a.test")[0]) == ()


async def test_questions_may_be_sent_without_waiting_and_refused_names_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_dns, "NAMES_PER_CELL", 2)
    service = Service(tmp_path / "d")
    async with service.serving(Quota()) as (reader, writer):
        names = ["known.test", "other.test", "third.test"]
        for number, name in enumerate(names):
            writer.write(framed(7, number, dns.message.make_query(name, "A").to_wire()))
        writer.write(framed(7, 9, b"short"))
        answers = [await received(reader) for _ in range(4)]
        assert [(cell, number) for cell, number, _ in answers] == [(7, 0), (7, 1), (7, 2), (7, 9)]
        assert addresses(dns.message.from_wire(answers[0][2])) == [flow.virtual("known.test")[0]]
        assert answers[3][2] == b""
        async with asyncio.timeout(60):
            seen = {(await service.recorded.get()) for _ in range(2)}
    assert {(refused.name, refused.reason) for refused in seen} == {
        ("other.test", Reason.NO_CAPABILITY),
        ("third.test", Reason.OVERLOADED),
    }


async def test_a_cell_that_asks_without_end_does_not_make_another_wait_for_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_server, "SLICE_S", 0.0)
    service = Service(tmp_path / "d")
    async with service.serving(Quota()) as (reader, writer):
        query = dns.message.make_query("known.test", "A").to_wire()
        door = b"\1\xbb" + bytes(4)
        asked = [
            framed(7 | flag, number, question)
            for number in range(100)
            for flag, question in ((0, query), (dns_server.DOOR, door))
        ]
        writer.write(b"".join(asked) + framed(8, 1, query) + framed(9, 1, query))
        answers = [await received(reader) for _ in range(202)]
    assert {cell for cell, _, _ in answers[:5]} >= {8, 9}, "two hundred of another stood before them"
    mine = [(cell, number) for cell, number, _ in answers if cell not in {8, 9}]
    assert mine == [(7 | flag, number) for number in range(100) for flag in (0, dns_server.DOOR)], (
        "in the order of its asking"
    )


async def test_others_have_the_loop_between_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_server, "SLICE_S", 0.0)
    service, turns = Service(tmp_path / "d"), 0

    async def decisions() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with service.serving(Quota()) as (reader, writer):
        deciding = asyncio.ensure_future(decisions())
        writer.write(
            b"".join(framed(7, number, dns.message.make_query("known.test", "A").to_wire()) for number in range(50))
        )
        await received(reader)
        before = turns
        for _ in range(49):
            await received(reader)
        deciding.cancel()
        await asyncio.gather(deciding, return_exceptions=True)
    assert turns - before > 49


async def test_what_a_cell_asks_beyond_its_room_is_dropped_and_the_next_cell_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_turns, "BYTES_PER_CELL", 300)
    service = Service(tmp_path / "d")
    async with service.serving(Quota()) as (reader, writer):
        query = dns.message.make_query("known.test", "A").to_wire()
        writer.write(b"".join(framed(7, number, query) for number in range(100)) + framed(8, 1, query))
        answers = [await received(reader) for _ in range(101)]
    dropped = [number for cell, number, message in answers if cell == 7 and not message]
    assert 80 < len(dropped) < 100
    assert [bool(message) for cell, _, message in answers if cell == 8] == [True]


class Unread(asyncio.Transport):
    """A connection whose other end reads when it is told to. `said`: what was written or asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[object] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.said.append(bytes(data))

    def pause_reading(self) -> None:
        self.said.append("reads no more")

    def resume_reading(self) -> None:
        self.said.append("reads")


async def test_a_forwarder_that_does_not_read_is_neither_answered_nor_read() -> None:
    desk = dns_server.Desk(lambda cell, name: True, Quota(), lambda *_: b"tcp", ())
    conversation, transport = dns_server.Conversation(desk, set()), Unread()
    conversation.connection_made(transport)
    conversation.pause_writing()
    conversation.data_received(framed(7 | dns_server.DOOR, 1, b"\1\xbb" + bytes(4)))
    assert transport.said == ["reads no more"]
    conversation.resume_writing()
    assert transport.said == ["reads no more", "reads", framed(7 | dns_server.DOOR, 1, b"tcp")]


@pytest.mark.parametrize("size", [0, 7, 70_000, 0xFFFFFFFF])
async def test_a_frame_that_cannot_be_ends_the_conversation(tmp_path: Path, size: int) -> None:
    service = Service(tmp_path / "d")
    async with service.serving(Quota()) as (reader, writer):
        writer.write(size.to_bytes(4, "big"))
        async with asyncio.timeout(60):
            assert await reader.read() == b""
