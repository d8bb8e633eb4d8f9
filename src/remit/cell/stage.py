"""Where a cell's parts are put together before bubblewrap picks them up: a tmpfs that only this process can see.

Bubblewrap runs as the cell's own uid, which may not walk through `/root` or the state directory. So the daemon, in a
mount namespace of its own, binds what a cell gets at paths that every uid can walk. When the daemon dies, however it
dies, its mounts are gone with it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from remit.cell import kernel, mounts

TERMINALS = 128
"""Of one cell at once. All instances of devpts share kernel.pty.max (4096), less what is kept for the host's own."""
_INODES_PER_BYTE = 4096
_MIN_INODES = 4096


class Stage:
    """`root` is a directory that this makes (its parents are walkable by all) and removes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._tools: dict[tuple[Path, int, int], Path] = {}

    def open(self) -> None:
        """Enter a mount namespace of our own and mount the tmpfs. For the whole process, once."""
        mounts.private()
        self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
        kernel.mount("remit", str(self.root), "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=0711,size=256m")
        for name in ("tools", "tasks"):
            (self.root / name).mkdir(mode=0o711)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            mounts.unmount(self.root)
            self.root.rmdir()

    def tool(self, prefix: Path) -> str:
        """Where `prefix` is bound read-only; bound at its first use, then shared by all cells.

        One that was installed anew is another directory: the one before would be shown empty.
        """
        found = prefix.stat()
        which = (prefix, found.st_dev, found.st_ino)
        known = self._tools.get(which)
        if known is None:
            known = self.root / "tools" / str(len(self._tools))
            known.mkdir(mode=0o755, exist_ok=True)
            mounts.bind(prefix, known, read_only=True)
            self._tools[which] = known
        return str(known)

    def task(self, name: str) -> Path:
        path = self.root / "tasks" / name
        path.mkdir(mode=0o711)
        return path

    def drop(self, path: Path) -> None:
        """Unmount everything below a task's directory and remove it."""
        for target in reversed(mounts.below(path, Path("/proc/self/mountinfo").read_bytes())):
            with contextlib.suppress(OSError):
                mounts.unmount(target)
        # rmdir only: were something still mounted, removing a tree would remove the operator's files.
        for child in (*path.iterdir(), path):
            with contextlib.suppress(OSError):
                child.rmdir()


def scratch(target: Path, *, owner: tuple[int, int], size_bytes: int, mode: int) -> None:
    """Mount a tmpfs of at most `size_bytes` at `target` (made), owned by `owner`."""
    target.mkdir(mode=0o711, exist_ok=True)
    inodes = max(_MIN_INODES, size_bytes // _INODES_PER_BYTE)
    options = f"size={size_bytes},nr_inodes={inodes},uid={owner[0]},gid={owner[1]},mode={mode:o}"
    kernel.mount("cell", str(target), "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)


def terminals(target: Path) -> None:
    """Mount an instance of devpts (Documentation/filesystems/devpts.rst) at `target` (made)."""
    target.mkdir(mode=0o711)
    options = f"newinstance,ptmxmode=0666,mode=620,max={TERMINALS}"
    kernel.mount("cell", str(target), "devpts", kernel.MS_NOSUID | kernel.MS_NOEXEC, options)


def shared_directories(target: Path, names: tuple[str, ...]) -> None:
    """Make `names` under `target`, writable by all as /tmp is."""
    for name in names:
        path = target / name
        path.mkdir()
        path.chmod(0o1777)
