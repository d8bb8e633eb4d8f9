"""How bubblewrap is asked to make a cell: a plain function from what is wanted to its arguments.

The first process of a task makes the namespaces; a further one (`remit exec`) joins its user and pid namespaces from
outside and gets the same mounts anew, so that nothing privileged ever enters a mount namespace that an agent has
shaped. Pure: every path and descriptor comes with the spec. What is in nobody's list does not exist in a cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

USER, GROUP = "agent", "agent"
UID = GID = 1000
HOME = "/home/agent"
HOSTNAME = "cell"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """`source` on the host, as bubblewrap sees it; `target` in the cell."""

    source: str
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Descriptors of a running cell's namespaces: the user namespace that owns them, the agent's own in it, pid."""

    outer_user: int
    inner_user: int
    pid: int


JOINED = Join(outer_user=7, inner_user=8, pid=9)
"""Their numbers as bubblewrap inherits them: it never closes them, and POSIX sh closes numbers below ten only."""
_CLOSING = "exec 7>&- 8>&- 9>&-; "
_BEGIN = (
    'command -v -- "$1" >/dev/null || { echo "remit: $1: command not found in the cell" >&2; exit 127; }; '
    'exec /usr/bin/setsid %s -- "$@"'
)
"""setsid(1) would say that it failed to execute something, of which nobody outside knows why it was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """`system`: (kind, source, target) with kind `bind` or `symlink`. Descriptors are inherited by bubblewrap."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: str
    system: tuple[tuple[str, str, str], ...]
    mounts: tuple[Mount, ...]
    seccomp: tuple[int, ...]
    info: int
    terminals: str
    """A devpts of the cell's own, as bubblewrap sees it: the one that bubblewrap makes has no limit."""
    join: Join | None = None
    hidden: tuple[str, ...] = field(default=("/sys",))
    """Directories that exist and are empty."""


def arguments(spec: Spec) -> list[str]:
    """Bubblewrap's options, for `--args` (an environment is nobody else's to read in `ps`). `argv` goes after them."""
    made = [*_namespaces(spec.join), "--hostname", HOSTNAME, "--die-with-parent", "--cap-drop", "ALL"]
    made += ["--info-fd", str(spec.info)]
    for kind, source, target in spec.system:
        made += ["--ro-bind" if kind == "bind" else "--symlink", source, target]
    for path in spec.hidden:
        made += ["--dir", path]
    made += ["--proc", "/proc", "--dev", "/dev", "--dev-bind", spec.terminals, "/dev/pts"]
    for mount in spec.mounts:
        made += ["--bind" if mount.writable else "--ro-bind", mount.source, mount.target]
    # The root and /dev are tmpfs of bubblewrap's, without a size limit.
    made += ["--remount-ro", "/dev", "--remount-ro", "/"]
    made += ["--clearenv"]
    for name, value in sorted(spec.environment.items()):
        made += ["--setenv", name, value]
    for descriptor in spec.seccomp:
        made += ["--add-seccomp-fd", str(descriptor)]
    return [*made, "--chdir", spec.cwd]


def command(argv: tuple[str, ...], *, terminal: bool, joined: bool = False) -> tuple[str, ...]:
    """`argv` in a session of its own, so that job control and `kill 0` end at the cell; with the terminal, if any.

    `joined`: without the descriptors of `JOINED`.
    """
    script = (_CLOSING if joined else "") + _BEGIN % ("--ctty" if terminal else "")
    return ("/bin/sh", "-c", script, "sh", *argv)


def _namespaces(join: Join | None) -> list[str]:
    common = ["--unshare-ipc", "--unshare-uts"]
    if join is None:
        return [
            *("--unshare-user", "--uid", str(UID), "--gid", str(GID), "--disable-userns"),
            *("--unshare-pid", "--unshare-cgroup"),
            *common,
        ]
    return [
        *("--userns", str(JOINED.outer_user), "--userns2", str(JOINED.inner_user), "--pidns", str(JOINED.pid)),
        *common,
    ]
