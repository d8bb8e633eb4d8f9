"""System calls that Python 3.11 has no function for: namespaces and the mount API of Linux 5.2 to 5.12.

`os.setns` came with 3.12, and libc gives no wrapper for `mount_setattr` before glibc 2.36. Every function raises
`OSError` with its call's errno. Numbers are those of asm-generic, which x86-64 and arm64 share for these calls.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REC = 0x4000

ATTR_NOSUID, ATTR_NODEV, ATTR_IDMAP = 0x2, 0x4, 0x00100000

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = 1, 4
_PR_CAP_AMBIENT, _CAPABILITY_VERSION_3 = 47, 0x20080522
_PR_SET_SECCOMP, _MODE_FILTER, _PR_SET_NO_NEW_PRIVS = 22, 2, 38
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """Of the calling thread (except for a user namespace, which wants a process of one thread)."""
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(descriptor: int, kind: int) -> None:
    _checked(_libc.setns(ctypes.c_int(descriptor), ctypes.c_int(kind)), "setns")


def die_with_parent(number: int) -> None:
    """`number` is sent to this process when the thread that started it ends. Undone by setuid(2)."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number), 0, 0, 0), "prctl")


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    result = _libc.mount(
        *(os.fsencode(source), os.fsencode(target), kind.encode() if kind else None),
        *(ctypes.c_ulong(flags), data.encode() or None),
    )
    _checked(result, f"mount {target}")


def clone_tree(path: str) -> int:
    """A detached copy of the mount at `path`, as a descriptor (open_tree(2)); gone when it is closed unattached."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    return _checked(_libc.syscall(_OPEN_TREE, _AT_FDCWD, path.encode(), flags), f"open_tree {path}")


def attach(tree: int, target: str) -> None:
    """Mount what `clone_tree` gave at `target` (move_mount(2))."""
    result = _libc.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, target.encode(), _MOVE_MOUNT_F_EMPTY_PATH)
    _checked(result, f"move_mount {target}")


def set_attributes(tree: int, attributes: int, *, user_namespace: int) -> None:
    """Set mount attributes of a detached tree; with `ATTR_IDMAP`, ids are seen through `user_namespace`."""
    argument = struct.pack("QQQQ", attributes, 0, 0, user_namespace)
    result = _libc.syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, argument, ctypes.c_size_t(len(argument)))
    _checked(result, "mount_setattr")


def unmount(target: str, flags: int) -> None:
    _checked(_libc.umount2(target.encode(), ctypes.c_int(flags)), f"unmount {target}")


def sync_file_system(path: Path) -> None:
    """Write everything of the file system that holds `path` to where it belongs (syncfs(2))."""
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.syncfs(ctypes.c_int(number)), f"syncfs {path}")
    finally:
        os.close(number)


def load_filter(program: bytes) -> None:
    """Run under a seccomp BPF program from here on, without new privileges (seccomp(2))."""
    buffer = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0), "prctl no_new_privs")
    _checked(_libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), head, 0, 0), "prctl seccomp")


def give_children(capability: int) -> None:
    """Programs that this process starts keep `capability` (capabilities(7): ambient), until `keep_from_children`."""
    head = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    _checked(_libc.capget(head, data), "capget")
    words = list(struct.unpack("6I", data.raw))
    words[2 + (3 if capability >= 32 else 0)] |= 1 << (capability & 31)
    _checked(_libc.capset(head, struct.pack("6I", *words)), "capset")
    _checked(_libc.prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(2), ctypes.c_ulong(capability), 0, 0), "prctl ambient")


def keep_from_children() -> None:
    """Programs started from here on have no capability of this process's."""
    _checked(_libc.prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(4), 0, 0, 0), "prctl ambient")
