"""The process that evaluates policies, from both ends: `Process` in the node, `main` in the process itself.

It has nothing: no environment, no descriptors but one end of a socket pair and no way to open another, bounded memory;
it ends with its parent even in the middle of an evaluation. Questions and answers are JSON frames, one at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
import sys
from typing import Any

from remit.core import frame
from remit.core.decision import Opinion
from remit.core.errors import Invalid
from remit.core.snapshot import Policy
from remit.node import notify, privilege
from remit.policy import ast, rego

MEMORY_BYTES = 512 << 20
"""Address space; the interpreter and the engine themselves take about 100 MiB of it."""
ENVIRONMENT = {
    "RUST_LIB_BACKTRACE": "0",
    "MIMALLOC_ARENA_RESERVE": "16MiB",  # the engine's allocator reserves 1 GiB at once otherwise, outside any limit
}
READ_BYTES = 1 << 16
MAX_ANSWER = 1 << 20


class Died(Exception):
    """The process is gone, or said something that it never says."""


class Process:
    """The node's end. Any exception, `TimeoutError` and cancellation included, leaves it unusable: `end` it."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls) -> Process:
        """Raises `OSError` where it cannot be started."""
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-m",
                "remit.node.policy_process",
                str(theirs.fileno()),
                str(os.getpid()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,  # the engine prints what it cannot schedule
                stderr=asyncio.subprocess.DEVNULL,
                env=ENVIRONMENT,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        return cls(process, reader, writer)

    @property
    def alive(self) -> bool:
        return self._process.returncode is None and not self._reader.at_eof()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def reset(self) -> None:
        """Forget every policy."""
        await self._exchange({"reset": True})

    async def load(self, policy: Policy) -> frozenset[ast.Path] | None:
        """Take `policy` in. The input paths under which its results may be remembered, or None."""
        answer = await self._exchange({"name": policy.name, "module": policy.module, "invalid": policy.invalid})
        match answer:
            case {"reads": None}:
                return None
            case {"reads": list(paths)}:
                return frozenset(tuple(str(step) for step in path) for path in paths)
        raise Died("an answer that is none")

    async def evaluate(self, names: tuple[str, ...], document: str) -> Opinion:
        """What the named policies say of `document` (JSON text)."""
        answer = await self._exchange({"names": list(names), "input": document})
        try:
            return Opinion(
                denials=tuple((str(name), str(said)) for name, said in answer["denials"]),
                holds=tuple((str(name), str(said)) for name, said in answer["holds"]),
                notes={str(name): str(text) for name, text in answer["notes"].items()},
                headers={str(name): str(text) for name, text in answer["headers"].items()},
                failure=None if answer["failure"] is None else str(answer["failure"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Died("an answer that is none") from error

    async def end(self) -> None:
        """Kill it and wait until it is gone."""
        self._writer.close()
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()

    async def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            self._writer.write(frame.encode(message))
            await self._writer.drain()
            size = int.from_bytes(await self._reader.readexactly(4), "big")
            if size > MAX_ANSWER:
                raise Died("an answer without end")
            answer = json.loads(await self._reader.readexactly(size))
        except (OSError, EOFError, Invalid, ValueError) as error:
            raise Died(str(error)) from error
        if not isinstance(answer, dict):
            raise Died("an answer that is none")
        return answer


def main(descriptor: int, parent: int) -> None:
    """Policies in, opinions out, until the other end closes."""
    notify.die_with_parent(parent)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    privilege.without_core()
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    rego.Bundle().evaluate((), "{}")  # whatever the engine loads late, it loads now
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))  # from here on it can open neither file nor socket
    bundle, decoder = rego.Bundle(), frame.Decoder()
    with socket.socket(fileno=descriptor) as stream:
        while data := stream.recv(READ_BYTES):
            for message in decoder.feed(data):
                stream.sendall(frame.encode(_answer(bundle, message)))


def _answer(bundle: rego.Bundle, message: dict[str, Any]) -> dict[str, Any]:
    if "reset" in message:
        bundle.clear()
        return {}
    if "module" in message:
        policy = Policy(name=message["name"], module=message["module"], package="", invalid=message["invalid"])
        reads = bundle.add(policy)
        return {"reads": None if reads is None else sorted(reads)}
    opinion = bundle.evaluate(message["names"], message["input"])
    return {
        "denials": opinion.denials,
        "holds": opinion.holds,
        "notes": opinion.notes,
        "headers": opinion.headers,
        "failure": opinion.failure,
    }


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
