"""Bringing what a task changed back into the workspace, path by path, refusing what could do more than change a file.

An agent prepared what is read here, so: no link is followed on either side (directory descriptors, O_NOFOLLOW), nothing
is written in place (a new file is renamed over), set-user-id bits and extended attributes stay behind, and special
files, links out of the workspace and guarded names are refused, as is a path that the operator changed meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from remit.cell import changes, guard, trees
from remit.cell.bare import Bare
from remit.cell.changes import Change
from remit.core.errors import Conflict

MAX_TARGET = 4096
MAX_HELD_BYTES = 64 << 20
"""Of memory, for changes that wait to be merged: about 150,000 ordinary ones."""
CHANGE_BYTES, PART_BYTES = 300, 80
"""About what a change takes besides its path as text, and what each name in its path does."""


class _Refused(Exception):
    pass


def apply(
    upper: Path, lower: Path, *, started_ns: int, owner: tuple[int, int], paths: list[str] | None, force: bool
) -> dict[str, Any]:
    """Merge all changes, or those at or below `paths`. `force` takes the task's side where both changed.

    A guarded path needs both: to be named in `paths`, and `force`. `{"paths": [...], "refused": [{"path", "why"}]}`;
    `untold`: how many more there are than fit into an answer. `Conflict`: too many at once; nothing was merged.
    """
    named = None if paths is None else [PurePosixPath(path) for path in paths]
    outcome = _Outcome()
    with contextlib.ExitStack() as stack:
        above = changes.open_root(upper)
        stack.callback(os.close, above)
        below = changes.open_workspace(lower)
        stack.callback(os.close, below)
        found, bare = _held(changes.walk(above, below), named), Bare(above, below)
        # Before anything is merged: what makes a repository does so together.
        risky = {change.path for change in found if _runs_later(change, bare)}
        for change in found:
            try:
                explicit = named is not None and any(
                    guard.guarded(path) or path in risky for path in named if _within(change.path, [path])
                )
                _judge(change, change.path in risky and not (explicit and force))
                _Merger(above, below, started_ns, owner, force).merge(change)
                outcome.merged(change)
            except _Refused as error:
                outcome.refused(change, str(error))
            except OSError as error:
                outcome.refused(change, os.strerror(error.errno or 0))
    return outcome.told


class _Outcome:
    """What an answer to the client can say of a merge."""

    def __init__(self) -> None:
        self._paths: list[str] = []
        self._refused: list[dict[str, str]] = []
        self._room = {"paths": changes.MAX_TOLD_BYTES, "refused": changes.MAX_PATCH_BYTES}
        self._untold = 0

    def merged(self, change: Change) -> None:
        path = str(change.path)
        if self._fits("paths", path):
            self._paths.append(path)

    def refused(self, change: Change, why: str) -> None:
        entry = {"path": str(change.path), "why": why}
        if self._fits("refused", entry):
            self._refused.append(entry)

    @property
    def told(self) -> dict[str, Any]:
        return {"paths": self._paths, "refused": self._refused, "untold": self._untold}

    def _fits(self, which: str, entry: object) -> bool:
        self._room[which] -= changes.told_bytes(entry)
        fits = self._room[which] >= 0
        self._untold += not fits
        return fits


def _held(found: Iterable[Change], named: list[PurePosixPath] | None) -> list[Change]:
    """The changes that are meant, all of them before the first is merged: some are only judged together."""
    held, size = list[Change](), 0
    for change in found:
        if named is not None and not _within(change.path, named):
            continue
        held.append(change)
        size += CHANGE_BYTES + len(str(change.path)) + PART_BYTES * len(change.path.parts)
        if size > MAX_HELD_BYTES:
            raise Conflict(
                f"more than {len(held) - 1} changes, which are too many to be merged at once",
                hint="remit merge TASK PATH..., some of them at a time",
            )
    return held


def _within(path: PurePosixPath, roots: Iterable[PurePosixPath]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _runs_later(change: Change, bare: Bare) -> bool:
    return guard.guarded(change.path) or (change.kind != "deleted" and bare.armed_by(change.path))


def _judge(change: Change, refused: bool) -> None:
    if refused:
        raise _Refused("it makes something run later as you; name it and use --force if you mean it")
    if change.type == changes.TOO_DEEP:
        raise _Refused("it is too deep to be looked into")
    if change.type == "special" and change.kind != "deleted":
        raise _Refused("it is a socket, FIFO or device")


class _Merger:
    def __init__(self, upper: int, lower: int, started_ns: int, owner: tuple[int, int], force: bool) -> None:
        self._upper, self._lower, self._started, self._owner, self._force = upper, lower, started_ns, owner, force

    def merge(self, change: Change) -> None:
        with contextlib.ExitStack() as stack:
            source: int | None = self._upper
            target = self._lower
            for part in change.path.parts[:-1]:
                try:
                    target = stack.enter_context(changes.opened(part, target))
                    # Below a deleted directory there is no upper side, and none is needed.
                    source = stack.enter_context(changes.opened(part, source)) if source is not None else None
                except OSError as error:
                    raise _Refused("the directory it belongs into is missing, a link, or was refused") from error
            name = change.path.name
            self._unchanged(name, target, change)
            if change.kind == "deleted":
                trees.remove(name, target)
                return
            assert source is not None
            if change.kind == "modified":
                now = changes.status(name, target)
                if now is not None and stat.S_ISDIR(now.st_mode):
                    trees.remove(name, target)
            if change.type == "directory":
                self._make_directory(name, source, target)
            elif change.type == "link":
                self._make_link(change.path, source, target)
            else:
                self._copy(name, source, target)

    def _unchanged(self, name: str, target: int, change: Change) -> None:
        """Refuse where the operator's side changed since the task began (ctime cannot be set back)."""
        now = changes.status(name, target)
        if self._force or now is None:
            return
        if change.kind == "added":
            raise _Refused("a file of that name appeared in the workspace meanwhile")
        if max(now.st_ctime_ns, now.st_mtime_ns) > self._started:
            raise _Refused("it changed in the workspace meanwhile")
        if stat.S_ISDIR(now.st_mode) and trees.newest_ns(name, target) > self._started:
            raise _Refused("something in it changed in the workspace meanwhile")

    def _make_directory(self, name: str, source: int, target: int) -> None:
        found = changes.status(name, target)
        if found is not None and not stat.S_ISDIR(found.st_mode):
            os.unlink(name, dir_fd=target)
            found = None
        if found is None:
            os.mkdir(name, 0o700, dir_fd=target)
        with changes.opened(name, source) as theirs, changes.opened(name, target) as ours:
            os.fchown(ours, *self._owner)
            os.fchmod(ours, stat.S_IMODE(os.fstat(theirs).st_mode) & 0o777)

    def _make_link(self, path: PurePosixPath, source: int, target: int) -> None:
        where = os.readlink(path.name, dir_fd=source)
        if not _inside(path, where):
            raise _Refused("it is a link that leads out of the workspace")
        temporary = _temporary()
        os.symlink(where, temporary, dir_fd=target)
        try:
            os.chown(temporary, *self._owner, dir_fd=target, follow_symlinks=False)
            os.rename(temporary, path.name, src_dir_fd=target, dst_dir_fd=target)
        except OSError:
            os.unlink(temporary, dir_fd=target)
            raise

    def _copy(self, name: str, source: int, target: int) -> None:
        theirs = os.open(name, changes.OPEN_FILE, dir_fd=source)
        temporary = _temporary()
        try:
            found = os.fstat(theirs)
            if not stat.S_ISREG(found.st_mode):
                raise _Refused("it is no longer a file")
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            ours = os.open(temporary, flags, 0o600, dir_fd=target)
            try:
                with os.fdopen(ours, "wb") as out:
                    for start, end in _written(theirs):
                        out.seek(start)
                        while start < end and (data := os.pread(theirs, min(1 << 20, end - start), start)):
                            start += out.write(data)
                    out.truncate(found.st_size)
                    out.flush()
                    os.fchown(out.fileno(), *self._owner)
                    os.fchmod(out.fileno(), stat.S_IMODE(found.st_mode) & 0o777)
                os.rename(temporary, name, src_dir_fd=target, dst_dir_fd=target)
            except BaseException:
                os.unlink(temporary, dir_fd=target)
                raise
        finally:
            os.close(theirs)


def _temporary() -> str:
    """A name of its own: others may merge into the same directory."""
    return f".remit-merge-{os.urandom(8).hex()}"


def _written(file: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that are on disk (lseek(2)): a file of terabytes may be nothing but a hole."""
    at = 0
    while True:
        try:
            start = os.lseek(file, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing more
                return
            raise
        at = os.lseek(file, start, os.SEEK_HOLE)
        yield start, at


def _inside(path: PurePosixPath, where: str) -> bool:
    """Whether a link at `path` leads into the workspace: relative, `..` only at its front, and not past the top.

    `..` after another name is refused, since that name may be a link itself.
    """
    parts = where.split("/")
    if not where or where.startswith("/") or len(where) > MAX_TARGET:
        return False
    up = 0
    while up < len(parts) and parts[up] in ("..", ".", ""):
        up += 1
    ups = parts[:up].count("..")
    return ".." not in parts[up:] and ups <= len(path.parts) - 1 and ".git" not in parts
