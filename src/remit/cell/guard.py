"""Names in a workspace that make something run later as the operator, and what else an agent must not leave there.

A hook, an editor's task, an `.envrc` runs when the operator next types `git commit`, opens the folder or enters it.
Source code runs too, but only when somebody runs it, and everybody reads a diff for that. So these names are refused on
merge unless they are asked for by name, and read-only in a workspace that is bound directly.
A socket or FIFO in a bound directory is a wire to whatever listens on it: there the bind itself is refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from remit.cell import changes
from remit.core.errors import Conflict

DIRECTORIES = frozenset(
    (".vscode", ".idea", ".zed", ".fleet", ".husky", ".devcontainer", ".githooks", ".direnv", ".ssh", ".jj")
    + (".claude", ".codex", ".cursor", ".gemini", ".kiro", ".opencode", ".windsurf")
)
FILES = frozenset(
    (".envrc", ".bashrc", ".bash_profile", ".bash_login", ".bash_logout", ".bash_aliases", ".profile", ".xprofile")
    + (".zshrc", ".zshenv", ".zprofile", ".zlogin", ".zlogout", ".gitconfig", ".hgrc", ".mise.toml", "mise.toml")
    + (".pre-commit-config.yaml", ".lefthook.yml", "lefthook.yml", ".mcp.json", "opencode.json", ".aider.conf.yml")
)
GIT = frozenset(
    ("hooks", "config", "config.worktree", "commondir", "gitdir", "info", "modules", "worktrees")
    + ("rebase-merge", "rebase-apply", "sequencer", "remotes", "branches")
)
"""In a `.git`: what makes git run or read something else. `commondir` names another repository, with its own config; in
what a rebase still has to do stands `exec`; `remotes` and `branches` say where to push (gitrepository-layout(5))."""
_MERCURIAL = frozenset(("hgrc", "hgrc-not-shared", "config", "sharedpath"))
REPOSITORIES: Mapping[str, frozenset[str]] = {".git": GIT, ".hg": _MERCURIAL, ".sl": _MERCURIAL}
BARE = frozenset(("HEAD", "commondir", "objects", "refs"))
"""By which git takes a directory of any name for a repository (`repository`)."""
_PLACED_DIRECTORIES, _PLACED_FILES = (".git", ".vscode", ".idea", ".husky", ".devcontainer"), (".envrc", ".mcp.json")
_GIT_DIRECTORIES, _GIT_FILES = ("hooks", "info"), ("config", "config.worktree")
_GIT_PRESENT = ("modules", "worktrees", "rebase-merge", "rebase-apply", "sequencer", "remotes", "branches")
MAX_ENTRIES = 2_000_000
MAX_DEPTH = 200
"""What is deeper is not looked into, by anybody who looks through a workspace: so nothing is there."""
_MAX_GUARDS = 512
_VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""Entries come, go and change while the operator works."""
_NAMED = 10


def guarded(path: PurePosixPath) -> bool:
    """Whether a change to `path` (relative to the workspace) can make something run later."""
    parts = path.parts
    if parts and parts[-1] in FILES:
        return True
    for index, part in enumerate(parts):
        if part in DIRECTORIES:
            return True
        inside = REPOSITORIES.get(part)
        if inside is not None and (index + 1 == len(parts) or parts[index + 1] in inside):
            return True
    return False


def repository(names: Collection[str]) -> bool:
    """Whether git takes a directory with these entries for a repository (setup.c, is_git_directory)."""
    return "HEAD" in names and ("commondir" in names or ("objects" in names and "refs" in names))


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """A path to mount over itself: read-only, or `writable` where it only must not be renamed."""

    path: PurePosixPath
    writable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """`placed`: (path, is a directory, inode) of empty entries made here, so that nobody else makes them."""

    guards: tuple[Guard, ...]
    placed: tuple[tuple[PurePosixPath, bool, int], ...]


def prepare(root: int, found: Iterable[PurePosixPath], owner: tuple[int, int]) -> Prepared:
    """Guards for the directory open as `root`, where `look` has `found` these. `Conflict`: it cannot be guarded.

    What it placed before it failed is removed again.
    """
    guards, missing = _guards(root, found)
    placed: list[tuple[PurePosixPath, bool, int]] = []
    try:
        for path, directory in missing:
            inode = _placed(root, path, directory, owner)
            if inode is not None:
                placed.append((path, directory, inode))
    except BaseException:
        _removed(root, placed)
        raise
    return Prepared(guards=guards, placed=tuple(placed))


def look(root: int) -> list[PurePosixPath]:
    """What is to be guarded of what is there. `Conflict`: it holds sockets, FIFOs or devices (named), or too much.

    Takes seconds where there is much.
    """
    special: list[str] = []
    found: list[PurePosixPath] = []
    for count, (path, mode) in enumerate(_walk(root, PurePosixPath(), 0)):
        if count >= MAX_ENTRIES or len(found) > _MAX_GUARDS:
            raise Conflict("the workspace is too large to be bound directly", hint="leave --bind out")
        if path.name == ".git" or (guarded(path) and not guarded(path.parent)):
            found.append(path)
        elif not (stat.S_ISDIR(mode) or stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            special.append(str(path))
    if special:
        named = ", ".join(ascii(item)[1:-1] for item in sorted(special)[:_NAMED])
        more = f" and {len(special) - _NAMED} more" if len(special) > _NAMED else ""
        raise Conflict(
            f"the workspace holds sockets, FIFOs or devices, which lead out of the cell: {named}{more}",
            hint="remove them, or leave --bind out (a copy-on-write view does not show them as they are)",
        )
    return sorted(found)


def _guards(root: int, found: Iterable[PurePosixPath]) -> tuple[tuple[Guard, ...], list[tuple[PurePosixPath, bool]]]:
    """(every guard, parents first; which of them have to be placed, and whether as directories)"""
    guards: dict[PurePosixPath, Guard] = {}
    wanted = [(PurePosixPath(n), True) for n in _PLACED_DIRECTORIES] + [
        (PurePosixPath(n), False) for n in _PLACED_FILES
    ]
    for path in found:
        kind = _kind(root, path)
        if kind not in ("directory", "file"):
            raise Conflict(f"{str(path)!a} in the workspace is a link and cannot be guarded", hint="leave --bind out")
        repository = path.name == ".git" and kind == "directory"
        guards[path] = Guard(path=path, writable=repository)
        if repository:
            wanted += [(path / n, True) for n in _GIT_DIRECTORIES] + [(path / n, False) for n in _GIT_FILES]
            present = [path / n for n in _GIT_PRESENT if _kind(root, path / n) == "directory"]
            guards |= {here: Guard(path=here) for here in present}
    missing = [(path, directory) for path, directory in wanted if path not in guards]
    guards |= {path: Guard(path=path) for path, _ in missing}
    for path in list(guards):
        for parent in path.parents[:-1]:
            # A mount point cannot be renamed, but a directory above it can, and the guard would go along.
            guards.setdefault(parent, Guard(path=parent, writable=True))
    return tuple(sorted(guards.values(), key=lambda g: g.path.parts)), missing


def _walk(here: int, path: PurePosixPath, depth: int) -> Iterator[tuple[PurePosixPath, int]]:
    """(path, mode) of everything in the directory open as `here`, which is `path`; no link is followed."""
    if depth > MAX_DEPTH:
        raise Conflict(f"the workspace is more than {MAX_DEPTH} directories deep", hint="leave --bind out")
    for name in os.listdir(here):
        found = changes.status(name, here)
        if found is None:
            continue
        yield path / name, found.st_mode
        if not stat.S_ISDIR(found.st_mode) or (name == "objects" and path.name == ".git"):
            continue
        try:
            with changes.opened(name, here) as inner:
                yield from _walk(inner, path / name, depth + 1)
        except OSError as error:
            theirs = error.errno in (errno.EACCES, errno.EPERM) and found.st_uid != os.geteuid()
            if not theirs and error.errno not in _VANISHED:
                where = f"{str(path / name)[:200]!a} in the workspace cannot be looked into"
                raise Conflict(f"{where}: {os.strerror(error.errno or 0)}", hint="leave --bind out") from error


@contextlib.contextmanager
def _parent(root: int, path: PurePosixPath) -> Iterator[int]:
    """The directory that holds `path`, reached without following a link: the workspace may change under our feet."""
    with contextlib.ExitStack() as stack:
        here = root
        for part in path.parts[:-1]:
            here = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            stack.callback(os.close, here)
        yield here


def _kind(root: int, path: PurePosixPath) -> str:
    try:
        with _parent(root, path) as parent:
            mode = os.stat(path.name, dir_fd=parent, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return "nothing"
    except OSError:
        return "link"
    return "directory" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "link"


def _placed(root: int, path: PurePosixPath, directory: bool, owner: tuple[int, int]) -> int | None:
    """Make an empty entry; its inode, or None where there is one already."""
    with _parent(root, path) as parent:
        try:
            if directory:
                os.mkdir(path.name, 0o755, dir_fd=parent)
            else:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open(path.name, flags, 0o644, dir_fd=parent))
        except FileExistsError:
            return None
        inode = os.stat(path.name, dir_fd=parent, follow_symlinks=False).st_ino
        try:
            os.chown(path.name, *owner, dir_fd=parent, follow_symlinks=False)
        except OSError:
            _removed(root, [(path, directory, inode)])
            raise
        return inode


def clear(root: int, prepared: Prepared) -> None:
    """Remove what `prepare` placed, where it is still that and still empty."""
    _removed(root, prepared.placed)


def _removed(root: int, placed: Sequence[tuple[PurePosixPath, bool, int]]) -> None:
    for path, directory, inode in reversed(placed):
        with contextlib.suppress(OSError), _parent(root, path) as parent:
            status = os.stat(path.name, dir_fd=parent, follow_symlinks=False)
            if status.st_ino != inode:
                continue
            if directory:
                os.rmdir(path.name, dir_fd=parent)
            elif stat.S_ISREG(status.st_mode) and status.st_size == 0:
                os.unlink(path.name, dir_fd=parent)
