"""Which uid each process of a node runs as. Numbers, so that set-up creates no user.

A process that is taken over must not have what the others have: Envoy parses whatever agents and upstreams send, the
decision service holds the keys, the control plane answers an API. Each has a uid and a group of its own, of its
instance's own, so that two instances on one machine are strangers. `cells` and the supervisor stay root.
The range lies above the uids of cells (`cell.cell.FIRST_USER`), so also above those of adduser, subuid(5) and systemd.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from remit.core.errors import Unavailable
from remit.settings import Settings, rootless

FIRST = 0x71000000
PER_INSTANCE = 16
INSTANCES = 1 << 20
"""The last uid is 0x71FFFFFF. The instance of the default state directory is the first one."""
DEFAULT_STATE = Path("/var/lib/remit")
_PROCESSES = ("forward", "decide", "control", "envoy", "openbao")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identities:
    """uid of each process, which is also its gid."""

    forward: int
    decide: int
    control: int
    envoy: int
    openbao: int

    @property
    def fence(self) -> str:
        """Name of the kernel's table of rules on Envoy."""
        return f"remit_{self.envoy:x}"


def of(settings: Settings) -> Identities | None:
    """Those of an instance, the same at every start; None without root, where everything has the user's own.

    Two instances on one machine share uids by chance once in a million (a hash of the state directory).
    `Unavailable` where this system has no such uids (a container whose uids are mapped).
    """
    if rootless():
        return None
    first = FIRST + PER_INSTANCE * _number(settings.state_dir)
    if not _mapped(first):
        raise Unavailable(
            f"uid {first} does not exist in this container",
            hint="map all uids into the container, or run remit as an ordinary user",
        )
    return Identities(**{name: first + number for number, name in enumerate(_PROCESSES)})


def _number(state: Path) -> int:
    if state == DEFAULT_STATE:
        return 0
    digest = hashlib.blake2s(os.fsencode(state), digest_size=8, person=b"remituid").digest()
    return 1 + int.from_bytes(digest, "big") % (INSTANCES - 1)


def _mapped(uid: int) -> bool:
    """user_namespaces(7): lines of first uid inside, first outside, how many."""
    lines = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return any(first <= uid and uid + PER_INSTANCE <= first + count for first, _, count in lines)
