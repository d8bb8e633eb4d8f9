"""Policies, evaluated where they can be killed.

A Rego module can loop or allocate without end, and the engine holds the interpreter lock while it does; so policies run
in a process of their own with bounded memory, and an evaluation that takes too long costs that process its life and the
request a denial. What can be remembered is (`policy.memo`), so most requests never reach the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import resource
import socket
import sys
from typing import Any

from remit.control.ports import Policies
from remit.core import frame
from remit.core.decision import Candidate, Opinion
from remit.core.errors import Invalid
from remit.core.snapshot import Policy, Snapshot
from remit.policy import rego
from remit.policy.given import given
from remit.policy.memo import Memo

log = logging.getLogger(__name__)

MEMORY_BYTES = 1 << 30
MAX_WAITING = 256
START_TIMEOUT_S = 10.0
READ_BYTES = 1 << 16


class Worker:
    """`control.ports.Policies`. One evaluation at a time: 30 µs each, so a queue serves better than more processes."""

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._policies: dict[str, Policy] = {}
        self._memo = Memo({})
        self._version = 0
        self._waiting = 0
        self._asking: set[asyncio.Future[Opinion]] = set()
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._loaded = -1

    def update(self, snapshot: Snapshot) -> None:
        """Judge by the policies of `snapshot` from now on."""
        if snapshot.rules.policies != self._policies:
            self._policies = dict(snapshot.rules.policies)
            self._memo = Memo(self._policies)
            self._version += 1

    async def judge(self, candidate: Candidate) -> Opinion:
        names = candidate.role.policies
        if not names:
            return Opinion()
        document = given(candidate)
        memo, key = self._memo, self._memo.key(names, document)
        if key is not None and (known := memo.get(key)) is not None:
            return known
        if self._waiting >= MAX_WAITING:
            return Opinion(failure="too many requests wait for the policies")
        asking = asyncio.ensure_future(self._queued(names, json.dumps(document)))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        # An agent that disconnects must not leave the worker in the middle of an exchange.
        opinion = await asyncio.shield(asking)
        if key is not None and memo is self._memo:
            memo.put(key, opinion)
        return opinion

    async def _queued(self, names: tuple[str, ...], document: str) -> Opinion:
        self._waiting += 1
        try:
            async with self._turn:
                return await self._ask(names, document)
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        self._process = self._reader = self._writer = None
        self._loaded = -1

    async def _ask(self, names: tuple[str, ...], document: str) -> Opinion:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._ready()
        except (OSError, TimeoutError, EOFError, Invalid) as error:
            await self.close()
            return Opinion(failure=f"the policy worker does not start: {error!r}")
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._exchange({"names": list(names), "input": document})
        except TimeoutError:
            await self.close()
            return Opinion(failure=f"{', '.join(names)}: took longer than {self._timeout_s:g} s")
        except (OSError, EOFError, Invalid):
            await self.close()
            return Opinion(failure=f"{', '.join(names)}: the policy worker died while it evaluated")
        return _opinion(answer)

    async def _ready(self) -> None:
        if self._process is None or self._process.returncode is not None:
            await self.close()
            ours, theirs = socket.socketpair()
            try:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "remit.node.policy_worker",
                    str(theirs.fileno()),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    env={"RUST_LIB_BACKTRACE": "0"},
                )
            except OSError:
                ours.close()
                raise
            finally:
                theirs.close()
            self._reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        if self._loaded != self._version:
            version = self._version
            policies = [
                {"name": p.name, "module": p.module, "package": p.package, "invalid": p.invalid}
                for p in self._policies.values()
            ]
            await self._exchange({"policies": policies})
            self._loaded = version

    async def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._reader is not None and self._writer is not None
        self._writer.write(frame.encode(message))
        await self._writer.drain()
        size = int.from_bytes(await self._reader.readexactly(4), "big")
        if size > frame.MAX_FRAME_BYTES:
            raise Invalid("the policy worker answered too much")
        answer = json.loads(await self._reader.readexactly(size))
        if not isinstance(answer, dict):
            raise Invalid("the policy worker answered nonsense")
        return answer


def _opinion(answer: dict[str, Any]) -> Opinion:
    return Opinion(
        denials=tuple((str(name), str(said)) for name, said in answer["denials"]),
        holds=tuple((str(name), str(said)) for name, said in answer["holds"]),
        notes=answer["notes"],
        headers=answer["headers"],
        failure=answer["failure"],
    )


def main(descriptor: int) -> None:
    """The worker: policies in, opinions out, until the other end closes."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    bundle = rego.Bundle({})
    decoder = frame.Decoder()
    with socket.socket(fileno=descriptor) as stream:
        while data := stream.recv(READ_BYTES):
            for message in decoder.feed(data):
                if "policies" in message:
                    bundle = rego.Bundle({item["name"]: Policy(**item) for item in message["policies"]})
                    stream.sendall(frame.encode({"loaded": len(message["policies"])}))
                    continue
                opinion = bundle.evaluate(message["names"], message["input"])
                stream.sendall(
                    frame.encode(
                        {
                            "denials": opinion.denials,
                            "holds": opinion.holds,
                            "notes": opinion.notes,
                            "headers": opinion.headers,
                            "failure": opinion.failure,
                        }
                    )
                )


_: type[Policies] = Worker

if __name__ == "__main__":
    main(int(sys.argv[1]))
