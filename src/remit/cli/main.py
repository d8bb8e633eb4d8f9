"""The `remit` command.

typer, httpx and pydantic take longer to import than a cell takes to start, so `run`, `exec` and `attach` are
dispatched before anything but the standard library is imported (`cli.run`); everything else goes the comfortable way.
"""

from __future__ import annotations

import os
import sys

FAST = frozenset({"run", "exec", "attach"})


def main() -> None:
    """Entry of the console script. Exits with the command's code."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in FAST:
        from remit.cli import run

        raise SystemExit(run.main(arguments))
    from remit.cli import commands

    try:
        code = commands.invoke(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        code = _seen_enough()
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        code = _seen_enough()  # typer makes an exit code 1 of it
    raise SystemExit(code)


def _seen_enough() -> int:
    """Whoever reads our output (head, less) wants no more of it; Python would complain again when it closes stdout."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


if __name__ == "__main__":
    main()
