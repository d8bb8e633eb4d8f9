"""What the decision service needs to reach its secret store, handed to it at `up`: it runs as a user of its own.

The configuration (`openbao_file`) belongs to whoever runs `remit up`; the copy is the decision service's (0600), lies
in the run directory, and is gone after a reboot.
"""

from __future__ import annotations

import os
from pathlib import Path

from remit.app.identities import Identities
from remit.broker.openbao import config, local, renewal
from remit.core.errors import Unavailable
from remit.settings import Settings

_GENERATION = "generation"


def write(settings: Settings, who: Identities | None, *, rekey: bool = False) -> None:
    """Hand over what is set, take away what is not set any more. `Unavailable` where it is not sound.

    `rekey`: the node's own OpenBao gets new keys and logins when it starts.
    """
    ca = settings.store_file.with_name(config.CA_BESIDE)
    for left in (settings.store_file, ca, settings.keeper_file):
        left.unlink(missing_ok=True)
    if settings.secrets == "openbao":
        decide, control, openbao = (who.decide, who.control, who.openbao) if who else (None, None, None)
        _logins(settings, openbao, rekey)
        give(settings.store_file, _reaching(settings.openbao_socket, login(settings, local.READER)), decide)
        give(settings.keeper_file, _reaching(settings.keeper_socket, login(settings, local.WRITER)), control)
    if settings.openbao_file:
        source = Path(settings.openbao_file)
        found = config.read(source)
        if found.ca_file is not None:
            give(ca, _certificates(found.ca_file), who.decide if who else None)
        give(settings.store_file, config.private(source), who.decide if who else None)


def generation(settings: Settings) -> str:
    """Of the keys and logins that the node's own OpenBao is to have. `Unavailable` where that cannot be read."""
    try:
        return (settings.openbao_logins / _GENERATION).read_text().strip()
    except FileNotFoundError:
        return local.FIRST
    except OSError as error:
        raise Unavailable(f"OpenBao's generation cannot be read: {error.strerror}") from error


def _logins(settings: Settings, user: int | None, rekey: bool) -> None:
    """Make those that are wanted. A server that knows others learns them by a renewal, which goes first: without these
    logins it is only done again."""
    names = [n for n in local.POLICIES if rekey or not (settings.openbao_logins / n).exists()]
    known = names and local.ready(settings.openbao_dir)
    if known and not renewal.pending(settings.openbao_dir, generation(settings)):
        _kept(settings.openbao_logins / _GENERATION, f"{renewal.generation()}\n".encode(), user)
    for name in names:
        made = local.login()
        _kept(settings.openbao_logins / name, f"{made.role_id} {made.secret_id}\n".encode(), user)


def give(target: Path, content: bytes, user: int | None) -> None:
    """A new file that only `user` can read; None: this process's."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        if user is not None:
            os.fchown(descriptor, user, user)
        out.write(content)
        out.flush()
        os.fsync(descriptor)


def login(settings: Settings, name: str) -> local.Login:
    """How process `name` logs in to the node's own OpenBao. `Unavailable` where that cannot be read."""
    file = settings.openbao_logins / name
    try:
        role_id, secret_id = file.read_text().split()
    except (OSError, ValueError):
        raise Unavailable(f"the login {file} of OpenBao cannot be read", hint="restore it from a backup") from None
    return local.Login(role_id=role_id, secret_id=secret_id)


def _kept(file: Path, content: bytes, user: int | None) -> None:
    """Whole or not at all."""
    fresh = file.with_name(f".{file.name}")
    fresh.unlink(missing_ok=True)
    give(fresh, content, user)
    fresh.replace(file)


def _reaching(socket: Path, made: local.Login) -> bytes:
    text = f'[auth]\nmethod = "approle"\nrole_id = "{made.role_id}"\nsecret_id = "{made.secret_id}"\n'
    return f'address = "unix:{socket}"\n{text}'.encode()


def _certificates(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Unavailable(f"the CA file {file} of OpenBao cannot be read: {error.strerror}") from error
