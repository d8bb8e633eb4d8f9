"""Memory, processes and CPU of one cell, and its end as a whole (cgroups(7)).

Machines differ: cgroup v2 alone, v1 alone, or hybrid (limits in v1, `cgroup.kill` in v2). Groups are made beneath this
process's own group where they can be, and no setting of another group is touched. A limit that cannot be set is *named*
in `absent`, never left out in silence. Groups carry the daemon's mark in their name, so that a later daemon finds what
an earlier one left.

Around the groups of all cells stands one more (`around`), of ordinary weight. The kernel shares busy processors between
groups (sched(7)), where there are none between sessions, of which an agent can open any number: without it two hundred
cells that compute leave the boundary one part in two hundred, and it answers none of them. Memory and process numbers
have an end on every machine too, so all cells together leave some of each to the node (`together`).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from remit.core.snapshot import Limits

WANTED = frozenset(("memory", "pids", "cpu"))
_PERIOD_US = 100_000
_TCP_BYTES = 128 << 20
"""What a cell's TCP connections may hold under cgroup v1, which does not count it as memory; under v2 it is memory.
The kernel gives all connections of a machine 9 % of its memory (tcp(7), tcp_mem), other cells' and the node's too."""
_MAX_FILES, _FEWEST_FILES = 1 << 19, 1024
_USUAL_PROCESSES = 512
_REMOVE_S = 2.0
_TRY_S = 5.0
_AROUND = "cells"
_OTHERS_BYTES = 1 << 30
"""Of memory, for what is not in a cell; at most half of the machine's. The node with its upstreams takes 400 MB."""
SHARE = "cpu share"
"""In `absent`: nothing keeps the cells from taking the processors' time from the boundary."""


class Group(Protocol):
    """One cell's groups. `join` is called by a process that enters; `absent` names limits that do not hold."""

    absent: tuple[str, ...]

    def join(self) -> None: ...
    def processes(self) -> list[int]: ...
    def kill(self) -> None: ...
    def remove(self) -> bool:
        """Whether the groups are gone (a process that is still dying keeps them a moment)."""
        ...

    def out_of_memory(self) -> bool:
        """Whether the kernel killed a process of the cell for reaching the memory limit."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Where this process stands: v1 controller → own directory, and the v2 directory if it is mounted."""

    v1: dict[str, Path] = field(default_factory=dict)
    v2: Path | None = None
    v2_controllers: frozenset[str] = frozenset()


def tree(process: Path = Path("/proc/self")) -> Tree:
    """Read the hierarchy. Enables controllers for children in our own v2 group where it has any."""
    mounts: dict[str, Path] = {}
    unified: Path | None = None
    for line in filter(None, os.fsdecode((process / "mountinfo").read_bytes()).split("\n")):
        head, _, tail = line.partition(" - ")
        kind, _, options = tail.split(" ", 2)
        if kind == "cgroup":
            mounts.update({option: Path(head.split(" ")[4]) for option in options.split(",")})
        elif kind == "cgroup2":
            unified = Path(head.split(" ")[4])
    v1: dict[str, Path] = {}
    v2: Path | None = None
    for line in (process / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers and unified is not None:
            v2 = unified / path.lstrip("/")
        for controller in controllers.split(","):
            if controller in mounts:
                v1[controller] = mounts[controller] / path.lstrip("/")
    if v2 is None or unified is None:
        return Tree(v1=v1)
    place, given = _delegated(v2, unified)
    return Tree(v1=v1, v2=place, v2_controllers=given)


def _delegated(own: Path, top: Path) -> tuple[Path, frozenset[str]]:
    """Where to make v2 groups, and the controllers they get there. No setting of a group above ours is changed.

    Beneath our own group, if it can have limited children (it holds no processes but is delegated to us, or is the
    root); else beneath the nearest one above that already gives its children controllers, as systemd's slices do.
    """
    place, best = own, frozenset[str]()
    here = own
    while True:
        try:
            wanted = WANTED & set((here / "cgroup.controllers").read_text().split())
            if here == own:
                for controller in sorted(wanted):
                    # EBUSY: our group holds processes, and v2 wants those in leaves only.
                    with contextlib.suppress(OSError):
                        (own / "cgroup.subtree_control").write_text(f"+{controller}")
            given = frozenset((here / "cgroup.subtree_control").read_text().split()) & wanted
        except OSError:
            return place, best
        if len(given) > len(best):
            place, best = here, given
        if here == top or best == WANTED:
            return place, best
        here = here.parent


def together() -> Limits:
    """What all cells of this machine may have of it: a cell's own limit keeps many of them from nothing."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    numbers = min(int(Path(f"/proc/sys/kernel/{name}").read_text()) for name in ("pid_max", "threads-max"))
    return Limits(memory_bytes=max(memory // 2, memory - _OTHERS_BYTES), processes=numbers * 3 // 4)


def around(where: Tree, prefix: str, most: Limits) -> Tree:
    """A group around the groups of all cells, made in every hierarchy, as the place to make them. `sweep` removes it.

    It keeps the weight that the kernel gives every group, so all cells together get as much of a busy processor as one
    other group or session, be it that of a single part of the node; inside, each cell gets as much as any other.
    `most`: memory and processes of all cells together, where the system can hold that.
    """
    name = f"{prefix}{_AROUND}"
    v1 = {controller: made for controller in WANTED & set(where.v1) if (made := _made(where.v1[controller] / name))}
    v2 = _made(where.v2 / name) if where.v2 is not None else None
    for controller, old, new, value in (
        ("memory", "memory.limit_in_bytes", "memory.max", most.memory_bytes),
        ("pids", "pids.max", "pids.max", most.processes),
    ):
        home, file = (v2, new) if controller in where.v2_controllers else (v1.get(controller), old)
        if home is not None:
            with contextlib.suppress(OSError):  # each cell has its own limit all the same, and says so if it has not
                (home / file).write_text(str(value))
    if v2 is None:
        return Tree(v1=v1)
    for controller in sorted(where.v2_controllers):
        with contextlib.suppress(OSError):
            (v2 / "cgroup.subtree_control").write_text(f"+{controller}")
    try:
        given = frozenset((v2 / "cgroup.subtree_control").read_text().split())
    except OSError:
        given = frozenset()
    return Tree(v1=v1, v2=v2, v2_controllers=given & where.v2_controllers)


@dataclass(slots=True, kw_only=True)
class _Groups:
    """`paths`: every directory the cell is in. `killer`: the v2 one."""

    paths: list[Path]
    killer: Path | None
    events: Path | None
    absent: tuple[str, ...]

    def join(self) -> None:
        for path in self.paths:
            (path / "cgroup.procs").write_text("0")

    def processes(self) -> list[int]:
        for path in self.paths:
            with contextlib.suppress(OSError):
                return [int(line) for line in (path / "cgroup.procs").read_text().split()]
        return []

    def kill(self) -> None:
        if self.killer is not None:
            with contextlib.suppress(OSError):
                (self.killer / "cgroup.kill").write_text("1")
                return
        for pid in self.processes():
            with contextlib.suppress(OSError):
                os.kill(pid, 9)

    def remove(self) -> bool:
        left: list[Path] = []
        for path in self.paths:
            try:
                path.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                left.append(path)
        self.paths = left
        return not left

    def out_of_memory(self) -> bool:
        try:
            text = self.events.read_text() if self.events is not None else ""
        except OSError:
            return False
        return any(line.startswith("oom_kill ") and line != "oom_kill 0" for line in text.splitlines())


def open_files(processes: int | None) -> int:
    """Descriptors that each process of a cell may have, so that all of them leave half of the machine's to others.

    The whole machine's number (fs.file-max) binds everybody but root, and counts for no group. systemd takes it away;
    else it is a tenth of the memory in KiB. Where it is small, each process may still have 1024.
    """
    try:
        files = int(Path("/proc/sys/fs/file-max").read_text())
    except (OSError, ValueError):
        return _MAX_FILES
    return min(_MAX_FILES, max(_FEWEST_FILES, files // 2 // (processes or _USUAL_PROCESSES)))


def make(where: Tree, name: str, wanted: Limits) -> Group:
    """A group for one cell, limits set. Never fails for a limit: see `absent`."""
    absent: list[str] = []
    killer = _made(where.v2 / name) if where.v2 is not None else None
    paths = [killer] if killer is not None else []
    if killer is not None and not (killer / "cgroup.kill").exists():
        killer = None

    def limited(limit: str, controller: str, write: Callable[[Path, bool], None]) -> Path | None:
        new = controller in where.v2_controllers and where.v2 is not None
        base = where.v2 if new else where.v1.get(controller)
        path = _made(base / name) if base is not None else None
        if path is None:
            absent.append(limit)
            return None
        if path not in paths:
            paths.append(path)
        try:
            write(path, new)
        except OSError:
            absent.append(limit)
        return path

    events = None
    if wanted.memory_bytes is not None:
        where_memory = limited("memory", "memory", partial(_memory, wanted.memory_bytes))
        if where_memory is not None:
            events = where_memory / ("memory.events" if "memory" in where.v2_controllers else "memory.oom_control")
    if wanted.processes is not None:
        limited("processes", "pids", partial(_processes, wanted.processes))
    if wanted.cpu_cores is not None:
        limited("cpu", "cpu", partial(_cpu, wanted.cpu_cores))
    else:
        limited(SHARE, "cpu", lambda path, new: None)  # to be in a group is enough
    return _Groups(paths=paths, killer=killer, events=events, absent=tuple(absent))


def _memory(most: int, path: Path, new: bool) -> None:
    (path / ("memory.max" if new else "memory.limit_in_bytes")).write_text(str(most))
    swap = path / ("memory.swap.max" if new else "memory.memsw.limit_in_bytes")
    if swap.exists():
        swap.write_text("0" if new else str(most))
    connections = path / "memory.kmem.tcp.limit_in_bytes"
    if connections.exists():
        connections.write_text(str(min(most, _TCP_BYTES)))


def _processes(most: int, path: Path, _: bool) -> None:
    # setsid, bubblewrap and its pid 1 are not the agent's.
    (path / "pids.max").write_text(str(most + 3))


def _cpu(cores: float, path: Path, new: bool) -> None:
    quota = max(1000, int(cores * _PERIOD_US))
    if new:
        (path / "cpu.max").write_text(f"{quota} {_PERIOD_US}")
    else:
        (path / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (path / "cpu.cfs_quota_us").write_text(str(quota))


def _made(path: Path) -> Path | None:
    try:
        path.mkdir(exist_ok=True)
    except OSError:
        return None
    return path


def sweep(where: Tree, prefix: str) -> int:
    """Kill and remove groups whose name begins with `prefix`: what a daemon that was killed left. How many cells' ones.

    Beside each other as well as inside the one that `around` makes.
    """
    homes = {*where.v1.values(), *([where.v2] if where.v2 is not None else [])}
    outer = [path for home in homes for path in _named(home, prefix)]
    found: dict[str, list[Path]] = {}
    for path in outer:
        for own in _named(path, prefix) if path.name == f"{prefix}{_AROUND}" else [path]:
            found.setdefault(own.name, []).append(own)
    for paths in found.values():
        killer = next((p for p in paths if (p / "cgroup.kill").exists()), None)
        group = _Groups(paths=paths, killer=killer, events=None, absent=())
        group.kill()
        limit = time.monotonic() + _REMOVE_S
        while not group.remove() and time.monotonic() < limit:
            time.sleep(0.01)
    for path in outer:
        with contextlib.suppress(OSError):
            path.rmdir()
    return len(found)


def _named(home: Path, prefix: str) -> list[Path]:
    try:
        return [path for path in home.iterdir() if path.name.startswith(prefix) and path.is_dir()]
    except OSError:
        return []


def tried(where: Tree) -> tuple[str, ...]:
    """Limits that do not hold here, found out with a group that a process really enters; it is gone afterwards."""
    name = f"remit-doctor-{os.getpid()}"
    group = make(where, name, Limits(memory_bytes=64 << 20, processes=8, cpu_cores=1.0))
    try:
        subprocess.run(["/bin/true"], preexec_fn=group.join, check=True, timeout=_TRY_S)
    except (OSError, subprocess.SubprocessError):
        return ("memory", "processes", "cpu")
    finally:
        until = time.monotonic() + _REMOVE_S
        while not group.remove() and time.monotonic() < until:
            time.sleep(0.01)
    return group.absent


def kind(where: Tree) -> str:
    """Where the limits are set."""
    if where.v2_controllers >= WANTED:
        return "cgroup v2"
    return "cgroup v1" if not where.v2_controllers else "cgroup v1 and v2"
