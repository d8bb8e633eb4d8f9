"""The `remit` command.

typer, httpx and pydantic take longer to import than a cell takes to start, so `run`, `exec` and `attach` are
dispatched before anything but the standard library is imported (`cli.run`); everything else goes the comfortable way.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys

FAST = frozenset({"run", "exec", "attach"})


def main() -> None:
    """Entry of the console script. Exits with the command's code; no failure is ever shown as a traceback."""
    for stream in (sys.stdout, sys.stderr):  # what a terminal's alphabet lacks is shown as its escape
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _ended(sys.argv[1:])
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        from remit.cli import errors

        _discard()
        code = errors.fault(error)
    raise SystemExit(code)


def _ended(arguments: list[str]) -> int:
    if arguments and arguments[0] in FAST:
        from remit.cli import run

        return run.main(arguments)
    from remit.cli import commands

    if sys.stdout is None:
        _discard()
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        code = commands.invoke(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        return _seen_enough()
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        return _seen_enough()  # typer makes an exit code 1 of it
    return code


def _seen_enough() -> int:
    """Whoever reads our output (head, less) wants no more of it."""
    _discard()
    return 0


def _discard() -> None:
    """Python would complain again when it closes an stdout that cannot be written."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    main()
