"""Real cells, real forwarder, and what stands outside of them for the tests: a control plane, a boundary, a resolver.

Each part is a process of its own (`python cells_rig.py PART DIRECTORY`), as in production: `cells` enters a mount
namespace, and the forwarder gives up its uid.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

FORWARD_UID = 64_990
ROOT = Path(__file__).resolve().parents[1]
DEADLINE_S = 60.0
_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"


def until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """The first true value of `condition`."""
    limit = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < limit, f"waited {deadline_s:g} s for: {what}"
        time.sleep(0.02)


def lines(path: Path) -> list[dict[str, Any]]:
    """What was written whole: another process may be at the last one."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


@dataclass
class Rig:
    """A running node without its decisions. `limits`: what the control plane answers to the next tasks."""

    directory: Path
    user: int | None = None
    """Who runs everything, if not we: an ordinary user, to whom this checkout's interpreter may be out of reach."""
    parts: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def _python(self) -> tuple[str, dict[str, str], dict[str, Any]]:
        path = str(ROOT / "src")
        if self.user is None:
            return sys.executable, {**os.environ, "PYTHONPATH": path}, {}
        packages = next(entry for entry in sys.path if entry.endswith("site-packages"))
        environment = {"PATH": "/usr/bin:/usr/sbin:/bin", "PYTHONPATH": f"{path}:{packages}", "HOME": "/tmp"}
        who = {"user": self.user, "group": self.user, "extra_groups": []}
        return "/usr/bin/python3", {**environment, "PYTHONDONTWRITEBYTECODE": "1"}, who

    @property
    def run_dir(self) -> Path:
        return self.directory / "run"

    @property
    def cells_dir(self) -> Path:
        return self.directory / "state" / "cells"

    @property
    def _ready(self) -> Path:
        return self.directory / "ready"

    def start(self, part: str) -> None:
        with (self.directory / f"{part}.log").open("ab") as log:
            python, environment, who = self._python()
            self.parts[part] = subprocess.Popen(
                [python, __file__, part, str(self.directory)],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                **who,
            )

    def kill(self, part: str, number: int = signal.SIGKILL) -> None:
        self.parts[part].send_signal(number)
        self.parts[part].wait(20)
        if part == "cells":
            self._ready.unlink(missing_ok=True)

    def accepting(self) -> None:
        """Wait until cells can be asked for."""
        until(self._ready.exists, "cells to accept")

    def answer(self, **values: Any) -> None:
        """What control answers to POST /v1/tasks from now on, over the defaults."""
        (self.directory / "answer.json").write_text(json.dumps(values))

    def calls(self, ending: str = "") -> list[dict[str, Any]]:
        return [call for call in lines(self.directory / "calls.jsonl") if call["target"].endswith(ending)]

    def flows(self) -> list[dict[str, Any]]:
        return lines(self.directory / "flows.jsonl")

    def popen(
        self, *argv: str, verb: str = "run", role: str | None = "devops", **options: Any
    ) -> subprocess.Popen[bytes]:
        python, inherited, who = self._python()
        role_given = ["--role", role] if role and verb == "run" else []
        command = [python, "-m", "remit.cli.run", verb, *role_given, *argv]
        environment = {**inherited, "REMIT_RUN_DIR": str(self.run_dir)}
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        defaults: dict[str, Any] = {**who, "env": environment, **streams}
        return subprocess.Popen(command, **{**defaults, **options})

    def run(
        self, *argv: str, input: bytes | None = None, timeout: float = 60, **options: Any
    ) -> subprocess.CompletedProcess[bytes]:
        """`remit run`, to its end."""
        if input is not None:
            options["stdin"] = subprocess.PIPE
        child = self.popen(*argv, **options)
        try:
            out, err = child.communicate(input, timeout)
        except BaseException:
            child.kill()
            child.wait()
            raise
        return subprocess.CompletedProcess(argv, child.returncode, out, err)

    def sh(self, script: str, *options: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
        return self.run(*options, "--", "sh", "-c", script, **more)

    def python(self, script: str, *options: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
        return self.run(*options, "--", "/usr/bin/python3", "-c", script, **more)

    def ask(self, **message: Any) -> dict[str, Any]:
        """One operation of the protocol that answers with one message."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(30)
            self._connect(sock)
            body = json.dumps(message).encode()
            sock.sendall(struct.pack(">cI", b"J", len(body)) + body)
            with sock.makefile("rb") as file:
                size = struct.unpack(">cI", file.read(5))[1]
                return dict(json.loads(file.read(size)))

    def _connect(self, sock: socket.socket) -> None:
        """As the node's user: the kernel tells the daemon who connects."""
        before = os.geteuid()
        os.seteuid(self.user if self.user is not None else before)
        try:
            sock.connect(str(self.run_dir / "cells.sock"))
        finally:
            os.seteuid(before)

    def detached(self, *argv: str, **options: Any) -> str:
        done = self.run("--detach", *argv, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().strip()

    def tasks(self) -> list[dict[str, Any]]:
        return list(self.ask(op="list")["cells"])

    def gone(self, task: str) -> None:
        until(lambda: task not in [cell["task"] for cell in self.tasks()], f"task {task} to be gone")


@contextlib.contextmanager
def rig(directory: Path, user: int | None = None) -> Iterator[Rig]:
    made = Rig(directory, user)
    directory.chmod(0o755)
    for name in ("run", "run/forward", "run/boundary", "run/dns", "state", "state/cells"):
        (directory / name).mkdir(mode=0o755, exist_ok=True)
    (directory / "bundle.pem").write_bytes(Path("/etc/ssl/certs/ca-certificates.crt").read_bytes())
    (directory / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    if user is not None:
        for path in (directory, *directory.rglob("*")):
            os.chown(path, user, user)
    try:
        for part in ("outside", "cells", "forward"):
            made.start(part)
        made.accepting()
        until(lambda: (directory / "run/dns/dns.sock").exists(), "what stands outside to accept")
        yield made
    finally:
        for part in ("cells", "forward", "outside"):
            with contextlib.suppress(ProcessLookupError, KeyError):
                made.parts[part].send_signal(signal.SIGTERM)
        for child in made.parts.values():
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@pytest.fixture(scope="module")
def node() -> Iterator[Rig]:
    """One running node for the tests of a module."""
    # Not pytest's own directory: the forwarder's uid has to walk to its sockets.
    with tempfile.TemporaryDirectory(prefix="remit-cells-") as directory, rig(Path(directory)) as made:
        yield made


@pytest.fixture
def fresh() -> Iterator[Rig]:
    """A node of the test's own, to be broken."""
    with tempfile.TemporaryDirectory(prefix="remit-cells-") as directory, rig(Path(directory)) as made:
        yield made


@pytest.fixture
def workspace() -> Iterator[Path]:
    """An empty directory of the operator's, on a file system that can be mapped."""
    with tempfile.TemporaryDirectory(prefix="remit-workspace-") as directory:
        yield Path(directory)


def _append(path: Path, value: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(value) + "\n")


class _Outside:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._cell = random.randrange(1, 4_000_000)

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        target = head.split(" ")[1]
        size = int(head.lower().partition("content-length:")[2].split("\r\n")[0])
        body = json.loads(await reader.readexactly(size))
        _append(self._directory / "calls.jsonl", {"target": target, "body": body})
        status, answer = 200, {}
        if target == "/v1/tasks":
            status, answer = self._task(body)
        elif target.endswith("/pruned") and (self._directory / "unrecorded").exists():
            status, answer = 503, {"detail": "nothing was changed: the action could not be recorded"}
        elif target.endswith("/token"):
            answer = {"token": f"renewed-{time.time_ns()}", "expires": 0}
        content = json.dumps(answer).encode()
        writer.write(
            f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode() + content
        )
        await writer.drain()
        writer.close()

    def _task(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if body["role"] == "unknown":
            return 404, {"detail": "there is no role unknown", "hint": "remit get roles"}
        self._cell += 1
        given = self._directory / "answer.json"
        answer = {
            "task": "t-" + "".join(random.choices(_LETTERS, k=10)),
            "cell": self._cell,
            "token": f"token-of-{self._cell}",
            "expires": 0,
            "environment": {"GITHUB_TOKEN": "placeholder"},
            "limits": {"memory_bytes": 512 << 20, "processes": 128, "disk_bytes": 64 << 20},
        }
        return 201, answer | (json.loads(given.read_text()) if given.exists() else {})

    async def boundary(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readexactly(16)
        block = await reader.readexactly(int.from_bytes(head[14:], "big"))
        family, width = (socket.AF_INET, 4) if head[13] == 0x11 else (socket.AF_INET6, 16)
        seen = {
            "source": socket.inet_ntop(family, block[:width]),
            "destination": socket.inet_ntop(family, block[width : 2 * width]),
            "source_port": int.from_bytes(block[2 * width : 2 * width + 2], "big"),
            "port": int.from_bytes(block[2 * width + 2 : 2 * width + 4], "big"),
            "token": block[2 * width + 7 :].decode(),
        }
        _append(self._directory / "flows.jsonl", seen)
        with contextlib.suppress(OSError):
            first = await reader.readline()
            if first == b"echo\n":
                while data := await reader.read(1 << 16):
                    writer.write(data)
                    await writer.drain()
            elif first == b"sink\n":
                total = 0
                while data := await reader.read(1 << 20):
                    total += len(data)
                writer.write(f"{total}\n".encode())
            elif first == b"hold\n":
                writer.write(b"held\n")
                await reader.read()
            elif first:
                body = json.dumps(seen).encode()
                writer.write(
                    f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
                )
            await writer.drain()
            writer.close()

    async def resolver(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        import dns.message
        import dns.rrset

        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(12)
                asked = await reader.readexactly(int.from_bytes(head[:4], "big") - 8)
                if head[4] & 0x80:  # asks for a door: the first one will do
                    writer.write((8).to_bytes(4, "big") + head[4:])
                    continue
                query = dns.message.from_wire(asked)
                answer = dns.message.make_response(query)
                question = query.question[0]
                _append(self._directory / "queries.jsonl", {"name": str(question.name), "type": int(question.rdtype)})
                address = {1: "198.18.7.7", 28: "fd00:201:1::7"}.get(int(question.rdtype))
                if address is not None:
                    answer.answer.append(dns.rrset.from_text(question.name, 30, "IN", question.rdtype, address))
                wire = answer.to_wire()
                writer.write((8 + len(wire)).to_bytes(4, "big") + head[4:] + wire)
                await writer.drain()


async def _outside(directory: Path) -> None:
    parts, run = _Outside(directory), directory / "run"
    os.umask(0)
    servers = [
        await asyncio.start_unix_server(parts.control, str(run / "control.sock")),
        await asyncio.start_unix_server(parts.boundary, str(run / "boundary/proxy.sock"), backlog=4096),
        await asyncio.start_unix_server(parts.resolver, str(run / "dns/dns.sock")),
    ]
    await asyncio.gather(*(server.serve_forever() for server in servers))


def _ttl(directory: Path) -> float:
    return float((directory / "ttl").read_text()) if (directory / "ttl").exists() else 600.0


def _main(part: str, directory: Path) -> None:
    run = directory / "run"
    if part == "outside":
        work = _outside(directory)
    elif part == "cells":
        from remit.cell import retention, service

        work = service.serve(
            cells_socket=run / "cells.sock",
            forward_socket=run / "forward/forward.sock",
            control_socket=run / "control.sock",
            control_uid=os.geteuid(),
            opens=lambda _: None,
            cells_dir=directory / "state/cells",
            ca_bundle=directory / "bundle.pem",
            ca_certificate=directory / "ca.pem",
            forward_uid=FORWARD_UID if os.geteuid() == 0 else os.geteuid(),
            token_ttl_s=_ttl(directory),
            kept=retention.Retention(age_s=1e9, total_bytes=1 << 40),
            path="",
            stage_dir=directory / "run/stage",
            ready=(directory / "ready").touch,
        )
    else:
        import encodings.idna  # noqa: F401

        import uvloop

        from remit.cell import forward

        work = forward.serve(
            forward_socket=run / "forward/forward.sock",
            proxy_socket=run / "boundary/proxy.sock",
            dns_socket=run / "dns/dns.sock",
        )
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(FORWARD_UID, FORWARD_UID, FORWARD_UID)
            os.setresuid(FORWARD_UID, FORWARD_UID, FORWARD_UID)

    async def until_told() -> None:
        job = asyncio.ensure_future(work)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, job.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await job

    asyncio.run(until_told())


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
