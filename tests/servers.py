"""Real servers of other protocols than HTTP, on loopback, each in a directory of its own."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:] if Path("/usr/lib/postgresql").exists() else []
SSHD = shutil.which("sshd", path="/usr/sbin:/sbin")


def free_port() -> int:
    """A port that the kernel gives to nobody else meanwhile: it is below those that it gives to connections."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(first // 2, first)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _answers(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"no server answers on port {port}")


@contextlib.contextmanager
def _started(argv: Sequence[str], port: int, log: Path, **options: object) -> Iterator[None]:
    with log.open("wb") as file:
        process = subprocess.Popen(list(argv), stdout=file, stderr=file, **options)  # type: ignore[call-overload]
        try:
            _answers(port)
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


@contextlib.contextmanager
def postgresql(directory: Path) -> Iterator[int]:
    """The port of a server with user `agent`, password `pw`."""
    port, (binaries,) = free_port(), POSTGRES
    directory.mkdir()
    user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    if user is not None:
        for path in (directory, *directory.parents):
            if path == Path("/"):
                break
            path.chmod(path.stat().st_mode | 0o011)
        os.chown(directory, user.pw_uid, user.pw_gid)
    who: dict[str, object] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    (directory / "pw").write_text("pw\n")
    (directory / "pw").chmod(0o644)
    data = directory / "data"
    init = [binaries / "initdb", "-D", data, "-U", "agent", "-A", "scram-sha-256", "--pwfile", directory / "pw", "-N"]
    subprocess.run(init, check=True, capture_output=True, cwd="/", **who)  # type: ignore[call-overload]
    argv = [str(binaries / "postgres"), "-D", str(data), "-p", str(port), "-k", str(directory), "-h", "127.0.0.1"]
    with _started([*argv, "-F"], port, directory / "log", cwd="/", **who):
        yield port


@contextlib.contextmanager
def redis(directory: Path) -> Iterator[int]:
    port = free_port()
    directory.mkdir()
    argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
    with _started(argv, port, directory / "log"):
        yield port


@contextlib.contextmanager
def ssh(directory: Path) -> Iterator[tuple[int, str]]:
    """The port of a server, and the private key of the user of these tests."""
    port = free_port()
    directory.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)],
            check=True,
            capture_output=True,
        )
    shutil.copyfile(directory / "user.pub", directory / "authorized")
    config = directory / "config"
    config.write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {directory}/host\nAuthorizedKeysFile {directory}/authorized\n"
        f"PidFile {directory}/pid\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    assert SSHD is not None
    with _started([SSHD, "-D", "-e", "-f", str(config)], port, directory / "log"):
        yield port, (directory / "user").read_text()


class Greeter:
    """Speaks first and says nothing more until it is spoken to, as MySQL and SMTP do, and the last word too; counts who came."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.connections = 0
        self.heard: list[bytes] = []
        self.ended = threading.Semaphore(0)
        """One for each connection that is over."""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            sock.sendall(b"220 hello\r\n")
            while data := sock.recv(65536):
                self.heard.append(data)
                sock.sendall(data.upper())
            sock.sendall(b"BYE")
        self.ended.release()
