"""What the decision service needs to reach its secret store, handed to it at `up`: it runs as a user of its own.

The configuration (`openbao_file`) belongs to whoever runs `remit up`; the copy is the decision service's (0600), lies
in the run directory, and is gone after a reboot.
"""

from __future__ import annotations

import os
from pathlib import Path

from remit.app.identities import Identities
from remit.broker.openbao import config
from remit.core.errors import Unavailable
from remit.settings import Settings


def write(settings: Settings, who: Identities | None) -> None:
    """Hand over what is set, take away what is not set any more. `Unavailable` where it is not sound."""
    ca = settings.store_file.with_name(config.CA_BESIDE)
    for left in (settings.store_file, ca):
        left.unlink(missing_ok=True)
    if settings.openbao_file:
        source = Path(settings.openbao_file)
        found = config.read(source)
        if found.ca_file is not None:
            give(ca, _certificates(found.ca_file), who)
        give(settings.store_file, config.private(source), who)


def give(target: Path, content: bytes, who: Identities | None) -> None:
    """A new file that only the decision service can read."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        if who is not None:
            os.fchown(descriptor, who.decide, who.decide)
        out.write(content)


def _certificates(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Unavailable(f"the CA file {file} of OpenBao cannot be read: {error.strerror}") from error
