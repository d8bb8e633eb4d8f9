"""Cells without root: the daemon makes a user namespace and is privileged in that, over nothing but its own.

It keeps its uid there, so a cell's processes have the operator's uid on the host and are held by their namespaces
alone; there are no cgroup limits unless the system delegates some (`limits` names what is absent). A distribution may
forbid user namespaces to ordinary users; then this says which switch does.
"""

from __future__ import annotations

import os
from pathlib import Path

from remit.cell import kernel
from remit.core.errors import Unavailable

_SWITCHES = (
    ("kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "an AppArmor profile for remit, or sysctl =0"),
    ("user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
)
_CAP_NET_ADMIN = 12


def enter() -> None:
    """Enter a user namespace and a mount namespace of our own. Before any thread. `Unavailable`: not on this system."""
    user, group = os.geteuid(), os.getegid()
    try:
        kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1\n")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1\n")
        # `ip` and `nft` are programs of their own, and an ordinary uid loses its capabilities when it starts one.
        kernel.give_children(_CAP_NET_ADMIN)
    except OSError as error:
        raise Unavailable(f"cells without root are not possible here: {_why(error)}", hint=_hint()) from error


def _why(error: OSError) -> str:
    found = _closed()
    return f"{found[0].replace('/', '.')} is {found[1]}" if found is not None else str(error)


def _hint() -> str:
    found = _closed()
    return found[2] if found is not None else "run `remit up` as root; remit doctor"


def _closed() -> tuple[str, str, str] | None:
    for name, closed, hint in _SWITCHES:
        try:
            if (Path("/proc/sys") / name).read_text().strip() == closed:
                return name, closed, hint
        except OSError:
            continue
    return None
