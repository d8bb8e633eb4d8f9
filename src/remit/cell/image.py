"""A file system of a fixed size in a file, for what an agent writes into its copy of the workspace.

Overlayfs writes to whatever directory it is given, and a directory has no size: one agent could fill the disk of the
node. So the upper layer lives in a sparse ext4 image behind a loop device, no larger than the task's share, which
stays on disk for `diff` and `merge`. The empty image of each size is made once and copied (mkfs would be 20 ms a task).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import subprocess
from pathlib import Path

from remit.cell import kernel

MIN_BYTES = 16 << 20
MKFS_TIMEOUT_S = 60.0
_BYTES_PER_INODE = 8192
_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE = 0x4C82, 0x4C0A
_LO_READ_ONLY, _LO_AUTOCLEAR = 1, 4
_ATTEMPTS = 20


def template(directory: Path, size_bytes: int) -> Path:
    """The empty image of `size_bytes` (rounded), made if it is not there. `OSError`: it cannot be made here."""
    size = max(MIN_BYTES, size_bytes) >> 20 << 20
    path = directory / f".empty-{size >> 20}.ext4"
    if path.exists():
        return path
    made = path.with_suffix(f".{os.getpid()}")
    with made.open("wb") as file:
        file.truncate(size)
    try:
        # No journal: the image of a task that was cut off is read once more at most. No reserved blocks, no lost+found.
        subprocess.run(
            [
                *("mkfs.ext4", "-q", "-F", "-m", "0", "-i", str(_BYTES_PER_INODE), "-b", "4096"),
                *("-O", "^has_journal,^resize_inode", "-E", "lazy_itable_init=1,nodiscard", str(made)),
            ],
            check=True,
            capture_output=True,
            timeout=MKFS_TIMEOUT_S,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
        made.rename(path)
    except subprocess.SubprocessError as error:
        raise OSError(errno.EIO, f"mkfs.ext4: {error}") from error
    finally:
        made.unlink(missing_ok=True)
    return path


def copy(source: Path, target: Path) -> None:
    """A sparse copy."""
    with source.open("rb") as one, target.open("xb") as two:
        size = os.fstat(one.fileno()).st_size
        two.truncate(size)
        position = 0
        while position < size:
            try:
                begin = os.lseek(one.fileno(), position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            position = os.lseek(one.fileno(), begin, os.SEEK_HOLE)
            while begin < position:
                done = os.copy_file_range(one.fileno(), two.fileno(), position - begin, begin, begin)
                if done == 0:
                    return
                begin += done


def mount(image: Path, target: Path, *, read_only: bool = False) -> None:
    """Mount `image` at `target`. The loop device goes when it is unmounted. `OSError`: no loop devices here."""
    flags = os.O_RDONLY if read_only else os.O_RDWR
    with contextlib.ExitStack() as stack:
        file = os.open(image, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
        stack.callback(os.close, file)
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, control)
        for attempt in range(_ATTEMPTS):
            device = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            loop = os.open(device, flags | os.O_CLOEXEC)
            stack.callback(os.close, loop)
            info = struct.pack("<5Q4I64s64s32s2Q", *([0] * 5), 0, 0, 0, _configured(read_only), b"", b"", b"", 0, 0)
            try:
                fcntl.ioctl(loop, _LOOP_CONFIGURE, struct.pack("<2I", file, 0) + info + bytes(64))
                break
            except OSError as error:
                # Somebody took the free one between the two calls.
                if error.errno != errno.EBUSY or attempt == _ATTEMPTS - 1:
                    raise
        options = "noload" if read_only else "discard"
        kernel.mount(
            device,
            str(target),
            "ext4",
            kernel.MS_NOSUID | kernel.MS_NODEV | (kernel.MS_RDONLY if read_only else 0),
            options,
        )


def _configured(read_only: bool) -> int:
    return _LO_AUTOCLEAR | (_LO_READ_ONLY if read_only else 0)
