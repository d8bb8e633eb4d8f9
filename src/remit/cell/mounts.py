"""Mounts of the privileged daemon: in a namespace of its own, read-only where a cell reads, mapped where it writes.

A mount namespace of the daemon's own dies with the daemon, however it dies, so nothing has to be cleaned up on the
host. Owners are mapped with `mount_setattr` (Linux 5.12): files keep their owner on disk and look like the agent's.
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

from remit.cell import kernel, rootless

_MS_REMOUNT, _MS_BIND, _MS_SLAVE, _MNT_DETACH = 32, 4096, 1 << 19, 2
_ST_TO_MS = {
    os.ST_RDONLY: 1,
    os.ST_NOEXEC: 8,
    os.ST_NOATIME: 1 << 10,
    os.ST_NODIRATIME: 1 << 11,
    os.ST_RELATIME: 1 << 21,
}
_ESCAPED = re.compile(r"\\([0-7]{3})")
_NS_GET_USERNS = 0xB701
"""ioctl_ns(2)."""


def private() -> None:
    """A mount namespace of this process's own, which still sees what the host mounts later. Call before any thread."""
    if os.geteuid() == 0:
        kernel.unshare(kernel.CLONE_NEWNS)
    else:
        rootless.enter()
    kernel.mount("none", "/", None, kernel.MS_REC | _MS_SLAVE)


def unmount(target: Path) -> None:
    """Detach what is mounted at `target`; who still uses it keeps it."""
    kernel.unmount(str(target), _MNT_DETACH)


def below(path: Path, mountinfo: bytes) -> list[Path]:
    """Where something is mounted below `path`, in the order in which it was (proc_pid_mountinfo(5)).

    Names are bytes: in the whole table, which has everybody's mounts, not all of them are UTF-8, and some are escaped.
    """
    lines = os.fsdecode(mountinfo).split("\n")
    targets = [_ESCAPED.sub(lambda one: chr(int(one[1], 8)), line.split(" ")[4]) for line in lines if line]
    return [Path(target) for target in targets if target.startswith(f"{path}/")]


def bind(source: Path | str, target: Path, *, read_only: bool = False) -> None:
    """Bind one file or directory without set-user-id and devices, `read_only` or writable."""
    # Without root, what is mounted below `source` cannot be left out: that would uncover what it hides.
    kernel.mount(str(source), str(target), None, _MS_BIND | (0 if os.geteuid() == 0 else kernel.MS_REC))
    flags = _MS_BIND | _MS_REMOUNT | kernel.MS_NOSUID | kernel.MS_NODEV | _locked(target)
    kernel.mount("none", str(target), None, flags | (kernel.MS_RDONLY if read_only else 0))


def _locked(target: Path) -> int:
    """Flags of a mount that an unprivileged user may not take away, as mount(2) numbers them."""
    found = os.statvfs(target).f_flag
    kept = 0
    for flag in (os.ST_RDONLY, os.ST_NOEXEC, os.ST_NOATIME, os.ST_NODIRATIME, os.ST_RELATIME):
        kept |= _ST_TO_MS[flag] if found & flag else 0
    return kept


def bind_mapped(source: int, target: Path, mapping: int) -> None:
    """Bind the directory open as `source` on `target`, its owners mapped by user namespace `mapping`.

    `OSError` EINVAL: this file system cannot be mapped (overlayfs, older tmpfs, network file systems).
    """
    tree = kernel.clone_tree(f"/proc/self/fd/{source}")
    try:
        kernel.set_attributes(tree, kernel.ATTR_IDMAP | kernel.ATTR_NOSUID | kernel.ATTR_NODEV, user_namespace=mapping)
        kernel.attach(tree, str(target))
    finally:
        os.close(tree)


def identity_namespace(users: tuple[int, int], groups: tuple[int, int]) -> int:
    """A user namespace that only maps owners: `(on disk, as seen)` for users and groups. The caller closes it."""
    told, tell = os.pipe()
    hold, release = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(release)
            kernel.unshare(kernel.CLONE_NEWUSER)
            os.write(tell, b"1")
            os.read(hold, 1)
        finally:
            os._exit(0)
    os.close(tell)
    os.close(hold)
    try:
        if os.read(told, 1) != b"1":
            raise OSError("this system does not allow user namespaces")
        process = Path(f"/proc/{pid}")
        (process / "uid_map").write_text(f"{users[0]} {users[1]} 1\n")
        (process / "gid_map").write_text(f"{groups[0]} {groups[1]} 1\n")
        return os.open(process / "ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(told)
        os.close(release)
        os.waitpid(pid, 0)


def owner_namespace(namespace: int) -> int:
    """A descriptor of the user namespace that owns `namespace`."""
    return fcntl.ioctl(namespace, _NS_GET_USERNS)
