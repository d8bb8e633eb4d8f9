"""How a command says that it failed: `error:`, `cause:`, `hint:` on stderr, and an exit code that scripts tell apart.

2 invalid, 4 not found, 5 conflict, 6 unavailable; 1 anything else. `run` and `exec` give the command's own code.
"""

from __future__ import annotations

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
