"""A long audit log, written fast: lines as the journal writes them, without a sync for each.

200 tasks run at any time and each makes some 500 requests; a decision's completion follows a few hundred records later.
Half of the tasks stand below another one. Of the requests 4 % are refused, and one name in a thousand was never asked
for before.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from remit.audit import head, record, segments

ROLES = ("devops", "secops", "finops", "notifier")
FORMER = "trial"
"""A role that only the first tenth of the log knows."""
CAPABILITIES = tuple(f"{role}-{number}" for role in ROLES for number in range(10))
CREDENTIALS = tuple(f"key-{number}" for number in range(12))
_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
REASONS = ("no_capability", "policy_denied", "budget_exhausted", "name_unresolved")
SEGMENT_BYTES = 64 << 20
AT_ONCE, EACH, LATER = 200, 500, 300
STEP = timedelta(milliseconds=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What can be asked for. `parents`: tasks with others below them; the first of `tasks` has a twentieth of all below
    it. `strange`: hosts that stand in one record."""

    records: int
    tasks: list[str]
    parents: list[str]
    hosts: list[str]
    strange: list[str]
    first: datetime
    last: datetime


class _Log:
    """Segments without gaps, as the journal leaves them."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self._file: BinaryIO | None = None
        self._room = self._number = self._start = 0
        self.seq, self.prev, self.offset = 0, record.GENESIS, 0

    def add(self, middle: bytes, opening: bytes) -> None:
        if self._room < len(middle) + 200:
            self.close()
            self._number += 1
            self._file = segments.path(self._directory, self._number).open("wb", buffering=1 << 20)
            self._room, self.offset = SEGMENT_BYTES, 0
            self._put(opening + b'"segment":%d,"format":"remit-audit-1",' % self._number)
        self._put(middle)

    def _put(self, middle: bytes) -> None:
        assert self._file is not None
        self.seq += 1
        text = b'{"seq":%d,%b"prev":"%b"}' % (self.seq, middle, self.prev.encode())
        self.prev = hashlib.sha256(text).hexdigest()
        self._file.write(text + b"\n")
        self._room -= len(text) + 1
        self.offset += len(text) + 1

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def end(self) -> segments.Position:
        return segments.Position(segment=self._number, offset=self.offset, seq=self.seq, hash=self.prev)


def write(directory: Path, records: int) -> tuple[dict[str, Any], Drawn]:
    """A log of at least `records` lines in `directory`/audit; its signed head, and what is in it."""
    chance = random.Random(4711)
    log = _Log(directory / "audit")
    first = datetime(2026, 9, 1, tzinfo=UTC)
    hosts = [f"api{number}.example.com" for number in range(60)]
    strange: list[str] = []
    tasks: list[str] = []
    parents: set[str] = set()
    running: list[list[Any]] = []
    waiting: deque[bytes] = deque()
    step_us = STEP // timedelta(microseconds=1)
    now_us = int(first.timestamp() * 1e6)
    second, stamped = -1, ""

    def opening(kind: bytes) -> bytes:
        nonlocal now_us, second, stamped
        now_us += chance.randrange(2 * step_us)
        whole, rest = divmod(now_us, 1_000_000)
        if whole != second:
            second, stamped = whole, datetime.fromtimestamp(whole, UTC).isoformat()[:19]
        name = record.record_id(now_us, chance.getrandbits(55))
        return b'"id":"%b","time":"%b.%06dZ","kind":"%b",' % (name.encode(), stamped.encode(), rest, kind)

    while log.seq < records:
        while len(running) < AT_ONCE:
            tasks.append("t-" + "".join(chance.choices(_LETTERS, k=10)))
            early = log.seq < records // 10
            role = chance.choice((*ROLES, FORMER) if early else ROLES)
            kin = _kin(chance, tasks, running)
            running.append([tasks[-1], role, chance.randrange(1, 2 * EACH), kin])
            if kin:
                parents.add(kin[-1])
                created = b'"operator":"","action":"task.create","detail":"x","task":"%b","role":"%b",%b'
                middle = created % (tasks[-1].encode(), role.encode(), _chain(kin))
                log.add(opening(b"operator") + middle, opening(b"segment"))
        task = chance.choice(running)
        task[2] -= 1
        if not task[2]:
            running.remove(task)
        if chance.random() < 0.01:
            dns = b'"task":"%b","role":"%b","decision":"deny","reason":"no_capability","host":"n%d.invalid","count":3,'
            log.add(
                opening(b"dns") + dns % (task[0].encode(), task[1].encode(), chance.randrange(500)), opening(b"segment")
            )
        if chance.random() < 0.0005:
            log.add(opening(b"operator") + b'"actor":"root","action":"apply","detail":"x",', opening(b"segment"))
        began = opening(b"decision")
        log.add(began + _decision(chance, task, hosts, strange), opening(b"segment"))
        waiting.append(began[6:30])
        if len(waiting) > LATER:
            done = _COMPLETION % (waiting.popleft(), chance.randrange(90000), chance.randrange(900))
            log.add(opening(b"completion") + done, opening(b"segment"))
    log.close()
    last = datetime.fromtimestamp(now_us / 1e6, UTC)
    signer = head.Signer(directory / "head.key")
    drawn = Drawn(
        records=log.seq, tasks=tasks, parents=sorted(parents), hosts=hosts, strange=strange, first=first, last=last
    )
    return signer.sign(log.end(), record.stamp(last)), drawn


_DECISION = (
    b'"task":"%b","role":"%b","decision":"%b","reason":"%b","detail":"","capability":%b,"credential":%b,"method":"GET",'
    b'"scheme":"https","host":"%b","port":443,"path":"/repos/a/b/contents/%x.py","flow":"100.64.0.%d:%d",'
    b'"address":"140.82.121.6","jti":"%022x","notes":{},"charges":{"role:%b":[1,0]},%b'
)
_COMPLETION = (
    b'"record":"%b","status":200,"bytes_out":412,"bytes_in":%d,"duration_ms":%d,"protocol":"HTTP/2","flags":null,'
    b'"ending":"via_upstream","upstream":"140.82.121.6:443",'
)


def _kin(chance: random.Random, tasks: list[str], running: list[list[Any]]) -> list[str]:
    """The tasks above a new one, the first of them first; none for half of them."""
    if len(tasks) > 1 and chance.random() < 0.05:
        return tasks[:1]
    if not running or chance.random() < 0.5:
        return []
    parent = chance.choice(running)
    return [*parent[3], parent[0]] if len(parent[3]) < 8 else []


def _chain(kin: list[str]) -> bytes:
    listed = b",".join(b'"%b"' % one.encode() for one in kin)
    return b'"parent":"%b","chain":[%b],' % (kin[-1].encode(), listed) if kin else b""


def _decision(chance: random.Random, task: list[Any], hosts: list[str], strange: list[str]) -> bytes:
    host = chance.choice(hosts)
    if chance.random() < 0.001:
        strange.append(host := f"h{chance.getrandbits(40):x}.example.net")
    permitted = chance.random() > 0.04
    first = 10 * ROLES.index(task[1]) if task[1] in ROLES else 0
    capability = CAPABILITIES[first + min(int(chance.expovariate(0.5)), 9)]
    credential = CREDENTIALS[sum(capability.encode()) % 12]
    return _DECISION % (
        task[0].encode(), task[1].encode(), b"permit" if permitted else b"deny",
        b"permitted" if permitted else chance.choice(REASONS).encode(),
        b'"%b"' % capability.encode() if permitted else b"null",
        b'"%b"' % credential.encode() if permitted else b"null",
        host.encode(), chance.getrandbits(24), chance.randrange(256), chance.randrange(65536), chance.getrandbits(88),
        task[1].encode(), _chain(task[3]),
    )  # fmt: skip
