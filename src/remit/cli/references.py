"""References to a password manager's items, read through its own command: `op://vault/item/field` (1Password).

The command asks whoever runs it for the unlock; what it gives goes to the control plane's API and nowhere else. The
reference is the only argument: a value never is.
"""

from __future__ import annotations

import re
import shutil
import subprocess

from remit.core.errors import Invalid, NotFound, Unavailable

TIMEOUT_S = 120.0
"""A human may have to unlock it."""
MAX_BYTES = 1 << 20
_OP = re.compile(r"op://[\w .()@+-]+/[\w .()@+-]+(?:/[\w .()@+-]+){1,2}(?:\?[\w=&-]+)?")


def is_one(text: str) -> bool:
    return text.startswith("op://")


def read(reference: str) -> bytes:
    """The value. `Invalid`: it is no reference; `Unavailable`: there is no `op`, or it does not answer; `NotFound`."""
    if not _OP.fullmatch(reference):
        raise Invalid(f"{reference[:80]!a} is no reference", hint="op://VAULT/ITEM/FIELD")
    command = shutil.which("op")
    if command is None:
        raise Unavailable(
            f"the command op (1Password CLI) is not here, and {reference!a} needs it",
            hint="install it, or put the value with `remit secret put`",
        )
    try:
        done = subprocess.run(
            [command, "read", "--no-newline", reference],
            stdin=None,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"op has not answered within {TIMEOUT_S:g} s", hint="op signin") from None
    except OSError as error:
        raise Unavailable(f"op cannot be run: {error.strerror}") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise NotFound(
            f"op does not give {reference!a}: {ascii(said[-1][:200])[1:-1] if said else 'no reason'}", hint="op signin"
        )
    if len(done.stdout) > MAX_BYTES:
        raise Invalid(f"{reference!a} is longer than {MAX_BYTES} bytes")
    return done.stdout
