"""The operator's directory inside a cell: a copy-on-write view (default), or the directory itself.

The agent runs as a uid that owns nothing. A mapped mount (mount_setattr(2), Linux 5.12) shows the operator's files as
the agent's, so that it can work on them and they keep their owner. Copy-on-write is overlayfs over that: what the agent
writes lands in the task's own directory, as plain files, until somebody merges it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from remit.cell import changes, environment, guard, image, kernel, mounts, sandbox
from remit.core.errors import Invalid, NotFound, Unavailable

log = logging.getLogger(__name__)

REFUSED = tuple(
    Path(p)
    for p in (
        "/",
        "/usr",
        "/etc",
        "/bin",
        "/sbin",
        "/lib",
        "/lib32",
        "/lib64",
        "/libx32",
        "/dev",
        "/proc",
        "/sys",
        "/run",
    )
)
"""Not workspaces, and nothing below them is one."""
_OVERLAY = "redirect_dir=off,metacopy=off,index=off,xino=off"
_OVERLAY_ROOTLESS = "redirect_dir=nofollow,metacopy=off,index=off,xino=off,userxattr"
"""Without root overlayfs keeps its marks in user.overlay.* instead of trusted.overlay.*."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who owns the files on disk, and as which uid (and gid) the agent sees them and runs."""

    user: int
    group: int
    agent: int
    agent_group: int


def checked(text: object, cells: Path) -> Path:
    """The directory named by a request: absolute, real, no system directory, not Remit's own state."""
    if not isinstance(text, str) or not text.startswith("/") or not environment.sayable(text) or len(text) > 4096:
        raise Invalid("the workspace is not an absolute path", hint="--workspace DIR")
    path = Path(os.path.realpath(text))
    if not path.is_dir():
        raise NotFound(f"the workspace {path} is not a directory", hint="--workspace DIR")
    if path == Path("/") or any(path.is_relative_to(root) for root in REFUSED[1:]):
        raise Invalid(f"{path} belongs to the system: it cannot be a workspace", hint="use a directory of your own")
    state = cells.parent
    if path.is_relative_to(state) or state.is_relative_to(path):
        raise Invalid(f"{path} holds Remit's own state", hint="use a directory of your own")
    return path


def mount_mapped(source: int, target: Path, owner: Owner) -> None:
    """Show the directory open as `source` at `target`, its owner's files as the agent's."""
    if owner.user == owner.agent:
        mounts.bind(f"/proc/self/fd/{source}", target)
        return
    mapping = mounts.identity_namespace((owner.user, owner.agent), (owner.group, owner.agent_group))
    try:
        mounts.bind_mapped(source, target, mapping)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM):
            where = Path(f"/proc/self/fd/{source}").readlink()
            raise Unavailable(
                f"the file system of {where} cannot show files under another owner ({os.strerror(error.errno)})",
                hint="keep the workspace on ext4, xfs or btrfs, or on tmpfs with Linux 6.3 or later",
            ) from error
        raise
    finally:
        os.close(mapping)


IMAGE = "layers.ext4"
"""In the task's directory: the image that holds its layers."""


def layers(directory: Path, stage: Path, size_bytes: int) -> tuple[Path, bool]:
    """Where the layers of a copy-on-write view go, and whether that place has the size limit."""
    place = stage / "layers"
    place.mkdir(mode=0o755)
    try:
        image.copy(image.template(directory.parent, size_bytes), directory / IMAGE)
        image.mount(directory / IMAGE, place)
    except OSError as error:
        log.warning("the size of copy-on-write layers is not limited here: %s", error)
        (directory / IMAGE).unlink(missing_ok=True)
        return directory, False
    return place, True


@contextlib.contextmanager
def reopened(directory: Path, stage: Path) -> Iterator[Path]:
    """The layers of a task that is over, read-only."""
    if not (directory / IMAGE).exists():
        yield directory
        return
    place = stage / f"{directory.name}.{os.urandom(4).hex()}"
    place.mkdir(mode=0o700)
    try:
        image.mount(directory / IMAGE, place, read_only=True)
        try:
            yield place
        finally:
            mounts.unmount(place)
    finally:
        place.rmdir()


def mount_copy(source: int, stage: Path, layers: Path, owner: Owner) -> Path:
    """Mount a copy-on-write view of `source`; writes land in `layers/upper`. Where it is mounted."""
    lower, merged = stage / "lower", stage / "workspace"
    upper, work = layers / "upper", layers / "work"
    for path in (lower, merged):
        path.mkdir(mode=0o755)
    for path in (upper, work):
        path.mkdir(mode=0o700)
    status = os.fstat(source)
    os.chown(upper, owner.agent, owner.agent_group)
    upper.chmod((status.st_mode & 0o777) | 0o700)
    mount_mapped(source, lower, owner)
    options = f"lowerdir={lower},upperdir={upper},workdir={work},"
    options += _OVERLAY_ROOTLESS if os.geteuid() else _OVERLAY
    try:
        kernel.mount("overlay", str(merged), "overlay", kernel.MS_NOSUID | kernel.MS_NODEV, options)
    except OSError as error:
        raise Unavailable(
            f"a copy-on-write view is not possible here ({os.strerror(error.errno or 0)})",
            hint="put state_dir on ext4 or xfs, or use --bind",
        ) from error
    return merged


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What `guard.look` found in a directory, and which directory that was (device, inode)."""

    found: tuple[PurePosixPath, ...]
    directory: tuple[int, int]


def look(path: Path) -> Looked:
    """Look through a directory that is to be bound. Not for the event loop: it may hold a million files."""
    try:
        root = changes.open_workspace(path)
        try:
            return Looked(found=tuple(guard.look(root)), directory=_which(root))
        finally:
            os.close(root)
    except OSError as error:
        raise Unavailable(f"the workspace cannot be looked through: {error}", hint="leave --bind out") from error


def _which(directory: int) -> tuple[int, int]:
    found = os.fstat(directory)
    return found.st_dev, found.st_ino


def mount_direct(
    source: int, looked: Looked, stage: Path, path: Path, owner: Owner, undo: contextlib.ExitStack
) -> tuple[list[sandbox.Mount], dict[PurePosixPath, bool]]:
    """Show `source` itself, writable, and what runs later as its owner (hooks, editor settings) read-only over it.

    Its mounts, and what is guarded (whether it can be written). What has to be made in it is removed by `undo`.
    `OSError`: it is not the directory that was `looked` through.
    """
    if _which(source) != looked.directory:
        raise OSError(errno.ESTALE, "another directory has taken its place", str(path))
    shown = stage / "workspace"
    shown.mkdir(mode=0o755)
    kept = os.dup(source)
    undo.callback(os.close, kept)
    prepared = guard.prepare(source, looked.found, (owner.user, owner.group))
    undo.callback(guard.clear, kept, prepared)
    mount_mapped(source, shown, owner)
    seen = [
        sandbox.Mount(source=str(shown), target=str(path), writable=True),
        *(
            sandbox.Mount(source=str(shown / item.path), target=str(path / item.path), writable=item.writable)
            for item in prepared.guards
        ),
    ]
    return seen, {item.path: item.writable for item in prepared.guards}
