"""One cell: put together, taken apart. What runs in it is `process`; who may ask for it is `daemon`.

Taken apart in the reverse order whatever failed: processes first (a task dies whole), then the network, mounts, groups.
What stays is the task's directory: its output, the files it wrote, and a note of what they belong to.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from remit.cell import (
    changes,
    environment,
    kernel,
    limits,
    machine,
    mounts,
    network,
    output,
    process,
    provided,
    sandbox,
    stage,
    toolchains,
)
from remit.cell import workspace as workspaces
from remit.core import snapshot
from remit.core.errors import Conflict, Unavailable

log = logging.getLogger(__name__)

FIRST_USER = 0x70000000
"""Host uids of cells begin here: above every range that adduser, subuid(5) and systemd give out, below 2^31."""
_SCRATCH = ("tmp", "vartmp", "shm")
_GONE_S = 5.0
_JOIN_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What all cells of a daemon share."""

    stage: stage.Stage
    etc: machine.Etc
    tree: limits.Tree
    mark: str
    """Prefix of the names of our groups."""
    system: tuple[tuple[str, str, str], ...]
    cells: Path
    path: str
    """PATH in which toolchains are looked for when the client sends none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A checked request, after control admitted it."""

    task: str
    number: int
    limits: snapshot.Limits
    role_environment: dict[str, str]
    workspace: Path | None
    bind: bool
    cwd: str
    operator: int
    path: str
    log_bytes: int


@dataclass(slots=True, kw_only=True)
class Cell:
    """`mounts`, `tools`: the same for every process of the cell."""

    wanted: Wanted
    site: Site
    directory: Path
    network: network.Network
    group: limits.Group
    staged: Path
    mounts: tuple[sandbox.Mount, ...]
    tools: toolchains.Toolchains
    log: output.Log
    layers: Path | None
    """Where the copy-on-write layers are mounted while the cell runs, if it has any."""
    absent: tuple[str, ...]
    """Limits that do not hold on this machine."""
    undo: contextlib.ExitStack
    main: process.Process | None = None
    hub: output.Hub = field(default_factory=lambda: output.Hub(None))
    _join: sandbox.Join | None = None

    @property
    def cwd(self) -> str:
        base = self.wanted.workspace
        return str(base / self.wanted.cwd) if base is not None else sandbox.HOME

    async def run(
        self,
        argv: tuple[str, ...],
        *,
        given: dict[str, str],
        terminal: tuple[int, int] | None,
        terminal_kind: str,
        inputs: bool,
        joined: bool = False,
    ) -> process.Process:
        """Start a process: the task's own, or (`joined`) a further one beside it."""
        variables = environment.build(
            tools=self.tools.variables,
            path=tuple(self.tools.path),
            terminal=terminal_kind,
            role=self.wanted.role_environment,
            given=given,
        )
        spec = sandbox.Spec(
            argv=sandbox.command(argv, terminal=terminal is not None, joined=joined),
            environment=variables,
            cwd=self.cwd,
            system=self.site.system,
            mounts=self.mounts,
            seccomp=(),
            info=-1,
            terminals=str(self.staged / "terminals"),
            join=await self._joined() if joined else None,
        )
        ground = process.Ground(
            network=self.network.namespace,
            group=self.group,
            user=host_identity(self.wanted.number)[0],
            files=limits.open_files(self.wanted.limits.processes),
        )
        return await process.start(spec, ground, terminal=terminal, inputs=inputs)

    async def _joined(self) -> sandbox.Join:
        """Descriptors of the running cell's namespaces, once bubblewrap has finished making them."""
        if self._join is not None:
            return self._join
        if self.main is None:
            raise Conflict(f"task {self.wanted.task} does not run yet", hint="remit ps")
        limit = asyncio.get_running_loop().time() + _JOIN_S
        while self.main.command() is None:
            if asyncio.get_running_loop().time() > limit:
                raise Conflict(f"task {self.wanted.task} is ending", hint="remit ps")
            await asyncio.sleep(0.005)
        namespaces = Path(f"/proc/{self.main.first}/ns")
        try:
            inner = os.open(namespaces / "user", os.O_RDONLY | os.O_CLOEXEC)
            self.undo.callback(os.close, inner)
            pid = os.open(namespaces / "pid", os.O_RDONLY | os.O_CLOEXEC)
            self.undo.callback(os.close, pid)
            outer = mounts.owner_namespace(pid)
            self.undo.callback(os.close, outer)
        except OSError as error:
            raise Conflict(f"task {self.wanted.task} is ending", hint="remit ps") from error
        self._join = sandbox.Join(outer_user=outer, inner_user=inner, pid=pid)
        return self._join

    @property
    def changed(self) -> bool:
        """Whether its copy of the workspace holds anything of its own."""
        return self.layers is not None and next((self.layers / "upper").iterdir(), None) is not None

    async def dead(self) -> None:
        """Kill everything, and wait for it to be gone."""
        limit = asyncio.get_running_loop().time() + _GONE_S
        self.group.kill()
        if self.main is not None:
            self.main.kill()
        while self.group.processes() and asyncio.get_running_loop().time() < limit:
            await asyncio.sleep(0.005)
            self.group.kill()

    async def end(self) -> None:
        """Kill everything and give everything back; the task's directory stays."""
        limit = asyncio.get_running_loop().time() + _GONE_S
        await self.dead()
        if self.layers is not None:
            # Mounts go when the kernel gets to it; what was written has to be in the image before somebody reads that.
            try:
                await asyncio.to_thread(kernel.sync_file_system, self.layers)
            except OSError as error:
                log.error("task %s: what it wrote last may be missing from its changes: %s", self.wanted.task, error)
        self.undo.close()
        while not self.group.remove() and asyncio.get_running_loop().time() < limit:  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.005)


def host_identity(number: int) -> tuple[int, int]:
    """(uid, gid) on the host of a cell's processes; without root there is but our own."""
    if os.geteuid() == 0:
        return FIRST_USER + number, FIRST_USER + number
    return os.geteuid(), os.getegid()


def build(wanted: Wanted, site: Site, wire: network.Network, looked: workspaces.Looked | None) -> Cell:
    """Everything but the process. Owns `wire` from here on; nothing is left where this raises.

    `looked`: what was found in a workspace that is bound directly.
    """
    with contextlib.ExitStack() as undo:
        undo.callback(wire.close)
        try:
            site.etc.refresh()
            directory = site.cells / wanted.task
            directory.mkdir(mode=0o700)
            staged = site.stage.task(wanted.task)
            undo.callback(site.stage.drop, staged)
            user, group_id = host_identity(wanted.number)
            note, shown, layers = _shown(wanted, looked, staged, directory, undo)
            size = wanted.limits.disk_bytes
            stage.scratch(staged / "home", owner=(user, group_id), size_bytes=size, mode=0o700)
            stage.scratch(staged / "scratch", owner=(user, group_id), size_bytes=size, mode=0o711)
            stage.terminals(staged / "terminals")
            stage.shared_directories(staged / "scratch", _SCRATCH)
            log = output.Log(directory, wanted.log_bytes)
            undo.callback(log.close)
            tools = toolchains.discover(
                wanted.path or site.path, (Path("/root"), Path.home(), *Path("/home").glob("*"))
            )
            tools.add(provided.prefix())
            seen = _seen(site, staged, toolchains.outside(tools, wanted.workspace))
        except OSError as error:
            raise Unavailable(f"the cell cannot be made: {error}", hint="remit doctor") from error
        group = limits.make(site.tree, f"{site.mark}{wanted.task}", wanted.limits)
        return Cell(
            wanted=wanted,
            site=site,
            directory=directory,
            network=wire,
            group=group,
            staged=staged,
            mounts=(*seen, *shown),
            tools=tools,
            log=log,
            layers=layers,
            absent=(*group.absent, *(("disk",) if note.get("image") is False else ())),
            hub=output.Hub(log),
            undo=undo.pop_all(),
        )


def _seen(site: Site, staged: Path, prefixes: list[Path]) -> list[sandbox.Mount]:
    """What a cell has besides the system and its workspace: a home, scratch directories, /etc and toolchains."""
    return [
        sandbox.Mount(source=str(staged / "home"), target=sandbox.HOME, writable=True),
        *(
            sandbox.Mount(source=str(staged / "scratch" / name), target=target, writable=True)
            for name, target in zip(_SCRATCH, ("/tmp", "/var/tmp", "/dev/shm"), strict=True)
        ),
        sandbox.Mount(source=str(site.stage.root / "etc"), target="/etc"),
        *(sandbox.Mount(source=site.stage.tool(path), target=str(path)) for path in prefixes),
    ]


def _shown(
    wanted: Wanted, looked: workspaces.Looked | None, staged: Path, directory: Path, undo: contextlib.ExitStack
) -> tuple[dict[str, object], list[sandbox.Mount], Path | None]:
    """The note that `diff` and `merge` need afterwards, the mounts of the workspace, and where its layers are."""
    path = wanted.workspace
    user, group = host_identity(wanted.number)
    note: dict[str, object] = {"task": wanted.task, "user": user, "workspace": None}
    shown: list[sandbox.Mount] = []
    layers: Path | None = None
    if path is not None:
        source = changes.open_workspace(path)
        try:
            status = os.fstat(source)
            # The agent gets what belongs to the operator, never what merely lies in a directory that is named.
            owner = workspaces.Owner(
                user=status.st_uid if wanted.operator == 0 else wanted.operator,
                group=status.st_gid,
                agent=user,
                agent_group=group,
            )
            note |= {"workspace": str(path), "mode": "bind" if looked is not None else "cow"}
            note |= {"owner": [owner.user, owner.group], "started_ns": _now_ns(directory)}
            if looked is not None:
                shown, guards = workspaces.mount_direct(source, looked, staged, path, owner, undo)
                note["guards"] = [[str(item), writable] for item, writable in guards.items()]
            else:
                layers, note["image"] = workspaces.layers(directory, staged, wanted.limits.disk_bytes)
                merged = workspaces.mount_copy(source, staged, layers, owner)
                shown = [sandbox.Mount(source=str(merged), target=str(path), writable=True)]
        finally:
            os.close(source)
    (directory / "task.json").write_text(json.dumps(note))
    return note, shown, layers


def _now_ns(directory: Path) -> int:
    """The time of the file system that the task's directory is on, to compare files with."""
    marker = directory / "started"
    marker.touch(mode=0o600)
    return marker.stat().st_mtime_ns
