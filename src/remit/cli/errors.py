"""How a command says that it failed: `error:`, `cause:`, `hint:` on stderr, and an exit code that scripts tell apart.

2 invalid, 4 not found, 5 conflict, 6 unavailable; 1 anything else. `run` and `exec` give the command's own code.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping

from remit.cli import output
from remit.core.errors import RemitError

EXIT_CODES: Mapping[str, int] = {"error": 1, "invalid": 2, "not-found": 4, "conflict": 5, "unavailable": 6}
INTERRUPTED = 130


def report(error: RemitError) -> int:
    """Tell the error; its exit code."""
    output.say(f"error: {error.detail}")
    cause = error.__cause__
    if cause is not None and str(cause) and str(cause) not in error.detail:
        output.say(f"cause: {cause}")
    if error.hint:
        output.say(f"hint: {error.hint}")
    return EXIT_CODES.get(error.kind, 1)


def fault(error: Exception) -> int:
    """Tell what nobody foresaw, without a traceback; its exit code."""
    if isinstance(error, OSError) and error.filename is not None:
        output.say(f"error: {error.filename}: {error.strerror}")
        output.say("hint: look at the path, its permissions and its disk")
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF):
        output.say(f"error: standard output cannot be written\ncause: {error.strerror}")
        output.say("hint: write it somewhere else; what was asked for may have been done")
    else:
        output.say(f"error: a fault of remit itself ({type(error).__name__}: {error})")
        output.say(
            "hint: remit down and remit up, if this remit is newer than the node; PYTHONDEVMODE=1 shows where it was"
        )
    return EXIT_CODES["error"]
