"""What a task changed: its overlay's upper directory, read against the workspace below it.

The upper directory is written by an agent, while this may read it as root: every step goes through directory
descriptors and follows no link. Overlayfs (kernel documentation, overlayfs.rst): a 0/0 character device is a deleted
name, `trusted.overlay.opaque` (`user.` without root) = y hides everything below a directory. Results are bounded, and
say when they were cut.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

MAX_TOLD_BYTES, MAX_PATCH_BYTES = 256 << 10, 512 << 10
"""Of the list and of the text, as JSON: together less than one frame to the client (`cell.wire`)."""
MAX_TEXT_BYTES = 1 << 20
_DIFF_TIMEOUT_S = 5.0
_MAX_DEPTH = 200
TOO_DEEP = "directory too deep to be looked into"
"""Stands for everything in it."""
_NOBODY = 65534
OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """`kind`: added, modified or deleted. `type`: file, directory, link or special (of what is there now, or was), or
    `TOO_DEEP`."""

    path: PurePosixPath
    kind: str
    type: str


def type_of(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "link" if stat.S_ISLNK(mode) else "special"


def open_root(path: Path) -> int:
    return os.open(path, OPEN_DIRECTORY)


def open_workspace(path: Path) -> int:
    """The directory whose real path this was. `OSError`: it is another one by now.

    Whoever owns a directory above it can put a link in its place, to a directory of somebody else's.
    """
    number = open_root(path)
    where = os.readlink(f"/proc/self/fd/{number}")
    if where != str(path):
        os.close(number)
        raise OSError(errno.ESTALE, f"a directory above it has become a link, to {where}", str(path))
    return number


@contextlib.contextmanager
def opened(name: str, parent: int) -> Iterator[int]:
    number = os.open(name, OPEN_DIRECTORY, dir_fd=parent)
    try:
        yield number
    finally:
        os.close(number)


def status(name: str, parent: int | None) -> os.stat_result | None:
    if parent is None:
        return None
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except OSError:
        return None


def walk(upper: int, lower: int | None, path: PurePosixPath = PurePosixPath(), depth: int = 0) -> Iterator[Change]:
    """Every change under `path`, parents before children."""
    names = sorted(os.listdir(upper))
    for name in names:
        above, below, here = status(name, upper), status(name, lower), path / name
        if above is None:
            continue
        if stat.S_ISCHR(above.st_mode) and above.st_rdev == 0:
            if below is not None:
                yield Change(path=here, kind="deleted", type=type_of(below.st_mode))
        elif stat.S_ISDIR(above.st_mode):
            yield from _directory(upper, lower, name, here, below, depth)
        elif below is None or type_of(below.st_mode) != type_of(above.st_mode):
            yield Change(path=here, kind="added" if below is None else "modified", type=type_of(above.st_mode))
        elif not _same(name, upper, lower, above, below):
            yield Change(path=here, kind="modified", type=type_of(above.st_mode))
    if lower is not None and _opaque(upper):
        for name in sorted(set(os.listdir(lower)) - set(names)):
            below = status(name, lower)
            if below is not None:
                yield Change(path=path / name, kind="deleted", type=type_of(below.st_mode))


def _directory(
    upper: int, lower: int | None, name: str, here: PurePosixPath, below: os.stat_result | None, depth: int
) -> Iterator[Change]:
    if depth >= _MAX_DEPTH:
        yield Change(path=here, kind="added" if below is None else "modified", type=TOO_DEEP)
        return
    with contextlib.ExitStack() as stack:
        try:
            inner = stack.enter_context(opened(name, upper))
        except OSError:
            return
        if below is None or not stat.S_ISDIR(below.st_mode):
            yield Change(path=here, kind="added" if below is None else "modified", type="directory")
            yield from walk(inner, None, here, depth + 1)
            return
        try:
            assert lower is not None
            under = stack.enter_context(opened(name, lower))
        except OSError:
            return
        yield from walk(inner, under, here, depth + 1)


def _opaque(directory: int) -> bool:
    for name in ("trusted.overlay.opaque", "user.overlay.opaque"):
        with contextlib.suppress(OSError):
            if os.getxattr(directory, name) == b"y":
                return True
    return False


def _same(name: str, upper: int, lower: int | None, above: os.stat_result, below: os.stat_result) -> bool:
    if lower is None:
        return False
    if stat.S_ISLNK(above.st_mode):
        return os.readlink(name, dir_fd=upper) == os.readlink(name, dir_fd=lower)
    if above.st_size != below.st_size or stat.S_IMODE(above.st_mode) & 0o777 != stat.S_IMODE(below.st_mode) & 0o777:
        return False
    try:
        with _file(name, upper) as one, _file(name, lower) as two:
            while True:
                left, right = one.read(1 << 20), two.read(1 << 20)
                if left != right:
                    return False
                if not left:
                    return True
    except OSError:
        return False


def _file(name: str, parent: int) -> Any:
    return os.fdopen(os.open(name, OPEN_FILE, dir_fd=parent), "rb")


def read(upper: Path, lower: Path) -> tuple[list[dict[str, Any]], str]:
    """(changes, unified text of the text files among them), both bounded."""
    found: list[dict[str, Any]] = []
    patch: list[str] = []
    listed = size = 0
    with contextlib.ExitStack() as stack:
        above = open_root(upper)
        stack.callback(os.close, above)
        below = open_workspace(lower)
        stack.callback(os.close, below)
        for change in walk(above, below):
            told = {"path": str(change.path), "kind": change.kind, "type": change.type}
            listed += told_bytes(told)
            if listed > MAX_TOLD_BYTES:
                more = f"more than {len(found)} changes: not all shown"
                found.append({"path": "…", "kind": "modified", "type": more})
                break
            found.append(told)
            if change.type == "file" and size < MAX_PATCH_BYTES:
                text = _unified(change, above, below)
                size += told_bytes(text)
                patch.append(text if size <= MAX_PATCH_BYTES else "(the rest is too long to be shown)\n")
    return found, "".join(patch)


def told_bytes(said: object) -> int:
    """What it takes in a message to the client: an agent may have written what JSON makes six times as long."""
    return len(json.dumps(said)) + 2


def content(path: PurePosixPath, root: int, limit: int) -> bytes | None:
    """The file at `path`, no link followed on the way; None where it is no file or is larger than `limit`."""
    with contextlib.ExitStack() as stack:
        parent = root
        try:
            for part in path.parts[:-1]:
                parent = stack.enter_context(opened(part, parent))
            found = status(path.name, parent)
            if found is None or not stat.S_ISREG(found.st_mode) or found.st_size > limit:
                return None
            with _file(path.name, parent) as file:
                return bytes(file.read(limit + 1))[:limit]
        except OSError:
            return None


def _unified(change: Change, upper: int, lower: int) -> str:
    new = b"" if change.kind == "deleted" else content(change.path, upper, MAX_TEXT_BYTES)
    old = b"" if change.kind == "added" else content(change.path, lower, MAX_TEXT_BYTES)
    shown = str(change.path)
    shown = shown if shown.isprintable() else ascii(shown)
    if new is None or old is None or b"\0" in new[:8192] or b"\0" in old[:8192]:
        return f"Binary or large file {shown} {change.kind}\n"
    labels = [
        "/dev/null" if change.kind == "added" else f"a/{shown}",
        "/dev/null" if change.kind == "deleted" else f"b/{shown}",
    ]
    files = [_memory(old), _memory(new)]
    try:
        done = subprocess.run(
            [
                "diff",
                "-u",
                "--label",
                labels[0],
                "--label",
                labels[1],
                *(f"/proc/self/fd/{number}" for number in files),
            ],
            pass_fds=files,
            capture_output=True,
            timeout=_DIFF_TIMEOUT_S,
            check=False,
            # Hostile text is no reason to read it as root.
            **({"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}),  # type: ignore[call-overload]
        )
    except (OSError, subprocess.SubprocessError):
        return f"File {shown} {change.kind}\n"
    finally:
        for number in files:
            os.close(number)
    return str(done.stdout.decode(errors="replace"))


def _memory(data: bytes) -> int:
    number = os.memfd_create("diff", os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(number, view) :]
    os.lseek(number, 0, os.SEEK_SET)
    return number
