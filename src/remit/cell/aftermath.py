"""What a task left in a directory that it was given directly, once every process of it is dead.

Guards cover what was there at the start. A repository that the agent made anew has hooks and a configuration of its
own, which run as the operator as soon as they type `git status` in it; so what `guard` calls by name and was not there
is renamed (`NAME.quarantined-…`, beside where it was, nothing is lost), and of a repository without a working tree its
HEAD, without which git takes it for a plain directory. Sockets that nobody serves and FIFOs are removed, set-user-id
bits cleared, links that lead out named. No step follows a link. Not guaranteed: anything while the task still runs.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from remit.cell import changes, guard

MAX_ENTRIES = guard.MAX_ENTRIES
MAX_DEPTH = 200
SHOWN = 10
_SET_ID = stat.S_ISUID | stat.S_ISGID
_REPOSITORY = ("HEAD", "config", "commondir", "objects", "refs", "hooks")
_CLOCK_NS = 1_000_000_000
"""Files are compared with a time that was taken on another file system of the same machine."""


@dataclass(slots=True, kw_only=True)
class Found:
    """Paths relative to the workspace. `quarantined`: (path, its name now). `whole`: everything was looked at."""

    quarantined: list[tuple[PurePosixPath, str]] = field(default_factory=list)
    removed: list[PurePosixPath] = field(default_factory=list)
    cleared: list[PurePosixPath] = field(default_factory=list)
    links: list[PurePosixPath] = field(default_factory=list)
    whole: bool = True

    def told(self) -> str:
        """For the operator, in one line; empty where there is nothing to tell."""
        moved = [f"{path} (now {name})" for path, name in self.quarantined]
        parts: list[tuple[str, Sequence[object]]] = [
            ("would run later as you and was put aside", moved),
            ("removed, being a socket or FIFO", self.removed),
            ("lost its set-user-id bit", self.cleared),
            ("leads out of the workspace; look before you follow it", self.links),
        ]
        said = [f"{what}: {_listed([str(path) for path in paths])}" for what, paths in parts if paths]
        if not self.whole:
            said.append("the workspace is too large or too deep to be looked through whole; look yourself")
        return "; ".join(said)


def neutralise(root: int, guards: Mapping[PurePosixPath, bool], started_ns: int) -> Found:
    """Look through the directory open as `root`. `guards`: what was guarded, and whether it could be written."""
    look = _Look(guards, started_ns - _CLOCK_NS)
    look.directory(root, PurePosixPath(), 0)
    return look.found


class _Look:
    def __init__(self, guards: Mapping[PurePosixPath, bool], since_ns: int) -> None:
        self._guards, self._since_ns = guards, since_ns
        self._seen = 0
        self.found = Found()

    def directory(self, here: int, path: PurePosixPath, depth: int) -> None:
        if depth > MAX_DEPTH or self._seen > MAX_ENTRIES:
            self.found.whole = False
            return
        try:
            names = sorted(os.listdir(here))
        except OSError:
            self.found.whole = False
            return
        if path not in self._guards and self._repository(here, names):
            self._aside(here, path / "HEAD")
        for name in names:
            self._seen += 1
            with contextlib.suppress(FileNotFoundError):
                self._entry(here, path / name, depth)

    def _entry(self, parent: int, path: PurePosixPath, depth: int) -> None:
        status = os.stat(path.name, dir_fd=parent, follow_symlinks=False)
        if path in self._guards:
            if not self._guards[path]:
                return  # it was read-only
        elif guard.guarded(path):
            path = self._aside(parent, path)
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            try:
                with changes.opened(path.name, parent) as inner:
                    self.directory(inner, path, depth + 1)
            except OSError:
                self.found.whole = False
        elif stat.S_ISLNK(mode):
            if status.st_ctime_ns >= self._since_ns and _leads_out(path, os.readlink(path.name, dir_fd=parent)):
                self.found.links.append(path)
        elif not stat.S_ISREG(mode):
            if not (stat.S_ISSOCK(mode) and _served(parent, path.name)):
                os.unlink(path.name, dir_fd=parent)
                self.found.removed.append(path)
        elif mode & _SET_ID and status.st_ctime_ns >= self._since_ns:
            number = os.open(path.name, changes.OPEN_FILE, dir_fd=parent)
            try:
                os.fchmod(number, stat.S_IMODE(mode) & ~_SET_ID)
            finally:
                os.close(number)
            self.found.cleared.append(path)

    def _repository(self, here: int, names: list[str]) -> bool:
        """Whether git takes this directory for a repository, and part of it is new."""
        if not guard.repository(names):
            return False
        if any(self._new(here, name) for name in _REPOSITORY if name in names):
            return True
        with contextlib.suppress(OSError), changes.opened("hooks", here) as hooks:
            return any(self._new(hooks, name) for name in os.listdir(hooks))
        return False

    def _new(self, parent: int, name: str) -> bool:
        status = changes.status(name, parent)
        return status is not None and status.st_ctime_ns >= self._since_ns

    def _aside(self, parent: int, path: PurePosixPath) -> PurePosixPath:
        """Where it is now. The name is random, so that nobody was waiting there."""
        name = f"{path.name}.quarantined-{secrets.token_hex(4)}"
        os.rename(path.name, name, src_dir_fd=parent, dst_dir_fd=parent)
        self.found.quarantined.append((path, name))
        return path.with_name(name)


def _leads_out(path: PurePosixPath, target: str) -> bool:
    if target.startswith("/"):
        return True
    return os.path.normpath(str(path.parent / target)).startswith("..")


def _served(parent: int, name: str) -> bool:
    """Whether somebody listens on it: not the task, which is dead, so the operator's own."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(f"/proc/self/fd/{parent}/{name}")
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(ascii(name)[1:-1] for name in names[:SHOWN]) + more
