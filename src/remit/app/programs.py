"""The processes of a node, in the order in which they start."""

from __future__ import annotations

import sys

from remit.boundary import envoy
from remit.node.supervisor import Program
from remit.settings import Settings, exported

ENVOY_THREADS = 2
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def programs(settings: Settings, caller_path: str) -> list[Program]:
    """`caller_path`: PATH of whoever started the node; `cells` gets it, to find the toolchains that cells share."""
    environment = {"LANG": "C.UTF-8", "HOME": str(settings.state_dir), **exported(settings)}

    def ours(name: str, path: str = PATH) -> Program:
        return Program(
            name=name,
            argv=[sys.executable, "-m", "remit.app", name],
            environment={"PATH": path, **environment},
            log=settings.log_dir / f"{name}.log",
        )

    return [
        ours("control"),
        ours("decide"),
        Program(
            name="envoy",
            argv=envoy.argv(settings.envoy_bootstrap, concurrency=ENVOY_THREADS),
            environment={"PATH": PATH},
            notifies=False,
            socket=settings.proxy_socket,
            log=settings.log_dir / "envoy.log",
            umask=0o077,
        ),
        ours("cells", f"{caller_path}:{PATH}"),
        ours("forward"),
    ]
