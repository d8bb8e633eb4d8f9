"""The processes of a node, in the order in which they start."""

from __future__ import annotations

import os
import sys
from functools import partial

from remit.app.identities import Identities
from remit.boundary import envoy
from remit.node import privilege
from remit.node.supervisor import Program
from remit.settings import Settings, exported

ENVOY_THREADS = max(1, len(os.sched_getaffinity(0)) // 2)
"""Half of the processors: deciding takes as long as carrying out. On two, a second thread only costs switches."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def programs(settings: Settings, who: Identities | None, caller_path: str) -> list[Program]:
    """`who`: what they run as; None: as whoever starts them.

    `caller_path`: PATH of whoever started the node; `cells` gets it, to find the toolchains that cells share.
    """
    environment = {
        "LANG": "C.UTF-8",
        "HOME": str(settings.state_dir),
        **exported(settings),
        "REMIT_CONFIG": os.devnull,  # all of it is in the environment, and the file may be closed to them
    }
    shown = privilege.window((settings.state_dir, settings.run_dir)) if who else {}

    def ours(name: str, user: int | None, path: str = PATH) -> Program:
        return Program(
            name=name,
            argv=[sys.executable, "-P", "-m", "remit.app", name],
            environment={"PATH": path, **environment},
            log=settings.log_dir / f"{name}.log",
            user=user,
            shown=shown,
        )

    kept = [ours("openbao", who.openbao if who else None)] if settings.secrets == "openbao" else []
    return [
        *kept,
        ours("control", who.control if who else None),
        ours("decide", who.decide if who else None),
        Program(
            name="envoy",
            argv=envoy.argv(settings.envoy_bootstrap, concurrency=ENVOY_THREADS),
            environment={"PATH": PATH},
            notifies=False,
            socket=settings.proxy_socket,
            probe=partial(envoy.alive, settings.envoy_admin),
            log=settings.log_dir / "envoy.log",
            umask=0o027,
            user=who.envoy if who else None,
            shown=shown,
        ),
        ours("cells", None, f"{caller_path}:{PATH}"),
        ours("forward", who.forward if who else None),
    ]
