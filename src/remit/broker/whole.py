"""A file that is there whole or not at all, whatever dies when: what is in it may be all that opens a secret.

A rename is durable once its directory is (fsync(2)); until then a machine that loses power may come up with the file
before, beside a database that has gone on.
"""

from __future__ import annotations

import os
from pathlib import Path

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


def fresh(file: Path) -> Path:
    """What is written before it is `file`."""
    return file.with_name(f".{file.name}.new")


def replace(file: Path, data: bytes, mode: int = 0o600) -> None:
    """`file` holds `data` and has `mode`, whatever the umask; durable. `OSError`: it is as it was, or is this."""
    written = fresh(file)
    written.unlink(missing_ok=True)
    descriptor = os.open(written, _NEW, mode)
    with os.fdopen(descriptor, "wb") as out:
        os.fchmod(descriptor, mode)
        out.write(data)
        out.flush()
        os.fsync(descriptor)
    written.replace(file)
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
