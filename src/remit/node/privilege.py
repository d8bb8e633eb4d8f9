"""How a process of the node becomes a user of its own, for good, before it runs a single instruction of its program.

Called between fork(2) and execve(2), as root. What is given up cannot come back: no capability survives the change of
uid, and no program that is set-user-id or has file capabilities gives any (prctl(2), PR_SET_NO_NEW_PRIVS).
An interpreter often lies below a directory that only root may enter (/root). Then the process gets a mount namespace
in which that directory shows the interpreter, the code and the node's own directories, and nothing else of it.
"""

from __future__ import annotations

import ctypes
import os
import resource
import stat
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from remit.core.errors import Unavailable

_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 32, 4096
_MS_REC, _MS_SLAVE = 1 << 14, 1 << 19
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_MAX_LINKS = 40

Window = Mapping[Path, tuple[Path, ...]]
"""Directories that only root may enter, and what below them must be seen."""

_libc = ctypes.CDLL(None, use_errno=True)


def window(needed: Iterable[Path]) -> Window:
    """What `become` has to make visible so that any user reaches `needed`, the interpreter and its libraries.

    `Unavailable` where one of them is itself closed to others.
    """
    found: dict[Path, set[Path]] = {}
    for path in {*needed, *_interpreter()}:
        hidden = next((parent for parent in reversed(path.parents) if not parent.stat().st_mode & stat.S_IXOTH), None)
        if not path.stat().st_mode & stat.S_IXOTH:
            raise Unavailable(
                f"{path} is closed to other users, so no process can run as one", hint=f"chmod -R o+rX {path}"
            )
        if hidden is not None:
            found.setdefault(hidden, set()).add(path)
    return {
        hidden: tuple(path for path in sorted(paths) if not any(path.is_relative_to(p) for p in paths if p != path))
        for hidden, paths in found.items()
    }


def _interpreter() -> set[Path]:
    """Directories: of every link to the interpreter, of its libraries, of the code."""
    found = {Path(sys.prefix), Path(sys.base_prefix), *map(Path, filter(_open, sys.path))}
    link = Path(sys.executable)
    for _ in range(_MAX_LINKS):
        found.add(link.parent)
        if not link.is_symlink():
            break
        link = link.parent / link.readlink()
    return found | {path.resolve() for path in found}


def _open(part: str) -> bool:
    return Path(part).is_dir() and bool(Path(part).stat().st_mode & stat.S_IXOTH)


def become(user: int, shown: Window) -> None:
    """Change the calling process to uid and gid `user` with nothing else. Raises `OSError`."""
    if shown:
        _show(shown)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0), "prctl")


def without_core() -> None:
    """Neither the calling process nor any program that it becomes leaves a core dump, which would hold secrets.

    1, not 0: to a core_pattern that is a pipe, 0 means no limit, and the program behind it keeps it (core(5)).
    A hard limit of 0 that may not be raised stays.
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def closed_to_equals() -> None:
    """Processes of the same uid may neither trace this one nor look into its /proc (ptrace(2), PR_SET_DUMPABLE)."""
    _checked(_libc.prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0), 0, 0, 0), "prctl")


def _show(shown: Window) -> None:
    _checked(_libc.unshare(ctypes.c_int(_CLONE_NEWNS)), "unshare")
    _mount("none", "/", None, _MS_REC | _MS_SLAVE)
    before = os.umask(0o022)
    for hidden, paths in shown.items():
        kept = [(os.open(path, os.O_PATH | os.O_CLOEXEC), path) for path in paths]
        _mount("none", str(hidden), "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755,size=64k")
        for number, path in kept:
            path.mkdir(parents=True)
            _mount(f"/proc/self/fd/{number}", str(path), None, _MS_BIND | _MS_REC)
            os.close(number)
        _mount("none", str(hidden), None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    os.umask(before)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode() if kind else None, ctypes.c_ulong(flags), data.encode() or None
    )
    _checked(result, f"mount {target}")


def _checked(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
