"""Being root without being root: a user namespace in which an ordinary user may make networks and mounts.

Everything that a cell's network needs (namespace, addresses, nftables, listeners) is asked of the namespace's own root,
so `network` works unchanged for whoever has entered one (user_namespaces(7)). One id is mapped, the user's own: files
keep their owner, and cells cannot be given uids of their own. Some distributions forbid it to ordinary users.
"""

from __future__ import annotations

import os
from pathlib import Path

from remit.cell import kernel
from remit.core.errors import Unavailable


def enter() -> None:
    """Become root of a new user namespace, for good. The process must have one thread, and no privilege to lose.

    `Unavailable`: this system does not let its users do that; nothing has changed.
    """
    user, group = os.geteuid(), os.getegid()
    try:
        kernel.unshare(kernel.CLONE_NEWUSER)
    except OSError as error:
        raise Unavailable(
            f"this system lets no ordinary user make a user namespace: {error.strerror}",
            hint="run as root, or see user.max_user_namespaces and the distribution's switch for it; remit doctor",
        ) from error
    # Without "deny" the kernel takes no group map from an ordinary user (CVE-2014-8989).
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1\n"), ("gid_map", f"0 {group} 1\n")):
        try:
            Path("/proc/self", name).write_text(text)
        except OSError as error:
            raise Unavailable(
                f"the user namespace cannot be used: {error}", hint="run as root; remit doctor"
            ) from error
